"""The value that every task gives: aligned pairs of prompts with answers, foils and positions."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lensbench import io
from lensbench.errors import ConfigError, DamagedDataError, UnknownNameError
from lensbench.tokens import Tokens, as_tokens

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class PromptPairs:
    """Clean and corrupted prompts, row by row equally long, with the same roles at the same places.

    A position counts the real tokens of its row, BOS included, as ``Edit(positions=...)`` does;
    it is the last token of the word that plays the role. ``answer`` is right after the clean
    prompt and ``foil`` is not. After the corrupted one it is the reverse where ``flips``.
    """

    task: str
    clean_ids: tuple[tuple[int, ...], ...]
    corrupted_ids: tuple[tuple[int, ...], ...]
    answer: tuple[int, ...]
    foil: tuple[int, ...]
    roles: Mapping[str, tuple[int, ...]]
    """Position of each role in each row; -1 where a wording has no such word."""
    clean_texts: tuple[str, ...]
    corrupted_texts: tuple[str, ...]
    answer_texts: tuple[str, ...]
    foil_texts: tuple[str, ...]
    wordings: tuple[str, ...]
    """Which wording each row uses; splits go by this and by words, never by row."""
    flips: bool = True
    pools: Mapping[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    """Words that this tokenizer can use, and words there were, by pool."""
    dropped: Mapping[str, int] = field(default_factory=dict[str, int])
    """Pairs left out, by reason."""
    seed: int = 0
    tokenizer: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Name and fingerprint of the tokenizer, and the chat template where one was used."""
    pad_id: int | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Refuse pairs that are not aligned: whatever made them is at fault."""
        for row, (a, b) in enumerate(zip(self.clean_ids, self.corrupted_ids, strict=True)):
            if len(a) != len(b):
                raise ConfigError(f"pair {row}: {len(a)} clean tokens, {len(b)} corrupted ones")

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.clean_ids)

    @cached_property
    def clean(self) -> Tokens:
        """Clean prompts, padded on the left."""
        return as_tokens(self.clean_ids, pad_id=self.pad_id)

    @cached_property
    def corrupted(self) -> Tokens:
        """Corrupted prompts, padded on the left."""
        return as_tokens(self.corrupted_ids, pad_id=self.pad_id)

    def position(self, role: str) -> tuple[int, ...]:
        """Position of ``role`` in every row.

        Raises:
            UnknownNameError: a role that this task has not.
        """
        if role not in self.roles:
            raise UnknownNameError("role", role, known=tuple(self.roles))
        return self.roles[role]

    def mask(self, role: str) -> Bool[np.ndarray, "batch pos"]:
        """True at the role's token, in the shape of :attr:`clean` (False under the padding)."""
        width = self.clean.n_pos
        out = np.zeros((len(self), width), bool)
        for row, at in enumerate(self.position(role)):
            if at >= 0:
                out[row, width - len(self.clean_ids[row]) + at] = True
        return out

    def select(
        self, rows: Sequence[int] | Int[np.ndarray, " some"] | Bool[np.ndarray, " batch"]
    ) -> "PromptPairs":
        """Some rows, by number (negative ones from the end) or mask.

        Raises:
            ConfigError: no row at all, one that does not exist, or neither numbers nor a mask.
        """
        chosen = _chosen(rows, len(self))
        pick = lambda values: tuple(values[i] for i in chosen)  # noqa: E731 - used below
        same = {name: pick(getattr(self, name)) for name in _BY_ROW}
        return replace(self, **same, roles={k: pick(v) for k, v in self.roles.items()})

    def logit_diff(self, logits: Float[Tensor, "batch pos d_vocab"]) -> Float[Tensor, " batch"]:
        """logit(answer) - logit(foil) at the last token of each row, in nats.

        ``logits`` are those of ``model.run(pairs.clean)`` or ``pairs.corrupted``; the prompts are
        padded on the left, so their ends stand in the last column.
        """
        import torch

        last, row = logits[:, -1].float(), torch.arange(len(self), device=logits.device)
        ids = torch.tensor([self.answer, self.foil], device=logits.device)
        return last[row, ids[0]] - last[row, ids[1]]

    def fingerprint(self) -> str:
        """Changes with any token, position or answer."""
        roles = dict(self.roles)
        return io.fingerprint([self.clean_ids, self.corrupted_ids, self.answer, self.foil, roles])

    def to_frame(self) -> "pd.DataFrame":
        """One row per pair: texts, answer, foil, wording, tokens, and the position of each role."""
        import pandas as pd

        return pd.DataFrame(
            {
                "clean": self.clean_texts,
                "corrupted": self.corrupted_texts,
                "answer": self.answer_texts,
                "foil": self.foil_texts,
                "wording": self.wordings,
                "n_tokens": [len(row) for row in self.clean_ids],
                **{f"{role} at": places for role, places in self.roles.items()},
            }
        )

    def summary(self) -> dict[str, float]:
        """Pairs, pairs dropped, wordings, and words left of each pool."""
        left = {f"{name} left": float(n) for name, (n, _) in self.pools.items()}
        dropped = float(sum(self.dropped.values()))
        used = float(len(set(self.wordings)))
        return {"pairs": float(len(self)), "dropped": dropped, "wordings": used, **left}

    def to_json(self) -> str:
        """As JSON text; :meth:`from_json` gives back an equal value."""
        body = {f.name: getattr(self, f.name) for f in fields(self)}
        return json.dumps(body, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "PromptPairs":
        """Read what :meth:`to_json` wrote.

        Raises:
            DamagedDataError: anything else.
        """
        try:
            found: dict[str, Any] = json.loads(text)
            for name in _BY_ROW:
                found[name] = tuple(tuple(v) if isinstance(v, list) else v for v in found[name])
            for name in ("roles", "pools"):
                found[name] = {key: tuple(values) for key, values in found[name].items()}
            return cls(**found)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedDataError(f"this is no JSON of PromptPairs ({error})") from error

    def __repr__(self) -> str:
        """Task, pairs, words left, pairs dropped."""
        pools = ", ".join(f"{k} {left} of {of}" for k, (left, of) in self.pools.items())
        dropped = ", ".join(f"{n} {why}" for why, n in self.dropped.items()) or "none"
        return f"PromptPairs({self.task}: {len(self)} pairs; words: {pools}; dropped: {dropped})"

    def _repr_html_(self) -> str:
        from lensbench.plots.tables import html_table

        return html_table(self.to_frame(), caption=repr(self))


def _chosen(rows: Any, n: int) -> list[int]:
    try:
        wanted = np.asarray(rows)
    except (ValueError, TypeError, RuntimeError):  # ragged, or a tensor that is no plain array
        wanted = np.empty(0)
    if wanted.dtype == bool and wanted.shape == (n,):
        wanted = np.flatnonzero(wanted)
    one_axis = wanted.ndim == 1 and wanted.size and wanted.dtype.kind in "iu"
    if not one_axis or wanted.min() < -n or wanted.max() >= n:
        raise ConfigError(
            f"rows must be one or more whole numbers from {-n} to {n - 1}, or a mask of {n} "
            f"booleans that is true somewhere; got {type(rows).__name__} {str(rows)[:80]}"
        )
    return [int(i) % n for i in wanted]


_BY_ROW = ("clean_ids", "corrupted_ids", "answer", "foil", "clean_texts", "corrupted_texts",
           "answer_texts", "foil_texts", "wordings")  # fmt: skip
