"""Keys: what an MLP's output projection reads at a token, and how such states spread over text.

A linear map can be seen as a memory: the state k of the neurons at a token is the key, what the map
makes of it the value (Kohonen 1972; Meng et al. 2022, arXiv:2202.05262, section 3.1).
"""

from collections.abc import Sequence
from numbers import Real

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.arguments import refuse_no_model, whole, whole_number
from lensbench.errors import ConfigError, NonFiniteError, NotEnoughDataError, UnknownSiteError
from lensbench.interventions.subspace.spans import matrix_of
from lensbench.interventions.values import groups
from lensbench.models.base import Model
from lensbench.sites import Site
from lensbench.tokens import Tokens, TokensLike, as_tokens


def key_site(model: Model, layer: int) -> Site:
    """The site that the output projection of a layer's MLP reads.

    Raises:
        ConfigError: no layer of the model.
        UnknownSiteError: a layer whose MLP has no one projection (experts, say).
    """
    number, n = whole(layer), model.card.n_layers
    if number is None or not 0 <= number < n:
        raise ConfigError(f"layer must be a whole number of 0..{n - 1}, got {layer!r}")
    site = Site("mlp.post", number)
    if site not in model.sites():
        raise UnknownSiteError(
            str(site), known=tuple(map(str, model.sites())),
            hint="A rank-1 edit needs one output projection for all tokens.",
        )  # fmt: skip
    return site


def second_moment(
    model: Model, layer: int, text: TokensLike, *, batch_size: int = 64
) -> Float[Tensor, "d_mlp d_mlp"]:
    """Uncentred second moment of a layer's keys over the real tokens of a text.

    ``C = (1/n) sum_t k_t k_t^T``, in float64. Source: Meng et al. 2022, arXiv:2202.05262, eq. 2.

    Raises:
        NotEnoughDataError: fewer tokens than neurons, so that C has no inverse.
        NonFiniteError: NaN or infinity in a key.

    Example:
        >>> ids = [model.tokenizer.encode(line) for line in documents.texts()]
        >>> moment = interventions.second_moment(model, 2, ids)
    """
    refuse_no_model(model)
    whole_number("batch_size", batch_size, least=1)
    site = key_site(model, layer)
    tokens = as_tokens(text, pad_id=getattr(model.tokenizer, "pad_token_id", None))
    width, n = model.width(site), int(tokens.real.sum())
    if n < width:
        raise NotEnoughDataError(
            f"{n} tokens say too little of {width} neurons at {site}: give at least {width} tokens "
            "of text, better ten times as many"
        )
    total = torch.zeros(width, width, dtype=torch.float64)
    for rows in groups(tokens.n_rows, batch_size):
        part = Tokens(tokens.ids[rows], tokens.real[rows])
        keys = model.run(part, capture=site, logits="none").acts[site]
        total += _gram(keys.double().cpu()[part.real.cpu()], site)
    return total / n


def _gram(keys: Tensor, site: Site) -> Tensor:
    if not bool(keys.isfinite().all()):
        raise NonFiniteError(f"keys at {site} hold NaN or infinity; run the model in float32")
    return keys.T @ keys


def moment_of(moment: Tensor | np.ndarray | None, width: int, ridge: float) -> Tensor:
    """C plus ``ridge`` times its mean diagonal on the diagonal; the identity where it is None.

    Raises:
        ConfigError: another shape, not symmetric, or not positive definite.
    """
    number = isinstance(ridge, Real) and not isinstance(ridge, bool)  # pyright: ignore[reportUnnecessaryIsInstance] - users
    if not (number and 0 <= ridge < float("inf")):
        raise ConfigError(f"ridge must be a finite number of at least 0, got {ridge!r}")
    if moment is None:
        return torch.eye(width, dtype=torch.float64)
    c = matrix_of("moment", moment)
    if c.shape != (width, width) or not torch.allclose(c, c.T, atol=1e-6 * float(c.abs().max())):
        raise ConfigError(
            f"moment must be a symmetric [{width}, {width}] matrix such as second_moment gives, "
            f"got {list(c.shape)}"
        )
    c = (c + c.T) / 2 + ridge * c.diagonal().mean() * torch.eye(width, dtype=torch.float64)
    values = torch.linalg.eigvalsh(c)
    if not float(values[0]) > 1e-12 * float(values[-1]):
        raise ConfigError(
            "moment is not positive definite: some combination of neurons never varies in the "
            "text. Give more text, or a ridge above 0"
        )
    return c


def least_moving(
    keys: Float[Tensor, "n d_mlp"], wanted: Float[Tensor, " n"], moment: Float[Tensor, "d d"]
) -> Float[Tensor, " d_mlp"]:
    """The vector that reads ``wanted`` off given keys, and least off all others.

    ``argmin_c c^T C c  with  c . k_i = w_i``, which is ``C^-1 K (K^T C^-1 K)^+ w``.
    """
    spread = torch.linalg.solve(moment, keys.T)
    return spread @ (torch.linalg.pinv(keys @ spread, rtol=1e-9, hermitian=True) @ wanted)


def states_at(
    model: Model, rows: Sequence[Sequence[int]], positions: Sequence[int], sites: Sequence[Site]
) -> dict[Site, Float[Tensor, "rows d"]]:
    """States of one token of each row, in float64 on the CPU."""
    tokens = as_tokens(rows, pad_id=getattr(model.tokenizer, "pad_token_id", None))
    acts = model.run(tokens, capture=sites, logits="none").acts
    at = [tokens.n_pos - len(row) + p for row, p in zip(rows, positions, strict=True)]
    return {s: acts[s][torch.arange(len(at)), at].double().cpu() for s in sites}
