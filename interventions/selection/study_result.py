"""What selected latents do to prompts about other entities, beside random latents."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from lensbench.interventions.selection.result import LatentSeparation
from lensbench.results import Result
from lensbench.stats import bootstrap_mean

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

TAILS = (0.025, 0.975)


@dataclass(frozen=True, kw_only=True, eq=False)
class SelectionStudy(Result):
    """Selected and random latents, added and taken out at the entity's tokens."""

    separation: LatentSeparation
    """Of the other half of the entities, which no prompt here is about."""
    metric: str
    unit: str
    site: str
    classes: tuple[str, str]
    latents: Int[np.ndarray, " latents"]
    kinds: tuple[str, ...]
    """The class a latent was selected for, or ``random``."""
    conditions: tuple[str, ...]
    """``add <strength>`` and ``ablate``."""
    scale: float
    """Median length of the clean state at the entity's tokens: strength 1."""
    effect: Float[np.ndarray, "latents conditions prompts"]
    clean: Float[np.ndarray, " prompts"]
    entity: tuple[str, ...]
    first: Bool[np.ndarray, " prompts"]
    heads: tuple[str, ...]
    attention: Float[np.ndarray, "latents conditions prompts heads"]
    """From the last token to all tokens of the entity, 0 to 1."""
    clean_attention: Float[np.ndarray, "prompts heads"]

    @property
    def change(self) -> Float[np.ndarray, "latents conditions prompts"]:
        """Metric under steering less that of the clean run."""
        return self.effect - self.clean

    def rows_of(self, kind: str) -> np.ndarray:
        """Numbers of the latents of a kind."""
        return np.flatnonzero(np.array(self.kinds) == kind)

    def to_frame(self) -> "pd.DataFrame":
        """One row per latent, condition and class of prompts.

        ``low`` and ``high`` are the 95 % interval of the mean ``change`` over entities. ``p`` is
        ``(1 + random latents with at least this |mean change|) / (1 + random latents)``; NaN of
        the random ones.
        """
        return self._frame(self.effect, self.clean, self.unit)

    def attention_frame(self) -> "pd.DataFrame":
        """The same rows for every head: attention of the last token to the entity."""
        import pandas as pd

        parts: list[Any] = []
        for h, name in enumerate(self.heads):
            part = self._frame(self.attention[..., h], self.clean_attention[:, h], "attention")
            parts.append(part.assign(head=name))
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()

    def _frame(self, effect: np.ndarray, clean: np.ndarray, unit: str) -> "pd.DataFrame":
        import pandas as pd

        rows: list[dict[str, Any]] = []
        _, entity = np.unique(np.array(self.entity), return_inverse=True)
        random = self.rows_of("random")
        for side, name in enumerate(self.classes):
            mine = self.first == (side == 0)
            change = effect[..., mine] - clean[mine]
            n = {"n": int(mine.sum()), "entities": len(np.unique(entity[mine]))}
            for i, kind in enumerate(self.kinds):
                for c, condition in enumerate(self.conditions):
                    found = bootstrap_mean(change[i, c], entity[mine])
                    beaten = np.abs(change[random, c].mean(-1)) >= abs(found.mean) - 1e-12
                    p = (1 + beaten.sum()) / (1 + len(random))
                    rows.append({
                        "latent": int(self.latents[i]), "kind": kind, "condition": condition,
                        "prompts": name, "clean": float(clean[mine].mean()),
                        "effect": float(effect[i, c, mine].mean()), "change": found.mean,
                        "low": found.low, "high": found.high,
                        "p": np.nan if kind == "random" else float(p), **n,
                    })  # fmt: skip
        frame = pd.DataFrame(rows)
        frame.attrs["units"] = dict.fromkeys(("clean", "effect", "change", "low", "high"), unit)
        return frame

    def summary(self) -> dict[str, float]:
        """Of the first latent of each class: its change in either class at the strongest step."""
        found: dict[str, float] = {"clean": float(self.clean.mean())}
        sizes = np.abs(self.config["strengths"])  # in the order of the conditions
        most = int(np.flatnonzero(sizes == sizes.max())[-1])
        for kind in self.classes:
            i = int(self.rows_of(kind)[0])
            found[f"{kind}_p"] = float(self.separation.p[self.classes.index(kind), self.latents[i]])
            for side, name in enumerate(self.classes):
                mine = self.first == (side == 0)
                found[f"{kind}_latent_on_{name}"] = float(self.change[i, most, mine].mean())
        farthest = np.abs(self.change[self.rows_of("random"), most].mean(-1)).max()
        return {**found, "random_farthest": float(farthest), "prompts": float(len(self.clean))}

    def plot(self) -> "go.Figure":
        """Mean change by condition: selected latents with intervals, random ones as one band."""
        import pandas as pd

        from lensbench.plots import bars

        frame = self.to_frame()
        frame["what"] = frame.condition + ", " + frame.prompts
        frame["latent of"] = frame.kind + " (" + frame.latent.astype(str) + ")"
        name, band = f"random ({len(self.rows_of('random'))})", list[dict[str, Any]]()
        for what in dict.fromkeys(frame.what):
            means = frame.change[(frame.what == what) & (frame.kind == "random")]
            low, high = np.quantile(means, TAILS)
            band.append({"what": what, "latent of": name, "change": means.mean(),
                         "low": low, "high": high})  # fmt: skip
        shown: pd.DataFrame = pd.concat([frame.loc[frame.kind != "random"], pd.DataFrame(band)])
        shown.attrs["units"] = {"change": self.unit}
        return bars(
            shown, x="what", y="change", color="latent of", low="low", high="high",
            title=f"{self.metric} after steering at {self.site}",
            subtitle=f"latents found on other entities; {len(self.clean)} prompts; random: "
            "central 95 % of their means",
        )  # fmt: skip
