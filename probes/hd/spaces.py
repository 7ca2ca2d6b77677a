"""Vector symbolic architectures: MAP, BSC, HRR and FHRR behind one interface.

A hypervector is one row of numbers; *binding* makes a vector unlike both parts from which either
part is got back with the other, *bundling* makes one that is like all of its parts. Operations work
on the last axis and broadcast over the others.

Sources: Gayler 2003 (MAP); Kanerva 1996 (BSC); Plate 1995 (HRR); Plate 2003 (FHRR). Names and
conventions are those of Kleyko et al. 2022, arXiv:2111.06077.
"""

from abc import ABC, abstractmethod
from math import comb, sqrt
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError, UnknownNameError

Ties = Literal["random", "minus"]
SIGMAS = 6.4
"""Threshold of a similarity, in standard deviations of chance: 0.1 at 4,096 dimensions of MAP."""


class Space(ABC):
    """One architecture. ``similarity`` is 1 for a vector with itself and near 0 by chance."""

    name: ClassVar[str]
    exact: ClassVar[bool] = True
    """Whether unbinding undoes binding exactly."""

    def __str__(self) -> str:
        """The name."""
        return self.name

    __repr__ = __str__

    @abstractmethod
    def random(self, n: int, *, dim: int, seed: int) -> Tensor:
        """``n`` independent hypervectors ``[n, dim]``; equal seeds, equal vectors."""

    @abstractmethod
    def bind(self, a: Tensor, b: Tensor) -> Tensor:
        """A vector dissimilar to ``a`` and ``b``; commutative and associative."""

    @abstractmethod
    def unbind(self, x: Tensor, b: Tensor) -> Tensor:
        """What was bound to ``b`` in ``x``: ``unbind(bind(a, b), b)`` is like ``a``."""

    def bundle(self, items: Tensor, *, seed: int = 0, ties: Ties = "random") -> Tensor:
        """One vector like all of ``items [..., k, dim]``: in HRR and FHRR their sum.

        In MAP and BSC each dimension takes the majority, and an even vote is drawn at random under
        ``seed``. ``ties="minus"`` gives it to -1 (to 0 in BSC), as torch-hd's MAP does; two
        bundles are then alike whatever is in them.
        """
        del seed, ties
        return items.sum(-2)

    @abstractmethod
    def real(self, x: Tensor) -> Tensor:
        """The vector as real numbers whose cosine is the similarity (FHRR: twice as many)."""

    @abstractmethod
    def snap(self, raw: Tensor) -> Tensor:
        """The hypervector nearest to real numbers laid out as by :meth:`real`."""

    def width(self, dim: int) -> int:
        """Real numbers per hypervector."""
        return dim

    def permute(self, x: Tensor, shifts: int = 1) -> Tensor:
        """Roll by ``shifts`` places, a stand-in for order; ``-shifts`` undoes it."""
        return x.roll(shifts, -1)

    def similarity(self, a: Tensor, b: Tensor) -> Tensor:
        """Cosine, -1 to 1 (BSC: 1 - 2 x share of unequal bits; FHRR: of the real parts)."""
        return torch.cosine_similarity(self.real(a), self.real(b), dim=-1)

    def similarities(self, x: Tensor, items: Tensor) -> Tensor:
        """Similarity of every row of ``x`` with every row of ``items``: ``[..., n]``."""
        unit = torch.nn.functional.normalize
        return unit(self.real(x), dim=-1) @ unit(self.real(items), dim=-1).T

    def noise(self, dim: int) -> float:
        """Standard deviation of the similarity of two random hypervectors: 1 / sqrt(dim)."""
        return 1 / sqrt(dim)

    def threshold(self, dim: int, sigmas: float = SIGMAS) -> float:
        """Similarity that chance does not reach: ``sigmas * noise(dim)``."""
        return sigmas * self.noise(dim)

    def recovery_floor(self, dim: int) -> float:
        """Similarity that ``unbind(bind(a, b), b)`` has with ``a`` at least: 1 up to rounding."""
        del dim
        return 1 - 1e-4

    def bundled_similarity(self, k: int) -> float:
        """Expected similarity of a bundle of ``k`` vectors with each of them.

        Majority vote: C(2h, h) / 4^h with h = floor(k / 2), near sqrt(2 / (pi k)). Sums:
        1 / sqrt(k).
        """
        return 1 / sqrt(k)

    def unbound_similarity(self, k: int) -> float:
        """The same after unbinding one of ``k`` bundled pairs by its key."""
        return self.bundled_similarity(k)


