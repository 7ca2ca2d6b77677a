"""Functional token resonance imaging: which experts differ between classes of prompts.

1. Per class the mean map: ``M_c = mean over prompts of class c of M[prompt, layer, expert]``.
2. Differential: ``D_c = M_c - mean of M_c' over the other classes``; experts are ranked by it.
3. Null: labels are permuted among prompts of the same stratum (equal length, by default), and the
   largest ``D_c`` of all experts is kept. ``p = (1 + #{null >= D}) / (1 + permutations)`` holds for
   the whole map at once.

A high rank says that an expert is used with the class, not that it makes the behaviour: bystanders
fire together with a responsible expert. Test it (:func:`expert_study`) before saying more. Source:
Dahlke et al. 2025, arXiv:2502.11096; the null is ours.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float, Int

from lensbench import provenance
from lensbench.arguments import whole_number
from lensbench.errors import NotEnoughDataError, UnknownNameError
from lensbench.interventions.experts.maps import Activation, Normalise, RoutingMaps
from lensbench.interventions.experts.plans import Expert
from lensbench.interventions.experts.rows import per_prompt
from lensbench.results import Controls, Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, kw_only=True, eq=False)
class ExpertRanking(Result):
    """Mean maps of classes, their differentials, and p-values by permutation of the maximum."""

    classes: tuple[str, ...]
    target: str
    """The class that methods take where none is named."""
    layers: Int[np.ndarray, " layers"]
    means: Float[np.ndarray, "classes layers experts"]
    differential: Float[np.ndarray, "classes layers experts"]
    """D_c, in the unit of the map (gate weight or selections, per prompt or per token)."""
    p: Float[np.ndarray, "classes layers experts"]
    """Of a maximum over all experts as large as this by chance."""
    null_max: Float[np.ndarray, "classes permutations"]
    """Largest differential under each permutation of the labels."""
    n: Int[np.ndarray, " classes"]
    """Prompts of each class."""
    exchangeable: int
    """Prompts that share their stratum with one of another class; only these were permuted."""
    activation: str
    normalise: str

    def top(self, n: int = 10, of: str | None = None) -> tuple[Expert, ...]:
        """The ``n`` most distinctive experts of a class, as ``(layer, expert)``."""
        flat = self.differential[self._number(of)].ravel()
        order = np.argsort(-flat, kind="stable")[: whole_number("n", n, least=1)]
        size = self.differential.shape[-1]
        return tuple((int(self.layers[i // size]), int(i % size)) for i in order)

    def significant(self, of: str | None = None, alpha: float = 0.05) -> tuple[Expert, ...]:
        """Experts of a class with ``p <= alpha``, best first."""
        count = int((self.p[self._number(of)] <= alpha).sum())
        return self.top(count, of) if count else ()

    def _number(self, of: str | None) -> int:
        name = self.target if of is None else of
        if name not in self.classes:
            raise UnknownNameError("class", str(name), known=self.classes)
        return self.classes.index(name)

    def to_frame(self) -> "pd.DataFrame":
        """One row per class and expert, ranked within its class."""
        import pandas as pd

        rows: list[pd.DataFrame] = []
        layer, expert = np.indices(self.differential.shape[1:])
        for number, name in enumerate(self.classes):
            d = self.differential[number].ravel()
            part = pd.DataFrame({
                "class": name, "layer": self.layers[layer.ravel()], "expert": expert.ravel(),
                "differential": d, "mean": self.means[number].ravel(),
                "p": self.p[number].ravel(), "n": int(self.n[number]),
            })  # fmt: skip
            best = part.iloc[np.argsort(-d, kind="stable")]
            rows.append(best.assign(rank=np.arange(1, len(d) + 1)))
        frame = pd.concat(rows, ignore_index=True)
        unit = self._unit
        frame.attrs["units"] = {"differential": unit, "mean": unit, "n": "prompts"}
        return frame

    def summary(self) -> dict[str, float]:
        """Of the target class: its first expert, that differential, p, and significant experts."""
        number = self._number(None)
        layer, expert = self.top(1)[0]
        return {
            "layer": float(layer),
            "expert": float(expert),
            "differential": float(self.differential[number].max()),
            "p": float(self.p[number].min()),
            "significant": float((self.p[number] <= 0.05).sum()),
            "prompts": float(self.n.sum()),
        }

    def plot(
        self, of: str | None = None, show: Literal["differential", "mean"] = "differential"
    ) -> "go.Figure":
        """The differential (or the mean map) of a class, layers by experts.

        Colours end at :meth:`reach`; means of all classes have one range, so that they compare.

        Raises:
            UnknownNameError: another class, or another thing to show.
        """
        from lensbench.plots import heatmap

        if show not in ("differential", "mean"):
            raise UnknownNameError("map", str(show), known=("differential", "mean"))
        name, signed = self.classes[self._number(of)], show == "differential"
        every = self.to_frame()
        frame = every.take(np.flatnonzero(every["class"] == name)).reset_index(drop=True)
        reach = self.reach(of, show)
        n = ", ".join(f"{k} {c}" for c, k in zip(self.classes, self.n.tolist(), strict=True))
        return heatmap(
            frame, x="expert", y="layer", value=show, span=(-reach if signed else 0.0, reach),
            diverging=signed, hover_columns=("rank", "differential", "mean", "p", "n"),
            title=f"{'Distinctive experts' if signed else 'Mean routing'} of {name}",
            subtitle=f"{self._said(signed)} · n = {int(self.n.sum())} prompts ({n}); "
            f"control: {self.controls}",
        )  # fmt: skip

    @property
    def has_bound(self) -> bool:
        """Whether a cell is a share of tokens, and so has ends of its own."""
        return self.activation == "count" and self.normalise == "per_token"

    def reach(
        self, of: str | None = None, show: Literal["differential", "mean"] = "differential"
    ) -> float:
        """Where the colours of :meth:`plot` end: 1 of shares, else the largest value of the map.

        Raises:
            UnknownNameError: another class.
        """
        values = self.differential[self._number(of)] if show == "differential" else self.means
        return 1.0 if self.has_bound else float(np.abs(values).max()) or 1.0

    @property
    def _unit(self) -> str:
        what = "gate weight" if self.activation == "weight" else "selections"
        return f"{what} per {'token' if self.normalise == 'per_token' else 'prompt'}"

    def _said(self, signed: bool) -> str:
        """What a cell is, as a formula in words."""
        return self._unit + (", less the mean of the other classes" if signed else "")


def ftri(
    maps: RoutingMaps,
    labels: Sequence[Any] | np.ndarray,
    *,
    target: str | None = None,
    activation: Activation = "weight",
    normalise: Normalise = "none",
    strata: str | Sequence[Any] | np.ndarray | None = "length",
    permutations: int = 1000,
    seed: int = 0,
) -> ExpertRanking:
    """Rank experts by how differently two or more classes of prompts use them.

    ``D_c = M_c - mean over c' != c of M_c'``, maps in gate weight or in selections (which see a
    bystander of small weight as large), see :meth:`RoutingMaps.maps`.

    Args:
        maps: routing of every prompt.
        labels: the class of every prompt.
        target: the class of interest; left out, the last in sorted order (True of booleans).
        activation: gate weights or selections.
        normalise: ``none`` (sums over tokens) or ``per_token``.
        strata: labels are permuted within ``"length"`` (equal number of tokens), within groups of
            your own (one value per prompt), or freely (None).
        permutations: of the null.
        seed: of the permutations.

    Raises:
        NotEnoughDataError: one class, or no prompt shares its stratum with another class, so that
            the stratum alone tells the classes apart.
        ConfigError, UnknownNameError: arguments that do not fit.

    Example:
        >>> ranking = experts.ftri(
        ...     experts.routing(moe, desk_ids),
        ...     ["asked" if why else "told" for why in desk.reasons],
        ...     permutations=50,
        ... )
        >>> ranking.top(3)
    """
    began = time.monotonic()
    x = maps.maps(activation, normalise)
    names = per_prompt("labels", labels, len(x)).astype(str)
    classes, which = np.unique(names, return_inverse=True)
    if len(classes) < 2:
        raise NotEnoughDataError(f"all {len(x)} prompts are of class {names[0]!r}; two are needed")
    target = str(classes[-1]) if target is None else str(target)
    if target not in classes:
        raise UnknownNameError("class", target, known=tuple(map(str, classes)))
    whole_number("permutations", permutations, least=0)
    group, blocks = _strata(strata, maps)
    mixed = _mixed(group, which, blocks)
    flat = x.reshape(len(x), -1)
    means, found = _differential(flat, which, len(classes))
    null = np.empty((len(classes), permutations))
    rng = np.random.default_rng(seed)
    for i in range(permutations):
        null[:, i] = _differential(flat, _permuted(which, mixed, rng), len(classes))[1].max(-1)
    above = np.stack([_at_least(n, d) for n, d in zip(null, found, strict=True)])
    p = (1 + above) / (1 + permutations)
    shape = (len(classes), *x.shape[1:])
    number = list(classes).index(target)
    return ExpertRanking(
        classes=tuple(map(str, classes)), target=target, layers=maps.layers,
        means=means.reshape(shape), differential=found.reshape(shape), p=p.reshape(shape),
        null_max=null, n=np.bincount(which), exchangeable=int(sum(map(len, mixed))),
        activation=activation, normalise=normalise,
        config={**maps.config, "strata": blocks, "permutations": permutations, "seed": seed},
        controls=_controls(null[number], blocks),
        provenance=provenance.record(
            model=maps.provenance.model, seed=seed, seconds=time.monotonic() - began
        ),
    )  # fmt: skip


def _controls(null: np.ndarray, blocks: str) -> Controls:
    if not len(null):
        return Controls()
    values = {"permuted_labels_max": float(null.mean()),
              "permuted_labels_max_95": float(np.quantile(null, 0.95))}  # fmt: skip
    return Controls(values, f"largest differential with labels permuted {blocks}")


def _strata(strata: Any, maps: RoutingMaps) -> tuple[np.ndarray, str]:
    if strata is None:
        return np.zeros(len(maps.n_tokens), dtype=np.int64), "freely"
    if isinstance(strata, str):
        if strata != "length":
            raise UnknownNameError("stratum", strata, known=("length",))
        return maps.lengths, "within equal length"
    found = per_prompt("strata", strata, len(maps.n_tokens))
    return np.unique(found, return_inverse=True)[1], "within given strata"


def _mixed(group: np.ndarray, which: np.ndarray, blocks: str) -> list[np.ndarray]:
    """Prompts of every stratum that holds more than one class."""
    parts = [np.flatnonzero(group == g) for g in np.unique(group)]
    mixed = [rows for rows in parts if len(set(which[rows])) > 1]
    if not mixed:
        raise NotEnoughDataError(
            f"permuting labels {blocks} changes nothing: no prompt of one class shares its stratum "
            "with one of another, so the stratum alone tells them apart. Use prompts that overlap "
            "in length, or pass strata=[...] (coarser groups) or strata=None"
        )
    return mixed


def _permuted(
    which: np.ndarray, mixed: Sequence[np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    found = which.copy()
    for rows in mixed:
        found[rows] = rng.permutation(which[rows])
    return found


def _differential(
    flat: np.ndarray, which: np.ndarray, n_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    member = (which == np.arange(n_classes)[:, None]).astype(np.float64)
    means = member @ flat / member.sum(1, keepdims=True)
    others = (means.sum(0) - means) / (n_classes - 1)
    return means, means - others


def _at_least(null: np.ndarray, values: np.ndarray) -> np.ndarray:
    """How many of ``null`` are at least each value (ties up to rounding count)."""
    slack = 1e-9 * (np.abs(values).max(initial=0.0) or 1.0)
    return len(null) - np.searchsorted(np.sort(null), values - slack, side="left")
