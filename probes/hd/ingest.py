"""What the encoder reads: the residual stream of several layers at the last token, as one vector.

1. Take ``resid_post`` of the upper half of the layers at the last token of each prompt, from a run
   or from a store.
2. ``kmeans``: cluster the vectors of the layers of one prompt into K groups (Lloyd, Euclidean,
   random start) and add up the K centroids. A group of layers that say the same counts once. With
   no more layers than K every layer is its own group, so that the sum is of all of them.
3. Alternatives: ``last`` layer, ``mean`` over layers, ``concat`` of all layers.

Source: arXiv:2509.25045 (the hyperdimensional probe), steps of its ingestion.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError, MissingDataError, UnknownNameError
from lensbench.sites import Site
from lensbench.tokens import Tokens, as_tokens

if TYPE_CHECKING:
    from lensbench.models import Model
    from lensbench.store import ActivationStore
    from lensbench.tokens import TokensLike

How = Literal["kmeans", "last", "mean", "concat"]
HOWS: tuple[How, ...] = ("kmeans", "last", "mean", "concat")
_MAX_STEPS = 1000


@dataclass(frozen=True, eq=False)
class LayerStates:
    """Residual streams of the last token of each prompt."""

    values: Float[Tensor, "prompts layers d_model"]
    layers: tuple[int, ...]
    store: str = ""
    """Fingerprint of the store they were read from; empty of a run."""

    def __len__(self) -> int:
        """Number of prompts."""
        return len(self.values)

    def correlation(self) -> Float[np.ndarray, "layers layers"]:
        """Mean over prompts of the correlation of two layers' vectors, -1 to 1."""
        x = self.values.double()
        x = torch.nn.functional.normalize(x - x.mean(-1, keepdim=True), dim=-1)
        return (x @ x.transpose(1, 2)).mean(0).numpy()


