"""Speculative decoding with a draft model of its own (Leviathan et al. 2023): the baseline.

Nothing is shared between draft and check, so a round costs its drafts in the small model and one
run of the large one; compare :func:`fixed_exit`, whose draft is part of the check.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError
from lensbench.interventions.acceleration.decoding import Decoded, Decoding, Round, native
from lensbench.interventions.acceleration.sampling import Warp
from lensbench.interventions.acceleration.speculative.dynamic import Schedule, by_confidence
from lensbench.interventions.acceleration.speculative.fixed import GoOn
from lensbench.models.base import Model
from lensbench.models.huggingface import NativeModel
from lensbench.models.ranges import Counts, LayerRunner
from lensbench.plan import Plan
from lensbench.tokens import TokensLike


@dataclass(frozen=True)
class DraftedDecoded(Decoded):
    """What two models did together: ``counts`` are those of the model that checks."""

    draft_counts: Counts = field(default_factory=Counts, repr=False)
    """What the draft model ran; its layers are of another size, so the two are never added."""


def speculative_baseline(
    model: Model,
    prompt: TokensLike,
    draft_model: Model,
    draft: int = 4,
    max_new_tokens: int = 64,
    *,
    schedule: Schedule | None = None,
    warp: Warp = Warp(),  # noqa: B008
    seed: int = 0,
    plan: Plan = Plan(),  # noqa: B008
    stop_ids: Sequence[int] = (),
) -> DraftedDecoded:
    """Draft with a second model and check with the first.

    Greedy text equals :func:`greedy` of ``model``; with a temperature, drafts are drawn from the
    draft model's warped distribution and tokens are distributed as those of ``model``.

    Args:
        model: a decoder-only model.
        prompt: one text.
        draft_model: another one with the same vocabulary.
        draft: tokens drafted per round, at least 1.
        max_new_tokens: length of the continuation.
        schedule: ends drafts of up to ``draft`` tokens earlier, such as ``ConfidenceStop``.
        warp: temperature, top-k and top-p of both.
        seed: of the draws.
        plan: acts on ``model`` only.
        stop_ids: tokens after which the text ends.

    Raises:
        ConfigError: models of different vocabularies, a setting out of range, several prompts, no
            room in either context, or an architecture without keys and values per layer.

    Example:
        >>> said = acceleration.speculative_baseline(model, model.tokens(text), early, 3, 8)
    """
    state = Decoding(model, prompt, max_new_tokens, warp, seed, plan, stop_ids)
    small = native(draft_model)
    refuse_other_vocabulary(state.model, small)
    most = whole_number("draft", draft, least=1)
    drafter = ModelDrafter(state, small.layers(state.runner.room))
    go_on = None
    if schedule is not None:
        schedule.new_text()
        most, go_on = min(most, schedule.most), by_confidence(schedule.go_on)
    while not state.done:
        drafter.round(most, go_on)
        if schedule is not None:
            schedule.update(state.rounds[-1].drafted, state.rounds[-1].accepted)
    return DraftedDecoded(**vars(state.result()), draft_counts=drafter.small.counts)


class ModelDrafter:
    """Rounds whose draft is another model, with keys and values of its own."""

    def __init__(self, state: Decoding, small: LayerRunner) -> None:
        self.state, self.small = state, small

    def round(self, most: int, go_on: GoOn | None = None) -> None:
        """Draft up to ``most`` tokens, check, emit."""
        state, text = self.state, len(self.state.ids)
        limit = min(most, state.remaining - 1)
        drafts: list[int] = []
        drawn: list[Tensor | None] = []
        while len(drafts) < limit:
            logits = self._read(self.small, drafts)[-1]
            token, probs = state.sampler.draw_with(logits)
            drafts.append(token)
            drawn.append(probs)
            if go_on is not None and not go_on(len(drafts), logits):
                break
        checked = self._read(state.runner, drafts, last=len(drafts) + 1)
        kept, token = state.sampler.check(drafts, drawn, checked)
        state.emit([*drafts[:kept], token], Round(0, len(drafts), kept))
        for runner in (state.runner, self.small):
            runner.crop(text + kept)

    def _read(self, runner: LayerRunner, drafts: Sequence[int], last: int = 1) -> Tensor:
        """Read what a model has not read yet; logits ``[last, d_vocab]`` of the last tokens."""
        at = max(runner.cache.lengths)  # a block that the plan skips holds none
        ids = torch.tensor([[*self.state.ids, *drafts][at:]], device=runner.model.device)
        h = runner.run(runner.embed(ids, at), 0, runner.n_layers, at)
        return runner.logits(h[:, -last:])[0].to(self.state.model.device)


def refuse_other_vocabulary(model: NativeModel, draft_model: NativeModel) -> None:
    """Refuse a draft model whose ids are other words.

    Raises:
        ConfigError: another number of tokens, or tokenizers that disagree.
    """
    sizes = model.card.d_vocab, draft_model.card.d_vocab
    what = f"{sizes[1]} tokens, the model {sizes[0]}" if sizes[0] != sizes[1] else ""
    if not what and model.tokenizer is not None and draft_model.tokenizer is not None:
        ours, theirs = model.tokenizer.get_vocab(), draft_model.tokenizer.get_vocab()
        differ = sum(theirs.get(word) != i for word, i in ours.items())
        what = f"{differ} words under other ids than the model" if differ else ""
    if what:
        raise ConfigError(
            f"a draft model must have the model's vocabulary; {draft_model.card.name} has {what}. "
            "Choose one of the same tokenizer, or draft with the model itself (fixed_exit)"
        )
