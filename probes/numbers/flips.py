"""Comparisons that turn: does an answer follow the value that the stream is moved to?

Steps, numbered in the body:

1. Comparisons that the model answers rightly, one entity marked in each.
2. At a site, at the marked entity: x + delta * v, v the step of one unit of the attribute, delta
   towards the value that would change the answer.
3. Flips: the other of the two answers is now the likelier. Beside: the same step the other way, and
   random directions of the same length.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from lensbench import provenance
from lensbench.arguments import positive_number, whole_number
from lensbench.errors import ConfigError, MismatchError, NotEnoughDataError
from lensbench.ops import Add
from lensbench.plan import Edit, Plan
from lensbench.probes.numbers.result import AttributeSubspaces
from lensbench.results import Controls, Result
from lensbench.sites import Site
from lensbench.stats import bootstrap_mean
from lensbench.tokens import Tokens

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lensbench.models.base import Model

WAYS = ("towards", "away", "random")


@dataclass(frozen=True, eq=False)
class Comparisons:
    """Prompts that ask how the value of one entity compares with another's."""

    tokens: Tokens
    positions: Int[np.ndarray, " rows"]
    """Last token of the marked entity."""
    answer: Int[np.ndarray, " rows"]
    """Id of the right answer."""
    foil: Int[np.ndarray, " rows"]
    sign: Float[np.ndarray, " rows"]
    """+1 where a greater value of the marked entity would change the answer, else -1."""
    value: Float[np.ndarray, " rows"]
    """Of the marked entity."""
    entity: Int[np.ndarray, " rows"]
    """Number of the marked entity; intervals resample these."""
    swapped: Tokens | None = None
    """The same questions with the entities exchanged, for consistency."""

    def __len__(self) -> int:
        """Number of prompts."""
        return len(self.positions)


@dataclass(frozen=True, kw_only=True, eq=False)
class ComparisonFlips(Result):
    """Share of right answers that turn, by site and size of the step."""

    sites: tuple[str, ...]
    deltas: tuple[float, ...]
    """Units of the attribute."""
    flips: Float[np.ndarray, "ways sites deltas 3"]
    """Towards the other answer, away from it, random directions; 95 % interval over entities."""
    vector: str
    """Which vector was added."""
    accuracy: float
    """Of the model on all comparisons."""
    consistency: float
    """Share of pairs for which exchanging the entities exchanges the answer; NaN unknown."""
    n: int
    n_entities: int
    label: str = ""
    model: dict[str, Any] = field(default_factory=dict[str, Any])

    def to_frame(self) -> "pd.DataFrame":
        """One row per way, site and delta."""
        import pandas as pd

        w, s, d = (a.ravel() for a in np.indices(self.flips.shape[:3]))
        frame = pd.DataFrame({
            "way": [WAYS[i] for i in w], "site": [self.sites[i] for i in s],
            "layer": [Site.parse(self.sites[i]).layer for i in s],
            "delta": [self.deltas[i] for i in d], "flips": self.flips[w, s, d, 0],
            "low": self.flips[w, s, d, 1], "high": self.flips[w, s, d, 2], "n": self.n,
        })  # fmt: skip
        frame.attrs["units"] = {"flips": "share of right answers", "n": "prompts",
                                "delta": "units of the attribute"}  # fmt: skip
        return frame

    def summary(self) -> dict[str, float]:
        """Flips at the site and delta where the step does most, beside its controls."""
        s, d = np.unravel_index(self.flips[0, :, :, 0].argmax(), self.flips.shape[1:3])
        found = {way: float(self.flips[i, s, d, 0]) for i, way in enumerate(WAYS)}
        return {"layer": float(Site.parse(self.sites[s]).layer or 0), "delta": self.deltas[d],
                **found, "accuracy": self.accuracy, "consistency": self.consistency,
                "n": float(self.n)}  # fmt: skip

    def plot(self, site: str | Site | None = None) -> "go.Figure":
        """Flips by delta at a site (default: where the step does most), beside the controls.

        Raises:
            ConfigError: a site that was not run.
        """
        from lensbench.plots import lines

        best = self.sites[int(self.flips[0, :, :, 0].max(1).argmax())]
        where = best if site is None else str(Site.parse(str(site)))
        if where not in self.sites:
            raise ConfigError(f"{where} was not run; sites: {', '.join(self.sites)}")
        frame: Any = self.to_frame()
        return lines(
            frame[frame["site"] == where], x="delta", y="flips", color="way", low="low",
            high="high", title=f"Comparisons of {self.label or 'numbers'} that turn",
            subtitle=f"{where}, step along the {self.vector}; {self.n} prompts",
        )  # fmt: skip


