"""Drafts from states that stand in for those of tokens to come (Hidden Transfer, Wu et al. 2024).

1. A linear map per offset i is fitted on the store by ridge regression, h_E[t] -> h_E[t+i], after E
   layers.
2. On other documents, the mapped ("pseudo") states stand at columns t+1 .. t+ahead and run through
   the layers that remain, attending to the keys of the true tokens before them and to one another.
3. What each then predicts is compared with what the full model predicts at the true token t+i. On a
   store of the model's own greedy text this is the share of drafts that a check would keep.

A probe: fitting needs no model, step 2 runs the layers above E. The first new token comes from the
full model itself, so offset i drafts token t+i+1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench import provenance
from lensbench.arguments import positive_number, whole_number
from lensbench.interventions.acceleration.decoding import check_exit, native
from lensbench.interventions.acceleration.readouts.rows import (
    Document,
    documents,
    require_exits,
    split,
    states,
)
from lensbench.interventions.acceleration.study.own import why_inexact
from lensbench.models.base import Model
from lensbench.models.huggingface import NativeModel
from lensbench.results import Controls, Result
from lensbench.stats import bootstrap_sums

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lensbench.store import ActivationStore

STATES = ("map", "copy", "shuffled")
"""The fitted map; the state as it is; a map fitted to states of other tokens."""


@dataclass(frozen=True, eq=False)
class TransferMaps:
    """``h[t] -> h[t+i]`` after one number of layers, one affine map per offset i = 1, 2, ..."""

    weight: Float[Tensor, "ahead d_model d_model"]
    bias: Float[Tensor, "ahead d_model"]

    def __call__(self, h: Float[Tensor, "rows d_model"]) -> Float[Tensor, "ahead rows d_model"]:
        """Pseudo states of all offsets."""
        return h @ self.weight.to(h) + self.bias[:, None].to(h)


@dataclass(frozen=True, kw_only=True, eq=False)
class TransferReport(Result):
    """Top-1 agreement of pseudo states, through the remaining layers and read at once."""

    layers: tuple[int, ...]
    hits: Float[np.ndarray, "states layers ahead docs"]
    """Agreements after the remaining layers; states as ``STATES``."""
    lens_hits: Float[np.ndarray, "states layers ahead docs"]
    """Agreements of final norm and head on the pseudo state itself."""
    r2: Float[np.ndarray, "layers ahead"]
    """Variance of h[t+i] explained on the held-out documents; at most 1."""
    tokens: Int[np.ndarray, " docs"]
    """Positions tested per document."""
    own_text: bool
    """Is agreement acceptance? Only on the model's own greedy text."""

    def to_frame(self) -> "pd.DataFrame":
        """One row per state, exit layer and offset; intervals are bootstraps over documents."""
        import pandas as pd

        found, low, high = bootstrap_sums(np.divide, self.hits, self.tokens)
        lens = self.lens_hits.sum(-1) / self.tokens.sum()
        rows = [
            {
                "state": name, "exit_layer": layer, "offset": i + 1, "agreement": found[s, e, i],
                "low": low[s, e, i], "high": high[s, e, i], "lens_agreement": lens[s, e, i],
                "r2": self.r2[e, i] if name == "map" else np.nan,
                "n": int(self.tokens.sum()), "n_docs": len(self.tokens),
            }
            for s, name in enumerate(STATES)
            for e, layer in enumerate(self.layers)
            for i in range(self.r2.shape[1])
        ]  # fmt: skip
        frame = pd.DataFrame(rows)
        frame.attrs["units"] = {"agreement": "share of tokens", "r2": "variance explained"}
        return frame

    def plot(self) -> "go.Figure":
        """Agreement of the fitted maps by exit layer, one line per offset."""
        from lensbench.plots import lines

        frame = self.to_frame()
        return lines(
            frame.query("state == 'map'"), x="exit_layer", y="agreement", color="offset", low="low",
            high="high", title="Drafting from transferred hidden states",
            subtitle=f"{'acceptance' if self.own_text else 'agreement on other text'}; "
            f"{len(self.tokens)} held-out documents",
        )  # fmt: skip

    def summary(self) -> dict[str, float]:
        """Best agreement at offset 1, and what the two controls reach at the same layer."""
        first = self.hits[:, :, 0].sum(-1) / self.tokens.sum()
        best = int(first[0].argmax())
        return {
            "agreement": float(first[0, best]),
            "exit_layer": float(self.layers[best]),
            "copy": float(first[1, best]),
            "shuffled": float(first[2, best]),
        }


