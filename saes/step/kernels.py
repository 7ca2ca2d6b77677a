"""Sparse linear algebra of a training step: decode, gradient of the codes, weight gradients.

Codes are a CSR matrix ``[tokens, d_sae]``. With ``nnz`` non-zeros each product costs
``2 * nnz * d_model`` operations instead of ``2 * tokens * d_sae * d_model``. On a GPU the products
are Triton kernels (:mod:`lensbench.saes.step.gpu`), on a CPU with MKL its CSR routines; elsewhere
gathers (``embedding_bag``) do the same.
"""

import warnings
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench.saes.step import gpu
from lensbench.saes.step.precision import in_bf16

if TYPE_CHECKING:
    from lensbench.saes.step.gpu.products import Pieces

ROWS_AT_ONCE = 65536
"""Gathered rows held at a time where the gradient of the codes is computed by gathering."""


@dataclass(frozen=True)
class Codes:
    """Non-zero latents of a batch, token by token."""

    values: Float[Tensor, " nnz"]
    columns: Int[Tensor, " nnz"]
    """Latent of every value; int32."""
    starts: Int[Tensor, " tokens_plus_1"]
    """Where each token's values begin; int32."""
    rows: Int[Tensor, " nnz"]
    """Token of every value; int32."""
    d_sae: int

    @property
    def n_tokens(self) -> int:
        """Tokens of the batch."""
        return self.starts.shape[0] - 1

    @classmethod
    def fixed(
        cls, values: Float[Tensor, "tokens k"], indices: Int[Tensor, "tokens k"], d_sae: int
    ) -> "Codes":
        """Codes with the same number of values for every token."""
        n, k = values.shape
        starts, rows = _fixed_pattern(n, k, values.device)
        return cls(values.reshape(-1), indices.reshape(-1).int(), starts, rows, d_sae)

    @classmethod
    def listed(cls, values: Tensor, rows: Tensor, columns: Tensor, n: int, d_sae: int) -> "Codes":
        """Codes from a list sorted by token."""
        starts = torch.searchsorted(rows, torch.arange(n + 1, device=rows.device, dtype=rows.dtype))
        return cls(values, columns.int(), starts.int(), rows.int(), d_sae)

    def with_values(self, values: Float[Tensor, " nnz"]) -> "Codes":
        """The same pattern with other values."""
        return Codes(values, self.columns, self.starts, self.rows, self.d_sae)


@dataclass(frozen=True)
class Transposed:
    """The pattern of codes by latent: one sort serves both weight gradients."""

    order: Int[Tensor, " nnz"]
    starts: Int[Tensor, " d_sae_plus_1"]
    rows: Int[Tensor, " nnz"]
    n_tokens: int

    @classmethod
    def of(cls, codes: Codes) -> "Transposed":
        """Sort the non-zeros by latent; tokens stay in order, so sums are reproducible."""
        columns, order = torch.sort(codes.columns, stable=True)
        edges = torch.arange(codes.d_sae + 1, device=columns.device, dtype=columns.dtype)
        starts = torch.searchsorted(columns, edges).int()
        return cls(order, starts, codes.rows[order], codes.n_tokens)

    @cached_property
    def pieces(self) -> "Pieces":
        """Latents with so many entries that a GPU sums them in pieces."""
        from lensbench.saes.step.gpu import products

        return products.Pieces.of(self.starts, len(self.order), products.LIMIT)


def narrow(x: Tensor) -> Tensor:
    """What the kernels of a GPU read: half as many bytes, where products are in bfloat16."""
    return x.bfloat16() if in_bf16() and gpu.runs_triton(x.device) else x


def decode(codes: Codes, weight: Tensor, out: Tensor) -> Tensor:
    """``codes @ weight`` into ``out [tokens, d_model]``."""
    if gpu.runs_triton(out.device):
        from lensbench.saes.step.gpu import products

        return products.decode(codes.values, codes.columns, codes.starts, weight, out)
    if has_csr(weight.device.type):
        return torch.addmm(out, _csr(codes), weight, beta=0, out=out)
    return _bag(codes.columns, codes.values, codes.starts, weight, out)