class _Majority(Space):
    """What MAP and BSC share: two values a dimension, and a vote."""

    def bundled_similarity(self, k: int) -> float:
        """C(2h, h) / 4^h with h = floor(k / 2)."""
        return comb(2 * (k // 2), k // 2) / 4 ** (k // 2)


class MAP(_Majority):
    """Multiply-add-permute: -1 and 1; bind multiplies and is its own inverse; bundles by vote."""

    name = "MAP"

    def random(self, n: int, *, dim: int, seed: int) -> Tensor:
        """Signs drawn evenly, int8."""
        return (_bits(n, dim, seed) * 2 - 1).to(torch.int8)

    def bind(self, a: Tensor, b: Tensor) -> Tensor:
        """``a * b``."""
        return a * b

    def unbind(self, x: Tensor, b: Tensor) -> Tensor:
        """``x * b``."""
        return x * b

    def bundle(self, items: Tensor, *, seed: int = 0, ties: Ties = "random") -> Tensor:
        """Sign of the sum."""
        votes = items.sum(-2, dtype=torch.int32) if not items.is_floating_point() else items.sum(-2)
        return _settle(votes, seed, ties)

    def real(self, x: Tensor) -> Tensor:
        """As floats."""
        return x.float()

    def snap(self, raw: Tensor) -> Tensor:
        """Signs; zero counts as 1."""
        return torch.where(raw >= 0, 1, -1).to(torch.int8)


class BSC(_Majority):
    """Binary spatter codes: 0 and 1; bind is exclusive or, its own inverse; bundles by vote."""

    name = "BSC"

    def random(self, n: int, *, dim: int, seed: int) -> Tensor:
        """Bits drawn evenly, uint8."""
        return _bits(n, dim, seed).to(torch.uint8)

    def bind(self, a: Tensor, b: Tensor) -> Tensor:
        """``a xor b``."""
        return a ^ b

    def unbind(self, x: Tensor, b: Tensor) -> Tensor:
        """``x xor b``."""
        return x ^ b

    def bundle(self, items: Tensor, *, seed: int = 0, ties: Ties = "random") -> Tensor:
        """The majority of the bits."""
        votes = 2 * items.sum(-2, dtype=torch.int32) - items.shape[-2]
        return (_settle(votes, seed, ties) > 0).to(torch.uint8)

    def real(self, x: Tensor) -> Tensor:
        """0 as -1."""
        return 2 * x.float() - 1

    def snap(self, raw: Tensor) -> Tensor:
        """1 where the number is not negative."""
        return (raw >= 0).to(torch.uint8)


class HRR(Space):
    """Holographic reduced representations: real; bind is circular convolution; bundles by sum.

    Unbinding is circular correlation, an approximate inverse: similarity 1 / sqrt(2) on average.
    """

    name = "HRR"
    exact = False

    def random(self, n: int, *, dim: int, seed: int) -> Tensor:
        """Normal with variance 1 / dim."""
        n, dim = _sizes(n, dim)
        return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)) / sqrt(dim)

    def bind(self, a: Tensor, b: Tensor) -> Tensor:
        """Circular convolution, by FFT."""
        return torch.fft.irfft(torch.fft.rfft(a) * torch.fft.rfft(b), n=a.shape[-1])

    def unbind(self, x: Tensor, b: Tensor) -> Tensor:
        """Circular correlation, by FFT."""
        return torch.fft.irfft(torch.fft.rfft(x) * torch.fft.rfft(b).conj(), n=x.shape[-1])

    def real(self, x: Tensor) -> Tensor:
        """As it is."""
        return x

    def snap(self, raw: Tensor) -> Tensor:
        """Scaled to length 1."""
        return torch.nn.functional.normalize(raw, dim=-1)

    def recovery_floor(self, dim: int) -> float:
        """(1 - 6 / sqrt(dim)) / sqrt(2): the mean less six standard deviations."""
        return max(0.0, (1 - 6 / sqrt(dim)) / sqrt(2))

    def unbound_similarity(self, k: int) -> float:
        """1 / sqrt(k + 1): the inverse itself adds as much noise as one more pair."""
        return 1 / sqrt(k + 1)


class FHRR(Space):
    """Fourier HRR: phases; bind multiplies, unbind multiplies by the conjugate; bundles by sum."""

    name = "FHRR"

    def random(self, n: int, *, dim: int, seed: int) -> Tensor:
        """Phases drawn evenly round the circle, complex64."""
        n, dim = _sizes(n, dim)
        angles = torch.rand(n, dim, generator=torch.Generator().manual_seed(seed)) * 2 * torch.pi
        return torch.polar(torch.ones_like(angles), angles)

    def bind(self, a: Tensor, b: Tensor) -> Tensor:
        """``a * b``."""
        return a * b

    def unbind(self, x: Tensor, b: Tensor) -> Tensor:
        """``x * conj(b)``."""
        return x * b.conj()

    def width(self, dim: int) -> int:
        """Real and imaginary parts."""
        return 2 * dim

    def real(self, x: Tensor) -> Tensor:
        """Real parts, then imaginary parts."""
        return torch.cat((x.real, x.imag), -1)

    def snap(self, raw: Tensor) -> Tensor:
        """Phases of the complex numbers."""
        re, im = raw.chunk(2, -1)
        angles = torch.atan2(im, re)
        return torch.polar(torch.ones_like(angles), angles)

    def noise(self, dim: int) -> float:
        """1 / sqrt(2 dim): real parts of phases vary half as much as signs."""
        return 1 / sqrt(2 * dim)


SPACES: tuple[Space, ...] = (MAP(), BSC(), HRR(), FHRR())
"""Every space."""


def space_named(name: "str | Space") -> Space:
    """The space of that name.

    Raises:
        UnknownNameError: none; offers the nearest.

    Example:
        >>> space = probes.space_named("MAP")
    """
    if isinstance(name, Space):
        return name
    found = {space.name: space for space in SPACES}
    if name not in found:
        raise UnknownNameError("space", str(name), known=tuple(found))
    return found[name]


def _sizes(n: int, dim: int) -> tuple[int, int]:
    return whole_number("n", n, least=1), whole_number("dim", dim, least=1)


def _bits(n: int, dim: int, seed: int) -> Tensor:
    return torch.randint(0, 2, _sizes(n, dim), generator=torch.Generator().manual_seed(seed))


def _settle(votes: Tensor, seed: int, ties: Ties) -> Tensor:
    """Signs of the votes; even votes at random, or all to -1."""
    if ties == "random":
        # A stream of its own: hypervectors drawn from the same seed must not be the coin.
        rng = torch.Generator().manual_seed(seed ^ 0x5EED_C0DE)
        coin = torch.randint(0, 2, votes.shape, generator=rng)
        votes = torch.where(votes == 0, coin * 2 - 1, votes)
    elif ties != "minus":
        raise ConfigError(f"ties must be 'random' or 'minus', got {ties!r}")
    return torch.where(votes > 0, 1, -1).to(torch.int8)
