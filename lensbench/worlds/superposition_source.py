"""The rows of a superposition world as a stream that can be left and come back to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.arguments import whole_number
from lensbench.errors import MismatchError, UnknownSiteError

SITE = "activations"
"""The one site of a superposition world."""


class SuperpositionSource:
    """Endless rows of one world; an :class:`~lensbench.protocols.ActivationSource`.

    Row r is the same for every batch size, so a position is the number of rows read.
    Made by ``SuperpositionWorld.source``: ``read(seed, i)`` gives the i-th ``block`` rows.
    """

    def __init__(
        self,
        read: Callable[[int, int], Float[Tensor, "block d_model"]],
        *,
        world: str,
        d_model: int,
        block: int,
        seed: int,
    ) -> None:
        self._read, self._world, self._d_model = read, world, d_model
        self._block, self._seed, self._row = block, seed, 0
        self._held: tuple[int, Float[Tensor, "block d_model"]] | None = None

    @property
    def model(self) -> dict[str, Any]:
        """Where the activations come from, kept with every dictionary that is trained on them."""
        return {"name": "superposition-world", "fingerprint": self._world}

    @property
    def sites(self) -> tuple[str, ...]:
        """The one site, ``activations``."""
        return (SITE,)

    def width(self, site: str) -> int:
        """``d_model`` of the world.

        Raises:
            UnknownSiteError: another site than ``activations``.
        """
        if site != SITE:
            raise UnknownSiteError(site, known=self.sites)
        return self._d_model

    def batches(self, batch_size: int) -> Iterator[dict[str, Float[Tensor, "batch d_model"]]]:
        """Batches from the current position on, for ever."""
        size = whole_number("batch_size", batch_size, least=1)
        while True:
            pieces: list[Tensor] = []
            wanted = size
            while wanted:
                piece = self._rows(wanted)
                wanted -= len(piece)
                pieces.append(piece)
            yield {SITE: torch.cat(pieces)}

    def state_dict(self) -> dict[str, Any]:
        """The position: world, seed and rows read."""
        return {
            "kind": "superposition",
            "world": self._world,
            "seed": self._seed,
            "row": self._row,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position; its seed is taken over.

        Raises:
            MismatchError: a position in another world.
        """
        for key in ("kind", "world"):
            if state.get(key) != (ours := self.state_dict()[key]):
                raise MismatchError(
                    f"this position belongs to a source with {key} {state.get(key)!r}, not "
                    f"{ours!r}; make the world with the config of the run"
                )
        self._seed = whole_number("seed", state.get("seed"), least=0)
        self._row = whole_number("row", state.get("row"), least=0)
        self._held = None

    def _rows(self, wanted: int) -> Float[Tensor, "some d_model"]:
        """At most ``wanted`` rows of the current block."""
        index, start = divmod(self._row, self._block)
        if self._held is None or self._held[0] != index:
            self._held = (index, self._read(self._seed, index))
        piece = self._held[1][start : start + wanted]
        self._row += len(piece)
        return piece
