"""Item memories: names and their hypervectors, kept together on disk.

``items.json`` holds names, space and seed, ``items.safetensors`` the vectors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench import io
from lensbench.arguments import whole_number
from lensbench.errors import ConfigError, DamagedDataError, UnknownNameError
from lensbench.probes.hd.capacity import capacity, needed_dim
from lensbench.probes.hd.spaces import Space, Ties, space_named

_LISTED = 40  # more names than this are not written out in an error


@dataclass(frozen=True, eq=False)
class ItemMemory:
    """A codebook: one random hypervector per named concept. Names are case-sensitive.

    Example:
        >>> memory.names[:2]
        ('France', 'Paris')
    """

    space: Space
    names: tuple[str, ...]
    vectors: Tensor
    """``[n, dim]``."""
    seed: int

    @classmethod
    def random(
        cls,
        names: Sequence[str],
        space: "str | Space" = "MAP",
        *,
        dim: int = 4096,
        seed: int = 101,
        pairs: int = 2,
    ) -> "ItemMemory":
        """Draw a hypervector for every name.

        ``pairs`` is how many bound pairs one vector will hold; a dimension too small to tell this
        many names apart then is refused.

        Raises:
            ConfigError: no name, one twice, or too small a dimension; says what its capacity is.
        """
        chosen, given = space_named(space), tuple(names)
        dim, pairs = whole_number("dim", dim, least=1), whole_number("pairs", pairs, least=1)
        twice = sorted({name for name in given if given.count(name) > 1})
        if not given or twice:
            said = f"{', '.join(map(repr, twice[:5]))} twice" if twice else "none"
            raise ConfigError(f"a codebook needs different names, got {said}")
        holds = capacity(chosen, dim, len(given))
        if holds < pairs:
            raise ConfigError(
                f"{dim} dimensions of {chosen} are too few: a bundle of {pairs} bound pairs is not "
                f"read back among {len(given)} concepts in 99 of 100 cases. Their capacity is "
                f"{holds} pair{'s' if holds != 1 else ''}; use dim="
                f"{needed_dim(chosen, len(given), pairs)} or more, or fewer concepts"
            )
        return cls(chosen, given, chosen.random(len(given), dim=dim, seed=seed), seed)

    @property
    def dim(self) -> int:
        """Dimensions of a hypervector."""
        return self.vectors.shape[-1]

    def __len__(self) -> int:
        """Number of concepts."""
        return len(self.names)

    def __repr__(self) -> str:
        """Sizes in one line."""
        return f"ItemMemory({len(self)} concepts, {self.space} of {self.dim} dimensions)"

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.names)}

    @cached_property
    def _unit(self) -> Tensor:
        return torch.nn.functional.normalize(self.space.real(self.vectors), dim=-1)

    def index(self, name: str) -> int:
        """Row of a concept.

        Raises:
            UnknownNameError: it is not in the codebook; offers the nearest name.
        """
        if name not in self._places:
            few = len(self.names) <= _LISTED
            near = get_close_matches(name, self.names, n=8, cutoff=0.0)
            rest = "" if few else f"These are the nearest of {len(self)}; make a codebook with it."
            raise UnknownNameError(
                "concept in the codebook", name, known=self.names if few else near, hint=rest
            )
        return self._places[name]

    def indices(self, names: Sequence[str]) -> list[int]:
        """Rows of several concepts."""
        return [self.index(name) for name in names]

    def vector(self, name: str) -> Tensor:
        """Hypervector of a concept."""
        return self.vectors[self.index(name)]

    def encode(
        self, pairs: Int[Tensor, "n pairs two"], *, seed: int = 0, ties: Ties = "random"
    ) -> Tensor:
        """``bundle_i(bind(key_i, value_i))`` of rows of concept numbers: ``[n, dim]``."""
        bound = self.space.bind(self.vectors[pairs[..., 0]], self.vectors[pairs[..., 1]])
        return self.space.bundle(bound, seed=seed, ties=ties)

    def similarities(self, x: Tensor) -> Float[Tensor, "... concepts"]:
        """Similarity of every vector with every concept."""
        return torch.nn.functional.normalize(self.space.real(x), dim=-1) @ self._unit.T

    def cleanup(self, x: Tensor, k: int = 1) -> list[list[tuple[str, float]]]:
        """The ``k`` concepts most similar to each row of ``x``, best first."""
        k = min(whole_number("k", k, least=1), len(self))
        best = self.similarities(torch.atleast_2d(x)).topk(k, dim=-1)
        rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [[(self.names[i], v) for i, v in zip(*row, strict=True)] for row in rows]

    def save(self, folder: Path | str) -> Path:
        """Write ``items.json`` and ``items.safetensors``; return the folder."""
        folder = Path(folder)
        flat = torch.view_as_real(self.vectors) if self.vectors.is_complex() else self.vectors
        io.write_arrays(folder / "items.safetensors", {"vectors": flat.numpy()})
        digest = io.sha256_file(folder / "items.safetensors")
        io.write_json(
            folder / "items.json",
            {"space": self.space.name, "seed": self.seed, "names": list(self.names),
             "sha256": digest},
        )  # fmt: skip
        return folder

    @classmethod
    def load(cls, folder: Path | str) -> "ItemMemory":
        """Read what :meth:`save` wrote.

        Raises:
            MissingDataError: none there.
            DamagedDataError: names and vectors are not those that were written together.
        """
        folder = Path(folder)
        about = io.read_json(folder / "items.json")
        vectors = io.read_tensors(folder / "items.safetensors")["vectors"]
        if io.sha256_file(folder / "items.safetensors") != about["sha256"]:
            raise DamagedDataError(f"{folder / 'items.safetensors'} is not what was written")
        space = space_named(about["space"])
        vectors = torch.view_as_complex(vectors) if space.name == "FHRR" else vectors
        return cls(space, tuple(about["names"]), vectors, about["seed"])
