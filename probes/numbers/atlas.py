"""Numbers of the bundled world: ``Is 31 greater than 24 ?``, entities 1 to 50, values their own."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from lensbench.arguments import whole_number
from lensbench.errors import MismatchError
from lensbench.probes.linear.data import ProbeData
from lensbench.probes.numbers.flips import Comparisons
from lensbench.sites import Site
from lensbench.tokens import Tokens
from lensbench.worlds.atlas.lexicon import NUMBERS

if TYPE_CHECKING:
    from lensbench.models.base import Model

_BATCH = 256


def atlas_comparisons(model: "Model", n: int = 300, seed: int = 0) -> Comparisons:
    """``Is a greater than b ?`` with a and b of 1 to 50; the marked entity is the second.

    Raises:
        MismatchError: a model of another vocabulary.

    Example:
        >>> asked = probes.atlas_comparisons(model, n=40)
    """
    count = whole_number("n", n, least=1)
    rng = np.random.default_rng(seed)
    left, right = _pairs(count, rng)
    tokens, last = _prompts(model, left, right, "greater", " ?")
    yes, no = (_word(model, word) for word in ("Yes", "No"))
    greater = left > right
    return Comparisons(
        tokens=tokens, positions=np.full(count, last),
        answer=np.where(greater, yes, no), foil=np.where(greater, no, yes),
        # A greater second number turns Yes into No, a smaller one No into Yes.
        sign=np.where(greater, 1.0, -1.0), value=right.astype(float), entity=right,
        swapped=_prompts(model, right, left, "greater", " ?")[0],
    )  # fmt: skip


def atlas_numbers(
    model: "Model", n: int = 2000, seed: int = 0, *, min_per_class: int = 10
) -> ProbeData:
    """States at the second number of ``Is a greater than b`` (or smaller), labelled with b.

    Groups are the numbers, so a split never has one on two sides.

    Raises:
        MismatchError: a model of another vocabulary.

    Example:
        >>> data = probes.atlas_numbers(model, n=600)
    """
    rng = np.random.default_rng([seed, 1])
    left, right = _pairs(whole_number("n", n, least=1), rng)
    sites = [f"blocks.{i}.resid_post" for i in range(model.card.n_layers)]
    found: dict[str, list[np.ndarray]] = {site: [] for site in sites}
    words = rng.integers(0, 2, len(left))
    order: list[np.ndarray] = []
    for k, word in enumerate(("greater", "smaller")):
        rows = np.flatnonzero(words == k)
        if not len(rows):
            continue
        order.append(rows)
        tokens, last = _prompts(model, left[rows], right[rows], word, "")
        for part in torch.arange(len(rows)).split(_BATCH):
            some = Tokens(tokens.ids[part])
            acts = model.run(some, capture=sites, logits="none").acts
            for site in sites:
                found[site].append(acts[Site.parse(site)][:, last].float().cpu().numpy())
    at = np.concatenate(order)
    return ProbeData.from_arrays(
        {site: np.concatenate(parts) for site, parts in found.items()},
        {"value": right[at].astype(float)}, groups=right[at], kinds={"value": "numeric"},
        model={"name": model.card.name, "fingerprint": model.card.fingerprint},
        min_per_class=min_per_class,
    )  # fmt: skip


def _pairs(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    numbers = np.array([int(word) for word in NUMBERS])
    left = rng.integers(0, len(numbers), n)
    right = (left + rng.integers(1, len(numbers), n)) % len(numbers)
    return numbers[left], numbers[right]


def _prompts(
    model: "Model", left: np.ndarray, right: np.ndarray, word: str, end: str
) -> tuple[Tokens, int]:
    """Prompts, and the position of the second number."""
    _check(model)
    texts = [f"Is {a} {word} than {b}{end}" for a, b in zip(left, right, strict=True)]
    tokens = model.tokens(texts)
    marked = model.tokens([f"Is {left[0]} {word} than {right[0]}"])
    return tokens, marked.n_pos - 1


def _check(model: "Model") -> None:
    """Numbers and answers are single tokens, each its own (unknown words would share one).

    Raises:
        MismatchError: a model of another vocabulary.
    """
    ids = [model.tokens([word], bos=False).ids[0].tolist() for word in (*NUMBERS, "Yes", "No")]
    if len({tuple(one) for one in ids}) < len(ids) or any(len(one) != 1 for one in ids):
        raise MismatchError(
            f"{model.card.name!r} does not have the numbers 1 to 50 as single tokens; these "
            "prompts are of lensbench.worlds.atlas"
        )


def _word(model: "Model", word: str) -> int:
    return int(model.tokens([word], bos=False).ids[0, 0])
