"""What every writer adds to the residual stream, by asking the model itself.

A head's share of ``attn_out`` is what the layer gives when every other head's ``z`` is zero, less
what it gives when all are (the bias). That needs no weights, and whether the shares add up is
checked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.errors import ConfigError
from lensbench.interventions.attribution.graph import Graph
from lensbench.models.base import Model
from lensbench.ops import Set
from lensbench.plan import Edit, Plan
from lensbench.sites import Site
from lensbench.tokens import Tokens

_EXACT = 1e-3  # of the size of attn_out; fp32 sums are good to about 1e-6


@dataclass(frozen=True)
class Streams:
    """One run: what its writers write, what its readers read, and its last logits."""

    written: Float[Tensor, "writers batch pos d_model"]
    read: Mapping[Site, Tensor]
    """The stream at :func:`read_sites`."""
    logits: Float[Tensor, "batch d_vocab"]


def read_sites(graph: Graph, n_layers: int) -> list[Site]:
    """Where readers read: before attention, before the MLP, and at the end."""
    mid = [] if graph.parallel else [Site("resid_mid", i) for i in range(n_layers)]
    return [*(Site("resid_pre", i) for i in range(n_layers)), *mid, last_site(n_layers)]


def last_site(n_layers: int) -> Site:
    """What the final norm reads."""
    return Site("resid_post", n_layers - 1)


def streams(model: Model, graph: Graph, tokens: Tokens) -> Streams:
    """Run the prompts, and take the stream apart.

    Raises:
        ConfigError: attention outputs that are not the sum of their heads (post-norms).
    """
    layers = range(model.n_layers)
    read = read_sites(graph, model.n_layers)
    parts = [Site(n, i) for i in layers for n in ("attn.z", "attn_out", "mlp_out")]
    out = model.run(tokens, capture=list(dict.fromkeys([*read, *parts])), logits="last")
    assert out.logits is not None
    heads, bias = head_outputs(model, tokens, {i: out.acts[Site("attn.z", i)] for i in layers})
    written = [out.acts[Site("resid_pre", 0)]]
    for layer in layers:
        _check_sum(model, heads[layer], bias[layer], out.acts[Site("attn_out", layer)])
        written += [*heads[layer].unbind(2), out.acts[Site("mlp_out", layer)]]
    stream = {site: out.acts[site] for site in read}
    return Streams(torch.stack([x.float() for x in written]), stream, out.logits[:, -1])


def head_outputs(
    model: Model, tokens: Tokens, z: Mapping[int, Tensor]
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """By layer: each head's share of ``attn_out`` ``[batch pos head d_model]``, and the bias.

    Other layers are skipped; what these ones read does not matter, for their ``z`` is set.
    """
    nothing = _outputs(model, tokens, {i: torch.zeros_like(x) for i, x in z.items()})
    n = next(iter(z.values())).shape[2]
    shares: dict[int, list[Tensor]] = {i: [] for i in z}
    for head in range(n):
        only = {i: torch.zeros_like(x) for i, x in z.items()}
        for i, x in z.items():
            only[i][:, :, head] = x[:, :, head]
        for i, found in _outputs(model, tokens, only).items():
            shares[i].append(found - nothing[i])
    return {i: torch.stack(parts, 2) for i, parts in shares.items()}, nothing


def _outputs(model: Model, tokens: Tokens, z: Mapping[int, Tensor]) -> dict[int, Tensor]:
    plan = Plan(tuple(Edit(Site("attn.z", i), Set(x)) for i, x in z.items()), skips_but(model, z))
    sites = [Site("attn_out", i) for i in z]
    acts = model.run(tokens, plan, capture=sites, logits="none").acts
    return {i: acts[Site("attn_out", i)] for i in z}


def skips_but(model: Model, layers: Sequence[int] | Mapping[int, Tensor]) -> frozenset[int]:
    """All layers but these."""
    return frozenset(range(model.n_layers)) - frozenset(layers)


def _check_sum(model: Model, heads: Tensor, bias: Tensor, out: Tensor) -> None:
    gap = (heads.sum(2) + bias - out).abs().max()
    if not float(gap) <= _EXACT * float(out.abs().max().clamp_min(1e-3)):
        raise ConfigError(
            f"what attention of {model.card.family} adds to the stream is not the sum of its heads "
            "(a norm stands after the sum), so edges between heads cannot be cut; attribute places"
        )
