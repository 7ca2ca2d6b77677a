"""What patching found: a measure per place and prompt, beside the unpatched runs and a control."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError
from lensbench.prompts.score import told_of_cuts
from lensbench.results import Result
from lensbench.sites import Site
from lensbench.standing import Standing, standing
from lensbench.stats import bounds, mean_there

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lensbench.interventions.metrics import MetricLike
    from lensbench.interventions.patching.check import PlaceCheck
    from lensbench.models.base import Model
    from lensbench.prompts.pairs import PromptPairs

N_BOOT = 1000


@dataclass(frozen=True, kw_only=True, eq=False)
class PatchingResult(Result):
    """Effect of every place: 0 is the corrupted run, 1 the clean one.

    ``effect = (mean(patched) - mean(corrupted)) / (mean(clean) - mean(corrupted))`` over the
    prompts that have the place: a ratio of means, so that one prompt on which both runs agree does
    not blow up. Intervals: 95 %, percentile bootstrap over prompts. NaN where a prompt has no such
    token, or where clean and corrupted runs do not differ.

    Example:
        >>> found = interventions.patch_sweep(model, pairs, ["attn.z"], positions="together")
        >>> figure = found.plot()
    """

    task: str
    intervention: str
    """``denoise`` (clean states into the corrupted run), ``noise`` (the reverse), or an ablation of
    the clean run: ``zero``, ``mean``, ``resample``, ``solo``."""
    metric: str
    unit: str
    site: tuple[str, ...]
    layer: Int[np.ndarray, " places"]
    """-1 where a site has none."""
    position: tuple[str, ...]
    """Number of the token or role; empty where all tokens are meant."""
    head: Int[np.ndarray, " places"]
    """-1 where all are meant."""
    dim: Int[np.ndarray, " places"]
    """-1 where the whole vector is meant."""
    values: Float[np.ndarray, "places pairs"]
    """The metric under every patch, in its unit."""
    clean: Float[np.ndarray, " pairs"]
    corrupted: Float[np.ndarray, " pairs"]
    random: Float[np.ndarray, "tried pairs"]
    """The metric under steps as long as a patch's in random directions, at the places ``tried``."""
    tried: Int[np.ndarray, " tried"]

    @property
    def n(self) -> int:
        """Number of prompts."""
        return len(self.clean)

    @property
    def effect(self) -> Float[np.ndarray, " places"]:
        """Normalised effect of every place."""
        return self._normalised(self.values, np.ones((1, self.n)))[0]

    @property
    def random_effect(self) -> Float[np.ndarray, " tried"]:
        """The same of the random steps."""
        return self._normalised(self.random, np.ones((1, self.n)))[0]

    def intervals(self, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper 95 % bound of every place; NaN with one prompt."""
        if self.n < 2:
            return np.full(len(self.site), np.nan), np.full(len(self.site), np.nan)
        drawn = np.random.default_rng(seed).multinomial(
            self.n, np.full(self.n, 1 / self.n), size=N_BOOT
        )
        found = self._normalised(self.values, drawn)
        return bounds(found)  # NaN: a place that no prompt has, or runs that do not differ

    def _normalised(self, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        there = np.isfinite(values)
        top = weights @ np.where(there, values - self.corrupted, 0.0).T
        gap = weights @ np.where(there, self.clean - self.corrupted, 0.0).T
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(np.abs(gap) > 1e-12, top / gap, np.nan)

    def to_frame(self) -> "pd.DataFrame":
        """One row per place, then the rows ``clean``, ``corrupted`` and ``random``.

        ``effect`` with its interval, the metric itself (``value``), and the number of prompts.
        """
        import pandas as pd

        low, high = self.intervals()
        some = np.isfinite(self.values).sum(1)
        value = mean_there(self.values, 1)
        frame = pd.DataFrame(
            {"kind": "patch", "site": self.site, "layer": self.layer, "position": self.position,
             "head": self.head, "dim": self.dim, "effect": self.effect, "low": low, "high": high,
             "value": value, "n": some}
        )  # fmt: skip
        frame = pd.concat([frame, pd.DataFrame(self._baselines())], ignore_index=True)
        frame.attrs["units"] = {
            "effect": "0 = corrupted, 1 = clean", "value": self.unit, "n": "prompts"
        }  # fmt: skip
        return frame

    def _baselines(self) -> list[dict[str, Any]]:
        base = {"site": "", "layer": -1, "position": "", "head": -1, "dim": -1, "n": self.n}
        nan = float("nan")
        rows: list[dict[str, Any]] = [
            {"kind": "clean", "effect": 1.0, "value": self.clean.mean()},
            {"kind": "corrupted", "effect": 0.0, "value": self.corrupted.mean()},
        ]
        if len(self.tried):
            effect, value = float(mean_there(self.random_effect)), float(mean_there(self.random))
            rows.append({"kind": "random", "effect": effect, "value": value})
        return [{**base, "low": nan, "high": nan, **row} for row in rows]

    def beside(self, place: int) -> "pd.DataFrame":
        """One place beside clean, corrupted and random runs: means over the pairs that have it."""
        from lensbench.interventions.patching.beside import beside

        return beside(self, place)

    def top(self, k: int = 10) -> "pd.DataFrame":
        """The ``k`` places that move the run farthest from where it began."""
        whole_number("k", k, least=0)
        far = np.abs(np.nan_to_num(self.effect, nan=self.base) - self.base)
        return self.to_frame().take(np.argsort(-far, kind="stable")[:k]).reset_index(drop=True)

    def _html_body(self) -> str:
        """The places that move the run farthest, and the runs and the control they lie between."""
        import pandas as pd

        from lensbench.plots.tables import html_table

        frame = self.to_frame()
        shown = pd.concat([self.top(10), frame.loc[frame["kind"] != "patch"]], ignore_index=True)
        for column in ("layer", "head", "dim", "low", "high"):  # runs have no place, no interval
            if bool((shown[column] != -1).sum()):
                shown[column] = shown[column].astype(object).where(shown["kind"] == "patch", None)
        shown.attrs["units"] = frame.attrs["units"]
        left = len(self.site) - 10
        more = f"<div>{left:,} places that move it less are left out</div>" if left > 0 else ""
        return html_table(shown) + more

    @property
    def base(self) -> float:
        """Effect of no patch at all: 0 where the corrupted run is patched, else 1."""
        return 0.0 if self.intervention == "denoise" else 1.0

    def standing(self, place: int) -> Standing:
        """A place's effect among random steps of its sweep, each as long as a patch.

        Each of ``m`` places of no importance stands out with a chance of .05: look at one that was
        picked as the largest again on other prompts.

        Raises:
            NotEnoughDataError: a sweep without random steps (ablations have none).
        """
        return standing(float(self.effect[place]), self.random_effect, self.base)

    @property
    def strongest(self) -> int:
        """Number of the place that moves the run farthest; 0 where no effect is a number."""
        far = np.abs(self.effect - self.base)
        return int(np.nanargmax(far)) if np.isfinite(far).any() else 0

    def verify(
        self,
        model: "Model",
        pairs: "PromptPairs",
        place: int | None = None,
        *,
        others: int = 20,
        steps: int = 20,
        metric: "MetricLike | None" = None,
        batch_size: int = 64,
        seed: int = 1,
    ) -> "PlaceCheck":
        """One place on pairs that this sweep has not seen, beside random steps and other places.

        Args:
            model: the one that was patched.
            pairs: others; those whose clean prompt was seen are left out, and counted.
            place: number of a row of :meth:`to_frame`; left out, the strongest place.
            others: places of the same site, drawn at random from the sweep's.
            steps: random steps of the patch's length at the place (of patches, not ablations).
            metric: the function, where the metric was one of your own.
            batch_size: most rows in one forward pass.
            seed: of the draws.

        Raises:
            NotEnoughDataError: fewer than two unseen pairs, or no other place of the site.
            ConfigError: no such place, a sweep of subspaces, a metric of your own not given again.

        Example:
            >>> found = interventions.patch_sweep(model, prompts.recall(model, n=8))
            >>> check = found.verify(model, prompts.recall(model, n=16, seed=1))
            >>> check.standing.p
        """
        from lensbench.interventions.patching.check import check_place

        return check_place(
            self, model, pairs, place, others=others, steps=steps, metric=metric,
            batch_size=batch_size, seed=seed,
        )  # fmt: skip

    def summary(self) -> dict[str, float]:
        """Effect of the strongest place and its place, the random control, prompts, places."""
        best = self.strongest
        found = {"strongest": float(self.effect[best]), "layer": float(self.layer[best])}
        found |= {"head": float(self.head[best])} if self.head[best] >= 0 else {}
        if span := self.config.get("subspace", {}).get(self.site[best]):
            found["subspace_dims"] = float(span["k"])
        if len(self.tried):
            found["random"] = float(mean_there(self.random_effect))
        counts = {"places": float(len(self.site)), "prompts": float(self.n)}
        return {**found, **counts, **told_of_cuts(self.config)}

    def plot(self, site: str | None = None) -> "go.Figure":
        """Layers by positions (or heads, or dims) of one site; 0 is corrupted, 1 is clean.

        Where more axes than one were swept, a row is a layer with its head or position.

        Raises:
            ConfigError: a site that was not swept, or several without saying which.
        """
        from lensbench.interventions.patching.beside import told
        from lensbench.plots import heatmap

        names = list(dict.fromkeys(_short(s) for s in self.site))
        if (site is None and len(names) > 1) or (site is not None and site not in names):
            raise ConfigError(f"this sweep has {len(names)} sites: plot(site=...) of {names}")
        chosen = [i for i, s in enumerate(self.site) if _short(s) == (site or names[0])]
        frame, x, y, labels = cells(self.to_frame().take(chosen).reset_index(drop=True))
        reach = max(1.0, float(np.nanmax(np.abs(self.effect[chosen]), initial=0.0)))
        return heatmap(
            frame, x=x, y=y, value="effect", span=(-reach, reach), diverging=True,
            unit="0 = corrupted, 1 = clean", x_labels=labels,
            hover_columns=("low", "high", "value", "n"),
            title=f"{self.task}: {self.intervention} at {self._part(chosen)}{site or names[0]}",
            subtitle=f"{told(self, chosen)}; control: {self.controls}",
        )  # fmt: skip

    def _part(self, chosen: list[int]) -> str:
        """``2 dims of `` where a subspace was changed."""
        spans = self.config.get("subspace", {})
        sizes = sorted({spans[self.site[i]]["k"] for i in chosen if self.site[i] in spans})
        return (
            f"{'-'.join(str(k) for k in dict.fromkeys([sizes[0], sizes[-1]]))} dims of "
            if sizes
            else ""
        )


_MOST_TICKS = 32
"""Heads that are named one by one; the ticks of more are plotly's."""


def _short(site: str) -> str:
    """``attn.z`` of ``blocks.3.attn.z``."""
    return Site.parse(site).name


def cells(frame: "pd.DataFrame") -> "tuple[pd.DataFrame, str, str, dict[int, str] | None]":
    """The frame with one row per cell, its columns for both axes, and labels of the first.

    Where heads and dims were swept at once, dims are columns and every head has a row.
    """
    swept = [a for a in ("dim", "head") if max(frame[a].tolist()) >= 0]
    x, beside = (swept[0] if swept else "position"), swept[1:]
    order = list(dict.fromkeys(frame["position"].tolist()))
    numbers = set(frame[x].tolist())
    few = x != "position" and len(numbers) <= _MOST_TICKS
    whole = {int(i): str(i) for i in numbers} if few else None
    beside += ["position"] if len(order) > 1 else []
    if x != "position" and beside:  # a row per layer, head and position
        rows = list(map(str, frame["layer"].tolist()))
        for axis in beside:
            word = "head " if axis == "head" else ""
            rows = [f"{a}, {word}{b}" for a, b in zip(rows, frame[axis].tolist(), strict=True)]
        return frame.assign(place=rows), x, "place", whole
    if x != "position":
        return frame, x, "layer", whole
    columns = [order.index(p) for p in frame["position"].tolist()]
    labels = {i: name or "all" for i, name in enumerate(order)}
    return frame.assign(position=columns), x, "layer", labels
