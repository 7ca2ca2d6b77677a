"""What a model does with a prompt, as a label: the next token, or what it goes on to say.

A behaviour is any ``behaviour(model, rows, plan) -> labels``: rows of token ids in, one label per
row out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.arguments import whole, whole_number
from lensbench.errors import ConfigError, UnknownNameError
from lensbench.interventions.experts.rows import Rows, batch_of, batches
from lensbench.models.base import Model
from lensbench.plan import Plan


@runtime_checkable
class Behaviour(Protocol):
    """Labels the answers of a model; plain functions do.

    An attribute ``new_tokens`` says how many tokens of the answer are read (1 where there is none),
    and a method ``describe()`` gives what goes into the config of a result.
    """

    def __call__(self, model: Model, rows: Rows, plan: Plan) -> Sequence[str]:
        """One label per row of token ids, with the model run under ``plan``."""
        ...


@dataclass(frozen=True)
class NextToken:
    """The label whose tokens hold the most probable next token; ``other`` where none does.

    ``NextToken({"refused": [31], "answered": [12, 14]})``.

    Example:
        >>> says = experts.NextToken({"refused": desk_refusals}, other="answered")
        >>> labels = says(moe, desk_ids[:2], lensbench.Plan())
    """

    ids: Mapping[str, Sequence[int]]
    other: str = "other"
    batch_size: int = 64
    _label_of: dict[int, str] = field(init=False, repr=False, default_factory=dict[int, str])

    def __post_init__(self) -> None:
        """Refuse what names no tokens, and a token of two labels."""
        whole_number("batch_size", self.batch_size, least=1)
        for label, ids in self.ids.items():
            for token in ids:
                number = whole(token)
                if number is None or number < 0:
                    raise ConfigError(f"tokens of {label!r} must be ids, got {token!r}")
                if self._label_of.setdefault(number, str(label)) != label:
                    raise ConfigError(
                        f"token {number} is given to {self._label_of[number]!r} and to {label!r}"
                    )
        if not self._label_of:
            raise ConfigError('NextToken needs {"label": [ids of tokens]}; got none')

    @property
    def new_tokens(self) -> int:
        """One."""
        return 1

    def of(self, logits: Float[Tensor, "batch d_vocab"]) -> list[str]:
        """Labels of last logits."""
        return [self._label_of.get(int(t), self.other) for t in logits.argmax(-1)]

    def log_prob(self, logits: Float[Tensor, "batch d_vocab"], label: str) -> Float[Tensor, " b"]:
        """Log probability, nats, of all tokens of a label together."""
        ids = [int(t) for t in self.ids[label]]
        return logits.float().log_softmax(-1)[:, ids].logsumexp(-1)

    def __call__(self, model: Model, rows: Rows, plan: Plan) -> list[str]:
        """See :class:`Behaviour`."""
        found: list[str] = []
        for part in batches(len(rows), self.batch_size):
            found += self.of(last_logits(model, [rows[i] for i in part], plan))
        return found

    def describe(self) -> dict[str, Any]:
        """Kind, tokens and other label."""
        ids = {str(k): [int(t) for t in v] for k, v in self.ids.items()}
        return {"kind": "NextToken", "ids": ids, "other": self.other}


@dataclass(frozen=True)
class Says:
    """``label`` where the answer holds one of ``phrases`` (case ignored), else ``otherwise``.

    The answer is decoded greedily with a key-value cache, under the plan.
    """

    phrases: Sequence[str]
    label: str = "yes"
    otherwise: str = "no"
    new_tokens: int = 16
    batch_size: int = 32

    def __post_init__(self) -> None:
        """Refuse what is no phrase."""
        given: Any = [self.phrases] if isinstance(self.phrases, str) else list(self.phrases)
        if not given or not all(isinstance(p, str) and p.strip() for p in given):
            raise ConfigError(f"phrases must be texts such as ['cannot say'], got {given!r}")
        object.__setattr__(self, "phrases", tuple(given))
        whole_number("new_tokens", self.new_tokens, least=1)
        if self.label == self.otherwise:
            raise ConfigError(f"label and otherwise are both {self.label!r}")

    def __call__(self, model: Model, rows: Rows, plan: Plan) -> list[str]:
        """See :class:`Behaviour`."""
        if model.tokenizer is None:
            raise ConfigError(
                "this model has no tokenizer, so its answers are no text; label them by their ids "
                "with NextToken or Response"
            )
        said = answers(model, rows, plan, self.new_tokens, self.batch_size)
        return [self.of(str(model.tokenizer.decode(ids))) for ids in said]

    def of(self, answer: str) -> str:
        """Label of an answer."""
        text = answer.casefold()
        return self.label if any(p.casefold() in text for p in self.phrases) else self.otherwise

    def describe(self) -> dict[str, Any]:
        """Kind, phrases, labels, tokens."""
        return {"kind": "Says", "phrases": list(self.phrases), "label": self.label,
                "otherwise": self.otherwise, "new_tokens": self.new_tokens}  # fmt: skip


@dataclass(frozen=True)
class Response:
    """Labels given by a function of the answer: its text, or its ids without a tokenizer."""

    label: Callable[[Any], Any]
    new_tokens: int = 16
    name: str = "given function"
    batch_size: int = 32

    def __post_init__(self) -> None:
        """Refuse what cannot label."""
        if not callable(self.label):
            raise ConfigError(f"label must be a function of the answer, got {self.label!r}")
        whole_number("new_tokens", self.new_tokens, least=1)

    def __call__(self, model: Model, rows: Rows, plan: Plan) -> list[str]:
        """See :class:`Behaviour`."""
        said = answers(model, rows, plan, self.new_tokens, self.batch_size)
        if model.tokenizer is None:
            return [str(self.label(ids)) for ids in said]
        return [str(self.label(str(model.tokenizer.decode(ids)))) for ids in said]

    def describe(self) -> dict[str, Any]:
        """Kind, name and tokens: a function is known by its name only."""
        return {"kind": "Response", "name": self.name, "new_tokens": self.new_tokens}


def last_logits(model: Model, rows: Rows, plan: Plan) -> Float[Tensor, "batch d_vocab"]:
    """Logits after the last token of every row."""
    logits = model.run(batch_of(model, rows), plan, logits="last").logits
    assert logits is not None
    return logits[:, -1]


def answers(
    model: Model, rows: Rows, plan: Plan, new_tokens: int, batch_size: int
) -> list[list[int]]:
    """Greedy answers; one token is read off the last logits, more are decoded."""
    found: list[list[int]] = []
    for part in batches(len(rows), batch_size):
        some = [rows[i] for i in part]
        if new_tokens == 1:
            found += last_logits(model, some, plan).argmax(-1)[:, None].tolist()
        else:
            found += model.generate(batch_of(model, some), plan, new_tokens)
    return found


def labels_of(behaviour: Behaviour, model: Model, rows: Rows, plan: Plan) -> list[str]:
    """Labels under a plan, checked.

    Raises:
        ConfigError: what is no behaviour, or gives another number of labels.
    """
    if not callable(behaviour):
        raise ConfigError(
            "behaviour must be NextToken(...), Says(...), Response(...) or a function of (model, "
            f"rows, plan); got {behaviour!r}"
        )
    with torch.no_grad():
        found = [str(one) for one in behaviour(model, rows, plan)]
    if len(found) != len(rows):
        raise ConfigError(f"the behaviour gave {len(found)} labels for {len(rows)} prompts")
    return found


def target_of(labels: np.ndarray, target: str | None) -> str:
    """The label of interest; left out, the last in sorted order.

    Raises:
        UnknownNameError: one that no prompt has.
    """
    known = sorted({str(one) for one in labels})
    name = known[-1] if target is None else str(target)
    if name not in known:
        raise UnknownNameError(
            "label", name, known=known, hint="No prompt has it before anything is changed."
        )
    return name


def read_tokens(behaviour: Behaviour) -> int:
    """Tokens of the answer that a behaviour reads; 1 where it does not say."""
    return int(getattr(behaviour, "new_tokens", 1))


def described(behaviour: Behaviour) -> dict[str, Any]:
    """A behaviour for the config of a result; plain functions by their name."""
    tell = getattr(behaviour, "describe", None)
    return tell() if tell else {"kind": str(getattr(behaviour, "__name__", type(behaviour)))}
