"""The logit lens: what each layer's residual stream would predict if it were the last one.

Read from a store, so the model is asked for its unembedding only and runs no block. Steps, numbered
in the body:

1. Draw whole documents until enough tokens have a next token to predict.
2. For every stored layer l: z_l = unembed(resid_l) (final norm included), p_l = softmax(z_l); resid
   is ``resid_post``, or ``resid_pre`` or ``resid_mid`` where that is asked for.
3. Compare p_l with the last layer's p_L (always of its ``resid_post``) and with the next token of
   the text. A tile of tokens at a time: layers x tokens x vocabulary is never held.
4. Control: the same with each token's state replaced by that of a random other token.

Early layers need not write in the basis that the unembedding reads; a tuned lens learns it.
Source: nostalgebraist 2020, "interpreting GPT: the logit lens"; Belrose et al. 2023, 2303.08112.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lensbench import provenance
from lensbench.arguments import refuse_no_store, whole_number
from lensbench.errors import ConfigError, MismatchError, MissingDataError, UnknownNameError
from lensbench.probes.lenses.layer_table import layer_table
from lensbench.probes.lenses.measures import METRICS, Final, measure, prediction_depth, tiles
from lensbench.protocols import Readout
from lensbench.results import Controls, Result
from lensbench.sites import Site
from lensbench.stats import bootstrap_mean

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lensbench.models import Model
    from lensbench.store import ActivationStore

STREAM = ("resid_pre", "resid_mid", "resid_post")
"""Sites of the residual stream in a block."""


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
    site: str = "resid_post"
    settled: Float[np.ndarray, " layers"] = field(default_factory=lambda: np.empty(0))
    """Share of tokens whose prediction depth is at most this layer: settled for good."""
    _html_body = layer_table

    def to_frame(self) -> "pd.DataFrame":
        """One row per metric, layer and kind of state (``model`` or the control ``shuffled``)."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for i, metric in enumerate(METRICS):
            for j, layer in enumerate(self.layers):
                where = {"metric": metric, "layer": layer, "n": self.n_docs}
                mean, low, high = (float(a[i, j]) for a in (self.mean, self.low, self.high))
                rows.append({**where, "states": "model", "value": mean, "low": low, "high": high})
                alone = {"value": float(self.shuffled[i, j]), "low": np.nan, "high": np.nan}
                rows.append({**where, "states": "shuffled", **alone})
        frame = pd.DataFrame(rows)
        frame.attrs["units"] = {"value": "see metric", "n": "documents"}
        return frame

    def plot(self, metric: str = "kl_to_final") -> "go.Figure":
        """One metric over layers, beside its control."""
        from lensbench.plots import lines

        if metric not in METRICS:
            raise ConfigError(f"no lens metric {metric!r}; use one of {', '.join(METRICS)}")
        part = self.to_frame().query("metric == @metric").assign(**{metric: lambda f: f["value"]})
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
            "settled_middle": float(self.settled[middle]) if len(self.settled) else float("nan"),
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
    site: str = "resid_post",
    docs: tuple[int, int] | None = None,
) -> LensTrajectory:
    """Read every stored layer of ``store`` through ``readout`` (default: the logit lens).

    ``site``: ``resid_post``, ``resid_mid``, ``resid_pre``; ``docs`` ``(a, b)``: of these alone.

    Raises:
        MissingDataError: the store lacks the last block's ``resid_post``, or ``site`` altogether.
        MismatchError: the store holds another model's activations, or the readout is of another.
        ConfigError: no stored token has a next token; a readout of block outputs at ``resid_mid``.
        UnknownNameError: no such site of the stream.

    Example:
        >>> found = probes.logit_lens(store, model, max_tokens=500)
    """
    start = time.monotonic()
    max_tokens = whole_number("max_tokens", max_tokens, least=1)
    seed = whole_number("seed", seed, least=0)
    last = stored_layers(store, model)[-1]
    layers = site_layers(store, site)
    read = reader(model, readout, site)
    rows, targets, of = _draw(store, max_tokens, seed, docs)  # 1
    shuffle = np.random.default_rng(seed + 1).permutation(len(rows))
    real = np.empty((len(METRICS), len(layers), len(rows)), dtype=np.float32)
    control = np.empty_like(real)
    for part, final in _finals(store, model, last, rows):
        wanted = torch.from_numpy(targets[part]).to(final.p.device)
        for j, layer in enumerate(layers):
            for out, chosen in ((real, rows[part]), (control, rows[shuffle[part]])):  # 4
                logits = read(_states(store, site, layer, chosen), layer).float()  # 2
                out[:, j, part] = measure(logits, final, wanted).cpu().numpy()  # 3
    found = [[bootstrap_mean(v, of) for v in metric] for metric in real]
    pick = lambda name: np.array([[getattr(i, name) for i in row] for row in found])  # noqa: E731
    shuffled = control.mean(axis=2, dtype=np.float64)
    middle, agree = len(layers) // 2, list(METRICS).index("agreement")
    depth = prediction_depth(real[agree])
    return LensTrajectory(
        layers=tuple(layers),
        mean=pick("mean"),
        low=pick("low"),
        high=pick("high"),
        shuffled=shuffled,
        n_tokens=len(rows),
        n_docs=len(np.unique(of)),
        site=site,
        settled=np.array([float((depth <= j).mean()) for j in range(len(layers))]),
        config={
            "max_tokens": max_tokens,
            "seed": seed,
            "readout": type(readout).__name__ if readout else UnembedReadout.__name__,
            "site": site,
            "docs": docs,
        },
        controls=Controls(
            {"shuffled_states": float(shuffled[agree, middle])},
            note=f"agreement at layer {layers[middle]} with states of other tokens",
        ),
        provenance=provenance.record(
            model=vars(model.card), store=store, seed=seed, seconds=time.monotonic() - start
        ),
    )


