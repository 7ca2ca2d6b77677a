"""States of words: what structural and edge probes read, sub-words averaged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from lensbench.errors import ConfigError, MismatchError, UnknownSiteError
from lensbench.probes.linear.data import check_finite
from lensbench.sites import Site
from lensbench.tokens import Tokens

if TYPE_CHECKING:
    from lensbench.models.base import Model

_BATCH = 64


@dataclass(frozen=True, eq=False)
class WordStates:
    """Activations of every word of some sentences, by site."""

    states: Mapping[str, Sequence[Float[np.ndarray, "_words _width"]]]
    model: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def from_arrays(
        cls, states: Mapping[str, Any] | Sequence[Any], *, site: str = "blocks.0.resid_post"
    ) -> "WordStates":
        """One array ``[words, width]`` per sentence, or such a list per site.

        Raises:
            ConfigError: no sentence, or sites of different sentences.
            NonFiniteError: NaN or infinity.
        """
        given = states if isinstance(states, Mapping) else {site: states}
        found = {
            str(Site.parse(str(name))): [np.asarray(one, np.float32) for one in rows]
            for name, rows in given.items()
        }
        lengths = {name: [len(one) for one in rows] for name, rows in found.items()}
        first = next(iter(lengths.values()), [])
        if not first or any(other != first for other in lengths.values()):
            raise ConfigError("give every site the same sentences, at least one: [words, width]")
        for name, rows in found.items():
            widths = {one.shape[1:] for one in rows}
            if len(widths) != 1 or rows[0].ndim != 2:
                raise ConfigError(f"sentences of {name} must be [words, width], got {widths}")
            check_finite(np.concatenate(rows), name)
        return cls(found)

    @property
    def sites(self) -> tuple[str, ...]:
        """Sites on offer."""
        return tuple(self.states)

    @property
    def lengths(self) -> list[int]:
        """Words of each sentence."""
        return [len(one) for one in next(iter(self.states.values()))]

    def at(self, site: str | Site) -> Sequence[Float[np.ndarray, "_words _width"]]:
        """Sentences of one site.

        Raises:
            UnknownSiteError: a site that these states do not have.
        """
        name = str(Site.parse(str(site)))
        if name not in self.states:
            raise UnknownSiteError(name, known=self.sites)
        return self.states[name]


def word_states(
    model: "Model",
    sentences: Sequence[Sequence[str]],
    *,
    sites: Sequence[str] | str | None = None,
) -> WordStates:
    """Run a model on sentences given as words; sub-words of a word are averaged.

    Words are joined by spaces. ``sites`` default to ``embed`` (layer 0, a control) and
    ``resid_post`` of every layer.

    Raises:
        ConfigError: no sentence, or an empty one.
        MismatchError: a tokenizer that joins words, so that no token belongs to one word.
        UnknownSiteError: a site that the model has not.

    Example:
        >>> words = probes.word_states(model, [["Alice", "the", "baker"], ["The", "king", "sees"]])
    """
    if not sentences or not all(len(words) for words in sentences):
        raise ConfigError("word_states needs sentences of at least one word each")
    default = ["embed", *(f"blocks.{i}.resid_post" for i in range(model.card.n_layers))]
    names = default if sites is None else [sites] if isinstance(sites, str) else list(sites)
    names = [str(Site.parse(name)) for name in names]
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for words in sentences:
        tokens, ends = _aligned(model, words)
        acts = model.run(tokens, capture=names, logits="none").acts
        for name in names:
            rows = acts[Site.parse(name)][0].float().cpu().numpy()
            found[name].append(np.stack([rows[a:b].mean(0) for a, b in pairwise(ends)]))
    card = {"name": model.card.name, "fingerprint": model.card.fingerprint}
    return WordStates(found, card)


def _aligned(model: "Model", words: Sequence[str]) -> tuple[Tokens, list[int]]:
    """Tokens of a sentence, and where each word ends (the first entry: where words begin)."""
    whole = model.tokens([" ".join(words)])
    ids = whole.ids[0].tolist()
    bare = model.tokens([words[0]], bos=False).n_pos
    ends = [model.tokens([words[0]]).n_pos - bare]
    for i in range(len(words)):
        part = model.tokens([" ".join(words[: i + 1])]).ids[0].tolist()
        if part != ids[: len(part)] or len(part) <= ends[-1]:
            raise MismatchError(
                f"the tokens of {' '.join(words)!r} do not end where word {i} ({words[i]!r}) ends; "
                "give words as this tokenizer cuts them"
            )
        ends.append(len(part))
    return whole, ends
