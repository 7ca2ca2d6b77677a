"""One text through a lens, token by token: the k best predictions of every layer at every token.

For a page and for reading by eye; :func:`lensbench.probes.lenses.logit.logit_lens` averages over
documents instead. Steps, numbered in the body:

1. Take the residual stream after every block (:mod:`lensbench.probes.lenses.states`).
2. Per layer l: z_l = readout(resid_post_l), p_l = softmax(z_l).
3. Per token i: the k largest p_l, and the metrics, against the next token i + 1 and the last layer.

Source: nostalgebraist 2020, "interpreting GPT: the logit lens".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench import provenance
from lensbench.errors import ConfigError, UnknownNameError
from lensbench.probes.lenses.logit import reader
from lensbench.probes.lenses.marked import marked
from lensbench.probes.lenses.measures import Final, measure_log, tiles, top_k
from lensbench.protocols import Readout
from lensbench.results import Controls, Result
from lensbench.tokens import token_texts

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lensbench.models import Model

FORMULAS = {
    "target_prob": "p_l(next token of the text)",
    "target_rank": "1 + number of tokens more probable than the next token of the text",
    "top_prob": "largest p_l",
    "entropy": "H(p_l) = -sum p_l ln p_l",
    "kl_to_final": "KL(p_L ‖ p_l) = sum p_L ln(p_L / p_l)",
}
"""What can be drawn: p_l = softmax(unembed(resid_post_l)), L the last layer."""
UNITS = {
    "target_prob": "probability",
    "target_rank": "rank (1 is best)",
    "log10_target_rank": "log10 of the rank",
    "top_prob": "probability",
    "entropy": "nats",
    "kl_to_final": "KL(final ‖ this layer) [nats]",
}
_KEPT = ("target_prob", "target_rank", "entropy", "kl_to_final")
_WORDS, _LETTERS = 600, 8
"""Cells that can hold words without slowing a page, and letters of a word."""
_ROWS = {"entropy": 0, "kl_to_final": 1, "target_prob": 3, "target_rank": 4}


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenLens(Result):
    """Layers by tokens of one text; column ``i`` is the prediction made *at* token ``i``."""

    columns_shown = ("layer", "pos", "token", "target", "top", "top_prob",
                     "target_prob", "target_rank", "entropy", "kl_to_final")  # fmt: skip

    layers: tuple[int, ...]
    positions: Int[np.ndarray, " tokens"]
    """Place of each column in the sequence the model saw, BOS included."""
    tokens: tuple[str, ...]
    targets: tuple[str, ...]
    """The token that follows each; empty where the text ends, and the target metrics are NaN."""
    top: tuple[tuple[tuple[str, ...], ...], ...]
    """By layer, token and rank: the most probable next tokens."""
    top_prob: Float[np.ndarray, "layers tokens k"]
    values: Float[np.ndarray, "metrics layers tokens"]
    """target_prob, target_rank, entropy (nats), kl_to_final (nats)."""
    d_vocab: int
    source: str
    left_out: int = 0
    """Tokens of the text that are not shown."""

    def to_frame(self) -> "pd.DataFrame":
        """One row per layer and token: what a figure draws, and the k best; ``␣`` is a space."""
        import pandas as pd

        layer, column = (a.ravel() for a in np.indices(self.top_prob.shape[:2]))
        columns: dict[str, Any] = {
            "layer": np.asarray(self.layers)[layer],
            "pos": self.positions[column],
            "token": marked(self.tokens[c] for c in column),
            "target": marked(self.targets[c] for c in column),
            "top": marked(row[0] for block in self.top for row in block),
            "top_prob": self.top_prob[:, :, 0].ravel(),
        }
        columns |= {name: self.values[i].ravel() for i, name in enumerate(_KEPT)}
        columns["log10_target_rank"] = np.log10(columns["target_rank"])
        for i in range(1, self.top_prob.shape[2]):
            columns[f"top{i + 1}"] = marked(row[i] for block in self.top for row in block)
            columns[f"top{i + 1}_prob"] = self.top_prob[:, :, i].ravel()
        frame = pd.DataFrame(columns)
        frame.attrs["units"] = UNITS
        return frame

    def summary(self) -> dict[str, float]:
        """Tokens, and the mean of every metric at the last layer."""
        followed = np.array([bool(target) for target in self.targets])
        last: dict[str, float] = {}
        for i, name in enumerate(_KEPT):
            row = self.values[i, -1][followed if name.startswith("target") else slice(None)]
            last[f"{name}_last"] = float(row.mean()) if len(row) else float("nan")
        return {"tokens": float(len(self.tokens)), **last}

    def column(self, metric: str) -> str:
        """Column of :meth:`to_frame` that a figure of ``metric`` draws.

        Raises:
            UnknownNameError: no such metric.
        """
        if metric not in FORMULAS:
            raise UnknownNameError("lens metric", metric, known=tuple(FORMULAS))
        return "log10_target_rank" if metric == "target_rank" else metric

    def plot(self, metric: str = "top_prob", *, room: float = 1.0) -> "go.Figure":
        """Heat map of one metric; colours have one range for every text of a model.

        Up to 600 cells say their most probable token, cut to what fits into ``room`` of a page.
        """
        from lensbench.plots import heatmap, visible

        value, largest = self.column(metric), float(np.log(self.d_vocab))
        span = {"log10_target_rank": (0.0, float(np.log10(self.d_vocab)))}.get(value, (0.0, 1.0))
        cells, letters = len(self.tokens) * len(self.layers), self._letters(room)
        few = cells <= _WORDS
        cut = f", cut to {letters} letters" if letters < _LETTERS else ""
        left = f" · {self.left_out} more tokens not shown" if self.left_out else ""
        figure = heatmap(
            self._drawn(value, letters), x="pos", y="layer", value=value,
            text="word" if few else None,
            span=(0.0, largest) if metric in ("entropy", "kl_to_final") else span,
            x_labels=dict(zip(self.positions.tolist(), map(visible, self.tokens), strict=True)),
            hover_columns=("token", "target", "target_prob", "target_rank", "hint"),
            title=f"{self._named()}: {FORMULAS[metric]}",
            subtitle=f"n = 1 text, {len(self.tokens)} tokens{left}"
            + (f"; cell: most probable next token{cut}" if few else ""),
            labels={"pos": "token at which the prediction is made", "layer": "after block",
                    "target": "token that follows", "hint": "most probable",
                    "token": "prediction made at"},
        )  # fmt: skip
        return figure.update_traces(textfont={"size": 11 if letters >= _LETTERS else 9})

    def _letters(self, room: float) -> int:
        """Letters that fit into a cell."""
        return max(2, min(_LETTERS, int(115 * room / max(len(self.tokens), 1))))

    def _named(self) -> str:
        """What read the states."""
        told = str(self.config.get("readout", "UnembedReadout"))
        return {"UnembedReadout": "Logit lens", "TunedLens": "Tuned lens"}.get(told, told)

    def _drawn(self, value: str, letters: int) -> "pd.DataFrame":
        """The frame with words for cells."""
        frame = self.to_frame().assign(hint=self._hints())
        drawn = np.isfinite(frame[value].to_numpy(np.float64))
        frame["top"] = np.where(drawn, frame["top"], "")  # no word where there is no colour
        words = [w if len(w) <= letters else f"{w[: letters - 1]}…" for w in frame["top"]]
        return frame.assign(word=words)

    def _hints(self) -> list[str]:
        from lensbench.plots import visible

        return [
            ", ".join(f"{visible(w)} {p:.2f}" for w, p in zip(words, probs, strict=True))
            for block, part in zip(self.top, self.top_prob, strict=True)
            for words, probs in zip(block, part, strict=True)
        ]


def token_lens(
    states: Float[Tensor, "layers tokens d_model"],
    layers: Sequence[int],
    model: "Model",
    tokens: Sequence[str],
    targets: Sequence[int],
    *,
    positions: Sequence[int] | None = None,
    target_words: Sequence[str] | None = None,
    readout: Readout | None = None,
    k: int = 5,
    source: str = "",
    left_out: int = 0,
) -> TokenLens:
    """The lens on states that are at hand: the last of ``layers`` is the final prediction.

    ``targets`` are ids of the tokens that follow, -1 where none does.

    Raises:
        ConfigError: k outside ``1 .. d_vocab``, or lengths that do not fit.
    """
    if not 1 <= k <= model.card.d_vocab:
        raise ConfigError(f"k must be in 1..{model.card.d_vocab}, got {k}")
    if not (len(layers) == states.shape[0] and len(tokens) == len(targets) == states.shape[1]):
        raise ConfigError(f"states of shape {list(states.shape)} do not fit {len(layers)} layers, "
                          f"{len(tokens)} tokens and {len(targets)} targets")  # fmt: skip
    read, wanted = reader(model, readout), torch.as_tensor(list(targets))
    shape = (len(layers), len(tokens))
    best, prob = torch.empty((*shape, k), dtype=torch.long), torch.empty(*shape, k)
    values = torch.empty(len(_KEPT), *shape)
    for part in tiles(len(tokens), model.card.d_vocab):
        final = Final.of(read(states[-1, part], layers[-1]).float())
        aims = wanted[part].clamp_min(0).to(final.p.device)
        for j, layer in enumerate(layers):
            logq = read(states[j, part], layer).float().log_softmax(-1)  # 2
            largest, ids = top_k(logq, k)  # 3
            best[j, part], prob[j, part] = ids.cpu(), largest.exp().cpu()
            found = measure_log(logq, final, aims, ids[:, 0]).cpu()
            values[:, j, part] = found[[_ROWS[name] for name in _KEPT]]
    for name in ("target_prob", "target_rank"):
        values[_KEPT.index(name), :, wanted < 0] = torch.nan
    named = list(target_words or token_texts(model.tokenizer, wanted.clamp_min(0).tolist()))
    words = [[token_texts(model.tokenizer, row) for row in layer] for layer in best.tolist()]
    return TokenLens(
        layers=tuple(layers),
        positions=np.asarray(range(len(tokens)) if positions is None else positions, np.int64),
        tokens=tuple(tokens),
        targets=tuple(w if t >= 0 else "" for w, t in zip(named, targets, strict=True)),
        top=tuple(tuple(tuple(row) for row in block) for block in words),
        top_prob=prob.numpy(),
        values=values.numpy(),
        d_vocab=model.card.d_vocab,
        source=source,
        left_out=left_out,
        config={"k": k, "readout": type(readout).__name__ if readout else "UnembedReadout"},
        controls=Controls(note="one text; see LensTrajectory for states shuffled over tokens"),
        provenance=provenance.record(model=vars(model.card)),
    )
