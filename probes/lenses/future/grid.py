"""One text, layers by tokens: what every state says of the tokens to come.

Steps, numbered in the body:

1. One run keeps the states of every layer and token.
2. A fitted lens names the best token at each of its distances N. A prompt writes greedily after
   the transplant: here nothing is forced, its own tokens are read on.
3. A cell shows its tokens, coloured by their mean probability; beside it that of the same tokens
   without the state.

Source: Pal et al. 2023, arXiv:2311.04897, figure 5 (the demonstration).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench import provenance
from lensbench.arguments import whole_number
from lensbench.probes.lenses.future.engine import Cells, as_batch_size, blank
from lensbench.probes.lenses.future.lens import FutureLens
from lensbench.probes.lenses.future.readings import Method, PromptReading, SoftReading, reading
from lensbench.probes.lenses.future.spots import (
    Affine,
    Mode,
    chosen_positions,
    one_row,
    settings_of,
    states_at,
)
from lensbench.probes.lenses.marked import marked
from lensbench.results import Controls, Result
from lensbench.tokens import TokensLike, token_texts

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lensbench.models import Model


@dataclass(frozen=True, kw_only=True, eq=False)
class FutureGrid(Result):
    """Predicted tokens of every layer and token of one text."""

    method: str
    layers: tuple[int, ...]
    positions: Int[np.ndarray, " tokens"]
    tokens: tuple[str, ...]
    """Of the whole text."""
    words: tuple[tuple[tuple[str, ...], ...], ...]
    """By layer, token and step."""
    prob: Float[np.ndarray, "layers tokens steps"]
    """Of each word; NaN after a text's end."""
    prob_without: Float[np.ndarray, "layers tokens steps"]
    """Of the same word without the state."""
    ahead: tuple[int, ...]
    """Distance N of each step."""

    def to_frame(self) -> "pd.DataFrame":
        """One row per layer and token; ``␣`` is a space of a token."""
        import pandas as pd

        layer, column = (a.ravel() for a in np.indices(self.prob.shape[:2]))
        cells = [words for row in self.words for words in row]
        places = self.positions[column]
        columns: dict[str, Any] = {
            "layer": np.array(self.layers)[layer],
            "pos": places,
            "token": marked(self.tokens[p] for p in places),
            "predicted": ["".join(words) for words in cells],
            "mean_prob": np.nanmean(self.prob, -1).ravel(),
            "mean_prob_without": np.nanmean(self.prob_without, -1).ravel(),
        }
        for i, far in enumerate(self.ahead):
            columns[f"ahead_{far}"] = marked(words[i] if i < len(words) else "" for words in cells)
            columns[f"prob_{far}"] = self.prob[:, :, i].ravel()
        frame = pd.DataFrame(columns)
        frame.attrs["units"] = {"mean_prob": "probability", "mean_prob_without": "probability"}
        return frame

    def summary(self) -> dict[str, float]:
        """Mean probability over all cells, with and without the states."""
        return {
            "cells": float(self.prob[..., 0].size),
            "mean_prob": float(np.nanmean(self.prob)),
            "mean_prob_without": float(np.nanmean(self.prob_without)),
        }

    def plot(self) -> "go.Figure":
        """Heat map; a cell names its tokens."""
        from lensbench.plots import heatmap, visible

        frame = self.to_frame()
        frame["says"] = [
            " ".join(visible(word).strip() for word in words) for row in self.words for words in row
        ]
        tokens = [visible(word) for word in self.tokens]
        return heatmap(
            frame, x="pos", y="layer", value="mean_prob", text="says", span=(0.0, 1.0),
            x_labels=dict(enumerate(tokens)),
            hover_columns=("token", "says", "mean_prob", "mean_prob_without"),
            title=f"Future lens ({self.method}): the tokens after each state",
            subtitle=f"tokens {', '.join(map(str, self.ahead))} ahead; 0 is the next token",
            labels={"pos": "token of the state", "layer": "after block",
                    "mean_prob": "mean probability",
                    "mean_prob_without": "the same without the state"},
        )  # fmt: skip


