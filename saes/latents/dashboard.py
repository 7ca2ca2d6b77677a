"""Dashboards of single latents: where they fire, how strongly, and what they write.

1. One pass over the stored sequences keeps every activation of the chosen latents.
2. Contexts are chosen per band of activation: the strongest, then quarters of the rest.
3. A second pass over the token ids alone cuts the contexts out; ids are kept, and (with a model)
   the text of each of them, by its tokenizer: no text is ever tokenised again.
4. With the model, the direct effect of each decoder row on the logits.

Look at the lower bands before naming a latent: the strongest contexts alone flatter every story.
"""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from lensbench.config import Config
from lensbench.errors import ConfigError
from lensbench.provenance import record
from lensbench.results import Controls
from lensbench.saes.evaluation.controls import own_seed
from lensbench.saes.evaluation.passes import as_dictionary, check_trained_on
from lensbench.saes.latents.contexts import (
    BANDS,
    Encoded,
    Firings,
    choose_contexts,
    cut_contexts,
    encode_rows,
)
from lensbench.saes.latents.result import LatentDashboard, words_of_ids
from lensbench.sites import Site

if TYPE_CHECKING:
    from lensbench.models.base import Model
    from lensbench.store import ActivationStore

WRITES = ("embed", "resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
"""Sites whose vectors are summands or states of the residual stream: they reach the logits."""


class DashboardConfig(Config):
    """How much of a latent to look at."""

    max_tokens: int = Field(default=1_000_000, gt=0)
    """Stored tokens looked at, from the start of the store."""
    per_band: int = Field(default=5, gt=0)
    """Contexts per band of activation; the first band (the strongest) gets four times as many."""
    before: int = Field(default=12, ge=0)
    """Tokens shown before the one that fires."""
    after: int = Field(default=4, ge=0)
    """Tokens shown after it."""
    bins: int = Field(default=40, gt=0)
    """Bins of the activation histogram."""
    n_logits: int = Field(default=10, gt=0)
    """Tokens shown at each end of the logit effects."""
    sequence_batch: int = Field(default=64, gt=0)
    """Sequences encoded at once."""
    seed: int = 0
    """Of the choice of contexts within a band."""


@torch.no_grad()
def dashboards(
    run: Any,
    store: "ActivationStore",
    latents: Sequence[int],
    model: "Model | None" = None,
    *,
    config: DashboardConfig | None = None,
    encoded: Encoded | None = None,
) -> LatentDashboard:
    """Contexts, histogram, density and logit effects of ``latents``; see the module for the steps.

    Without ``model``, or where the site that is written is no part of the residual stream, there
    are no logit effects. ``encoded`` (what :func:`encode_store_rows` gave for the same dictionary,
    store and settings) saves step 1 where latents are looked at one after the other.

    Raises:
        ConfigError: no latents, or one that the dictionary has not.
        MismatchError: a model that does not belong to the store.

    Example:
        >>> board = saes.dashboards(run, store, [3, 5], model)
        >>> frame = board.to_frame()
    """
    began, config = time.perf_counter(), config or DashboardConfig()
    dictionary = as_dictionary(run, encoded=True)
    chosen = _checked(latents, dictionary.codec.d_sae)
    check_trained_on(dictionary, store)
    if model is not None:
        store.check_model(model.card)
    known = encoded or encode_rows(
        store, dictionary, config.max_tokens, config.sequence_batch, latents=chosen
    )
    assert known is not None, "without a limit of activations there is always an answer"
    found = known.firings(chosen)  # 1
    wanted = choose_contexts(found, config.per_band, config.seed)  # 2
    contexts = cut_contexts(store, found, wanted, config.before, config.after)  # 3
    edges, counts = _histograms(found, config.bins)
    effects = _effects(model, dictionary.writes, dictionary.codec, chosen, config)  # 4
    return LatentDashboard(
        name=dictionary.name,
        site=dictionary.site,
        latents=chosen,
        bands=BANDS,
        before=config.before,
        **contexts,
        histogram_edges=edges,
        histogram_counts=counts,
        density=np.array([len(v) / max(found.n_tokens, 1) for v in found.values]),
        max_activation=np.array([v.max(initial=0.0) for v in found.values], np.float32),
        n_tokens=found.n_tokens,
        n_stored=store.n_tokens,
        **effects["fields"],
        words=words_of_ids(
            getattr(model, "tokenizer", None),
            contexts["tokens"],
            effects["fields"]["top_tokens"],
            effects["fields"]["low_tokens"],
        ),
        config=config.to_dict(),
        controls=effects["controls"],
        provenance=record(
            model=store.model, seed=config.seed, seconds=time.perf_counter() - began, store=store
        ),
    )


@torch.no_grad()
def encode_store_rows(
    run: Any,
    store: "ActivationStore",
    *,
    config: DashboardConfig | None = None,
    max_active: int | None = None,
) -> Encoded | None:
    """Every latent of the rows that :func:`dashboards` looks at, to be used for many dashboards.

    None where more than ``max_active`` latents are non-zero in all.
    """
    config, dictionary = config or DashboardConfig(), as_dictionary(run, encoded=True)
    check_trained_on(dictionary, store)
    return encode_rows(
        store, dictionary, config.max_tokens, config.sequence_batch, max_active=max_active
    )


@torch.no_grad()
def logit_effects(
    model: "Model", directions: Float[Tensor, "n d_model"]
) -> Float[Tensor, "n d_vocab"]:
    """What each direction adds to the logits by the direct path, up to one positive scale.

    ``unembed(u) - unembed(0)``, where u is the direction at root mean square 1, then centred over
    the vocabulary. So the final norm's gain is folded in, its bias and the unembedding's drop out,
    and a LayerNorm takes out the direction's mean as it would in the model.

    Unit: logits. For a residual stream whose final-norm denominator is s, adding a * d changes the
    logits by ``a * |d| / (s * sqrt(d_model))`` times this, to first order and with s held fixed.
    Blocks above the site are not counted. Where logits are soft-capped the cap is applied to the
    direction alone.
    Source: logit lens of weights, nostalgebraist 2020; Geva et al. 2022, arXiv:2203.14680.

    Example:
        >>> effects = saes.logit_effects(model, run.sae.W_dec[:2])
        >>> effects.shape
        torch.Size([2, 897])
    """
    d = directions.float()
    unit = d / d.pow(2).mean(-1, keepdim=True).sqrt().clamp_min(1e-12)
    raw = model.unembed(unit) - model.unembed(torch.zeros_like(unit[:1]))
    return (raw - raw.mean(-1, keepdim=True)).float().cpu()


def _checked(latents: Sequence[int], d_sae: int) -> "np.ndarray":
    chosen = np.asarray(latents, np.int64).reshape(-1)
    if not len(chosen):
        raise ConfigError("a dashboard needs at least one latent")
    wrong = chosen[(chosen < 0) | (chosen >= d_sae)]
    if len(wrong):
        raise ConfigError(f"latents run from 0 to {d_sae - 1}; got {wrong.tolist()}")
    if len(np.unique(chosen)) < len(chosen):
        raise ConfigError("a latent is listed twice")
    return chosen


def _histograms(found: Firings, bins: int) -> "tuple[np.ndarray, np.ndarray]":
    """Counts of the non-zero activations of each latent, from 0 to its largest."""
    edges = np.stack([np.linspace(0, v.max(initial=1e-12), bins + 1) for v in found.values])
    counts = [np.histogram(v, e)[0] for v, e in zip(found.values, edges, strict=True)]
    return edges, np.stack(counts).astype(np.int64)


def _effects(
    model: "Model | None", site: str, codec: Any, chosen: "np.ndarray", config: DashboardConfig
) -> dict[str, Any]:
    n, k = len(chosen), config.n_logits
    if model is None or Site.parse(site).name not in WRITES:
        empty = np.zeros((n, 0))
        ids = empty.astype(np.int64)
        fields = {"top_tokens": ids, "top_effects": empty, "low_tokens": ids, "low_effects": empty}
        why = "no model was given" if model is None else f"{site} is no part of the residual stream"
        return {"fields": {**fields, "effects_note": why}, "controls": Controls()}
    device = next(iter([codec.W_dec])).device
    rows = codec.W_dec[torch.from_numpy(chosen).to(device)].float().cpu()
    effects = logit_effects(model, rows)
    k = min(k, effects.shape[1])
    high, low = effects.topk(k), (-effects).topk(k)
    gen = torch.Generator().manual_seed(own_seed(config.seed, "random directions"))
    random = logit_effects(model, torch.randn(64, rows.shape[1], generator=gen))
    fields = {
        "top_tokens": high.indices.numpy(),
        "top_effects": high.values.double().numpy(),
        "low_tokens": low.indices.numpy(),
        "low_effects": -low.values.double().numpy(),
        "effects_note": "direct path, final norm folded, centred over the vocabulary",
    }
    control = {"largest logit effect of a random direction": float(random.amax(1).mean())}
    return {"fields": fields, "controls": Controls(control, "mean of 64 random directions")}
