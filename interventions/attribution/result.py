"""What attribution estimates: the change of the metric that patching each place would make."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from lensbench.errors import ConfigError
from lensbench.interventions.places import Place
from lensbench.prompts.score import told_of_cuts
from lensbench.results import Result
from lensbench.sites import Site
from lensbench.stats import bounds, mean_there

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lensbench.interventions.attribution.check import AttributionCheck
    from lensbench.interventions.metrics import MetricLike
    from lensbench.models.base import Model
    from lensbench.prompts.pairs import PromptPairs

N_BOOT = 1000


@dataclass(frozen=True, kw_only=True, eq=False)
class AttributionResult(Result):
    """Estimated change of every place: 0 is the run as it is, 1 all the way to the other run.

    ``change = mean(m(patched) - m(base)) / mean(m(source) - m(base))`` over the prompts that have
    the place, with the estimate in place of ``m(patched) - m(base)``. The effect of
    :class:`PatchingResult` is ``change`` for ``denoise`` and ``1 - change`` for ``noise``. With
    ``atp_star`` estimates are sizes: compare them with the size of what a patch does.

    Example:
        >>> found = interventions.attribute(model, pairs)
        >>> figure = found.plot()
    """

    task: str
    method: str
    direction: str
    """``denoise`` (clean states into the corrupted run) or ``noise`` (the reverse)."""
    metric: str
    unit: str
    site: tuple[str, ...]
    layer: Int[np.ndarray, " places"]
    """-1 where a site has none."""
    position: tuple[str, ...]
    """Number of the token or role; empty where all tokens are meant."""
    head: Int[np.ndarray, " places"]
    dim: Int[np.ndarray, " places"]
    values: Float[np.ndarray, "places pairs"]
    """Estimated change of the metric, in its unit; NaN where a prompt has no such token."""
    other: Float[np.ndarray, "some pairs"]
    """The control: the same towards another pair's answer and foil. Empty where there is none."""
    clean: Float[np.ndarray, " pairs"]
    corrupted: Float[np.ndarray, " pairs"]
    whole: tuple[str, ...] = ()
    """Sites along whose path an integral was taken; empty without one."""
    total: Float[np.ndarray, "paths pairs"]
    """What the estimate adds up to over all of each of these."""
    rise: Float[np.ndarray, "paths pairs"]
    """The change of the metric when all of it is set to the source's."""

    @property
    def n(self) -> int:
        """Number of prompts."""
        return len(self.clean)

    @property
    def signed(self) -> bool:
        """False where estimates are sizes."""
        return self.method != "atp_star"

    @property
    def gap(self) -> Float[np.ndarray, " pairs"]:
        """``m(source) - m(base)`` of every prompt, in the metric's unit."""
        toward = 1.0 if self.direction == "denoise" else -1.0
        return toward * (self.clean - self.corrupted)

    @property
    def change(self) -> Float[np.ndarray, " places"]:
        """Estimated change of every place, as a share of the way to the source run."""
        return normalised(self.values, self.gap, signed=self.signed)[0]

    @property
    def completeness_gap(self) -> Float[np.ndarray, " paths"]:
        """What an integral misses: (sum of estimates - real change) / mean size of real changes."""
        size = np.abs(self.rise).mean(1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(size > 0, (self.total - self.rise).mean(1) / size, np.nan)

    def intervals(self, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper 95 % bound of every place (prompts resampled); NaN with one prompt."""
        if self.n < 2:
            return np.full(len(self.site), np.nan), np.full(len(self.site), np.nan)
        share = np.full(self.n, 1 / self.n)
        drawn = np.random.default_rng(seed).multinomial(self.n, share, size=N_BOOT)
        found = normalised(self.values, self.gap, drawn, signed=self.signed)
        return bounds(found)

    def places(self, pairs: "PromptPairs") -> tuple[Place, ...]:
        """The places again, as patches take them."""
        return tuple(
            Place(Site.parse(s), _position(p, pairs), _or_none(h), _or_none(d))
            for s, p, h, d in zip(self.site, self.position, self.head, self.dim, strict=True)
        )

    def strongest(self) -> Int[np.ndarray, " places"]:
        """Numbers of the places, largest estimate first."""
        size = np.abs(np.nan_to_num(mean_there(self.values, 1)))
        return np.argsort(-size, kind="stable")

    def to_frame(self) -> "pd.DataFrame":
        """One row per place: ``change`` with its interval, estimate in its unit, the control."""
        import pandas as pd

        low, high = self.intervals()
        n = np.isfinite(self.values).sum(1)
        other = mean_there(self.other, 1) if len(self.other) else np.full(len(self.site), np.nan)
        frame = pd.DataFrame(
            {"site": self.site, "layer": self.layer, "position": self.position, "head": self.head,
             "dim": self.dim, "change": self.change, "low": low, "high": high,
             "value": mean_there(self.values, 1), "other_question": other, "n": n}
        )  # fmt: skip
        frame.attrs["units"] = {
            "change": "0 = as it is, 1 = the other run", "value": self.unit,
            "other_question": self.unit, "n": "prompts",
        }  # fmt: skip
        return frame

    def top(self, k: int = 10) -> "pd.DataFrame":
        """The ``k`` places with the largest estimates."""
        return self.to_frame().take(self.strongest()[:k]).reset_index(drop=True)

    def summary(self) -> dict[str, float]:
        """The strongest place, the completeness gap where there is an integral, places, prompts."""
        best = int(self.strongest()[0])
        found = {"strongest": float(self.change[best]), "layer": float(self.layer[best])}
        found |= {"head": float(self.head[best])} if self.head[best] >= 0 else {}
        if self.whole:
            found["completeness_gap"] = float(np.abs(self.completeness_gap).max())
        counts = {"places": float(len(self.site)), "prompts": float(self.n)}
        return {**found, **counts, **told_of_cuts(self.config)}

    def plot(self, site: str | None = None) -> "go.Figure":
        """Layers by positions (or heads, or dims) of one site.

        Raises:
            ConfigError: a site that was not asked for, or several without saying which.
        """
        from lensbench.interventions.metrics import said
        from lensbench.interventions.patching.result import cells
        from lensbench.plots import heatmap

        names = list(dict.fromkeys(Site.parse(s).name for s in self.site))
        if (site is None and len(names) > 1) or (site is not None and site not in names):
            raise ConfigError(f"this result has {len(names)} sites: plot(site=...) of {names}")
        chosen = [i for i, s in enumerate(self.site) if Site.parse(s).name == (site or names[0])]
        frame, x, y, labels = cells(self.to_frame().take(chosen).reset_index(drop=True))
        reach = max(1.0, float(np.nanmax(np.abs(self.change[chosen]), initial=0.0)))
        return heatmap(
            frame, x=x, y=y, value="change", span=(-reach, reach), diverging=True,
            unit="0 = as it is, 1 = the other run", x_labels=labels,
            hover_columns=("low", "high", "value", "n"),
            title=f"{self.task}: {self.method} of {self.direction} at {site or names[0]}",
            subtitle=f"estimated, {said(self.metric)}, {self.n} prompts; control: {self.controls}",
        )  # fmt: skip

    def verify(
        self,
        model: "Model",
        pairs: "PromptPairs",
        *,
        top: int = 10,
        random: int = 20,
        large: float = 0.1,
        metric: "MetricLike | None" = None,
        batch_size: int = 64,
        seed: int = 0,
    ) -> "AttributionCheck":
        """Do the patches of the ``top`` places and of ``random`` others, and compare.

        Args:
            model: the one the estimates are of.
            pairs: the same prompts.
            top: places with the largest estimates.
            random: places drawn without replacement from all others.
            large: what counts as a large change, as a share of the way to the source run.
            metric: the function, where the metric was one of your own.
            batch_size: most rows in one forward pass.
            seed: of the draw.

        Raises:
            MismatchError: another model, or other pairs.
            ConfigError: numbers that do not fit; a metric of your own that is not given again.
        """
        from lensbench.interventions.attribution.check import check

        return check(
            self, model, pairs, top=top, random=random, large=large, metric=metric,
            batch_size=batch_size, seed=seed,
        )  # fmt: skip


def normalised(
    values: np.ndarray, gap: np.ndarray, weights: np.ndarray | None = None, *, signed: bool
) -> Float[np.ndarray, "draws places"]:
    """Ratio of means over the prompts that have the place; NaN where the two runs do not differ."""
    weights = np.ones((1, len(gap))) if weights is None else weights
    there = np.isfinite(values)
    top = weights @ np.where(there, values, 0.0).T
    under = weights @ np.where(there, gap, 0.0).T
    under = under if signed else np.abs(under)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.abs(under) > 1e-12, top / under, np.nan)


def _position(text: str, pairs: "PromptPairs") -> int | str | None:
    if not text:
        return None
    return text if text in pairs.roles else int(text)


def _or_none(number: Any) -> int | None:
    return None if int(number) < 0 else int(number)


def names_of(where: Sequence[Place]) -> tuple[str, ...]:
    """The places in words."""
    return tuple(map(str, where))