def future_grid(
    model: "Model",
    method: Method,
    tokens: "TokensLike | str",
    *,
    steps: int = 4,
    layers: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
    stop_ids: Sequence[int] | None = (),
    f: Affine | None = None,
    mode: Mode = "normalised",
    strength: float = 1.0,
    first_token: bool = False,
    batch_size: int = 64,
) -> FutureGrid:
    """The ``steps`` tokens that each state of a text foretells, by a fitted lens or a prompt.

    Args:
        model: the model of the text and of the method.
        method: a FutureLens (its first ``steps`` distances), SoftPrompts, or a prompt as ``Spot``.
        tokens: one text.
        steps: tokens per cell.
        layers: layers of the states (default: all of the method's).
        positions: tokens of the text (default: all).
        stop_ids: tokens that end what a prompt writes (default: none; None: the tokenizer's EOS).
        f: map of a prompt's states, as in ``transplant``.
        mode: how a prompt takes them, as there.
        strength: of that, as there.
        first_token: allow a prompt to be replaced at position 0.
        batch_size: cells at a time.

    Raises:
        ConfigError: several texts, positions out of range, what is no method.
        MismatchError: a lens or prompts of another model.
        UnknownNameError: a layer they were not fitted for.

    Example:
        >>> lens = probes.fit_future_lens(store, model, ahead=(0, 1), layers=[2])
        >>> grid = probes.future_grid(model, lens, text, steps=1, layers=[2])
    """
    start = time.monotonic()
    model.require_next_token("the future lens")
    n, size = whole_number("steps", steps, least=1), as_batch_size(batch_size)
    text = one_row(model, tokens)
    reads = reading(
        model,
        method,
        layers=layers,
        how=settings_of(f, mode, strength),
        batch_size=size,
        first_token=first_token,
    )
    chosen = tuple(layers) if layers is not None else reads.layers
    places = chosen_positions(range(text.n_pos) if positions is None else positions,
                              text.n_pos, "text")  # fmt: skip
    states = states_at(model, text, chosen, places).float()  # 1
    if isinstance(reads, (PromptReading, SoftReading)):
        rows = [
            _written(_cells(reads, state, layer), n, size, stop_ids)
            for layer, state in zip(chosen, states, strict=True)
        ]
        distances = tuple(range(n))
    else:
        assert isinstance(method, FutureLens)
        distances = method.ahead[:n]
        rows = [
            _named(method, model, state, layer, distances)
            for layer, state in zip(chosen, states, strict=True)
        ]
    ids = [found[0] for found in rows]
    prob = _padded([found[1] for found in rows], len(distances))
    without = _padded([found[2] for found in rows], len(distances))
    return FutureGrid(
        method=reads.name,
        layers=chosen,
        positions=np.array(places),
        tokens=tuple(token_texts(model.tokenizer, text.ids[0].tolist())),
        words=tuple(tuple(tuple(token_texts(model.tokenizer, c)) for c in row) for row in ids),
        prob=prob,
        prob_without=without,
        ahead=distances,
        config={"steps": n, "layers": list(chosen)},
        controls=Controls(
            {"no_transplant": float(np.nanmean(without))},
            note="mean probability of the same tokens without the states",
        ),
        provenance=provenance.record(model=vars(model.card), seconds=time.monotonic() - start),
    )


def _cells(
    reads: PromptReading | SoftReading, states: Float[Tensor, "tokens d"], layer: int
) -> Cells:
    if isinstance(reads, PromptReading):
        return reads.cells(states, layer)
    soft = reads.prompts.of(layer)
    at, layers = (len(soft) - 1,), (layer,) * len(states)
    return Cells(reads.model, blank(len(soft)), at, layers, states[:, None], soft=soft)


def _written(
    cells: Cells, n: int, size: int, stop_ids: Sequence[int] | None
) -> tuple[list[list[int]], np.ndarray, np.ndarray]:
    written = cells.generate(n, size, stop_ids)  # 2
    return (written, *cells.relevancy(written, size))


def _named(
    lens: FutureLens,
    model: "Model",
    states: Float[Tensor, "tokens d"],
    layer: int,
    distances: Sequence[int],
) -> tuple[list[list[int]], np.ndarray, np.ndarray]:
    best, prob, without = list[Tensor](), list[Tensor](), list[Tensor]()
    for far in distances:
        read = lens.readout(model, far)
        p = read(states, layer).float().softmax(-1).cpu()
        best.append(p.argmax(-1))
        prob.append(p.amax(-1))
        without.append(read.knowing_nothing().float().softmax(-1).cpu()[best[-1]])
    return (
        torch.stack(best, 1).tolist(),
        torch.stack(prob, 1).numpy(),
        torch.stack(without, 1).numpy(),
    )


def _padded(rows: Sequence[np.ndarray], steps: int) -> Float[np.ndarray, "layers tokens steps"]:
    """All layers in one array; NaN where every text of a layer ended before the last step."""
    out = np.full((len(rows), len(rows[0]), steps), np.nan, np.float32)
    for i, row in enumerate(rows):
        out[i, :, : row.shape[1]] = row
    return out
