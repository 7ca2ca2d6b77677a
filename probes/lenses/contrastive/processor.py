"""A contrastive rule inside transformers' own ``generate``, as a ``LogitsProcessor``.

transformers hands a processor the tokens and the scores of a step, never hidden states. So the
states are read by a pass of the waist beside it, with a cache of its own, that stops behind the
deepest layer the rule reads. No hook is added, so nothing is left behind when a step fails; the
price is those blocks a second time. ``Model.generate(choose=rule)`` reads them from the one pass.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import LogitsProcessor

from lensbench.errors import ConfigError
from lensbench.models.base import Acts, Past
from lensbench.models.steps import DecodingStep
from lensbench.plan import Plan
from lensbench.probes.lenses.contrastive.rules import ContrastiveRule
from lensbench.sites import Site
from lensbench.tokens import Tokens


class ContrastiveProcessor(LogitsProcessor):
    """Scores of a rule for transformers; made by :meth:`ContrastiveRule.processor`.

    It follows one call of ``generate`` from step to step, and begins anew when the tokens are not
    those of the last step and one more. Tokens that another processor forbade stay forbidden.
    """

    def __init__(self, rule: ContrastiveRule, attention_mask: Tensor | None = None) -> None:
        card = rule.model.card
        if card.backend != "native":
            raise ConfigError(
                f"a processor serves the generate of a transformers module; {card.name!r} is "
                f"reached through {card.backend}. Use Model.generate(choose=rule), or the native "
                "back end"
            )
        self.rule = rule
        self._mask = None if attention_mask is None else _checked(attention_mask)
        self._plan = Plan(stop=max(rule.depths, default=0))
        self._prompt: Tokens | None = None
        self._seen: Tensor | None = None
        self._past: Past | None = Past()
        self._memory: dict[str, Any] = {}

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride] - their annotation is narrower
        self, input_ids: Int[Tensor, "batch pos"], scores: Float[Tensor, "batch d_vocab"]
    ) -> Float[Tensor, "batch d_vocab"]:
        """Scores of the rule at one step.

        Raises:
            ConfigError: several rows without a mask, scores of another model, a row in which
                every token is forbidden, or layers that cannot be told apart for that.
        """
        width = self.rule.model.card.d_vocab
        if scores.shape[-1] != width:
            raise ConfigError(
                f"the scores are of {scores.shape[-1]} tokens, and {self.rule.model.card.name!r}, "
                f"whose rule this is, has {width}; generate with that model's module"
            )
        new = self._new_tokens(input_ids)
        self._seen = None  # a step that fails has used its past up: the next one begins anew
        assert self._prompt is not None
        acts = self._states(new)
        chosen = input_ids[:, self._prompt.n_pos :]
        step = DecodingStep(self._prompt, chosen, acts, scores, self._memory)
        contrast = self.rule.of_step(step)
        if contrast.measured is not None and not bool(torch.isfinite(contrast.measured).all()):
            raise ConfigError(
                f"the {self.rule.measures} is not finite at some layer, so none can be chosen: "
                "another logits processor forbids tokens that an earlier layer predicts (use "
                "divergence='paper_jsd'), or the states are no numbers"
            )
        found = contrast.cut().masked_fill(scores == -torch.inf, -torch.inf).to(scores)
        if not bool(torch.isfinite(found.amax(-1)).all()):
            raise ConfigError(
                "a row of the rule's scores has no finite largest one: every token it allows is "
                "forbidden by another logits processor, or the logits are no numbers"
            )
        self._seen = input_ids
        return found

    def _new_tokens(self, ids: Tensor) -> Tokens:
        """What the states are still to be read of: the last token, or a whole new prompt."""
        seen = self._seen
        if seen is not None and seen.shape == ids[:, :-1].shape and torch.equal(seen, ids[:, :-1]):
            return Tokens(ids[:, -1:])
        mask = self._mask
        if mask is None and len(ids) > 1:
            raise ConfigError(
                f"{len(ids)} rows: a processor is not told which of their tokens are padding. Make "
                "it with rule.processor(attention_mask), the mask that generate gets; beams are "
                "not supported"
            )
        if mask is not None and mask.shape != ids.shape:
            raise ConfigError(
                f"attention_mask is {list(mask.shape)}, and generate began with {list(ids.shape)} "
                "tokens; make a processor for each prompt (beams are not supported)"
            )
        real = None if mask is None or bool(mask.all()) else mask.to(ids.device)
        self._prompt = Tokens(ids, real)
        self._past, self._memory = Past(), {}
        return self._prompt

    def _states(self, new: Tokens) -> Acts:
        sites = self.rule.sites
        if not sites:
            return Acts({})
        out = self.rule.model.run(new, self._plan, sites, logits="none", past=self._past)
        self._past = out.past
        return Acts({Site.parse(name): x[:, -1] for name, x in out.acts.items()})


def _checked(mask: Any) -> Bool[Tensor, "batch pos"]:
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        got = list(mask.shape) if isinstance(mask, Tensor) else repr(mask)
        raise ConfigError(f"attention_mask must be a tensor [batch, pos], got {got}")
    real = mask.bool()
    if not bool(real[:, -1].all()):
        raise ConfigError("generation needs prompts padded on the left; this mask ends in padding")
    return real
