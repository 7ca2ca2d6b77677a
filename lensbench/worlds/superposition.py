"""Activations made of known atoms: the world in which a dictionary has one right answer.

1. ``n_atoms`` unit vectors in ``d_model`` dimensions, drawn from the world's seed.
2. Per row, every atom fires with its own probability; correlation and a hierarchy are optional.
3. An atom that fires has a strength; the row is their sum, plus a constant offset and noise.

Not for claims about language models: real features need not be sparse, linear or independent.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from lensbench.arguments import whole_number
from lensbench.config import Config
from lensbench.errors import ConfigError
from lensbench.worlds.superposition_firing import Firing, chains
from lensbench.worlds.superposition_source import SuperpositionSource

BLOCK = 1024
"""Rows drawn at a time; every block has a stream of its own, so any row can be come back to."""
_ATOMS, _ROWS = 0xA70, 0x205  # streams of the atoms and of the rows


class SuperpositionConfig(Config):
    """A world of known atoms."""

    d_model: int = Field(ge=1)
    """Width of the activations."""
    n_atoms: int = Field(ge=1)
    """Number of atoms; more than d_model for superposition."""
    l0: float = Field(3.0, gt=0)
    """Sum of the firing probabilities: atoms per row where there is no hierarchy."""
    profile: Literal["flat", "power_law", "decay"] = "flat"
    """Firing probability of atom i: equal, or ~ (i + 1)^-exponent, or ~ decay^i."""
    exponent: float = Field(1.0, ge=0)
    """Of the power law."""
    decay: float = Field(0.99, gt=0, le=1)
    """Of the geometric decay (Sharkey et al. 2022: 0.99)."""
    strength: tuple[float, float] = (0.5, 1.5)
    """Range of the uniform strength of an atom that fires; equal ends: constant."""
    correlation: float = Field(0.0, ge=0, lt=1)
    """Of the Gaussians behind any two atoms of one group (copula); marginals stay as they are."""
    group_size: int | None = Field(None, ge=1)
    """Neighbouring atoms that share a correlation group; left out: all atoms are one group."""
    hierarchy: tuple[tuple[int, int], ...] = ()
    """Pairs (child, parent): the child fires only where the parent does, and there with its own
    probability."""
    orthogonal: bool = False
    """Orthonormal atoms (needs n_atoms <= d_model)."""
    noise: float = Field(0.0, ge=0)
    """Standard deviation of Gaussian noise per dimension."""
    offset: float = Field(0.0, ge=0)
    """Length of a constant vector added to every row."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Of the atoms and the offset; rows have a seed of their own."""

    @model_validator(mode="after")
    def _fits(self) -> SuperpositionConfig:
        if self.orthogonal and self.n_atoms > self.d_model:
            raise ValueError(
                f"{self.n_atoms} orthogonal atoms do not fit d_model {self.d_model}; raise "
                "d_model, lower n_atoms, or leave orthogonal out"
            )
        low, high = self.strength
        if not 0 < low <= high < float("inf"):
            raise ValueError(f"strength needs 0 < low <= high, got {low:g} .. {high:g}")
        if (most := float(self.probabilities().max())) > 1:
            raise ValueError(
                f"l0 {self.l0:g} gives an atom the firing probability {most:.3g}; lower l0, raise "
                "n_atoms, or choose a flatter profile"
            )
        chains(self.n_atoms, self.hierarchy)
        return self

    def probabilities(self) -> Float[np.ndarray, " n_atoms"]:
        """Firing probability of every atom (of a child: where its parent fires)."""
        i = np.arange(self.n_atoms)
        if self.profile == "power_law":
            shape = (i + 1.0) ** -self.exponent
        else:
            shape = (self.decay if self.profile == "decay" else 1.0) ** i
        return self.l0 * shape / shape.sum()


class Sample(NamedTuple):
    """Rows and the truth behind them."""

    activations: Float[Tensor, "rows d_model"]
    """What a dictionary sees."""
    codes: Float[Tensor, "rows n_atoms"]
    """Strength of every atom; 0 where it does not fire, as nearly everywhere."""


