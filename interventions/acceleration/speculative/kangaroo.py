"""Kangaroo live (Liu et al. 2024): the first layers and a trained adapter draft.

1. The first E layers run token by token; the adapter reads their states and the frozen head names
   the next token. The adapter keeps keys and values of its own.
2. Second exit: drafting stops after a token whose probability is below the threshold (the paper's
   .6), or after 6. The token that was not sure is drafted and checked all the same.
3. The other layers run once over the exit states of the last token and all drafts, as in LayerSkip;
   blocks and adapter forget what was refused.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lensbench.interventions.acceleration.decoding import Decoded, Decoding
from lensbench.interventions.acceleration.sampling import Warp
from lensbench.interventions.acceleration.speculative.dynamic import Schedule, by_confidence
from lensbench.interventions.acceleration.speculative.fixed import PrefixDrafter
from lensbench.interventions.acceleration.speculative.kangaroo_adapter import KangarooAdapter
from lensbench.interventions.acceleration.speculative.schedules import ConfidenceStop
from lensbench.models.base import Model
from lensbench.models.ranges.buffers import Buffers
from lensbench.plan import Plan
from lensbench.tokens import TokensLike


def kangaroo(
    model: Model,
    prompt: TokensLike,
    adapter: KangarooAdapter,
    max_new_tokens: int = 64,
    *,
    schedule: Schedule | None = None,
    warp: Warp = Warp(),  # noqa: B008
    seed: int = 0,
    plan: Plan = Plan(),  # noqa: B008
    stop_ids: Sequence[int] = (),
) -> Decoded:
    """Draft with the first layers and an adapter, check with the rest.

    Greedy text equals :func:`greedy`; with a temperature, tokens are distributed as the full
    model's. The adapter's own attention and projections are not among the counted layers; its heads
    are among the heads.

    Args:
        model: the decoder-only model that the adapter was trained for.
        prompt: one text.
        adapter: see :func:`train_kangaroo`; its exit layer drafts.
        max_new_tokens: length of the continuation.
        schedule: default ``ConfidenceStop(.6, 6)``.
        warp: temperature, top-k and top-p of draft and check alike.
        seed: of the draws.
        plan: acts on draft and check alike.
        stop_ids: tokens after which the text ends.

    Raises:
        MismatchError: an adapter of another model.
        ConfigError: a setting out of range, several prompts, or an architecture without keys and
            values per layer.

    Example:
        >>> adapter = acceleration.train_kangaroo(
        ...     own, early, exit_layer=2, config={"steps": 2, "holdout": 0.5}
        ... )
        >>> said = acceleration.kangaroo(early, early.tokens(text), adapter, 6)
    """
    adapter.check_model(model)
    state = Decoding(model, prompt, max_new_tokens, warp, seed, plan, stop_ids)
    schedule = ConfidenceStop(0.6, 6) if schedule is None else schedule
    schedule.new_text()
    drafter, go_on = AdapterDrafter(state, adapter), by_confidence(schedule.go_on)
    while not state.done:
        drafter.round(adapter.exit_layer, schedule.most, go_on)
        drafter.forget()
        schedule.update(state.rounds[-1].drafted, state.rounds[-1].accepted)
    return state.result()


class AdapterDrafter(PrefixDrafter):
    """Rounds whose exit states pass an adapter before the head.

    The last draft of a round passes the lower layers for the check only, so after a fully accepted
    round the adapter still has to read it: unread states wait.
    """

    def __init__(self, state: Decoding, adapter: KangarooAdapter) -> None:
        super().__init__(state)
        self.adapter = adapter
        self._cache = Buffers(1, state.runner.room)
        self._unread: list[Tensor] = []

    def forget(self) -> None:
        """Drop what the last round refused."""
        self._cache.crop(self.done, [0])
        waiting = self.done - self._cache.lengths[0]
        joined = torch.cat(self._unread, 1)[:, :waiting] if self._unread else None
        self._unread = [joined] if joined is not None and joined.shape[1] else []

    def _logits(self, h: Tensor, at: int) -> Tensor:
        del h, at  # among the unread states
        new = torch.cat(self._unread, 1)
        self._unread = []
        with torch.inference_mode():
            y = self.adapter(new, self._cache.lengths[0], self._cache)
            self.runner.counts.heads += 1
            return self.adapter.unembed(y[:, -1:])[0, -1]

    def _run(self, h: Tensor, first: int, last: int, at: int) -> Tensor:
        out = super()._run(h, first, last, at)
        if not first:
            self._unread.append(out)
        return out
