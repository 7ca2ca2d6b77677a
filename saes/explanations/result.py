"""Explanations of latents with their scores and controls, as a value."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from lensbench.errors import UnknownNameError
from lensbench.results import Result
from lensbench.saes.explanations.scoring import SCORERS, Score
from lensbench.stats import Interval, bootstrap_mean

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

SOURCES = ("explanation", "shuffled", "random_dictionary", "coin", "all_yes")


@dataclass(frozen=True, kw_only=True, eq=False)
class LatentExplanations(Result):
    """What some latents are said to fire on, and how well that predicts where they do."""

    columns_shown = ("latent", "explanation", "scorer", "balanced_accuracy", "low",
                     "high", "shuffled", "coin", "n", "density", "missing")  # fmt: skip

    name: str
    site: str
    explainer: str
    judge: str
    latents: Int[np.ndarray, " latents"]
    texts: tuple[str, ...]
    """Empty where there were too few contexts."""
    rules: tuple[list[dict[str, Any]], ...]
    """The clauses of rules; empty for explanations in words alone."""
    missing: tuple[str, ...]
    """Why a latent has no scores; empty where it has."""
    density: Float[np.ndarray, " latents"]
    scores: Float[np.ndarray, "latents scorers measures"]
    """Measures as in ``Score.MEASURES``; NaN where there were too few contexts."""
    shuffled: Float[np.ndarray, "latents scorers"]
    """Balanced accuracy of the explanation of another latent."""
    coin: Float[np.ndarray, "latents scorers"]
    all_yes: Float[np.ndarray, "latents scorers"]
    random_latents: Int[np.ndarray, " random"]
    random_texts: tuple[str, ...]
    random_dictionary: Float[np.ndarray, "random scorers"]
    """Balanced accuracy of as many latents of a random dictionary, of the nearest densities, by the
    same explainer and judge; empty where no activations were given."""

    def values(self, source: str, scorer: str) -> Float[np.ndarray, " n"]:
        """Balanced accuracy by latent.

        Raises:
            UnknownNameError: no such source or scorer.
        """
        for what, name, known in (("source", source, SOURCES), ("scorer", scorer, SCORERS)):
            if name not in known:
                raise UnknownNameError(what, name, known=known)
        at = SCORERS.index(scorer)
        return self.scores[:, at, 0] if source == "explanation" else getattr(self, source)[:, at]

    def mean(self, source: str, scorer: str) -> Interval:
        """Mean over the latents that have a score, interval over latents."""
        found = self.values(source, scorer)
        known, nan = found[np.isfinite(found)], float("nan")
        return bootstrap_mean(known) if len(known) else Interval(nan, nan, nan, 0)

    def to_frame(self) -> "pd.DataFrame":
        """One row per latent and scorer."""
        import pandas as pd

        table: list[dict[str, Any]] = []
        for i, latent in enumerate(self.latents):
            for j, scorer in enumerate(SCORERS):
                measures = dict(zip(Score.MEASURES, self.scores[i, j].tolist(), strict=True))
                table.append(
                    {"latent": int(latent), "scorer": scorer, **measures,
                     "shuffled": self.shuffled[i, j], "coin": self.coin[i, j],
                     "n": measures["n_yes"] + measures["n_no"], "density": self.density[i],
                     "explanation": self.texts[i], "missing": self.missing[i]}
                )  # fmt: skip
        frame = pd.DataFrame(table)
        share = ("balanced_accuracy", "tpr", "tnr", "tnr_random", "tnr_hard", "f1", "accuracy")
        frame.attrs["units"] = {**dict.fromkeys(share, "share"), "n": "contexts"}
        return frame

    def means_frame(self) -> "pd.DataFrame":
        """One row per source and scorer: mean balanced accuracy over latents, with interval."""
        import pandas as pd

        rows = [
            {"source": source.replace("_", " "), "scorer": scorer, "balanced_accuracy": m.mean,
             "low": m.low, "high": m.high, "n": m.n}
            for source in SOURCES
            for scorer in SCORERS
            if (m := self.mean(source, scorer)).n
        ]  # fmt: skip
        columns = ["source", "scorer", "balanced_accuracy", "low", "high", "n"]
        frame = pd.DataFrame(rows, columns=columns)
        frame.attrs["units"] = {"balanced_accuracy": "share", "n": "latents"}
        return frame

    def summary(self) -> dict[str, float]:
        """Mean balanced accuracy of both scorers, and how many latents have one."""
        out = {scorer: self.mean("explanation", scorer).mean for scorer in SCORERS}
        n = float(np.isfinite(self.scores[:, 0, 0]).sum())
        return {**out, "latents scored": n, "latents": float(len(self.latents))}

    def plot(self) -> "go.Figure":
        """Mean balanced accuracy of the explanations beside every control."""
        from lensbench.plots import bars

        scored = int(self.summary()["latents scored"])
        return bars(
            self.means_frame(), x="scorer", y="balanced_accuracy", color="source",
            low="low", high="high", title=f"Explanations of {self.name}",
            subtitle=f"{scored} of {len(self.latents)} latents; explainer {self.explainer}, judge "
            f"{self.judge}; 0.5 is chance; 95 % over latents",
        )  # fmt: skip

    def plot_latents(self) -> "go.Figure":
        """Every latent: detection against fuzzing, its explanation on hover."""
        import pandas as pd

        from lensbench.plots import scatter

        parts: list[dict[str, Any]] = []
        for source, names, texts in (
            ("explanation", self.latents, self.texts),
            ("shuffled", self.latents, self.texts),
            ("random_dictionary", self.random_latents, self.random_texts),
        ):
            columns = [self.values(source, scorer) for scorer in SCORERS]
            parts += [
                {"source": source.replace("_", " "), "latent": int(n), SCORERS[0]: a, SCORERS[1]: b,
                 "explanation": "that of another latent" if source == "shuffled" else _short(t)}
                for n, a, b, t in zip(names, *columns, texts, strict=True)
            ]  # fmt: skip
        frame = pd.DataFrame(parts).dropna(subset=list(SCORERS))
        frame.attrs["units"] = dict.fromkeys(SCORERS, "balanced accuracy")
        return scatter(frame, x=SCORERS[0], y=SCORERS[1], color="source",
                       title=f"Latents of {self.name}", subtitle="0.5 is chance",
                       hover_columns=("latent", "explanation"))  # fmt: skip


def _short(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:119]}…"
