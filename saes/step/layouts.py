"""Two layouts of one formula: the latents that may fire as a list, or all of them as an array.

A rule (:mod:`lensbench.saes.step.rules`) is written once in terms of *entries*, values per token
and latent. :class:`Listed` holds the entries of one dictionary that its activation can let
through, as a sparse matrix; :class:`Dense` holds every entry of several dictionaries,
``[n, tokens, d_sae]``.
Entries that are not listed have activation zero and gradient zero.
"""

# ruff: noqa: D102 - the methods are described once, in Layout

from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from lensbench.saes.step import gpu, kernels, precision
from lensbench.saes.step.encode import Workspace
from lensbench.saes.step.kernels import Codes, Transposed


@runtime_checkable
class Layout(Protocol):
    """Entries, and sums over them. ``[..]`` is nothing for one dictionary, ``[n]`` for several."""

    @property
    def pre(self) -> Tensor:
        """Pre-activations at the entries."""
        ...

    @property
    def n_tokens(self) -> int:
        """Tokens of the batch."""
        ...

    def each(self, vector: Tensor) -> Tensor:
        """A number per latent ``[.., d_sae]`` at the entries."""
        ...

    def scalar(self, value: Tensor) -> Tensor:
        """A number per dictionary ``[..]`` at the entries."""
        ...

    def decode(self, values: Tensor, weight: Tensor, name: str = "error") -> Tensor:
        """``values @ weight``: ``[.., tokens, d]``; ``name`` tells products apart that are kept."""
        ...

    def against(self, grad: Tensor, weight: Tensor) -> Tensor:
        """``grad @ weight^T`` at the entries."""
        ...

    def outer(self, values: Tensor, x: Tensor, name: str) -> Tensor:
        """``values^T @ x``: ``[.., d_sae, d]``."""
        ...

    def sums(self, *values: Tensor) -> list[Tensor]:
        """Sum over tokens of each, ``[.., d_sae]``."""
        ...

    def total(self, values: Tensor) -> Tensor:
        """Sum over all entries ``[..]``."""
        ...

    def per_token(self, values: Tensor) -> Tensor:
        """Sum over latents, at the entries again: every entry of a token gets the same number."""
        ...

    def token_total(self, values: Tensor) -> Tensor:
        """Sum over latents, once per token: ``[.., tokens]``."""
        ...

    def part(self, start: int, stop: int) -> "Layout":
        """The entries of latents ``start .. stop - 1``, as if there were no others."""
        ...

    def pick(self, values: Tensor, part: "Layout") -> Tensor:
        """Values at the entries of a part that :meth:`part` gave."""
        ...

    def join(self, parts: "list[tuple[Layout, Tensor]]") -> Tensor:
        """Values at all entries from those at the entries of every part."""
        ...


