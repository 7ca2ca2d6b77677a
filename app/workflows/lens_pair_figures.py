"""Figures of two texts and a patch between them: the change of every cell, and courses."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lensbench.app.workflows import lens_pair as pairs
from lensbench.app.workflows.lens_pair import PairAsk, Put
from lensbench.probes.lenses.tokens import UNITS

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from lensbench.probes.lenses.tokens import TokenLens


@dataclass(frozen=True, eq=False)
class Change:
    """What a patch did to every cell of the second text's lens."""

    second: "TokenLens"
    patched: "TokenLens"
    put: Put
    metric: str
    frame: pd.DataFrame
    """One row per cell: before, after, change, the best tokens, whether the patch can reach it."""

    @classmethod
    def of(cls, ask: PairAsk, put: Put, metric: str) -> "Change":
        """Read both runs.

        Raises:
            LensbenchError: as :func:`lensbench.app.workflows.lens_pair.lens_of`.
        """
        second, patched = pairs.lens_of(ask, "second"), pairs.lens_of(ask, "second", put)
        a, b, column = second.to_frame(), patched.to_frame(), second.column(metric)
        layer, pos = a["layer"].to_numpy(), a["pos"].to_numpy()
        reach = ((layer > put.layer) & (pos >= put.position)) | (
            (layer == put.layer) & (pos == put.position)
        )
        frame = a[["layer", "pos", "token"]].assign(
            before=a[column], after=b[column], change=b[column] - a[column],
            top_before=a["top"], top_after=b["top"], reached=reach,
        )  # fmt: skip
        frame.attrs["units"] = dict.fromkeys(("before", "after", "change"), UNITS[column])
        return cls(second, patched, put, metric, frame)

    @property
    def outside(self) -> float:
        """Largest change of a cell that the patch cannot reach."""
        part = self.frame.loc[~self.frame["reached"], "change"].to_numpy(np.float64)
        return float(np.abs(part).max()) if part.size else 0.0

    def plot(self) -> "go.Figure":
        """Heat map of the change, red where it grew; the range is the metric's own."""
        from lensbench.plots import heatmap, visible

        size = self.second.d_vocab
        reach = {"entropy": np.log(size), "kl_to_final": np.log(size),
                 "target_rank": np.log10(size)}.get(self.metric, 1.0)  # fmt: skip
        seen = {c: [visible(w) for w in self.frame[c]]
                for c in ("token", "top_before", "top_after")}  # fmt: skip
        names = zip(self.second.positions.tolist(), map(visible, self.second.tokens), strict=True)
        return heatmap(
            self.frame.assign(**seen), x="pos", y="layer", value="change", diverging=True,
            span=(-float(reach), float(reach)), x_labels=dict(names),
            hover_columns=("token", "before", "after", "top_before", "top_after"),
            title="Change: patched minus second text", subtitle="n = 1 text",
            labels={"layer": "after block", "pos": "token", "token": "prediction made at",
                    "top_before": "best token before", "top_after": "best token after"},
        )  # fmt: skip

    def mark(self, figure: "go.Figure") -> "go.Figure":
        """Ring the patched cell, and outline what it can reach."""
        x, y = self.put.position, self.put.layer
        right, up = float(self.second.positions.max()) + 0.5, max(self.second.layers) + 0.5
        line = {"color": "#888888", "width": 2, "dash": "dot"}
        if up > y + 0.5:
            figure.add_shape(type="rect", x0=x - 0.5, x1=right, y0=y + 0.5, y1=up, line=line)
        return figure.add_shape(type="circle", x0=x - 0.45, x1=x + 0.45, y0=y - 0.45, y1=y + 0.45,
                                line={"color": "#d95f02", "width": 3})  # fmt: skip


@dataclass(frozen=True, eq=False)
class Course:
    """The scored token over the layers in every run, at one token of the second text."""

    frame: pd.DataFrame
    word: str

    def figure(self) -> "go.Figure":
        """A line per run."""
        from lensbench.plots import lines, visible
        from lensbench.plots.columns import escape_all

        [word] = escape_all([visible(self.word)])
        figure = lines(self.frame, x="layer", y="probability", color="run", hover_columns=("rank",),
                       title=f"Probability of {word} over the layers", subtitle="n = 1 text",
                       labels={"layer": "after block"}, height=340)  # fmt: skip
        figure.update_yaxes(range=[-0.03, 1.03])
        return figure.update_xaxes(dtick=1)


def course_of(ask: PairAsk, put: Put, see: int) -> Course:
    """Read the scored token at token ``see`` of the second text, and where the first aligns."""
    table = pairs.alignment(ask)
    row = table.loc[table["second token"] == see]
    other = row["first token"].dropna()
    runs: dict[str, tuple[Any, int]] = {
        "second text": (pairs.lens_of(ask, "second"), see),
        "patched": (pairs.lens_of(ask, "second", put), see),
        "control: random state": (pairs.lens_of(ask, "second", put, "random"), see),
    }
    if len(other):
        runs = {"first text": (pairs.lens_of(ask, "first"), int(other.iloc[0])), **runs}
    parts: list[pd.DataFrame] = []
    for name, (lens, at) in runs.items():
        if at not in lens.positions.tolist():
            continue  # beyond the tokens that are shown
        frame = lens.to_frame()
        mine = frame.loc[frame["pos"] == at]
        parts.append(pd.DataFrame({"layer": mine["layer"], "run": name,
                                   "probability": mine["target_prob"],
                                   "rank": mine["target_rank"]}))  # fmt: skip
    frame = pd.concat(parts, ignore_index=True)
    frame.attrs["units"] = {"probability": "softmax of the lens", "rank": "1 is best"}
    return Course(frame, pairs.scored(ask)[1])


def ends_table(ask: PairAsk, put: Put) -> pd.DataFrame:
    """What the model says after the last token of every run, most probable first."""
    found = pairs.ends(ask, put)
    said = [", ".join(f"{w} {p:.4f}" for w, p in zip(words, probs, strict=True))
            for words, probs in zip(found["says"], found["says_prob"], strict=True)]  # fmt: skip
    return found.drop(columns=["says", "says_prob"]).assign(**{"most probable": said})


def python_of(
    ask: PairAsk, metric: str, what: str, put: Put | None = None, see: int | None = None
) -> str:
    """Code that draws the same figure in a notebook; ``what``: first, second, change, course."""
    lines = [
        "from lensbench.app.workflows.lens_pair import PairAsk, Put, lens_of",
        f"ask = {ask!r}",
    ]
    if put is not None:
        lines.append(f"put = {put!r}")
    if what == "change":
        lines[0] += "\nfrom lensbench.app.workflows.lens_pair_figures import Change"
        return "\n".join([*lines, f"Change.of(ask, put, {metric!r}).plot()"])
    if what == "course":
        lines[0] += "\nfrom lensbench.app.workflows.lens_pair_figures import course_of"
        return "\n".join([*lines, f"course_of(ask, put, {see}).figure()"])
    more = ", put" if put is not None else ""
    return "\n".join([*lines, f"lens_of(ask, {what!r}{more}).plot({metric!r})"])
