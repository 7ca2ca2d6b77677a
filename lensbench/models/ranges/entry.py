"""From token ids to the stream that enters block 0, for some tokens at chosen positions."""

from typing import Any

import torch
from torch import Tensor

from lensbench.models.families import Architecture
from lensbench.models.ranges.plain import plain_twin


class Entry:
    """The start of a network: token embedding, learned positions, norm or projection."""

    def __init__(self, module: Any, architecture: Architecture) -> None:
        self._embed: Any = plain_twin(module.get_input_embeddings())
        path = architecture.positions
        self._positions: Any = module.get_submodule(path) if path else None
        self._counts_itself = hasattr(self._positions, "offset")  # OPT adds its offset to ids given
        norm = architecture.entry_norm
        self._norm: Any = module.get_submodule(norm) if norm else None
        decoder = getattr(module.base_model, "decoder", None)
        self._project: Any = getattr(decoder, "project_in", None)

    def __call__(self, ids: Tensor, positions: Tensor) -> Tensor:
        """``[rows, tokens, d_model]``."""
        h = self._embed(ids)
        if self._project is not None:
            h = self._project(h)
        if self._counts_itself:
            h = h + self._positions(None, 0, position_ids=positions)
        elif self._positions is not None:
            h = h + self._positions(positions)
        return h if self._norm is None else self._norm(h)

    def gives(self, ids: Tensor, positions: Tensor, wanted: Tensor) -> bool:
        """Is this what the module itself feeds to block 0?"""
        return torch.allclose(self(ids, positions), wanted, rtol=1e-4, atol=1e-5)
