"""What latents of a base model tell and do in its fine-tuned sibling."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from lensbench.interventions.selection.result import LEVEL, LatentSeparation
from lensbench.interventions.selection.study_result import SelectionStudy
from lensbench.results import Result
from lensbench.stats import Interval, bootstrap_mean

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

MODELS = ("base", "sibling")


@dataclass(frozen=True, kw_only=True, eq=False)
class SiblingStudy(Result):
    """Latents and heads chosen on a base model, applied to its sibling, beside random latents."""

    separation: LatentSeparation
    """On the base, of entities that no prompt for the sibling is about."""
    site: str
    classes: tuple[str, str]
    latents: Int[np.ndarray, " latents"]
    kinds: tuple[str, ...]
    """The class a latent was selected for, or ``random``."""
    auroc: Float[np.ndarray, "2 latents"]
    """Base and sibling on the same prompts: the latent's class against the other; of random
    latents the first class. 0.5 is no difference."""
    low: Float[np.ndarray, "2 latents"]
    high: Float[np.ndarray, "2 latents"]
    direct_effect: Float[np.ndarray, "layers heads"]
    """Of what each head brings from the entity, on the answer, in the base, nats; NaN where heads
    were given or stand before the site."""
    heads: tuple[str, ...]
    base_attention: Float[np.ndarray, "prompts heads"]
    """From the last token to the entity in the base, unsteered."""
    steering: SelectionStudy
    """Steps on the sibling; its ``attention`` is before and after each."""

    def rows_of(self, kind: str) -> np.ndarray:
        """Numbers of the latents of a kind."""
        return np.flatnonzero(np.array(self.kinds) == kind)

    def auroc_p(self, i: int) -> float:
        """``(1 + #{random latents as far from 0.5}) / (1 + #{random})`` of latent i, one-sided."""
        random = self.auroc[1, self.rows_of("random")]
        beaten = np.abs(random - 0.5) >= self.auroc[1, i] - 0.5 - 1e-12
        return float((1 + beaten.sum()) / (1 + len(random)))

    def to_frame(self) -> "pd.DataFrame":
        """One row per latent: how it was found, and AUROC with 95 % interval in both models.

        ``p_selection`` is that of the search on the base, ``p`` that of the sibling's AUROC against
        the random latents, ``p_steering`` :meth:`steering_p`; NaN of the random ones.
        """
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for i, kind in enumerate(self.kinds):
            row: dict[str, Any] = {"latent": int(self.latents[i]), "kind": kind}
            for m, name in enumerate(MODELS):
                row |= {f"auroc_{name}": self.auroc[m, i], f"low_{name}": self.low[m, i],
                        f"high_{name}": self.high[m, i]}  # fmt: skip
            chosen = kind != "random"
            side = self.classes.index(kind) if chosen else 0
            row["p_selection"] = self.separation.p[side, self.latents[i]] if chosen else np.nan
            row["p"] = self.auroc_p(i) if chosen else np.nan
            row["p_steering"] = self.steering_p(i) if chosen else np.nan
            rows.append({**row, "entities": len(set(self.steering.entity))})
        frame = pd.DataFrame(rows)
        frame.attrs["units"] = {f"auroc_{name}": "0.5 is no difference" for name in MODELS}
        return frame

    def attention_frame(self) -> "pd.DataFrame":
        """Attention of each head to the entity: base, sibling, and the sibling under each step.

        One row per head, class of prompts and condition; ``latent`` is -1 where nothing was steered
        and of the random latents, whose mean over latents is given. Intervals (95 %) over entities.
        """
        import pandas as pd

        study, rows = self.steering, list[dict[str, Any]]()
        for h, head in enumerate(self.heads):
            for side, name in enumerate(self.classes):
                mine = study.first == (side == 0)
                common = {"head": head, "prompts": name}
                unsteered = zip(MODELS, (self.base_attention, study.clean_attention), strict=True)
                for model, values in unsteered:
                    found = self._mean(values[:, h], mine)
                    rows.append({**common, "model": model, "condition": "clean", "kind": "",
                                 "latent": -1, **_columns(found)})  # fmt: skip
                for c, condition in enumerate(study.conditions):
                    for kind in (*self.classes, "random"):
                        arms = self.rows_of(kind)
                        some = [arms] if kind == "random" else [[i] for i in arms]
                        for i in some:
                            found = self._mean(study.attention[i, c, :, h].mean(0), mine)
                            latent = -1 if kind == "random" else int(self.latents[i[0]])
                            rows.append({**common, "model": "sibling", "condition": condition,
                                         "kind": kind, "latent": latent,
                                         **_columns(found)})  # fmt: skip
        frame = pd.DataFrame(rows)
        frame.attrs["units"] = {"attention": "0 to 1"}
        return frame

    def _mean(self, values: np.ndarray, mine: np.ndarray) -> Interval:
        _, entity = np.unique(np.array(self.steering.entity)[mine], return_inverse=True)
        return bootstrap_mean(values[mine], entity)

    def steering_p(self, i: int) -> float:
        """Exact p of the largest effect of latent i over all conditions and both classes.

        Mean changes of the metric are divided by their mean size over latent i and the random ones,
        condition by condition and class by class; of each latent the largest counts: ``(1 +
        #{random latents with at least that}) / (1 + #{random})``. So many conditions are one test.
        """
        changes, first = np.abs(self._changes()), self.rows_of("random")
        some = changes[[i, *first]]
        largest = (some / np.maximum(some.mean(0), 1e-12)).max((1, 2))
        return float((largest >= largest[0] - 1e-12).sum() / len(largest))

    def _changes(self) -> Float[np.ndarray, "latents conditions 2"]:
        """Mean change of the metric by class."""
        first = self.steering.first
        return np.stack([self.steering.change[..., mine].mean(-1) for mine in (first, ~first)], -1)

    @property
    def verdict(self) -> str:
        """What was found on the base, what carried over, and what steering does, in words.

        At level .05 of all selected latents together (Bonferroni).
        """
        parts = [self._selected(), self._carried(), self._steers()]
        if 1 / (1 + len(self.rows_of("random"))) > self._level:
            parts.append("there are too few random latents for the last two to be significant")
        return "; ".join(parts)

    def _chosen(self) -> list[int]:
        return [i for i, kind in enumerate(self.kinds) if kind != "random"]

    @property
    def _level(self) -> float:
        return LEVEL / len(self._chosen())

    def _selected(self) -> str:
        parts: list[str] = []
        for i in self._chosen():
            p = float(self.separation.p[self.classes.index(self.kinds[i]), self.latents[i]])
            if p <= LEVEL:
                parts.append(
                    f"on the base, latent {self.latents[i]} tells {self.kinds[i]} entities beyond "
                    f"chance (p = {p:.2g})"
                )
        return ", ".join(parts) or "on the base no latent separates the classes beyond chance"

    def _carried(self) -> str:
        rows = self._chosen()
        held = [i for i in rows if self.low[1, i] > 0.5 and self.auroc_p(i) <= self._level]
        if held:
            named = ", ".join(f"{self.latents[i]} (AUROC {self.auroc[1, i]:.2f})" for i in held)
            return f"on the sibling, selected latents that separate them: {named}"
        return (
            "on the sibling no selected latent separates them more than random ones do (best AUROC "
            f"{self.auroc[1, rows].max():.2f})"
        )

    def _steers(self) -> str:
        parts, metric = list[str](), self.steering.metric
        for i in self._chosen():
            if (p := self.steering_p(i)) > self._level:
                continue
            changes = self._changes()[i]
            c, side = np.unravel_index(int(np.abs(changes).argmax()), changes.shape)
            parts.append(
                f"latent {self.latents[i]} ({self.steering.conditions[c]}) moves {metric} of "
                f"{self.classes[side]} entities by {changes[c, side]:+.3g} (p = {p:.2g})"
            )
        return ", ".join(parts) or f"steering by them moves {metric} no more than random latents do"

    def summary(self) -> dict[str, float]:
        """First latent of each class: p on the base, AUROC in both models; steering; counts."""
        found: dict[str, float] = {}
        for side, name in enumerate(self.classes):
            i = int(self.rows_of(name)[0])
            found |= {
                f"{name}_latent": float(self.latents[i]),
                f"{name}_p_base": float(self.separation.p[side, self.latents[i]]),
                f"{name}_auroc_base": float(self.auroc[0, i]),
                f"{name}_auroc_sibling": float(self.auroc[1, i]),
                f"{name}_p_sibling": self.auroc_p(i),
                f"{name}_p_steering": self.steering_p(i),
            }
        steps = {f"steering_{k}": v for k, v in self.steering.summary().items() if "_p" not in k}
        return {**found, **steps}

    def plot(self) -> "go.Figure":
        """AUROC of every selected latent in both models, the random ones as a band."""
        import pandas as pd

        from lensbench.plots import bars

        rows: list[dict[str, Any]] = []
        drawn = self.rows_of("random")
        for m, name in enumerate(MODELS):
            for i, kind in enumerate(self.kinds):
                if kind != "random":
                    rows.append({"latent": f"{kind} ({self.latents[i]})", "model": name,
                                 "auroc": self.auroc[m, i], "low": self.low[m, i],
                                 "high": self.high[m, i]})  # fmt: skip
            low, high = np.quantile(self.auroc[m, drawn], (0.025, 0.975))
            rows.append({"latent": f"random ({len(drawn)})", "model": name, "low": low,
                         "high": high, "auroc": self.auroc[m, drawn].mean()})  # fmt: skip
        frame = pd.DataFrame(rows)
        frame.attrs["units"] = {"auroc": "0.5 is no difference"}
        figure = bars(
            frame, x="latent", y="auroc", color="model", low="low", high="high",
            title=f"Latents of the base at {self.site}, on its sibling",
            subtitle=f"n = {int(self.separation.n_entities.sum())} entities; {self.verdict}; "
            f"control: {self.controls}",
        )  # fmt: skip
        figure.add_hline(y=0.5, line={"dash": "dash", "width": 1.5, "color": "#8C8C8C"})
        return figure


def _columns(found: Interval) -> dict[str, float]:
    return {"attention": found.mean, "low": found.low, "high": found.high, "entities": found.n}
