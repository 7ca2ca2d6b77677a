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
from lensbench.prompts.several import Several, known_several, refuse_beyond, too_long
from lensbench.tokens import Tokens, as_tokens

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class PromptPairs:
    """Clean and corrupted prompts, row by row equally long, with the same roles at the same places.

    A position counts the real tokens of its row, BOS included, as ``Edit(positions=...)`` does;
    it is the last token of the word that plays the role. ``answer`` is right after the clean
    prompt and ``foil`` is not. After the corrupted one it is the reverse where ``flips``.
    Of an answer of several tokens ``answer`` is the first and ``answer_rest`` the others;
    ``several`` says whether all are scored (``sum``) or the first alone (``first``).

    Example:
        >>> frame = prompts.recall(model, n=4).to_frame()
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
    several: Several = "refuse"
    """How answers and foils of several tokens are scored: not at all, summed, by their first."""
    answer_rest: tuple[tuple[int, ...], ...] = ()
    """Tokens of each answer behind its first; empty where it has one."""
    foil_rest: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        """Refuse pairs that are not aligned: whatever made them is at fault."""
        known_several(self.several)
        for name in _RESTS:
            given = tuple(map(tuple, getattr(self, name))) or ((),) * len(self)
            object.__setattr__(self, name, given)
            if len(given) != len(self):
                raise ConfigError(f"{name} has {len(given)} entries for {len(self)} pairs")
        for row, (a, b) in enumerate(zip(self.clean_ids, self.corrupted_ids, strict=True)):
            if len(a) != len(b):
                raise ConfigError(f"pair {row}: {len(a)} clean tokens, {len(b)} corrupted ones")
        if self.several == "refuse" and (longer := self.longer):
            raise ConfigError(self._too_long(longer[0]))

    def _too_long(self, row: int) -> str:
        shown = ", ".join(
            f"{name} {text!r} {list(ids)}"
            for name, text, ids in (
                ("answer", self.answer_texts[row], self.answers[row]),
                ("foil", self.foil_texts[row], self.foils[row]),
            )
        )
        return too_long(f"pair {row}", shown)

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

    @property
    def answers(self) -> tuple[tuple[int, ...], ...]:
        """All tokens of every answer."""
        return tuple((a, *rest) for a, rest in zip(self.answer, self.answer_rest, strict=True))

    @property
    def foils(self) -> tuple[tuple[int, ...], ...]:
        """All tokens of every foil."""
        return tuple((f, *rest) for f, rest in zip(self.foil, self.foil_rest, strict=True))

    @property
    def longer(self) -> list[int]:
        """Numbers of the pairs whose answer or foil is several tokens."""
        both = zip(self.answer_rest, self.foil_rest, strict=True)
        return [row for row, rests in enumerate(both) if any(rests)]

    @property
    def summed(self) -> bool:
        """Whether something here is scored by several tokens; else the next token says it all."""
        return self.several == "sum" and bool(self.longer)

    def scored(self, several: Several) -> "PromptPairs":
        """The same pairs with answers of several tokens scored in another way.

        Raises:
            UnknownNameError: none of ``refuse``, ``sum``, ``first``.
            ConfigError: ``refuse`` where there are such answers (with their tokens), or ``first``
                where answer and foil then are one token.
        """
        same = [r for r, (a, f) in enumerate(zip(self.answer, self.foil, strict=True)) if a == f]
        if several == "first" and same:
            raise ConfigError(
                f"pair {same[0]}: answer {list(self.answers[same[0]])} and foil "
                f"{list(self.foils[same[0]])} begin with the same token; score them by 'sum'"
            )
        return replace(self, several=several)

    def scoring(self) -> dict[str, Any]:
        """What a result records of answers of several tokens; nothing where there are none."""
        if not (longer := self.longer):
            return {}
        return {"several": self.several, "pairs_of_several_tokens": len(longer)}

    def require_next_token(self, what: str) -> None:
        """Refuse pairs whose answers one token cannot score.

        Raises:
            ConfigError: an answer of several tokens that is to be summed.
        """
        if self.summed:
            raise ConfigError(
                f"{what} scores the token after the prompt, and {len(self.longer)} of "
                f"{len(self)} pairs have an answer or foil of several tokens that is to be summed; "
                "patch_sweep, ablation_sweep, path_patch and prompts.score sum. Here: "
                "pairs.scored('first'), or select other pairs"
            )

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

        Raises:
            ConfigError: answers that are to be summed: see :func:`lensbench.prompts.score`.
            MismatchError: an answer or foil that these logits do not have.
        """
        import torch

        self.require_next_token("logit_diff")
        last, row = logits[:, -1].float(), torch.arange(len(self), device=logits.device)
        ids = torch.tensor([self.answer, self.foil], device=logits.device)
        refuse_beyond(ids, last.shape[-1])
        return last[row, ids[0]] - last[row, ids[1]]

    def fingerprint(self) -> str:
        """Changes with any token, position or answer that is scored."""
        known = [self.clean_ids, self.corrupted_ids, self.answer, self.foil, dict(self.roles)]
        return io.fingerprint([*known, *((self.answers, self.foils) if self.summed else ())])

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
        """Pairs, pairs dropped, wordings, words left of each pool, and answers of several tokens.

        ``cut to first token`` or ``summed over tokens`` counts the pairs with such an answer or
        foil; without either there is none.
        """
        told = "cut to first token" if self.several == "first" else "summed over tokens"
        several = {told: float(len(self.longer))} if self.longer else {}
        left = {f"{name} left": float(n) for name, (n, _) in self.pools.items()}
        dropped = float(sum(self.dropped.values()))
        used = float(len(set(self.wordings)))
        return {"pairs": float(len(self)), "dropped": dropped, "wordings": used, **left, **several}

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
            for name in _RESTS:
                found.setdefault(name, ())  # of pairs from before answers could be longer
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
        told = "".join(f"; {k}: {v:.0f}" for k, v in self.summary().items() if " token" in k)
        words = f"words: {pools}; " if pools else ""
        return f"PromptPairs({self.task}: {len(self)} pairs; {words}dropped: {dropped}{told})"

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


_RESTS = ("answer_rest", "foil_rest")
_BY_ROW = ("clean_ids", "corrupted_ids", "answer", "foil", "clean_texts", "corrupted_texts",
           "answer_texts", "foil_texts", "wordings", "answer_rest", "foil_rest")  # fmt: skip
