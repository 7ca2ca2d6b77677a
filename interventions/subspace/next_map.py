"""The linear map that reads a site, measured through the model itself.

``mlp.post`` is read by the MLP's output projection, ``attn.z`` by attention's. Either gives what it
is given, times a matrix, plus a constant; setting the site to each basis vector reads the matrix
off, whatever the architecture calls it, on every back end.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.arguments import refuse_no_model
from lensbench.errors import ConfigError
from lensbench.models.base import Model
from lensbench.ops import Set
from lensbench.plan import Edit, Plan
from lensbench.sites import Site
from lensbench.tokens import Tokens

WRITES = {"mlp.post": "mlp_out", "attn.z": "attn_out", "xattn.z": "xattn_out"}
"""Sites whose next map is one matrix, and the site that shows its output."""
LINEAR = 1e-3
"""Largest departure from linearity, over the largest entry of an output."""


def next_map(
    model: Model, site: str | Site, *, head: int | None = None, batch_size: int = 256
) -> Float[Tensor, "d_in d_model"]:
    """Matrix W with ``output(h) = h @ W + constant`` of the map that reads ``site``.

    Args:
        model: any back end.
        site: a layer's ``mlp.post`` or ``attn.z``.
        head: of ``attn.z``: the part that reads this head; left out, all heads side by side.
        batch_size: basis vectors at a time.

    Raises:
        ConfigError: a site that no single matrix reads, or one behind which a norm stands.

    Example:
        >>> weights = interventions.next_map(model, "blocks.2.mlp.post")
    """
    refuse_no_model(model)
    where = Site.parse(site)
    if where.name not in WRITES:
        raise ConfigError(
            f"{where} is read by many maps, not by one matrix; take {' or '.join(WRITES)}, or give "
            "the matrix that you mean (reads=)"
        )
    out = Site(WRITES[where.name], where.layer, where.stack)
    n_heads = model.heads(where) if where.name.endswith("attn.z") else 1
    d_head = model.width(where)
    width = n_heads * d_head

    one = Tokens(torch.tensor([[0]]), torch.tensor([[True]]))  # any token: the map is the same

    def outputs(rows: Tensor) -> Tensor:
        shaped = rows.view(-1, n_heads, d_head) if where.name.endswith("attn.z") else rows
        plans = [Plan((Edit(where, Set(row), positions=(0,)),)) for row in shaped]
        found = model.run_many(one, plans, out, logits="none", batch_size=batch_size)
        return found.acts[out][:, 0].float().cpu()

    basis = torch.eye(width)
    if head is not None:
        basis = basis[head * d_head : (head + 1) * d_head]
    zero = outputs(torch.zeros(1, width))
    found = torch.cat([outputs(part) for part in basis.split(4096)]) - zero
    _check_linear(outputs, found, basis, zero, where)
    return found


def _check_linear(
    outputs: Callable[[Tensor], Tensor], found: Tensor, basis: Tensor, zero: Tensor, site: Site
) -> None:
    weights = torch.randn(1, len(basis), generator=torch.Generator().manual_seed(0))
    got = outputs(weights @ basis) - zero
    expected = weights @ found
    if float((got - expected).abs().max()) > LINEAR * float(expected.abs().max()):
        raise ConfigError(
            f"what reads {site} is not linear in this model (a norm stands behind it), so it has "
            "no row space; give the matrix that you mean (reads=)"
        )
