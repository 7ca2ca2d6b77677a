"""The shape that all contrastive rules share: states or a second prediction in, scores out.

A rule is a value: it can be given to ``Model.generate(choose=rule)``, to ``contrastive_decode``
(the same with a table of what it did) and to ``score_answers``; ``rule.processor()`` is the same
rule for transformers' own ``generate``.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lensbench.errors import ConfigError
from lensbench.models.base import Past
from lensbench.models.steps import DecodingStep
from lensbench.probes.lenses.prompts import id_rows
from lensbench.sites import Site
from lensbench.tokens import Tokens

if TYPE_CHECKING:
    from lensbench.models import Model
    from lensbench.probes.lenses.contrastive.processor import ContrastiveProcessor

FORBIDDEN = -1000.0
"""Log-probability of an implausible token when given answers are scored, as in DoLa's code."""


@dataclass(frozen=True, eq=False)
class Contrast:
    """Scores of the next token, which tokens are allowed, and how the scores came about."""

    scores: Float[Tensor, "... d_vocab"]
    kept: Bool[Tensor, "... d_vocab"]
    chosen: Int[Tensor, "..."] | None = None
    """Which of the rule's depths was used."""
    measured: Float[Tensor, "... depths"] | None = None
    """What the choice was made by."""

    def cut(self) -> Float[Tensor, "... d_vocab"]:
        """Scores for decoding: minus infinity where a token is not allowed."""
        return self.scores.masked_fill(~self.kept, -torch.inf)

    def log_probs(self) -> Float[Tensor, "... d_vocab"]:
        """The log softmax of the scores over all tokens, then ``FORBIDDEN`` where not allowed."""
        return self.scores.log_softmax(-1).masked_fill(~self.kept, FORBIDDEN)


class ContrastiveRule(ABC):
    """A rule of decoding that subtracts, or adds, a second prediction."""

    model: "Model"
    depths: Sequence[int] = ()
    """Layers it may use, by blocks passed: 0 the embeddings, j the output of block j - 1."""
    measures: ClassVar[str] = ""
    """Name and unit of what layers are chosen by."""

    @property
    def sites(self) -> tuple[Site, ...]:
        """Sites of :attr:`depths`."""
        return tuple(site_at(depth) for depth in self.depths)

    @abstractmethod
    def contrast(
        self,
        states: Sequence[Float[Tensor, "... d_model"]],
        logits: Float[Tensor, "... d_vocab"],
        other: Float[Tensor, "... d_vocab"] | None,
    ) -> Contrast:
        """Scores from the states at :attr:`sites`, the logits, and those of the second text."""

    def second(
        self, prompt: Sequence[Sequence[int]], rows: Sequence[int]
    ) -> "tuple[Model, list[list[int]]] | None":
        """The model and the texts of the second prediction beside prompts ``rows`` of all."""
        del prompt, rows

    def of_step(self, step: DecodingStep) -> Contrast:
        """The contrast at one step of decoding."""
        states = [step.acts[str(site)] for site in self.sites]
        return self.contrast(states, step.logits, self._other(step))

    def __call__(self, step: DecodingStep) -> Float[Tensor, "batch d_vocab"]:
        """Scores of one step; minus infinity where a token is not allowed."""
        return self.of_step(step).cut()

    def processor(
        self, attention_mask: Int[Tensor, "batch pos"] | Bool[Tensor, "batch pos"] | None = None
    ) -> "ContrastiveProcessor":
        """The rule as a transformers ``LogitsProcessor``.

        ``model.module.generate(ids, logits_processor=[rule.processor()])`` gives the tokens of
        ``model.generate(ids, choose=rule)``. Several rows need the ``attention_mask`` that
        ``generate`` gets, as a processor is not told what is padding. States come from a second
        pass up to the deepest of :attr:`depths`; the module is left as it is.

        Raises:
            ConfigError: another back end than the native one, or padding on the right.
        """
        from lensbench.probes.lenses.contrastive.processor import ContrastiveProcessor

        return ContrastiveProcessor(self, attention_mask)

    def _other(self, step: DecodingStep) -> Tensor | None:
        """Logits of the second text, which goes on with the tokens chosen for the first."""
        texts = id_rows(step.prompt)
        found = self.second(texts, range(len(texts)))
        if found is None:
            return None
        model, rows = found
        if model.card.backend == "transformer_lens":  # keeps no cache
            longer = [row + new for row, new in zip(rows, step.new.tolist(), strict=True)]
            return _last(model.run(longer, logits="last").logits, step.logits)
        past = step.memory.get("second")
        if past is None:
            out = model.run(rows, logits="last", past=Past())
        else:
            out = model.run(Tokens(step.new[:, -1:]), logits="last", past=past)
        step.memory["second"] = out.past
        return _last(out.logits, step.logits)


def site_at(depth: int) -> Site:
    """Where the residual stream has passed ``depth`` blocks."""
    return Site("resid_pre", 0) if depth == 0 else Site("resid_post", depth - 1)


def picked(given: Sequence[list[int]], rows: Sequence[int], n: int, name: str) -> list[list[int]]:
    """The texts that belong to prompts ``rows`` of ``n``; one text serves all.

    Raises:
        ConfigError: neither one text nor one per prompt.
    """
    if len(given) not in (1, n):
        raise ConfigError(f"{name} has {len(given)} rows for {n} prompts; give one, or one per "
                          "prompt")  # fmt: skip
    return [given[0 if len(given) == 1 else i] for i in rows]


def same_vocabulary(a: "Model", b: "Model") -> None:
    """Refuse models whose logits are not about the same tokens.

    Raises:
        ConfigError: other sizes, or tokenizers with another vocabulary.
    """
    words = [getattr(m.tokenizer, "get_vocab", lambda: None)() for m in (a, b)]
    differ = None not in words and words[0] != words[1]
    if a.card.d_vocab != b.card.d_vocab or differ:
        raise ConfigError(
            f"{a.card.name!r} ({a.card.d_vocab} tokens) and {b.card.name!r} ({b.card.d_vocab}) "
            "have other vocabularies, so their logits cannot be subtracted"
        )


def _last(logits: Tensor | None, like: Tensor) -> Tensor:
    assert logits is not None  # asked for
    return logits[:, -1].to(like)
