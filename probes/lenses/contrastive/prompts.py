"""Neighbours of layer contrast: rules that contrast two prompts, or two models, at the last layer.

They read no states. The second text goes on with the tokens chosen for the first, in a cache of its
own. Sources: context-aware decoding, Shi et al. 2024, arXiv:2305.14739; SH2, Kai et al. 2024,
arXiv:2401.05930; contrastive decoding, Li et al. 2023, arXiv:2210.15097.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from torch import Tensor

from lensbench.arguments import positive_number, whole_number
from lensbench.errors import ConfigError
from lensbench.probes.lenses.contrastive.divergence import check_share, check_strength, plausible
from lensbench.probes.lenses.contrastive.rules import (
    Contrast,
    ContrastiveRule,
    picked,
    same_vocabulary,
)
from lensbench.probes.lenses.prompts import id_rows
from lensbench.tokens import TokensLike

if TYPE_CHECKING:
    from lensbench.models import Model


Logits = Float[Tensor, "... d_vocab"]


class TwoPredictions(ContrastiveRule):
    """A rule that reads no states: two predictions of the same token in, scores out."""

    @abstractmethod
    def of_two(self, first: Logits, second: Logits) -> Contrast:
        """Scores from the logits of the prompt that is decoded and those of the second text."""

    def contrast(  # noqa: D102 - documented in the base
        self, states: Sequence[Float[Tensor, "... d_model"]], logits: Logits, other: Logits | None
    ) -> Contrast:
        del states
        assert other is not None
        return self.of_two(logits.float(), other.float())


@dataclass(frozen=True, eq=False)
class ContextAware(TwoPredictions):
    """Context-aware decoding: (1 + alpha) z(with context) - alpha z(without).

    The prompt that is decoded holds the context; ``without`` is the same without it (one row, or
    one per prompt). Source: Shi et al. 2024, arXiv:2305.14739, equation 3.
    """

    model: "Model"
    without: TokensLike
    alpha: float = 0.5
    plausibility: float = 0.0

    def __post_init__(self) -> None:
        """Check the settings."""
        self.model.require_next_token("context-aware decoding")
        check_strength(self.alpha)
        check_share(self.plausibility)
        id_rows(self.without)

    def second(  # noqa: D102 - documented in the base
        self, prompt: Sequence[Sequence[int]], rows: Sequence[int]
    ) -> "tuple[Model, list[list[int]]]":
        return self.model, picked(id_rows(self.without), rows, len(prompt), "without")

    def of_two(self, first: Logits, second: Logits) -> Contrast:  # noqa: D102 - documented in the base
        scores = (1 + self.alpha) * first - self.alpha * second
        return Contrast(scores, plausible(first.log_softmax(-1), self.plausibility))


@dataclass(frozen=True, eq=False)
class ContrastiveDecoding(TwoPredictions):
    """Contrastive decoding: log p(expert) - log p(amateur) on the expert's plausible tokens.

    The expert is the model that decodes; ``amateur`` a weaker one of the same vocabulary, with a
    temperature of its own; ``prompt`` what it reads, if not the expert's prompt.
    Source: Li et al. 2023, arXiv:2210.15097, equations 2 to 4.
    """

    model: "Model"
    amateur: "Model"
    prompt: "TokensLike | None" = None
    plausibility: float = 0.1
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Check the settings, and that both speak of the same tokens."""
        self.model.require_next_token("contrastive decoding")
        self.amateur.require_next_token("contrastive decoding")
        same_vocabulary(self.model, self.amateur)
        check_share(self.plausibility)
        positive_number("temperature", self.temperature)

    def second(  # noqa: D102
        self, prompt: Sequence[Sequence[int]], rows: Sequence[int]
    ) -> "tuple[Model, list[list[int]]]":
        if self.prompt is None:
            return self.amateur, [list(prompt[i]) for i in rows]
        return self.amateur, picked(id_rows(self.prompt), rows, len(prompt), "prompt")

    def of_two(self, first: Logits, second: Logits) -> Contrast:  # noqa: D102
        expert = first.log_softmax(-1)
        amateur = (second / self.temperature).log_softmax(-1)
        return Contrast(expert - amateur, plausible(expert, self.plausibility))


@dataclass(frozen=True, eq=False)
class SH2(TwoPredictions):
    """Self-highlighted hesitation: lp(ponder) + alpha (lp(ponder) - lp(plain)), lp log-probability.

    The prompt that is decoded is the plain one; ``ponder`` is what :func:`hesitation_prompt` makes
    of it. Plausible tokens are those of ``ponder``. ``alpha=0`` is the pondering prompt alone.
    Source: Kai et al. 2024, arXiv:2401.05930 (alpha 0.1 to 6 by task).
    """

    model: "Model"
    ponder: TokensLike
    alpha: float = 0.1
    plausibility: float = 0.1

    def __post_init__(self) -> None:
        """Check the settings."""
        self.model.require_next_token("SH2")
        check_strength(self.alpha)
        check_share(self.plausibility)
        id_rows(self.ponder)

    def second(  # noqa: D102
        self, prompt: Sequence[Sequence[int]], rows: Sequence[int]
    ) -> "tuple[Model, list[list[int]]]":
        return self.model, picked(id_rows(self.ponder), rows, len(prompt), "ponder")

    def of_two(self, first: Logits, second: Logits) -> Contrast:  # noqa: D102
        ponder, plain = second.log_softmax(-1), first.log_softmax(-1)
        scores = ponder + self.alpha * (ponder - plain)
        return Contrast(scores, plausible(ponder, self.plausibility))


def hesitation_prompt(
    model: "Model",
    text: str,
    *,
    k: int = 8,
    seed: int = 0,
    template: str = "Pondering: {keys}\n\nContext:{text}",
) -> str:
    """The text behind those of its tokens that surprise the model most.

    Of T tokens the max(floor(0.015 k T), 1) least probable are looked up, of these a random
    max(floor(0.01 k T), 1) kept, in their order. Source: Kai et al. 2024, arXiv:2401.05930; the
    choice is seeded here.

    Raises:
        ConfigError: no tokenizer, a text of no scored token, a template without its two places.

    Example:
        >>> longer = probes.hesitation_prompt(model, text, k=2)
    """
    if "{keys}" not in template or "{text}" not in template:
        raise ConfigError(f"template must hold {{keys}} and {{text}}, got {template!r}")
    k = whole_number("k", k, least=1)
    ids = model.tokens(text).ids
    size = ids.shape[1] - 1
    if size < 1:
        raise ConfigError(f"the text {text!r} has no token that another one precedes")
    logits = model.run(ids).logits
    assert logits is not None
    following = ids[0, 1:, None].to(logits.device)
    said = logits[0, :-1].float().log_softmax(-1).gather(1, following)[:, 0].cpu().numpy()
    unsure = np.argsort(said, kind="stable")[: min(max(int(0.015 * k * size), 1), size)]
    n = min(max(int(0.01 * k * size), 1), len(unsure))
    places = np.sort(np.random.default_rng(seed).choice(unsure, n, replace=False)) + 1
    keys = model.tokenizer.decode(ids[0, places].tolist())
    return template.format(keys=keys, text=text)