class SuperpositionWorld:
    """Rows x = sum_i c_i atom_i + offset + noise, with c known.

    Atom i fires (c_i > 0) when Phi(z_i) < p_i, with z a standard Gaussian whose entries correlate
    by ``correlation`` inside a group (Gaussian copula), and when its parent, if any, fires too;
    then c_i is uniform in ``strength``.

    Source: Sharkey, Braun & Millidge 2022 ("Taking features out of superposition with sparse
    autoencoders"); hierarchy: Chanin et al. 2024, arXiv:2409.14507. Ours: probabilities are scaled
    to sum to ``l0``, and correlation is one number per group instead of a random matrix.

    Args:
        config: a :class:`SuperpositionConfig` or a mapping of its fields.

    Raises:
        ConfigError: a setting that cannot be.
    """

    def __init__(self, config: SuperpositionConfig | dict[str, Any]) -> None:
        if not isinstance(config, SuperpositionConfig):
            config = SuperpositionConfig.parse(config)
        self.config = config
        rng = _generator(_ATOMS, config.seed)
        shape = config.n_atoms, config.d_model
        atoms = torch.randn(shape, generator=rng, dtype=torch.float64)
        if config.orthogonal:
            atoms = torch.linalg.qr(atoms.T)[0].T
        self.atoms: Float[Tensor, "n_atoms d_model"] = nn.functional.normalize(atoms).float()
        """Unit rows, in the order of the codes."""
        away = torch.randn(config.d_model, generator=rng)
        self.offset: Float[Tensor, " d_model"] = config.offset * nn.functional.normalize(
            away, dim=0
        )
        """The constant part of every row."""
        self._firing = Firing(config.probabilities(), config.correlation, self._group, self._chains)

    @property
    def _group(self) -> int:
        return self.config.group_size or self.config.n_atoms

    @property
    def _chains(self) -> list[list[int]]:
        return chains(self.config.n_atoms, self.config.hierarchy)

    def __repr__(self) -> str:
        """One line: sizes, sparsity and seed."""
        c = self.config
        return (
            f"SuperpositionWorld({c.n_atoms} atoms in {c.d_model} dimensions, "
            f"l0 {self.rates().sum():.3g}, seed {c.seed})"
        )

    @property
    def fingerprint(self) -> str:
        """16 hex digits of everything that decides atoms and rows."""
        return self.config.fingerprint()

    def rates(self) -> Float[np.ndarray, " n_atoms"]:
        """Share of rows in which every atom fires, exactly: p_i times those of its ancestors.

        With a correlation, a child and its ancestors of one group share a Gaussian factor, which is
        integrated out (Gauss-Hermite, 64 nodes).
        """
        return self._firing.rates()

    def sample(self, n: int, *, seed: int = 0) -> Sample:
        """The first ``n`` rows of the stream ``seed``, with their codes.

        A dictionary is scored on another ``seed`` than it was trained on.

        Raises:
            ConfigError: no rows, or a seed that is no whole number.
        """
        n, seed = whole_number("n", n, least=1), whole_number("seed", seed, least=0)
        blocks = [self.block(seed, i) for i in range(-(-n // BLOCK))]
        x, codes = (torch.cat(part)[:n] for part in zip(*blocks, strict=True))
        return Sample(x, codes)

    def block(self, seed: int, index: int) -> Sample:
        """Rows ``index * 1024`` to ``index * 1024 + 1023`` of the stream ``seed``."""
        c = self.config
        rng = _generator(_ROWS, c.seed, seed, index)
        on = self._firing.draw(BLOCK, rng)
        low, high = c.strength
        codes = (low + (high - low) * torch.rand(BLOCK, c.n_atoms, generator=rng)) * on
        x = codes @ self.atoms + self.offset
        if c.noise:
            x = x + c.noise * torch.randn(BLOCK, c.d_model, generator=rng)
        return Sample(x, codes)

    def source(self, *, seed: int = 0) -> SuperpositionSource:
        """An endless ``ActivationSource`` over the rows of :meth:`sample` with the same ``seed``.

        It serves ``saes.train(world.source(), sweep)`` and is resumed bit for bit.
        """
        return SuperpositionSource(
            lambda stream, index: self.block(stream, index).activations,
            world=self.fingerprint,
            d_model=self.config.d_model,
            block=BLOCK,
            seed=whole_number("seed", seed, least=0),
        )


def parent_child(
    *,
    d_model: int = 16,
    n_atoms: int = 8,
    probability: float = 0.3,
    seed: int = 0,
    strength: tuple[float, float] = (1.0, 1.0),
) -> SuperpositionWorld:
    """The smallest world with a hierarchy: orthogonal atoms, atom 1 a child of atom 0.

    A sparsity penalty gains by absorption: the latent of the parent falls silent on rows of the
    child, whose latent points to parent + child, (0.71, 0.71) in their plane.
    Source: Chanin et al. 2024, arXiv:2409.14507, section 3.

    Raises:
        ConfigError: fewer than two atoms, or a probability outside (0, 1].
    """
    if whole_number("n_atoms", n_atoms) < 2 or not 0 < probability <= 1:
        raise ConfigError(
            "a parent and its child need n_atoms of at least 2 and a probability in (0, 1], got "
            f"{n_atoms} and {probability}"
        )
    return SuperpositionWorld(
        SuperpositionConfig.parse(
            {
                "d_model": d_model,
                "n_atoms": n_atoms,
                "l0": probability * n_atoms,
                "strength": strength,
                "hierarchy": ((1, 0),),
                "orthogonal": True,
                "seed": seed,
            }
        )
    )


def _generator(*key: int) -> torch.Generator:
    """A stream of its own for every key; keys that differ anywhere give unrelated streams."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) >> 1)