def comparison_flips(
    model: "Model",
    comparisons: Comparisons,
    subspaces: AttributeSubspaces,
    *,
    sites: Sequence[str] | str | None = None,
    deltas: Sequence[float] = (5.0, 10.0, 20.0, 40.0),
    kind: str = "loading",
    n_random: int = 3,
    seed: int = 0,
    batch_size: int = 64,
) -> ComparisonFlips:
    """Move an entity's value and count the comparisons whose answer turns.

    Source: El-Shangiti et al. 2024, arXiv:2410.13194 (along the first PLS direction at the second
    entity; their size of step and flip rate are not published, here the step is in units of the
    attribute).

    Args:
        model: the model the subspaces were fitted on.
        comparisons: prompts, see :func:`~lensbench.probes.numbers.atlas.atlas_comparisons`.
        subspaces: of :func:`~lensbench.probes.numbers.subspace.attribute_subspaces`.
        sites: where; default: all of the subspaces.
        deltas: sizes of the step, units of the attribute.
        kind: ``loading``, ``rotation`` or ``coefficient``, see ``AttributeSubspaces.vector``.
        n_random: random directions of the same length per prompt.
        seed: of them.
        batch_size: plans run at once.

    Raises:
        MismatchError: another model than the subspaces were fitted on.
        NotEnoughDataError: no comparison that the model answers rightly.
        UnknownNameError: a site or kind that there is not.

    Example:
        >>> subspaces = probes.attribute_subspaces(numbers, components=(1, 2))
        >>> asked = probes.atlas_comparisons(model, n=20)
        >>> found = probes.comparison_flips(model, asked, subspaces, deltas=(5.0,), n_random=1)
    """
    start = time.monotonic()
    if subspaces.model.get("fingerprint") not in (None, model.card.fingerprint):
        raise MismatchError(
            f"the subspaces were fitted on {subspaces.model.get('name')}, not on "
            f"{model.card.name!r}; fit them on this model's activations"
        )
    sizes = tuple(positive_number("delta", d) for d in deltas)
    if not sizes:
        raise ConfigError("deltas needs at least one size")
    draws = whole_number("n_random", n_random, least=1)
    names = [sites] if isinstance(sites, str) else list(subspaces.sites if sites is None else sites)
    vectors = {str(Site.parse(s)): subspaces.vector(s, kind=kind) for s in names}
    clean = _right(model, comparisons, [Plan()] * len(comparisons), batch_size)
    kept = np.flatnonzero(clean)  # 1
    if not len(kept):
        raise NotEnoughDataError(
            f"{model.card.name!r} answers none of {len(clean)} comparisons rightly"
        )
    asked = _taking(comparisons, kept)
    rng = np.random.default_rng(seed)
    flips = np.zeros((len(WAYS), len(vectors), len(sizes), 3))
    for s, (site, vector) in enumerate(vectors.items()):
        for d, delta in enumerate(sizes):
            step = delta * asked.sign[:, None] * vector  # 2
            turned = [~_right(model, asked, _plans(site, asked, one), batch_size)
                      for one in (step, -step)]  # fmt: skip
            noise = [_random_like(step, rng) for _ in range(draws)]
            some = [~_right(model, asked, _plans(site, asked, one), batch_size) for one in noise]
            for w, found in enumerate((*turned, np.mean(some, 0))):  # 3
                mean = bootstrap_mean(found.astype(float), asked.entity)
                flips[w, s, d] = mean.mean, mean.low, mean.high
    best = np.unravel_index(flips[0, :, :, 0].argmax(), flips.shape[1:3])
    beside = {way: float(flips[(i, *best, 0)]) for i, way in enumerate(WAYS) if i}
    return ComparisonFlips(
        sites=tuple(vectors), deltas=sizes, flips=flips, vector=kind, label=subspaces.label,
        accuracy=float(clean.mean()), consistency=_consistency(model, comparisons, batch_size),
        n=len(kept), n_entities=len(np.unique(asked.entity)),
        model={"name": model.card.name, "fingerprint": model.card.fingerprint},
        config={"seed": seed, "n_random": draws, "n_asked": len(clean)},
        controls=Controls(beside, "flips at the site and delta of most flips"),
        provenance=provenance.record(seed=seed, seconds=time.monotonic() - start),
    )  # fmt: skip


def _plans(site: str, asked: Comparisons, step: Float[np.ndarray, "rows width"]) -> list[Plan]:
    where = Site.parse(site)
    return [
        Plan((Edit(where, Add(torch.from_numpy(one).float()), positions=(int(p),)),))
        for one, p in zip(step, asked.positions, strict=True)
    ]


def _random_like(
    step: Float[np.ndarray, "rows width"], rng: np.random.Generator
) -> Float[np.ndarray, "rows width"]:
    noise = rng.normal(size=step.shape)
    lengths = np.linalg.norm(step, axis=1) / np.linalg.norm(noise, axis=1)
    return noise * lengths[:, None]


def _right(
    model: "Model", asked: Comparisons, plans: Sequence[Plan], batch_size: int
) -> Bool[np.ndarray, " rows"]:
    """Is the right answer likelier than the foil?"""
    return _margin(model, asked.tokens, asked, plans, batch_size) > 0


def _margin(
    model: "Model", tokens: Tokens, asked: Comparisons, plans: Sequence[Plan], batch_size: int
) -> Float[np.ndarray, " rows"]:
    out = model.run_many(tokens, plans, logits="last", batch_size=batch_size).logits
    assert out is not None
    logits, rows = out[:, -1].float().cpu().numpy(), np.arange(len(asked))
    return logits[rows, asked.answer] - logits[rows, asked.foil]


def _consistency(model: "Model", asked: Comparisons, batch_size: int) -> float:
    if asked.swapped is None:
        return float("nan")
    plans = [Plan()] * len(asked)
    one = _margin(model, asked.tokens, asked, plans, batch_size)
    other = _margin(model, asked.swapped, asked, plans, batch_size)
    return float(((one > 0) != (other > 0)).mean())


def _taking(asked: Comparisons, rows: Int[np.ndarray, " some"]) -> Comparisons:
    at = torch.from_numpy(rows)
    tokens = Tokens(asked.tokens.ids[at], asked.tokens.real[at])
    return replace(
        asked, tokens=tokens, positions=asked.positions[rows], answer=asked.answer[rows],
        foil=asked.foil[rows], sign=asked.sign[rows], value=asked.value[rows],
        entity=asked.entity[rows], swapped=None,
    )  # fmt: skip
