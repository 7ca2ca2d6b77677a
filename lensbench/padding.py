"""Padding that came without a mask: found before a model reads it as text.

Every library that accepts such ids mispredicts in silence. One padding token at an edge is enough
to know it by, where the tokenizer has one of its own. Where it has none, or lends another token the
job (GPT-2 pads with its end-of-text), that other token may be real once; twice in a row it is not.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lensbench.errors import ConfigError


@dataclass(frozen=True)
class PaddingTokens:
    """Which ids are padding: ``own`` at once, any of ``lent`` when it stands twice at an edge."""

    own: int | None
    lent: frozenset[int]

    @classmethod
    def of(cls, tokenizer: Any) -> "PaddingTokens":
        """Read from a tokenizer; without one nothing is known to be padding."""
        special = frozenset(int(i) for i in getattr(tokenizer, "all_special_ids", ()))
        pad = getattr(tokenizer, "pad_token_id", None)
        jobs = {j: getattr(tokenizer, f"{j}_token_id", None)
                for j in ("bos", "eos", "unk", "sep", "cls", "mask")}  # fmt: skip
        unknown = jobs.pop("unk")
        # Two unknown words stand side by side in real text, unless their token has another job too.
        if unknown not in (pad, *jobs.values()):
            special -= {unknown}
        return cls(None if pad in (unknown, *jobs.values()) else pad, special)

    def refuse_bare(self, ids: Tensor | np.ndarray, where: str = "a row of the ids") -> None:
        """Refuse ids ``[batch, pos]`` that begin or end with padding.

        Raises:
            ConfigError: with the token and what to pass instead.
        """
        rows = torch.as_tensor(ids)
        found = self._found(rows)
        if found is not None:
            twice = "" if found == self.own else " twice in a row"
            raise ConfigError(
                f"{where} begins or ends with the padding token {found}{twice} but no mask was "
                "given; pass Tokens(ids, mask) with mask False under the padding (True everywhere "
                "if those tokens are meant), or lists without padding"
            )

    def _found(self, ids: Tensor) -> int | None:
        own = self.own
        if ids.shape[1] == 0:
            return None
        if own is not None and bool(((ids[:, 0] == own) | (ids[:, -1] == own)).any()):
            return own
        if ids.shape[1] < 2 or not self.lent:
            return None
        for edge, beside in ((ids[:, 0], ids[:, 1]), (ids[:, -1], ids[:, -2])):
            doubled = edge[edge == beside]
            found = next((t for t in doubled.tolist() if t in self.lent), None)
            if found is not None:
                return int(found)
        return None
