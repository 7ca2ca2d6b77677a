"""Estimates beside the patches they stand for: rank correlation, error, and what may be missed.

1. The places with the largest estimates, and others drawn at random, are patched.
2. Among the random ones that were called small, those with a large change were missed. The draw is
   a simple random sample of a finite list, so the share missed in all of it has an exact upper
   bound (hypergeometric), whatever effects do when added up.
3. Control: the same places against estimates towards another pair's answer.

Source: the diagnostic of Kramar et al. 2024, arXiv:2403.00745, with single places for subsets.
"""

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from lensbench import provenance
from lensbench.arguments import positive_number
from lensbench.errors import ConfigError
from lensbench.interventions.attribution.asked import belongs, known_metric
from lensbench.interventions.attribution.result import AttributionResult, names_of, normalised
from lensbench.interventions.metrics import MetricLike, as_metric
from lensbench.interventions.patching.engine import Engine, Group
from lensbench.interventions.values import Values, run_of
from lensbench.results import Controls, Result
from lensbench.stats import mean_there, missed_among, most_missed, pearson, pick, spearman

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lensbench.models.base import Model
    from lensbench.prompts.pairs import PromptPairs


@dataclass(frozen=True, kw_only=True, eq=False)
class AttributionCheck(Result):
    """Estimated and measured changes of the metric at the same places."""

    task: str
    method: str
    unit: str
    place: tuple[str, ...]
    chosen: tuple[str, ...]
    """``top`` or ``random``."""
    number: Int[np.ndarray, " tried"]
    """Which places of the attribution these are."""
    estimated: Float[np.ndarray, "tried pairs"]
    measured: Float[np.ndarray, "tried pairs"]
    """``m(patched) - m(base)``, in the metric's unit."""
    other: Float[np.ndarray, "some pairs"]
    """The control: estimates towards another pair's answer; empty where there are none."""
    gap: Float[np.ndarray, " pairs"]
    """``m(source) - m(base)``."""
    signed: bool
    large: float
    """From which share of the gap on a change counts as large."""
    n_small: int
    """Places outside the top that were called small, tried or not."""

    @property
    def changes(self) -> tuple[Float[np.ndarray, " tried"], Float[np.ndarray, " tried"]]:
        """Estimated and measured, as shares of the way to the source run."""
        return self._change(self.estimated), self._change(self.measured)

    def _change(self, values: np.ndarray) -> np.ndarray:
        values = values if self.signed else np.abs(values)
        return normalised(values, self.gap, signed=self.signed)[0]

    def correlation(self, kind: str = "spearman", *, only: str | None = None) -> float:
        """``spearman`` or ``pearson`` of estimate and measure, over all or ``top`` or ``random``.

        NaN with fewer than three places, or where one of the two does not vary.
        """
        keep = np.array([only is None or c == only for c in self.chosen], dtype=bool)
        a, b = self.changes
        return correlation(a[keep], b[keep], kind)

    def slope(self, *, control: bool = False) -> float:
        """``<estimated, measured> / <measured, measured>`` over places and prompts; 1 is right.

        With ``control`` of the estimates towards another pair's answer, where 0 is right (NaN
        without them). Not a correlation: the part of a patch that moves any answer goes the same
        way at every place, so that even a small control may correlate.
        """
        guess = self.other if control else self.estimated
        if not len(guess):
            return float("nan")
        done = self.measured if self.signed else np.abs(self.measured)
        there = np.isfinite(done) & np.isfinite(guess)
        size = float((done[there] ** 2).sum())
        return float((done[there] * guess[there]).sum()) / size if size > 0 else float("nan")

    @property
    def missed(self) -> tuple[int, int]:
        """Random places called small whose measured change is large, and how many were called."""
        return missed_among(*self.changes, self.chosen, self.large)

    @property
    def missed_bound(self) -> float:
        """Upper 95 % bound on the share of large changes among all places called small.

        NaN where the two runs do not differ: a change is then no share of anything.
        """
        if not np.isfinite(self.changes[0]).any():
            return float("nan")  # no gap, so that nothing was called large or small
        found, drawn = self.missed
        return most_missed(found, drawn, self.n_small)

    def to_frame(self) -> "pd.DataFrame":
        """One row per place that was patched."""
        import pandas as pd

        a, b = self.changes
        n = np.isfinite(self.measured).sum(1)
        frame = pd.DataFrame({"place": self.place, "chosen": self.chosen, "estimated": a,
                              "measured": b, "error": a - b, "n": n})  # fmt: skip
        unit = "0 = as it is, 1 = the other run"
        frame.attrs["units"] = {"estimated": unit, "measured": unit, "n": "prompts"}
        return frame

    def summary(self) -> dict[str, float]:
        """Correlations, mean size of the error, what was missed, and the control."""
        a, b = self.changes
        missed, small = self.missed
        return {
            "spearman": self.correlation(),
            "pearson": self.correlation("pearson"),
            "spearman_random": self.correlation(only="random"),
            "slope": self.slope(),
            "control_slope": self.slope(control=True),
            "mean_error": float(mean_there(np.abs(a - b))),
            "missed": float(missed),
            "called_small": float(small),
            "missed_bound": self.missed_bound,
            "places": float(len(self.place)),
            "prompts": float(len(self.gap)),
        }

    def plot(self) -> "go.Figure":
        """Estimated against measured, with the diagonal on which they agree."""
        from lensbench.plots import scatter

        frame = self.to_frame()
        figure = scatter(
            frame, x="measured", y="estimated", color="chosen", hover_columns=("place", "n"),
            title=f"{self.task}: {self.method} beside the patches themselves",
            subtitle=f"n = {len(self.place)} places on {len(self.gap)} prompts; "
            f"rank correlation {self.correlation():.2f} "
            f"(slope {self.slope():.2f}; control: {self.controls}), "
            f"missed at most {self.missed_bound:.0%} of those called small",
        )  # fmt: skip
        every = np.concatenate(self.changes)
        there = every[np.isfinite(every)]
        ends = [float(there.min()), float(there.max())] if there.size else [0.0, 1.0]
        figure.add_shape(type="line", x0=ends[0], y0=ends[0], x1=ends[1], y1=ends[1],
                         line={"width": 1, "dash": "dot"})  # fmt: skip
        return figure