def stored_layers(store: "ActivationStore", model: "Model") -> list[int]:
    """Layers whose ``resid_post`` the store has, ending with the model's last.

    Raises:
        ConfigError: no store, or a model that does not predict the next token.
        MissingDataError: the last one is missing, so there is no final prediction to compare with.
        MismatchError: the store holds another model's activations.
    """
    refuse_no_store(store, "A text alone: probes.site_lens(model, model.tokens(text))")
    store.check_model(model.card)
    model.require_next_token("the logit lens")
    sites = [Site.parse(name) for name in store.sites]
    layers = sorted(s.layer for s in sites if s.name == "resid_post" and s.layer is not None)
    last = model.n_layers - 1
    if not layers or layers[-1] != last:
        raise MissingDataError(
            f"the lens needs blocks.{last}.resid_post, which the store lacks; use --profile resid"
        )
    return layers


def site_layers(store: "ActivationStore", site: str) -> list[int]:
    """Layers whose ``site`` the store has.

    Raises:
        UnknownNameError: no site of the residual stream.
        MissingDataError: none is stored.
    """
    if site not in STREAM:
        raise UnknownNameError(
            "site of the residual stream", site, known=STREAM,
            hint="What a head or an MLP adds is read by probes.component_lens.",
        )  # fmt: skip
    found = [Site.parse(name) for name in store.sites]
    layers = sorted(s.layer for s in found if s.name == site and s.layer is not None)
    if not layers:
        store.require(str(Site(site, 0)))
    return layers


def reader(
    model: "Model", readout: Readout | None, site: str = "resid_post"
) -> Callable[[Tensor, int], Tensor]:
    """``readout`` (default: the logit lens) as a function of a state at ``site`` and its layer.

    A readout is told which block the state left: at ``resid_pre`` of block l that is l - 1, and -1
    stands for the embeddings.

    Raises:
        MismatchError: a readout that was made for another model.
        ConfigError: a readout of block outputs where ``resid_mid`` is read.
    """
    if readout is None:
        return UnembedReadout(model)
    own = getattr(readout, "model", None)
    if own is not None and own.card.fingerprint != model.card.fingerprint:
        raise MismatchError(
            f"this {type(readout).__name__} was made for {own.card.name} ({own.card.fingerprint}), "
            f"not for {model.card.name} ({model.card.fingerprint}); make one for this model"
        )
    if site == "resid_mid" and not isinstance(readout, UnembedReadout):
        raise ConfigError(
            f"a {type(readout).__name__} reads states that leave a block, and resid_mid is inside "
            "one; use resid_post or resid_pre, or the logit lens"
        )
    return lambda state, layer: readout(state, layer - (site == "resid_pre"))


def _draw(
    store: "ActivationStore", max_tokens: int, seed: int, within: tuple[int, int] | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, next tokens and documents of whole documents in random order."""
    index = store.index()
    following = (index.doc_ids[1:] == index.doc_ids[:-1]) & (
        index.positions[1:] == index.positions[:-1] + 1
    )
    if within is not None:
        following &= (index.doc_ids[1:] >= within[0]) & (index.doc_ids[1:] < within[1])
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
) -> Iterator[tuple[slice, Final]]:
    for part in tiles(len(rows), model.card.d_vocab):
        logits = model.unembed(_states(store, "resid_post", last, rows[part]))
        yield part, Final.of(logits.float())


def _states(
    store: "ActivationStore", site: str, layer: int, rows: Sequence[int] | np.ndarray
) -> Tensor:
    return torch.from_numpy(store.rows(Site(site, layer), np.asarray(rows)))