def upper_half(n_layers: int) -> tuple[int, ...]:
    """Blocks ``n_layers // 2 - 1 .. n_layers - 1``: the published ``hidden_states[L//2 : L+1]``."""
    return tuple(range(max(0, n_layers // 2 - 1), n_layers))


def prompt_states(
    model: "Model",
    prompts: "Sequence[str] | TokensLike",
    *,
    layers: Sequence[int] | None = None,
    batch_size: int = 256,
) -> LayerStates:
    """Run the model once over prompts that end before the word asked for; keep the last token.

    ``layers`` are blocks whose ``resid_post`` is read (default: :func:`upper_half`).

    Raises:
        ConfigError: no prompt, or a layer that the model has not.

    Example:
        >>> states = probes.prompt_states(model, ["France : Paris = Peru :"])
    """
    chosen = _layers(layers, model.n_layers)
    sites = [Site("resid_post", layer) for layer in chosen]
    parts: list[Tensor] = []
    for batch in _batches(model, prompts, whole_number("batch_size", batch_size, least=1)):
        acts = model.run(batch, capture=sites, logits="none").acts
        places = torch.arange(batch.n_pos).expand(batch.n_rows, -1)
        last = places.masked_fill(~batch.real.cpu(), -1).amax(1)
        rows = torch.arange(batch.n_rows)
        parts.append(torch.stack([acts[s].cpu()[rows, last].float() for s in sites], 1))
    return LayerStates(torch.cat(parts), chosen)


def stored_states(
    store: "ActivationStore",
    rows: "Int[np.ndarray, ' prompts'] | None" = None,
    *,
    layers: Sequence[int] | None = None,
) -> LayerStates:
    """The same from a store; the model is not asked. Default rows: the last of every document.

    Raises:
        MissingDataError: the store lacks a layer; says how to add it.
        ConfigError: no rows.

    Example:
        >>> states = probes.stored_states(store, np.array([3, 10]))
    """
    n_layers = store.model.get("n_layers")
    if n_layers is None:
        raise MissingDataError(f"the store in {store.url} does not say how many layers there are")
    chosen = _layers(layers, int(n_layers))
    store.require([str(Site("resid_post", layer)) for layer in chosen])
    if rows is None:
        docs = store.index().doc_ids
        rows = np.flatnonzero(np.r_[docs[1:] != docs[:-1], True])
    if len(rows) == 0:
        raise ConfigError("no rows to read; name at least one row of the store")
    values = [torch.from_numpy(store.rows(Site("resid_post", n), rows)) for n in chosen]
    return LayerStates(torch.stack(values, 1), chosen, store.fingerprint)


def ingest_layers(
    states: LayerStates, how: How = "kmeans", *, k: int = 5, seed: int = 101
) -> Float[Tensor, "prompts d_in"]:
    """One vector per prompt: d_in = d_model (``concat``: layers x d_model).

    Raises:
        UnknownNameError: no such way.
        ConfigError: K below one.

    Example:
        >>> states = probes.prompt_states(model, ["France : Paris = Peru :"])
        >>> probes.ingest_layers(states, "mean").shape
        torch.Size([1, 128])
    """
    if how not in HOWS:
        raise UnknownNameError("way to ingest layers", str(how), known=HOWS)
    x = states.values
    if how == "last":
        return x[:, -1]
    if how == "mean":
        return x.mean(1)
    if how == "concat":
        return x.flatten(1)
    centroids, _ = cluster_layers(states, k=k, seed=seed)
    return centroids.sum(1)


def cluster_layers(
    states: LayerStates, *, k: int = 5, seed: int = 101
) -> tuple[Float[Tensor, "prompts k d_model"], Int[Tensor, "prompts layers"]]:
    """Centroids and the cluster of each layer, prompt by prompt (Lloyd's algorithm).

    A cluster that loses all its layers keeps a centroid of zeros and adds nothing.
    """
    x = states.values
    n, layers, _ = x.shape
    k = min(whole_number("k", k, least=1), layers)
    if k == layers:
        return x, torch.arange(layers).expand(n, -1)
    rng = torch.Generator().manual_seed(seed)
    first = torch.rand(n, layers, generator=rng).argsort(1)[:, :k]
    centroids = x.gather(1, first[..., None].expand(-1, -1, x.shape[-1]))
    label = torch.full((n, layers), -1)
    for _ in range(_MAX_STEPS):
        new = torch.cdist(x, centroids).argmin(-1)
        if torch.equal(new, label):
            break
        label = new
        member = torch.nn.functional.one_hot(label, k).to(x.dtype)
        count = member.sum(1).clamp_min(1)
        centroids = member.transpose(1, 2) @ x / count[..., None]
    return centroids, label


def _layers(layers: Sequence[int] | None, n_layers: int) -> tuple[int, ...]:
    if layers is None:
        return upper_half(n_layers)
    chosen = tuple(whole_number("layers", layer) for layer in layers)
    wrong = [layer for layer in chosen if not 0 <= layer < n_layers]
    if wrong or not chosen:
        raise ConfigError(
            f"layers are blocks 0..{n_layers - 1}, at least one of them; got {list(chosen)}"
        )
    return chosen


def _batches(model: "Model", prompts: "Sequence[str] | TokensLike", size: int) -> list[Tokens]:
    if isinstance(prompts, Sequence) and not isinstance(prompts, str) and not prompts:
        raise ConfigError("no prompts to read; give at least one")
    texts = isinstance(prompts, str) or (
        isinstance(prompts, Sequence) and isinstance(prompts[0], str)
    )
    if texts:
        given = [prompts] if isinstance(prompts, str) else list(prompts)  # pyright: ignore[reportArgumentType]
        return [model.tokens(given[i : i + size]) for i in range(0, len(given), size)]  # pyright: ignore[reportArgumentType]
    whole = as_tokens(prompts)  # pyright: ignore[reportArgumentType]
    cut = range(0, whole.n_rows, size)
    masks = [None if whole.mask is None else whole.mask[i : i + size] for i in cut]
    return [Tokens(whole.ids[i : i + size], m) for i, m in zip(cut, masks, strict=True)]