def check(
    result: AttributionResult, model: "Model", pairs: "PromptPairs", *, top: int, random: int,
    large: float, metric: MetricLike | None, batch_size: int, seed: int,
) -> AttributionCheck:  # fmt: skip
    """See :meth:`AttributionResult.verify`."""
    began = time.monotonic()
    belongs(result, model, pairs)
    large = positive_number("large", large)
    picked, chosen = pick(result.strongest(), top, random, seed)
    every = result.places(pairs)
    where = [every[i] for i in picked]
    asked = as_metric(known_metric(result.metric, metric))
    read = list(dict.fromkeys(p.site for p in where))
    denoise = result.direction == "denoise"

    def values(group: Group) -> tuple[Values, None]:
        source = group.pairs.clean if denoise else group.pairs.corrupted
        return run_of(model, source, group.pairs, read)[0], None

    engine = Engine(model, pairs, where, result.direction, asked, batch_size, seed)
    found = engine.run(values, [])
    base = found.corrupted if denoise else found.clean
    done = AttributionCheck(
        task=result.task, method=result.method, unit=result.unit, place=names_of(where),
        chosen=chosen, number=picked, estimated=result.values[picked],
        measured=found.values - base, other=result.other[picked] if len(result.other) else
        result.other, gap=result.gap, signed=result.signed, large=large,
        n_small=called_small(result.change, large, picked, chosen),
        config=_config(result, top, random, seed),
        provenance=provenance.record(
            model=vars(model.card), seed=seed, seconds=time.monotonic() - began
        ),
    )  # fmt: skip
    return with_control(done)


def called_small(
    change: np.ndarray, large: float, picked: np.ndarray, chosen: tuple[str, ...]
) -> int:
    """How many outside the top have an estimate that is not large."""
    small = np.abs(change) < large
    small[picked[np.array([c == "top" for c in chosen], dtype=bool)]] = False
    return int(small.sum())


def correlation(a: np.ndarray, b: np.ndarray, kind: str = "spearman") -> float:
    """Spearman's or Pearson's correlation of what is finite in both; NaN where there is none.

    Raises:
        ConfigError: neither of the two.
    """
    if kind not in ("spearman", "pearson"):
        raise ConfigError(f"correlation is 'spearman' or 'pearson', got {kind!r}")
    fine = np.isfinite(a) & np.isfinite(b)
    if fine.sum() < 3:
        return float("nan")
    return (spearman if kind == "spearman" else pearson)(a[fine], b[fine])


def _config(result: AttributionResult, top: int, random: int, seed: int) -> dict[str, Any]:
    return {**result.config, "top": top, "random": random, "verify_seed": seed}


def with_control(done: AttributionCheck) -> AttributionCheck:
    """The check with what the other question's estimates explain of it."""
    if not len(done.other):
        return done
    note = "slope of estimates towards another pair's answer against measured changes"
    return replace(done, controls=Controls({"control_slope": done.slope(control=True)}, note))
