"""Self-speculative decoding whose exit layer or draft length follows the text.

:func:`dynamic_exit` is DEL (Entezari Zarch et al. 2025): after each round the states that the check
left behind are read by the lens of every layer, which costs heads but no layers, and the next exit
is the one that promises most tokens per layer. :func:`scheduled_exit` keeps the exit and varies the
length: the ablations of DEL (a length that goes up and down, an adaptive threshold) and LayerSkip
with a confidence. The decisions are those of ``del_rule`` and ``schedules``.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from lensbench.errors import ConfigError
from lensbench.interventions.acceleration.decoding import Decoded, Decoding, check_exit
from lensbench.interventions.acceleration.exits.confidence import of_logits
from lensbench.interventions.acceleration.sampling import Warp
from lensbench.interventions.acceleration.speculative.del_rule import WARM_UP, DelRule
from lensbench.interventions.acceleration.speculative.fixed import GoOn, PrefixDrafter
from lensbench.models.base import Model
from lensbench.models.ranges import LayerRunner
from lensbench.plan import Plan
from lensbench.tokens import TokensLike

AT_ONCE = 1 << 23
"""Logits that are held at a time while layers are read."""


class Schedule(Protocol):
    """When a draft ends, such as those of ``schedules``."""

    @property
    def most(self) -> int:
        """Most tokens of a draft."""
        ...

    def go_on(self, drafted: int, confidence: float) -> bool:
        """Draft another token, after one of this top-1 probability?"""
        ...

    def update(self, drafted: int, accepted: int) -> None:
        """Take in one round."""
        ...

    def new_text(self) -> None:
        """Begin another text."""
        ...


def dynamic_exit(
    model: Model,
    prompt: TokensLike,
    max_new_tokens: int = 64,
    *,
    rule: DelRule | None = None,
    warp: Warp = Warp(),  # noqa: B008
    seed: int = 0,
    plan: Plan = Plan(),  # noqa: B008
    stop_ids: Sequence[int] = (),
) -> Decoded:
    """Decode with DEL: exit layer and draft length chosen anew each round.

    The first round drafts one token with layer 1 and takes its statistics from the last 32
    positions of the prompt too. Greedy text equals :func:`greedy`; with a temperature, tokens are
    distributed as those of the full model, while matches are still counted between largest logits.
    ``counts.heads`` holds the L - 1 readings of every position, which on models of few layers and a
    large vocabulary may cost more than the layers saved.

    Args:
        model: a decoder-only model of at least 2 layers.
        prompt: one text.
        max_new_tokens: length of the continuation.
        rule: a fresh :class:`DelRule`, to set omega and the longest draft or to read its history
            afterwards; statistics of an earlier text may be handed on.
        warp: temperature, top-k and top-p of draft and check alike.
        seed: of the draws.
        plan: acts on draft, check and readings alike.
        stop_ids: tokens after which the text ends.

    Raises:
        ConfigError: a rule of another number of layers, several prompts, or an architecture without
            keys and values per layer.

    Example:
        >>> said = acceleration.dynamic_exit(early, early.tokens(text), 8)
    """
    state = Decoding(model, prompt, max_new_tokens, warp, seed, plan, stop_ids)
    rule = DelRule(state.runner.n_layers) if rule is None else rule
    if rule.n_layers != state.runner.n_layers:
        raise ConfigError(
            f"the rule is for {rule.n_layers} layers, the model has {state.runner.n_layers}"
        )
    drafter = PrefixDrafter(state, watch=True)
    go_on = by_confidence(rule.go_on)
    while not state.done:
        text = len(state.ids)
        first, before = drafter.done, 0
        checked = drafter.round(rule.exit_layer, rule.most, go_on)
        if state.done:
            break
        if first == 0:
            before = min(WARM_UP, text) - 1
        accepted, column = state.rounds[-1].accepted, text - 1 - before - first
        states = {n: h[:, column:] for n, h in drafter.states.items()}
        target = checked[: accepted + 1].argmax(-1)
        if before:
            last = states[rule.n_layers - 1][:, :before]
            target = torch.cat((state.runner.logits(last)[0].argmax(-1), target))
        tokens, sure = read_layers(state.runner, states, before + accepted + 1)
        rule.update(tokens.numpy(), sure.numpy(), target.cpu().numpy(), accepted, before)
    return state.result()


def scheduled_exit(
    model: Model,
    prompt: TokensLike,
    exit_layer: int,
    schedule: Schedule,
    max_new_tokens: int = 64,
    *,
    warp: Warp = Warp(),  # noqa: B008
    seed: int = 0,
    plan: Plan = Plan(),  # noqa: B008
    stop_ids: Sequence[int] = (),
) -> Decoded:
    """Draft from one exit layer, as long as a schedule says.

    The schedule's state moves, so that it can be handed on to the next text.

    Args:
        model: a decoder-only model.
        prompt: one text.
        exit_layer: layers of the draft, 1 to L.
        schedule: ``DraftLengthFSM`` (up and down by one), ``AdaptiveThreshold`` (Draft & Verify) or
            ``ConfidenceStop`` (a fixed threshold).
        max_new_tokens: length of the continuation.
        warp: temperature, top-k and top-p of draft and check alike.
        seed: of the draws.
        plan: acts on draft and check alike.
        stop_ids: tokens after which the text ends.

    Raises:
        ConfigError: a setting out of range, several prompts, or an architecture without keys and
            values per layer.

    Example:
        >>> rule = acceleration.DraftLengthFSM(2, most=5)
        >>> said = acceleration.scheduled_exit(early, early.tokens(text), 2, rule, 8)
    """
    state = Decoding(model, prompt, max_new_tokens, warp, seed, plan, stop_ids)
    check_exit(exit_layer, state.runner.n_layers)
    schedule.new_text()
    drafter, go_on = PrefixDrafter(state), by_confidence(schedule.go_on)
    while not state.done:
        drafter.round(exit_layer, schedule.most, go_on)
        schedule.update(state.rounds[-1].drafted, state.rounds[-1].accepted)
    return state.result()


def by_confidence(rule: "_Asked") -> GoOn:
    """A rule on the top-1 probability (plain softmax, whatever the warp), asked with logits."""
    return lambda drafted, logits: rule(drafted, float(of_logits("softmax_max", logits)))


def read_layers(
    runner: LayerRunner, states: dict[int, Tensor], positions: int
) -> tuple[Tensor, Tensor]:
    """Choice and its probability of exit layers 1..L-1 at the first positions, ``[L-1, n]``."""
    stacked = torch.cat([states[n][:, :positions] for n in range(runner.n_layers - 1)])
    # All layers in one call of the head, or as many as leave the logits within a few tens of MB.
    at_once = max(1, AT_ONCE // (positions * runner.model.card.d_vocab))
    best = [runner.logits(part).float().softmax(-1).max(-1) for part in stacked.split(at_once)]
    tokens, sure = torch.cat([b.indices for b in best]), torch.cat([b.values for b in best])
    return tokens.cpu(), sure.double().cpu()


class _Asked(Protocol):
    def __call__(self, drafted: int, confidence: float, /) -> bool: ...