@dataclass
class Listed:
    """Entries of one dictionary, as a list sorted by token."""

    codes: Codes
    """Their places; ``codes.values`` are the pre-activations."""
    space: Workspace
    where: Tensor | None = None
    """Of a part: which entries of the whole these are."""
    narrowed: dict[int, Tensor] = field(default_factory=dict[int, Tensor])
    """Weights as the kernels read them, by address: decode and ``against`` read the same."""

    @property
    def pre(self) -> Tensor:
        """Pre-activations at the entries."""
        return self.codes.values

    @property
    def n_tokens(self) -> int:
        """Tokens of the batch."""
        return self.codes.n_tokens

    @cached_property
    def plan(self) -> Transposed:
        """The entries by latent; made once, used by every sum over tokens."""
        return Transposed.of(self.codes)

    def each(self, vector: Tensor) -> Tensor:
        """See :class:`Layout`, also below."""
        return vector.index_select(0, self.codes.columns)

    def scalar(self, value: Tensor) -> Tensor:
        return value

    def decode(self, values: Tensor, weight: Tensor, name: str = "error") -> Tensor:
        out = self.space.get(name, (self.n_tokens, weight.shape[1]), weight)
        return kernels.decode(self.codes.with_values(values), self._narrow(weight), out)

    def against(self, grad: Tensor, weight: Tensor) -> Tensor:
        return kernels.code_gradient(self.codes, kernels.narrow(grad), self._narrow(weight))

    def _narrow(self, weight: Tensor) -> Tensor:
        if weight.data_ptr() not in self.narrowed:
            self.narrowed[weight.data_ptr()] = kernels.narrow(weight)
        return self.narrowed[weight.data_ptr()]

    def outer(self, values: Tensor, x: Tensor, name: str) -> Tensor:
        out = self.space.get(f"grad.{name}", (self.codes.d_sae, x.shape[1]), x)
        return kernels.weight_gradient(values, self.plan, kernels.narrow(x), out)

    def sums(self, *values: Tensor) -> list[Tensor]:
        if gpu.runs_triton(self.pre.device):
            return list(kernels.sorted_sums(self.plan, *values))
        return list(kernels.per_latent(self.codes, *values))

    def total(self, values: Tensor) -> Tensor:
        return values.sum()

    def token_total(self, values: Tensor) -> Tensor:
        return values.new_zeros(self.n_tokens).index_add_(0, self.codes.rows, values)

    def per_token(self, values: Tensor) -> Tensor:
        return self.token_total(values).index_select(0, self.codes.rows)

    def part(self, start: int, stop: int) -> "Listed":
        columns = self.codes.columns
        where = ((columns >= start) & (columns < stop)).nonzero()[:, 0]
        rows, own = self.codes.rows[where], columns[where] - start
        codes = Codes.listed(self.pre[where], rows, own, self.n_tokens, stop - start)
        return Listed(codes, self.space, where)

    def pick(self, values: Tensor, part: Layout) -> Tensor:
        return values.index_select(0, _where(part))

    def join(self, parts: list[tuple[Layout, Tensor]]) -> Tensor:
        out = torch.empty_like(self.pre)
        for part, values in parts:
            out[_where(part)] = values
        return out


@dataclass
class Dense:
    """Every entry of ``n`` dictionaries."""

    values: Tensor
    """``[n, tokens, d_sae]``; where a selection was made, zero at what it left out."""
    span: slice = field(default_factory=lambda: slice(None))
    """Of a part: which latents of the whole these are."""

    @property
    def pre(self) -> Tensor:
        """Pre-activations at the entries."""
        return self.values

    @property
    def n_tokens(self) -> int:
        """Tokens of the batch."""
        return self.values.shape[1]

    def each(self, vector: Tensor) -> Tensor:
        """See :class:`Layout`, also below."""
        return vector[:, None, :]

    def scalar(self, value: Tensor) -> Tensor:
        return value[:, None, None]

    def decode(self, values: Tensor, weight: Tensor, name: str = "error") -> Tensor:
        del name  # nothing is kept
        return precision.mm(values, weight)

    def against(self, grad: Tensor, weight: Tensor) -> Tensor:
        return precision.mm(grad, weight.transpose(1, 2))

    def outer(self, values: Tensor, x: Tensor, name: str) -> Tensor:
        del name
        return precision.mm(values.transpose(1, 2), x)

    def sums(self, *values: Tensor) -> list[Tensor]:
        return [value.sum(1) for value in values]

    def total(self, values: Tensor) -> Tensor:
        return values.sum((1, 2))

    def token_total(self, values: Tensor) -> Tensor:
        return values.sum(2)

    def per_token(self, values: Tensor) -> Tensor:
        return values.sum(2, keepdim=True)

    def part(self, start: int, stop: int) -> "Dense":
        return Dense(self.values[:, :, start:stop], slice(start, stop))

    def pick(self, values: Tensor, part: Layout) -> Tensor:
        assert isinstance(part, Dense)
        return values[:, :, part.span]

    def join(self, parts: list[tuple[Layout, Tensor]]) -> Tensor:
        return torch.cat([values for _, values in parts], dim=2)


def _where(part: Layout) -> Tensor:
    assert isinstance(part, Listed)
    assert part.where is not None
    return part.where
