"""The result of a hyperdimensional study: the probe's scores beside what they must beat."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from lensbench.probes.hd.failures import BASELINE, FailureFlagging, flag_failures
from lensbench.probes.hd.probe import HDReading
from lensbench.results import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

SCORES = ("probing@1", "probing@3", "probing@5", "gold probing@1")
"""What is given for every source; the first three by the label-free rule."""
PLACES = (1, 3, 5)
"""Places among which the right word must be, of the first three."""


@dataclass(frozen=True, kw_only=True, eq=False)
class HDStudy(Result):
    """Scores of the probe and of its baselines on held-out prompts that the model gets right."""

    task: str
    split: str
    encoder: str
    sources: tuple[str, ...]
    """``probe`` first, then the baselines."""
    score: Float[np.ndarray, "sources scores"]
    low: Float[np.ndarray, "sources scores"]
    high: Float[np.ndarray, "sources scores"]
    cosine: Float[np.ndarray, " sources"]
    """Mean similarity of encoded and true hypervectors, test prompts; NaN where there is none."""
    val_curve: Float[np.ndarray, " passes"]
    """Validation cosine of the probe's encoder after every pass."""
    reading: HDReading
    """All test prompts, also those that the model gets wrong."""
    right: Bool[np.ndarray, " prompts"]
    """Whether the model says the right word."""
    answers: tuple[str, ...]
    max_prob: Float[np.ndarray, " prompts"]
    layers: tuple[int, ...]
    layer_correlation: Float[np.ndarray, "layers layers"]
    n_parameters: int
    n_concepts: int
    n_train: int
    held_out: tuple[str, ...]
    ranks: Float[np.ndarray, "told_of prompts_read"] = field(
        default_factory=lambda: np.zeros((0, 0))
    )
    """Label-free rank of the right word by source and test prompt, infinite without an answer;
    empty in studies saved before it was kept."""

    def value(self, source: str = "probe", score: str = "probing@1") -> float:
        """One figure."""
        return float(self.score[self.sources.index(source), SCORES.index(score)])

    def chance(self) -> dict[str, float]:
        """How often the right word is among the first places of concepts in random order.

        Of the gold rule there is none: the answer picks its query, so only controls tell.
        """
        return {score: min(1.0, k / self.n_concepts)
                for score, k in zip(SCORES, PLACES, strict=False)}  # fmt: skip

    @property
    def contingency(self) -> "pd.DataFrame":
        """Prompts by model right or wrong and probe right or wrong (label-free, first place)."""
        import pandas as pd

        hit = self.reading.rank <= 1
        table = [[int((m & p).sum()) for p in (hit, ~hit)] for m in (self.right, ~self.right)]
        return pd.DataFrame(
            table, index=["model right", "model wrong"], columns=["probe right", "probe wrong"]
        )

    def by_relation(self) -> "pd.DataFrame":
        """Label-free probing@1 and the share that the model gets right, relation by relation."""
        import pandas as pd

        relation = [group.split("|")[0] for group in self.reading.groups]
        frame = pd.DataFrame({"relation": relation, "probing@1": self.reading.rank <= 1,
                              "model": self.right, "n": 1})  # fmt: skip
        found = frame.groupby("relation").agg({"probing@1": "mean", "model": "mean", "n": "sum"})
        return found.reset_index()

    def decoded(self) -> "pd.DataFrame":
        """The decode table: a row per test prompt; see :mod:`lensbench.probes.hd.decoding`."""
        from lensbench.probes.hd.decoding import decode_table

        return decode_table(self)

    def by_concept(self) -> "pd.DataFrame":
        """The decode table of every right word: how often it is read, its interval and chance.

        Over the prompts that the model gets right, as every score of the study is.
        """
        from lensbench.probes.hd.decoding import concept_table

        return concept_table(self)

    def failures(self, *, seed: int = 0) -> FailureFlagging:
        """Whether the probe tells the model's errors better than its maximum probability does.

        ``1 - support``: the similarity of the model's own answer under the answering query, which
        is the score whose gain counts; ``no agreement``: the probe read another word first (or
        none); ``1 - similarity``: the best similarity, whatever its word.

        Raises:
            NotEnoughDataError: fewer than five wrong or five right answers.
        """
        said, read = np.asarray(self.answers), np.array([f[0] for f in self.reading.found])
        agree = (said == read) & self.reading.answered
        support = np.nan_to_num(self.reading.support, nan=-1.0)  # not a concept: no support at all
        scores = {
            BASELINE: 1 - self.max_prob,
            "1 - support": 1 - support,
            "no agreement": 1.0 - agree,
            "1 - similarity": 1 - self.reading.similarity[:, 0],
        }
        _, groups = np.unique(np.asarray(self.reading.groups), return_inverse=True)
        return flag_failures(scores, ~self.right, groups, seed=seed)

    def to_frame(self) -> "pd.DataFrame":
        """One row per source and score, intervals over entity and relation; n counts prompts."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        chance = self.chance()
        for i, source in enumerate(self.sources):
            for j, score in enumerate(SCORES):
                rows.append({
                    "task": self.task, "split": self.split, "source": source, "score": score,
                    "value": float(self.score[i, j]),
                    "low": float(self.low[i, j]), "high": float(self.high[i, j]),
                    "chance": chance.get(score, float("nan")),
                    "cosine": float(self.cosine[i]), "n": int(self.right.sum()),
                })  # fmt: skip
        frame = pd.DataFrame(rows)
        frame.attrs["units"] = {"value": "share of prompts", "cosine": "cosine", "n": "prompts"}
        return frame

    def plot(self) -> "go.Figure":
        """Every source's scores, side by side."""
        from lensbench.plots import bars

        return bars(
            self.to_frame(), x="source", y="value", color="score", low="low", high="high",
            title=f"Hyperdimensional probe: {self.task}, split by {self.split}",
            subtitle=f"{self.encoder} encoder, {int(self.right.sum())} prompts the model gets "
            f"right, {self.n_concepts} concepts",
        )  # fmt: skip

    def summary(self) -> dict[str, float]:
        """Label-free and gold probing@1, the controls, cosine, and the model's own accuracy."""
        others = {f"{s} probing@1": float(self.score[i, 0])
                  for i, s in enumerate(self.sources) if i}  # fmt: skip
        return {
            "probing@1": self.value(),
            "gold probing@1": self.value(score="gold probing@1"),
            **others,
            "cosine": float(self.cosine[0]),
            "model accuracy": float(self.right.mean()),
            "prompts": float(self.right.sum()),
        }
