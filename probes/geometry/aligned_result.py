"""Distances of aligned sentences as a result: one pair token by token, and means of each kind."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from lensbench.errors import UnknownNameError
from lensbench.probes.geometry.tables import Table
from lensbench.stats import bootstrap_mean

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

MEASURES = {
    "manhattan": "units of the activations",
    "cosine": "-1 to 1, centred",
    "surprisal_difference": "bits",
}
MODEL, TWIN = "model", "reinitialised_twin"


@dataclass(frozen=True, kw_only=True, eq=False)
class AlignedDistances(Table):
    """A row per source, pair and aligned token."""

    units: ClassVar[Mapping[str, str]] = MEASURES

    def plot(self, measure: str = "cosine", pair: int = 0) -> "go.Figure":
        """One pair, token by token, beside the twin.

        Raises:
            UnknownNameError: no such measure or pair.
        """
        from lensbench.plots import lines, visible
        from lensbench.plots.columns import escape_all

        _known(measure)
        frame: Any = self.to_frame()
        part = frame[frame["pair"] == pair]
        if part.empty:
            known = [str(int(number)) for number in dict.fromkeys(frame["pair"])]
            raise UnknownNameError("pair", str(pair), known=known)
        own = part[part["source"] == MODEL]
        figure = lines(
            part, x="place", y=measure, color="source", hover_columns=("token", "token_variant"),
            title=f"{_words(measure)} of aligned tokens",
            subtitle="word of the ambiguous sentence / of the variant, where they differ; "
            f"n = 1 of {frame['pair'].nunique()} pairs of sentences",
            labels={"place": "aligned token"},
        )  # fmt: skip
        pairs = zip(own["token"], own["token_variant"], strict=True)
        words = [visible(a) if a == b else f"{visible(a)} / {visible(b)}" for a, b in pairs]
        return figure.update_xaxes(tickvals=list(range(len(words))), ticktext=escape_all(words))

    def means(self, seed: int = 0) -> "pd.DataFrame":
        """Means by source and kind with 95 % bootstrap intervals over pairs (4)."""
        import pandas as pd

        frame: Any = self.to_frame()
        rows: list[dict[str, Any]] = []
        for (source, kind), part in frame.groupby(["source", "kind"], sort=False):
            for measure in MEASURES:
                offset = 0.0 if measure == "surprisal_difference" else -1.0
                values = part.loc[part["to_cut"] == offset, measure].dropna().to_numpy(float)
                if not len(values):
                    continue
                found = bootstrap_mean(values, seed=seed)
                rows.append({"source": source, "kind": kind, "measure": measure,
                             "value": found.mean, "low": found.low, "high": found.high,
                             "n": found.n})  # fmt: skip
        return pd.DataFrame(
            rows, columns=["source", "kind", "measure", "value", "low", "high", "n"]
        )

    def plot_means(self, measure: str = "cosine") -> "go.Figure":
        """Mean of each kind where the reading is settled, beside the twin."""
        from lensbench.plots import bars

        _known(measure)
        frame: Any = self.means()
        part = frame[frame["measure"] == measure]
        where = "at" if measure == "surprisal_difference" else "before"
        return bars(
            part, x="kind", y="value", color="source", low="low", high="high",
            unit=MEASURES[measure], title=f"{_words(measure)} {where} the "
            "disambiguating token", labels={"value": measure.replace("_", " ")},
        )  # fmt: skip

    def summary(self) -> dict[str, float]:
        """Means of the model by kind and measure; means over all tokens where nothing is cut."""
        frame: Any = self.means()
        own = frame[frame["source"] == MODEL]
        if own.empty:
            part: Any = self.part(source=MODEL)
            return {name: float(part[name].mean()) for name in MEASURES}
        return {f"{row.measure}_{row.kind}": float(row.value) for row in own.itertuples()}


def _known(measure: str) -> None:
    if measure not in MEASURES:
        raise UnknownNameError("measure", measure, known=tuple(MEASURES))


def _words(measure: str) -> str:
    return measure.replace("_", " ").capitalize()
