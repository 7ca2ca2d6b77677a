"""The logit lens: what each layer's residual stream would predict if it were the last one.

Read from a store, so the model is asked for its unembedding only and runs no block. Steps, numbered
in the body:

1. Draw whole documents until enough tokens have a next token to predict.
2. For every stored layer l: z_l = unembed(resid_post_l) (final norm included), p_l = softmax(z_l).
3. Compare p_l with the last layer's p_L and with the next token of the text.
4. Control: the same with each token's state replaced by that of a random other token.

Early layers need not write in the basis that the unembedding reads: a poor lens there says that the
basis differs, not that the layer knows nothing. A tuned lens learns the change of basis.
Source: nostalgebraist 2020, "interpreting GPT: the logit lens"; Belrose et al. 2023,
arXiv:2303.08112 (KL to the final layer).
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench import provenance
from lensbench.errors import ConfigError, MissingDataError
from lensbench.protocols import Readout
from lensbench.results import Controls, Result
from lensbench.sites import Site
from lensbench.stats import bootstrap_mean

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lensbench.models import Model
    from lensbench.store import ActivationStore

METRICS = {
    "entropy": "nats",
    "kl_to_final": "nats",
    "agreement": "share of tokens",
    "target_prob": "probability",
    "target_rank": "rank (1 is best)",
    "cross_entropy": "nats",
}
"""What is measured at each layer, with its unit."""
_BATCH = 2048


@dataclass(frozen=True, kw_only=True, eq=False)
class LensTrajectory(Result):
    """Predictions layer by layer: means over tokens, 95 % intervals over documents.

    ``entropy`` H(p_l), >= 0. ``kl_to_final`` KL(p_L || p_l), >= 0 and 0 at the last layer.
    ``agreement`` share of tokens whose most probable token is that of the last layer.
    ``target_prob``, ``target_rank`` and ``cross_entropy`` of the next token of the text under p_l.
    """

    layers: tuple[int, ...]
    mean: Float[np.ndarray, "metrics layers"]
    low: Float[np.ndarray, "metrics layers"]
    high: Float[np.ndarray, "metrics layers"]
    shuffled: Float[np.ndarray, "metrics layers"]
    """The control: states shuffled over tokens."""
    n_tokens: int
    n_docs: int

    def to_frame(self) -> "pd.DataFrame":
        """One row per metric, layer and kind of state (``model`` or the control ``shuffled``)."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for i, metric in enumerate(METRICS):
            for j, layer in enumerate(self.layers):
                where = {"metric": metric, "layer": layer, "n": self.n_docs}
                mean, low, high = (float(a[i, j]) for a in (self.mean, self.low, self.high))
                control = float(self.shuffled[i, j])
                rows.append({**where, "states": "model", "value": mean, "low": low, "high": high})
                rows.append({**where, "states": "shuffled", "value": control,
                             "low": np.nan, "high": np.nan})  # fmt: skip
        frame = pd.DataFrame(rows)
        frame.attrs["units"] = {"value": "see metric", "n": "documents"}
        return frame

    def plot(self, metric: str = "kl_to_final") -> "go.Figure":
        """One metric over layers, beside its control."""
        from lensbench.plots import lines

        if metric not in METRICS:
            raise ConfigError(f"no lens metric {metric!r}; use one of {', '.join(METRICS)}")
        frame = self.to_frame()
        part = frame.loc[frame["metric"] == metric].assign(**{metric: lambda f: f["value"]})
        part.attrs["units"] = {metric: METRICS[metric], "n": "documents"}
        return lines(
            part, x="layer", y=metric, color="states", low="low", high="high", title="Logit lens",
            subtitle=f"{self.n_tokens:,} tokens of {self.n_docs:,} documents",
        )  # fmt: skip

    def summary(self) -> dict[str, float]:
        """Agreement and KL in the middle, and the control's."""
        middle, names = len(self.layers) // 2, list(METRICS)
        agree, kl = names.index("agreement"), names.index("kl_to_final")
        return {
            "middle_layer": float(self.layers[middle]),
            "agreement_middle": float(self.mean[agree, middle]),
            "agreement_middle_shuffled": float(self.shuffled[agree, middle]),
            "kl_middle_nats": float(self.mean[kl, middle]),
            "kl_last_nats": float(self.mean[kl, -1]),
            "cross_entropy_last_nats": float(self.mean[-1, -1]),
        }


@dataclass(frozen=True)
class UnembedReadout:
    """The logit lens as a ``Readout``: the model's own final norm and unembedding."""

    model: "Model"

    def __call__(
        self, resid: Float[Tensor, "... d_model"], layer: int
    ) -> Float[Tensor, "... d_vocab"]:
        """Logits of the state, whatever layer it left."""
        del layer  # the same unembedding reads every layer
        return self.model.unembed(resid)


