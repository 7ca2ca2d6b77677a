"""Probability of each language, entropy and energy by layer, with what they are to beat."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from lensbench.errors import ConfigError, UnknownNameError
from lensbench.results import Result
from lensbench.stats import Interval, bootstrap_mean

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

VIEWS = ("probability", "energy")
LEAST = 0.1
"""A pivot shows only where it holds at least this much probability on average."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LatentLanguage(Result):
    """What each layer says at the last token of each prompt; values per item are kept.

    Intervals are 95 % bootstraps over items (the paper gives 1.96 standard errors).
    """

    layers: tuple[int, ...]
    """After block l."""
    languages: tuple[str, ...]
    target: str
    pivot: str
    prob: Float[np.ndarray, "languages layers items"]
    """Probability of the tokens that begin the item's word in each language."""
    random: Float[np.ndarray, "languages layers items"]
    """Control: random tokens, as many."""
    others: Float[np.ndarray, "languages layers items"]
    """Control: the word of another item in the same language, but for shared tokens."""
    entropy: Float[np.ndarray, "layers items"]
    """Of the whole prediction; bits."""
    energy: Float[np.ndarray, "layers items"]
    """Share of the state that tokens read, unitless; NaN where it was not asked for."""
    n_items: int
    dropped: Mapping[str, int] = field(default_factory=dict[str, int])
    """Items left out, by reason."""

    def to_frame(self) -> "pd.DataFrame":
        """One row per measure, language, kind of token set and layer."""
        import pandas as pd

        rows: list[dict[str, Any]] = []

        def add(values: np.ndarray, **where: Any) -> None:
            for layer, one in zip(self.layers, values, strict=True):
                span = _interval(one)
                rows.append({**where, "layer": layer, "value": span.mean, "low": span.low,
                             "high": span.high, "n": span.n})  # fmt: skip

        kinds = {"words": self.prob, "other words": self.others, "random tokens": self.random}
        for kind, values in kinds.items():
            for language, one in zip(self.languages, values, strict=True):
                add(one, measure="probability", language=language, tokens=kind)
        add(self.entropy, measure="entropy", language="", tokens="")
        add(self.energy, measure="energy", language="", tokens="")
        frame = pd.DataFrame(rows)
        frame.attrs["units"] = {"value": "probability; bits; unitless", "n": "items"}
        return frame

    def pivot_layers(self) -> tuple[int, ...]:
        """Layers below the last at which the pivot shows.

        There the mean probability of the pivot's word is at least ``LEAST``, above that of the
        target's word, and above that of other items' words in the pivot's language: paired
        differences over items whose lower bounds, at a level of 0.05 shared by all these
        comparisons, are above 0.
        """
        pivot, target = (self.languages.index(name) for name in (self.pivot, self.target))
        level = 1 - 0.05 / (2 * max(len(self.layers) - 1, 1))
        found: list[int] = []
        for at, layer in enumerate(self.layers[:-1]):
            here = self.prob[pivot, at]
            rivals = (self.prob[target, at], self.others[pivot, at])
            # Equal values everywhere have no spread: a difference of exactly 0 is not above 0.
            above = [_above(here - rival, level) for rival in rivals]
            if here.mean() >= LEAST and all(above):
                found.append(layer)
        return tuple(found)

    def summary(self) -> dict[str, float]:
        """Where the pivot is highest below the last layer, and the target at the last."""
        pivot, target = (self.languages.index(name) for name in (self.pivot, self.target))
        means = self.prob[pivot, :-1].mean(-1)
        at = int(means.argmax()) if len(means) else 0
        return {
            "items": float(self.n_items),
            "dropped": float(sum(self.dropped.values())),
            "pivot_peak_layer": float(self.layers[at]),
            "pivot_peak": float(self.prob[pivot, at].mean()),
            "pivot_peak_other_words": float(self.others[pivot, at].mean()),
            "target_at_pivot_peak": float(self.prob[target, at].mean()),
            "target_last": float(self.prob[target, -1].mean()),
            "pivot_last": float(self.prob[pivot, -1].mean()),
            "pivot_layers": float(len(self.pivot_layers())),
        }

    def plot(self, view: str = "probability") -> "go.Figure":
        """``probability`` of languages by layer under a strip of entropy, or ``energy`` by layer.

        Raises:
            UnknownNameError: another view.
            ConfigError: energy was not measured.
        """
        from lensbench.plots import lines
        from lensbench.probes.lenses.language.figure import with_strip

        if view not in VIEWS:
            raise UnknownNameError("view", view, known=VIEWS)
        frame = self.to_frame()
        left = f", {sum(self.dropped.values())} left out" if self.dropped else ""
        note = f"{self.n_items} items{left}; into {self.target}"
        if view == "energy":
            part = frame.loc[frame["measure"] == "energy"]
            if part["value"].isna().all():
                raise ConfigError("energy was not measured; ask for it with energy=True")
            part.attrs["units"] = {"value": "energy (1: a random state)", "n": "items"}
            return lines(part, x="layer", y="value", low="low", high="high",
                         title="Energy of the state in token space", subtitle=note,
                         labels={"layer": "after block"})  # fmt: skip
        part = frame.loc[frame["measure"] == "probability"]
        part = part.loc[
            (part["tokens"] == "words")
            | ((part["language"] == self.pivot) & (part["tokens"] == "other words"))
        ]
        name = part["language"].where(part["tokens"] == "words", part["language"] + ", other words")
        part = part.assign(language=name, probability=part["value"])
        part.attrs["units"] = {"probability": "", "n": "items"}
        drawn = lines(part, x="layer", y="probability", color="language", low="low", high="high",
                      labels={"layer": "after block"})  # fmt: skip
        bits = self.entropy.mean(-1)
        d_vocab = self.config.get("d_vocab")  # of results of before, nobody knows it
        most = float(np.log2(d_vocab) if d_vocab else bits.max())
        return with_strip(drawn, self.layers, bits, most=most,
                          title="Which language each layer speaks",
                          subtitle=f"{note}; entropy 0 to {most:.3g} bits")  # fmt: skip


def _above(differences: np.ndarray, level: float) -> bool:
    known = differences[np.isfinite(differences)]
    return len(known) > 1 and bootstrap_mean(known, level=level, n_boot=4000).low > 0


def _interval(values: np.ndarray) -> Interval:
    known = values[np.isfinite(values)]
    if not len(known):
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    return bootstrap_mean(known)
