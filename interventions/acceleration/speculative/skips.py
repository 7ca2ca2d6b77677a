"""Draft & Verify (Zhang et al. 2024): the draft is the model without some sublayers.

1. The prompt and the first token are the full model's.
2. A draft runs token by token with attention and MLP sublayers left out. Its attention reads the
   full model's keys and values of the checked text, and its own of what it drafted.
3. Drafting stops after a token of low probability, under a threshold that follows the acceptance.
4. What the draft stored is forgotten, the full model runs over the last token and all drafts, and
   the longest part it would have written itself is kept, with one token of its own.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from lensbench.interventions.acceleration.decoding import Decoded, Decoding, Round
from lensbench.interventions.acceleration.sampling import Warp
from lensbench.interventions.acceleration.speculative.dynamic import Schedule, by_confidence
from lensbench.interventions.acceleration.speculative.fixed import GoOn
from lensbench.interventions.acceleration.speculative.schedules import AdaptiveThreshold
from lensbench.models.base import Model
from lensbench.models.ranges import Sublayer
from lensbench.models.ranges.omission import check_sublayers
from lensbench.plan import Plan
from lensbench.tokens import TokensLike


def draft_and_verify(
    model: Model,
    prompt: TokensLike,
    skips: Iterable[Sublayer],
    max_new_tokens: int = 64,
    *,
    schedule: Schedule | None = None,
    warp: Warp = Warp(),  # noqa: B008
    seed: int = 0,
    plan: Plan = Plan(),  # noqa: B008
    stop_ids: Sequence[int] = (),
) -> Decoded:
    """Draft with the model less some sublayers and check with all of it.

    Greedy text equals :func:`greedy`; with a temperature, drafts are drawn from the draft's warped
    distribution and kept by the acceptance rule, so tokens are distributed as the full model's.
    (The released sampling code drafts greedily and divides by the softmax, which is biased.)

    Args:
        model: a decoder-only model.
        prompt: one text.
        skips: sublayers left out of the draft, such as ``[("attn", 3), ("mlp", 3)]``; see
            :func:`search_skips`. With none the draft is the full model.
        max_new_tokens: length of the continuation.
        schedule: default ``AdaptiveThreshold()``, beginning at .6 with up to 12 drafts. It moves by
            .001 a round, so hand one object from text to text.
        warp: temperature, top-k and top-p of draft and check alike.
        seed: of the draws.
        plan: acts on draft and check alike.
        stop_ids: tokens after which the text ends.

    Raises:
        ConfigError: a sublayer that the model has not, a setting out of range, several prompts, or
            an architecture without keys and values per layer.

    Example:
        >>> said = acceleration.draft_and_verify(
        ...     early, early.tokens(text), [("attn", 4), ("mlp", 4)], 8
        ... )
    """
    state = Decoding(model, prompt, max_new_tokens, warp, seed, plan, stop_ids)
    omit = check_sublayers(skips, state.runner.n_layers)
    schedule = AdaptiveThreshold() if schedule is None else schedule
    schedule.new_text()
    drafter, go_on = SkipDrafter(state), by_confidence(schedule.go_on)
    while not state.done:
        drafter.round(omit, schedule.most, go_on)
        schedule.update(state.rounds[-1].drafted, state.rounds[-1].accepted)
    return state.result()


class SkipDrafter:
    """Rounds whose draft leaves sublayers out; which ones may change from round to round.

    Made with the first token of the text. Between rounds every block holds all tokens but the last.
    """

    def __init__(self, state: Decoding) -> None:
        self.state, self.runner = state, state.runner
        logits = self._run([*state.ids], 0, frozenset())
        state.emit([state.sampler.draw(logits[-1])], Round(0, 0, 0))

    def round(self, omit: frozenset[Sublayer], most: int, go_on: GoOn | None = None) -> None:
        """Draft up to ``most`` tokens without ``omit``, check, emit."""
        state = self.state
        limit, at = min(most, state.remaining - 1), len(state.ids) - 1
        drafts: list[int] = []
        drawn: list[Tensor | None] = []
        while len(drafts) < limit:
            last = [drafts[-1] if drafts else state.ids[-1]]
            logits = self._run(last, at + len(drafts), omit)[-1]
            token, probs = state.sampler.draw_with(logits)
            drafts.append(token)
            drawn.append(probs)
            if go_on is not None and not go_on(len(drafts), logits):
                break
        self.runner.crop(at)
        checked = self._run([state.ids[-1], *drafts], at, frozenset(), every=True)
        kept, token = state.sampler.check(drafts, drawn, checked)
        state.emit([*drafts[:kept], token], Round(0, len(drafts), kept))
        self.runner.crop(at + 1 + kept)

    def _run(
        self, ids: Sequence[int], at: int, omit: frozenset[Sublayer], *, every: bool = False
    ) -> Tensor:
        """Logits of the last of these tokens, or of each, ``[n, d_vocab]``."""
        runner = self.runner
        tokens = torch.tensor([ids], device=self.state.model.device)
        h = runner.run(runner.embed(tokens, at), 0, runner.n_layers, at, omit=omit)
        return runner.logits(h if every else h[:, -1:])[0]