def logit_lens(
    store: "ActivationStore",
    model: "Model",
    readout: Readout | None = None,
    *,
    max_tokens: int = 20_000,
    seed: int = 0,
) -> LensTrajectory:
    """Read every stored layer of ``store`` through ``readout`` (default: the logit lens).

    Raises:
        MissingDataError: the store lacks the last block's ``resid_post``.
        MismatchError: the store holds another model's activations.
        ConfigError: no stored token has a next token.
    """
    start = time.monotonic()
    layers = stored_layers(store, model)
    read = readout or UnembedReadout(model)
    rows, targets, docs = _draw(store, max_tokens, seed)  # 1
    shuffle = np.random.default_rng(seed + 1).permutation(len(rows))
    real = np.empty((len(METRICS), len(layers), len(rows)), dtype=np.float32)
    control = np.empty_like(real)
    for part, final in _finals(store, model, layers[-1], rows):
        wanted = torch.from_numpy(targets[part])
        for j, layer in enumerate(layers):
            for out, chosen in ((real, rows[part]), (control, rows[shuffle[part]])):  # 4
                logits = read(_states(store, layer, chosen), layer).float()  # 2
                out[:, j, part] = measure(logits, final, wanted).numpy()  # 3
    found = [[bootstrap_mean(v, docs) for v in metric] for metric in real]
    pick = lambda name: np.array([[getattr(i, name) for i in row] for row in found])  # noqa: E731
    shuffled = control.mean(axis=2, dtype=np.float64)
    middle, agree = len(layers) // 2, list(METRICS).index("agreement")
    return LensTrajectory(
        layers=tuple(layers),
        mean=pick("mean"),
        low=pick("low"),
        high=pick("high"),
        shuffled=shuffled,
        n_tokens=len(rows),
        n_docs=len(np.unique(docs)),
        config={"max_tokens": max_tokens, "seed": seed, "readout": type(read).__name__},
        controls=Controls(
            {"shuffled_states": float(shuffled[agree, middle])},
            note=f"agreement at layer {layers[middle]} with states of other tokens",
        ),
        provenance=provenance.record(
            model=vars(model.card), seed=seed, seconds=time.monotonic() - start
        ),
    )


def measure(
    logits: Float[Tensor, "tokens d_vocab"],
    final: Float[Tensor, "tokens d_vocab"],
    targets: Int[Tensor, " tokens"],
) -> Float[Tensor, "metrics tokens"]:
    """The rows of :data:`METRICS` for each token; both inputs are logits.

    ``target_rank`` is 1 plus the number of tokens that are more probable than the target.
    """
    logp, logq = final.log_softmax(-1), logits.log_softmax(-1)
    wanted = logq.gather(1, targets[:, None])
    return torch.stack(
        [
            -(logq.exp() * logq).sum(-1),
            (logp.exp() * (logp - logq)).sum(-1).clamp_min(0),
            (logits.argmax(-1) == final.argmax(-1)).float(),
            wanted.exp().squeeze(1),
            1.0 + (logq > wanted).sum(-1),
            -wanted.squeeze(1),
        ]
    )


def stored_layers(store: "ActivationStore", model: "Model") -> list[int]:
    """Layers whose ``resid_post`` the store has, ending with the model's last.

    Raises:
        ConfigError: the model does not predict the next token.
        MissingDataError: the last one is missing, so there is no final prediction to compare with.
        MismatchError: the store holds another model's activations.
    """
    store.check_model(model.card)
    model.require_next_token("the logit lens")
    sites = [Site.parse(name) for name in store.sites]
    layers = sorted(s.layer for s in sites if s.name == "resid_post" and s.layer is not None)
    last = model.n_layers - 1
    if not layers or layers[-1] != last:
        raise MissingDataError(
            f"the lens needs blocks.{last}.resid_post, which the store lacks; capture it with "
            "--profile resid"
        )
    return layers


def _draw(
    store: "ActivationStore", max_tokens: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, next tokens and documents of whole documents in random order."""
    index = store.index()
    following = (index.doc_ids[1:] == index.doc_ids[:-1]) & (
        index.positions[1:] == index.positions[:-1] + 1
    )
    rows = np.flatnonzero(following)
    if not len(rows):
        raise ConfigError("no stored token is followed by another of its document")
    docs = index.doc_ids[rows]
    order = np.random.default_rng(seed).permutation(np.unique(docs))
    sizes = np.bincount(np.searchsorted(np.sort(order), docs), minlength=len(order))
    sizes = sizes[np.searchsorted(np.sort(order), order)]
    enough = int(np.searchsorted(np.cumsum(sizes), max_tokens)) + 1
    rows = rows[np.isin(docs, order[:enough])]
    return rows, index.token_ids[rows + 1].astype(np.int64), index.doc_ids[rows]


def _finals(
    store: "ActivationStore", model: "Model", last: int, rows: np.ndarray
) -> Iterator[tuple[slice, Tensor]]:
    for start in range(0, len(rows), _BATCH):
        part = slice(start, start + _BATCH)
        yield part, model.unembed(_states(store, last, rows[part])).float()


def _states(store: "ActivationStore", layer: int, rows: Sequence[int] | np.ndarray) -> Tensor:
    return torch.from_numpy(store.rows(Site("resid_post", layer), np.asarray(rows)))