def hidden_transfer(
    store: "ActivationStore",
    model: Model,
    layers: Sequence[int] | None = None,
    *,
    ahead: int = 2,
    penalty: float = 1e-3,
    positions: int = 8,
    test: float = 0.5,
    max_documents: int | None = 64,
    seed: int = 0,
) -> TransferReport:
    """Fit the maps on some documents and draft with them at random positions of the others.

    Args:
        store: whole documents with the stream after each of ``layers``; made by ``capture_own``
            where agreement is to mean acceptance.
        model: the one whose states these are.
        layers: numbers of layers executed before the transfer, 1 to L - 1; default: a quarter, a
            half and three quarters of L.
        ahead: offsets 1 .. ahead.
        penalty: of the ridge, in units of the mean variance of a feature; an ``r2`` below 0 says
            that few tokens were learned by heart: ask for more documents or a larger penalty.
        positions: tested per held-out document.
        test: share of documents held out.
        max_documents: documents read; None for all.
        seed: of split, positions and the control.

    Raises:
        ConfigError: a layer or number out of range.
        MissingDataError: the store lacks the stream after some of the layers.
        NotEnoughDataError: fewer than two documents of ``ahead + 2`` tokens.

    Example:
        >>> found = acceleration.hidden_transfer(own, early, [2], ahead=1)
    """
    runnable = native(model)
    n_layers = model.n_layers
    ahead = whole_number("ahead", ahead, least=1)
    positions = whole_number("positions", positions, least=1)
    positive_number("penalty", penalty)
    quarters = sorted({max(1, min(n_layers - 1, n_layers * k // 4)) for k in (1, 2, 3)})
    exits = [check_exit(e, n_layers, full=False) for e in (quarters if layers is None else layers)]
    store.check_model(model.card)
    require_exits(store, exits)
    docs = documents(store, most=max_documents, least_tokens=ahead + 2)
    fit, held = split(docs, test, seed)
    rng = np.random.default_rng(seed)
    maps = [_both(store, e, [docs[i] for i in fit], ahead, penalty, rng) for e in exits]
    tested = [docs[i] for i in held]
    r2 = [_r2(store, e, tested, one) for e, (one, _) in zip(exits, maps, strict=True)]
    hits = np.zeros((2, len(STATES), len(exits), ahead, len(tested)))
    tokens = np.zeros(len(tested), dtype=np.int64)
    for d, doc in enumerate(tested):
        places = np.arange(len(doc.ids) - ahead)
        chosen = np.sort(rng.permutation(places)[:positions])
        tokens[d] = len(chosen)
        hits[..., d] = _draft(runnable, doc, chosen, exits, maps, ahead)
    return _report(store, model, exits, hits, r2, tokens, seed)


def fit_transfer(
    pairs: Sequence[tuple[Float[Tensor, "n d_model"], Float[Tensor, "n d_model"]]], penalty: float
) -> TransferMaps:
    """Ridge regression in closed form, one map per pair of states before and after an offset.

    W = (X'X + penalty n s I)^-1 X'Y on centred states, s the mean variance of X; the mean is not
    penalised.

    Example:
        >>> maps = acceleration.fit_transfer(
        ...     [(torch.randn(50, 8), torch.randn(50, 8))], penalty=0.001
        ... )
    """
    weights, biases = list[Tensor](), list[Tensor]()
    for before, after in pairs:
        x, y = before.double(), after.double()
        mean_x, mean_y = x.mean(0), y.mean(0)
        x, y = x - mean_x, y - mean_y
        ridge = penalty * float(x.pow(2).sum()) / x.shape[1] + 1e-12
        gram = x.T @ x + ridge * torch.eye(x.shape[1], dtype=x.dtype)
        weight = torch.linalg.solve(gram, x.T @ y)
        weights.append(weight.float())
        biases.append((mean_y - mean_x @ weight).float())
    return TransferMaps(torch.stack(weights), torch.stack(biases))


def _pairs(
    store: "ActivationStore", exit_layer: int, docs: Sequence[Document], ahead: int
) -> list[tuple[Tensor, Tensor]]:
    found: list[tuple[Tensor, Tensor]] = []
    h = [states(store, exit_layer, doc.rows) for doc in docs]
    for i in range(1, ahead + 1):
        found.append((torch.cat([one[:-i] for one in h]), torch.cat([one[i:] for one in h])))
    return found


def _both(
    store: "ActivationStore",
    exit_layer: int,
    docs: Sequence[Document],
    ahead: int,
    penalty: float,
    rng: np.random.Generator,
) -> tuple[TransferMaps, TransferMaps]:
    """The maps, and those fitted to the states of other tokens."""
    pairs = _pairs(store, exit_layer, docs, ahead)
    moved = [(x, y[torch.from_numpy(rng.permutation(len(y)))]) for x, y in pairs]
    return fit_transfer(pairs, penalty), fit_transfer(moved, penalty)


def _r2(
    store: "ActivationStore", exit_layer: int, docs: Sequence[Document], maps: TransferMaps
) -> list[float]:
    found = list[float]()
    for i, (x, y) in enumerate(_pairs(store, exit_layer, docs, len(maps.weight))):
        left = (maps(x)[i] - y).double().pow(2).sum()
        found.append(1 - float(left / (y - y.mean(0)).double().pow(2).sum()))
    return found


def _draft(
    model: NativeModel,
    doc: Document,
    places: np.ndarray,
    exits: Sequence[int],
    maps: Sequence[tuple[TransferMaps, TransferMaps]],
    ahead: int,
) -> np.ndarray:
    """Hits ``[2, states, layers, ahead]`` after the remaining layers and by the lens."""
    runner = model.layers(len(doc.ids))
    ids = torch.from_numpy(doc.ids)[None].to(model.device)
    kept: dict[int, Tensor] = {}
    h = runner.run(runner.embed(ids, 0), 0, runner.n_layers, 0, keep=kept)
    truth = runner.logits(h)[0].argmax(-1)
    hits = np.zeros((2, len(STATES), len(exits), ahead))
    for t in places[::-1].tolist():  # from the last on, so that true keys are only ever cropped
        wanted = truth[t + 1 : t + 1 + ahead]
        for e, exit_layer in enumerate(exits):
            state = kept[exit_layer - 1][:, t]
            pseudo = [maps[e][0](state)[:, 0], state.expand(ahead, -1), maps[e][1](state)[:, 0]]
            for s, one in enumerate(pseudo):
                runner.crop(t + 1)
                out = runner.run(one[None], exit_layer, runner.n_layers, t + 1)
                for k, logits in enumerate((runner.logits(out), runner.logits(one[None]))):
                    hits[k, s, e] += (logits[0].argmax(-1) == wanted).cpu().numpy()
    return hits


def _report(
    store: "ActivationStore",
    model: Model,
    exits: Sequence[int],
    hits: np.ndarray,
    r2: Sequence[Sequence[float]],
    tokens: np.ndarray,
    seed: int,
) -> TransferReport:
    mean = hits[0].sum(-1) / tokens.sum()
    return TransferReport(
        layers=tuple(exits), hits=hits[0], lens_hits=hits[1], r2=np.array(r2), tokens=tokens,
        own_text=not why_inexact(store, model),
        controls=Controls(
            {"copy": float(mean[1, :, 0].max()), "shuffled": float(mean[2, :, 0].max())},
            "best agreement at offset 1 of the state as it is, and of a map of moved targets",
        ),
        config={"store": store.url, "seed": seed},
        provenance=provenance.record(model=vars(model.card), seed=seed, store=store),
    )  # fmt: skip
