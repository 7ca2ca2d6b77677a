"""What training gave with and without clamps: every measure of every run on one time axis."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from lensbench.errors import ConfigError, UnknownNameError
from lensbench.results import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

UNCLAMPED = "unclamped"


@dataclass(frozen=True, kw_only=True, eq=False)
class ClampedTraining(Result):
    """Runs that differ in what was clamped while they were trained, and in nothing else.

    A series is a measure of the whole model (``layer`` and ``head`` are -1) or of one head.
    ``controls`` are runs whose clamp should not help.
    """

    runs: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: Int[np.ndarray, " checkpoints"]
    """Updates made before each checkpoint."""
    measure: tuple[str, ...]
    unit: tuple[str, ...]
    layer: Int[np.ndarray, " series"]
    head: Int[np.ndarray, " series"]
    values: Float[np.ndarray, "runs seeds series checkpoints"]
    n: int
    """Held-out sequences behind every value; 1 where the expectation itself was computed."""

    def run(self, name: str) -> int:
        """Number of the run of that name.

        Raises:
            UnknownNameError: no such run.
        """
        if name not in self.runs:
            raise UnknownNameError("run", str(name), known=self.runs)
        return self.runs.index(name)

    def series(
        self, measure: str = "loss", layer: int = -1, head: int = -1
    ) -> Float[np.ndarray, "runs seeds checkpoints"]:
        """One measure over training.

        Raises:
            UnknownNameError: no such measure.
            ConfigError: the measure is not of this layer and head.
        """
        self._known(measure)
        at = [i for i, m in enumerate(self.measure) if m == measure]
        for i in at:
            if (self.layer[i], self.head[i]) == (layer, head):
                return self.values[:, :, i]
        of = ", ".join(f"({self.layer[i]}, {self.head[i]})" for i in at)
        raise ConfigError(f"{measure!r} is kept for (layer, head) {of}; got ({layer}, {head})")

    def best_head(
        self, measure: str = "strength", layer: int | None = None
    ) -> Float[np.ndarray, "runs seeds checkpoints"]:
        """The largest value over heads (of one layer) at every checkpoint."""
        self._known(measure)
        kept = [i for i, m in enumerate(self.measure)
                if m == measure and layer in (None, int(self.layer[i]))]  # fmt: skip
        if not kept:
            raise ConfigError(f"no head of layer {layer} has the measure {measure!r}")
        return self.values[:, :, kept].max(2)

    def steps_to(self, share: float, measure: str = "loss") -> Float[np.ndarray, "runs seeds"]:
        """Updates until the measure is first at most ``share`` of its first value.

        Seen at checkpoints only; NaN where it never gets there.
        """
        series = self.series(measure)
        return self._first(series <= share * series[..., :1])

    def steps_below(self, level: float, measure: str = "loss") -> Float[np.ndarray, "runs seeds"]:
        """Updates until the measure is first at most ``level`` (its own unit); NaN if never."""
        return self._first(self.series(measure) <= level)

    def plateau(
        self, level: float, within: float = 0.1, measure: str = "loss"
    ) -> Float[np.ndarray, "runs seeds"]:
        """Updates spent with ``|measure - level| <= within * |level|``.

        Each checkpoint stands for the updates up to the next one.
        """
        near = np.abs(self.series(measure) - level) <= within * abs(level)
        return (near[..., :-1] * np.diff(self.steps)).sum(-1).astype(float)

    def _known(self, measure: str) -> None:
        if measure not in self.measure:
            raise UnknownNameError(
                "measure", str(measure), known=tuple(dict.fromkeys(self.measure))
            )

    def _first(self, there: np.ndarray) -> np.ndarray:
        return np.where(there.any(-1), self.steps[there.argmax(-1)], np.nan)

    def to_frame(self) -> "pd.DataFrame":
        """One row per run, series and checkpoint: mean, least and largest value over seeds."""
        import pandas as pd

        runs, _, series, steps = self.values.shape
        run, which, at = (i.ravel() for i in np.indices((runs, series, steps)))
        frame = pd.DataFrame(
            {"run": np.array(self.runs)[run], "measure": np.array(self.measure)[which],
             "layer": self.layer[which], "head": self.head[which], "step": self.steps[at],
             "value": self.values.mean(1).ravel(), "low": self.values.min(1).ravel(),
             "high": self.values.max(1).ravel(), "seeds": len(self.seeds), "n": self.n}
        )  # fmt: skip
        units = dict(zip(self.measure, self.unit, strict=True))
        frame.attrs["units"] = {
            "value": "; ".join(f"{m}: {u}" for m, u in units.items()),
            "step": "updates", "n": "held-out sequences",
        }  # fmt: skip
        return frame

    def summary(self) -> dict[str, float]:
        """Per run, mean over seeds: updates to half and to a twentieth of the loss, last values."""
        found: dict[str, float] = {}
        half, twentieth = self.steps_to(0.5).mean(1), self.steps_to(0.05).mean(1)
        for i, run in enumerate(self.runs):
            found |= {f"{run}/steps_to_half": float(half[i]),
                      f"{run}/steps_to_a_twentieth": float(twentieth[i])}  # fmt: skip
            for measure in (m for m, h in zip(self.measure, self.head, strict=True) if h < 0):
                found[f"{run}/{measure}"] = float(self.series(measure)[i, :, -1].mean())
        return found

    def plot(self, measure: str = "loss", layer: int = -1, head: int = -1) -> "go.Figure":
        """One measure of all runs over training; bands go from the least to the largest seed."""
        import pandas as pd

        from lensbench.plots import lines

        self.series(measure, layer, head)
        named = {"measure": measure, "layer": layer, "head": head}
        frame = self.to_frame()
        kept = frame.loc[(frame[list(named)] == pd.Series(named)).all(axis=1)]
        unit = self.unit[self.measure.index(measure)]
        where = "" if head < 0 else f" of head {layer}.{head}"
        more = len(self.seeds) > 1
        return lines(
            kept, x="step", y="value", color="run", unit=unit, markers=False,
            low="low" if more else None, high="high" if more else None, labels={"value": measure},
            title=f"{measure}{where} during training", hover_columns=("seeds", "n"),
            subtitle=f"{len(self.seeds)} seeds, {self.n} held-out sequences; control: "
            f"{self.controls}",
        )  # fmt: skip


def names_of(clamps: Any, controls: Any) -> tuple[str, ...]:
    """Names of all runs: the unclamped one, the clamped ones, the controls.

    Raises:
        ConfigError: no mapping, or a name used twice.
    """
    for what, given in (("clamps", clamps), ("controls", controls)):
        if not isinstance(given, dict):
            raise ConfigError(f"{what} must be a dict of name to clamp; got {given!r}")
    names = (UNCLAMPED, *clamps, *controls)
    if twice := sorted({str(n) for n in names if names.count(n) > 1}):
        raise ConfigError(f"every run needs a name of its own; used twice: {', '.join(twice)}")
    return tuple(str(n) for n in names)