def code_gradient(codes: Codes, grad: Tensor, weight: Tensor) -> Float[Tensor, " nnz"]:
    """``grad[row] . weight[column]`` for every non-zero."""
    if gpu.runs_triton(grad.device):
        from lensbench.saes.step.gpu import products

        return products.code_gradient(codes.columns, codes.starts, grad, weight)
    if has_csr(weight.device.type):
        pattern = _csr(codes)
        return torch.sparse.sampled_addmm(pattern, grad, weight.t(), beta=0.0).values()
    parts = [
        torch.linalg.vecdot(grad[rows], weight[columns])
        for rows, columns in zip(
            codes.rows.split(ROWS_AT_ONCE), codes.columns.split(ROWS_AT_ONCE), strict=True
        )
    ]
    return torch.cat(parts)


def weight_gradient(values: Tensor, plan: Transposed, x: Tensor, out: Tensor) -> Tensor:
    """``codes^T @ x`` into ``out [d_sae, d_model]``; ``values`` in the order of the codes."""
    if gpu.runs_triton(out.device):
        from lensbench.saes.step.gpu import products

        return products.weight_gradient(
            values, plan.order, plan.rows, plan.starts, plan.pieces, x, out
        )
    ordered = values[plan.order]
    if has_csr(x.device.type):
        size = (plan.starts.shape[0] - 1, plan.n_tokens)
        matrix = torch.sparse_csr_tensor(
            plan.starts, plan.rows, ordered, size, check_invariants=False
        )
        return torch.addmm(out, matrix, x, beta=0, out=out)
    return _bag(plan.rows, ordered, plan.starts, x, out)


def sorted_sums(plan: Transposed, *values: Float[Tensor, " nnz"]) -> Float[Tensor, "n d_sae"]:
    """As :func:`per_latent`, on a GPU, where adding in no fixed order would not be reproducible."""
    from lensbench.saes.step.gpu import products

    return products.per_latent(torch.stack(values), plan.order, plan.starts)


def per_latent(codes: Codes, *values: Float[Tensor, " nnz"]) -> Float[Tensor, "n d_sae"]:
    """Sums of each of ``values`` by latent."""
    columns = codes.columns
    sums = torch.zeros(len(values), codes.d_sae, device=columns.device, dtype=values[0].dtype)
    for row, value in zip(sums, values, strict=True):
        row.index_add_(0, columns, value)
    return sums


@lru_cache
def has_csr(device: str) -> bool:
    """Whether this build multiplies and samples CSR matrices on ``device`` (asked by trying)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces once that its CSR support is in beta
        try:
            eye = torch.sparse_csr_tensor(
                torch.tensor([0, 1], dtype=torch.int32, device=device),
                torch.tensor([0], dtype=torch.int32, device=device),
                torch.ones(1, device=device),
                (1, 1),
                check_invariants=False,
            )
            one = torch.ones(1, 1, device=device)
            torch.addmm(one, eye, one, beta=0, out=torch.empty(1, 1, device=device))
            torch.sparse.sampled_addmm(eye, one, one, beta=0.0)
        except (RuntimeError, NotImplementedError):
            return False
    return True


def _csr(codes: Codes) -> Tensor:
    size = (codes.n_tokens, codes.d_sae)
    return torch.sparse_csr_tensor(
        codes.starts, codes.columns, codes.values, size, check_invariants=False
    )


def _bag(index: Tensor, values: Tensor, starts: Tensor, table: Tensor, out: Tensor) -> Tensor:
    summed = torch.nn.functional.embedding_bag(
        index, table, starts, per_sample_weights=values, mode="sum", include_last_offset=True
    )
    return out.copy_(summed)


@lru_cache(maxsize=64)
def _fixed_pattern(n: int, k: int, device: torch.device) -> tuple[Tensor, Tensor]:
    starts = torch.arange(0, n * k + 1, k, dtype=torch.int32, device=device)
    rows = torch.arange(n, dtype=torch.int32, device=device).repeat_interleave(k)
    return starts, rows
