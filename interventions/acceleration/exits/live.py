"""Early exit while decoding: a token leaves at the first layer that is sure enough of it.

What an exited token owes to the layers above is settled in one of two ways. ``recompute``: its
state waits at its exit, and the next token that goes further takes it along in the same call, so
that all keys and values are the full model's (EE-LLM, FREE; CALM's oracle cache). ``copy``: its
state is handed to all layers above, which store keys and values of it and nothing more (CALM). The
text is not checked, so it may differ from the full model's.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from lensbench.arguments import is_number, whole_number
from lensbench.errors import ConfigError, MismatchError, UnknownNameError
from lensbench.interventions.acceleration.decoding import Decoded, Decoding, Round, check_exit
from lensbench.interventions.acceleration.exits.classifier import ExitClassifier
from lensbench.interventions.acceleration.exits.confidence import (
    Classifier,
    check_measure,
    of_logits,
    of_states,
    threshold_at,
)
from lensbench.interventions.acceleration.sampling import Warp
from lensbench.models.base import Model
from lensbench.plan import Plan
from lensbench.tokens import TokensLike

KeysAndValues = Literal["recompute", "copy"]


def early_exit(
    model: Model,
    prompt: TokensLike,
    threshold: float,
    max_new_tokens: int = 64,
    *,
    measure: str | Classifier = "softmax_diff",
    kv: KeysAndValues = "recompute",
    exits: Sequence[int] | None = None,
    decay: float | None = None,
    warp: Warp = Warp(),  # noqa: B008
    seed: int = 0,
    plan: Plan = Plan(),  # noqa: B008
    stop_ids: Sequence[int] = (),
) -> Decoded:
    """Decode, each token leaving at the first of ``exits`` whose confidence reaches ``threshold``.

    With ``kv="recompute"`` the exits and tokens are those that the lens of the full model's states
    on this very text gives; with ``"copy"`` they are not. The last token of the prompt is the first
    that may exit; the tokens before it pass all layers, or, with ``recompute``, as many as the new
    tokens need.

    Args:
        model: a decoder-only model.
        prompt: one text.
        threshold: 0 lets every token leave at the first exit; above 1 none does before the last
            layer.
        max_new_tokens: length of the continuation.
        measure: ``softmax_diff``, ``softmax_max``, ``entropy``, ``state``, a fitted classifier, or
            ``oracle`` (leave where the token is the full model's: runs every layer, saves nothing).
        kv: how keys and values of the layers above an exit are made.
        exits: numbers of layers after which a token may leave; all by default. FREE has one.
        decay: lowers the threshold along the text (CALM's code has 4); None keeps it.
        warp: temperature, top-k and top-p of the tokens.
        seed: of the draws.
        plan: acts at every layer that runs.
        stop_ids: tokens after which the text ends.

    Raises:
        ConfigError: a setting out of range, several prompts, or an architecture without keys and
            values per layer.
        UnknownNameError: a confidence or a way of keeping keys that does not exist.
        MismatchError: a classifier of another model.

    Example:
        >>> said = acceleration.early_exit(
        ...     early, early.tokens(text), threshold=0.6, max_new_tokens=8
        ... )
        >>> said.exits
    """
    check_measure(measure)
    if kv not in ("recompute", "copy"):
        raise UnknownNameError("way of keeping keys and values", kv, known=("recompute", "copy"))
    if not is_number(threshold) or not 0 <= threshold < float("inf"):
        raise ConfigError(f"threshold must be >= 0 (above 1: no exit), got {threshold!r}")
    state = Decoding(model, prompt, max_new_tokens, warp, seed, plan, stop_ids)
    n_layers = state.runner.n_layers
    owner = measure.model if isinstance(measure, ExitClassifier) else ""
    if owner and owner != model.card.fingerprint:
        raise MismatchError(
            f"the classifier was fitted to another model ({owner}) than {model.card.name} "
            f"({model.card.fingerprint}); fit one to states of this model"
        )
    allowed = check_exits(exits, n_layers)
    loop = _Exiting(state, allowed, measure, kv)
    while not state.done:
        step = max_new_tokens - state.remaining
        loop.step(threshold_at(threshold, decay, step, max_new_tokens))
    return state.result()


def check_exits(exits: Sequence[int] | None, n_layers: int) -> tuple[int, ...]:
    """Exits in order; all layers but the last where none are named (the last is always one).

    Raises:
        ConfigError: none at all, or one outside 1..L.
    """
    if exits is None:
        return tuple(range(1, n_layers))
    found = sorted({check_exit(whole_number("each of exits", e), n_layers) for e in exits})
    if not found:
        raise ConfigError("exits names no layer; leave it out for all of them")
    return tuple(e for e in found if e < n_layers)


class _Exiting:
    """The states that wait in front of each block, and the decision at each exit."""

    def __init__(
        self, state: Decoding, exits: tuple[int, ...], measure: str | Classifier, kv: KeysAndValues
    ) -> None:
        self.state, self.runner = state, state.runner
        self.exits, self.measure, self.kv = frozenset(exits), measure, kv
        self.first = min(exits, default=state.runner.n_layers)
        self.waiting: list[Tensor | None] = [None] * (state.runner.n_layers + 1)
        self.read = 0
        """Tokens of the text that were embedded."""
        if kv == "copy" and len(state.ids) > 1:  # what is copied are exits, not the prompt
            before = state.tensor(0, len(state.ids) - 1)
            self.read = before.shape[1]
            self.runner.run(self.runner.embed(before, 0), 0, self.runner.n_layers, 0)

    def step(self, threshold: float) -> None:
        """Decode one token."""
        state, runner = self.state, self.runner
        self._wait(0, runner.embed(state.tensor(self.read), self.read))
        self.read = len(state.ids)
        left, logits = self._oracle() if self.measure == "oracle" else self._climb(threshold)
        state.exits.append(left)
        state.emit([state.sampler.draw(logits)], Round(0, 0, 0))

    def _climb(self, threshold: float) -> tuple[int, Tensor]:
        """Layers run for the last token, and the logits it leaves with."""
        before: Tensor | None = None
        for layer in range(self.runner.n_layers):
            now = self._pass(layer)[:, -1]
            ran = layer + 1
            if ran == self.runner.n_layers:
                return ran, self.runner.logits(now)[0]
            if ran in self.exits:
                sure, logits = self._confidence(before if ran > self.first else None, now, ran)
                if sure >= threshold:
                    self._leave(ran)
                    return ran, self.runner.logits(now)[0] if logits is None else logits
            before = now
        raise AssertionError("a model has layers")

    def _oracle(self) -> tuple[int, Tensor]:
        states = [self._pass(layer)[:, -1] for layer in range(self.runner.n_layers)]
        logits = self.runner.logits(torch.stack(states, 1))[0]
        best = logits.argmax(-1)
        last = self.runner.n_layers
        left = next((e for e in sorted(self.exits) if best[e - 1] == best[-1]), last)
        if self.kv == "copy" and left < last:
            above = range(left, last)
            self.runner.crop(self.read - 1, above)
            self.runner.fill(states[left - 1][:, None], above, self.read - 1)
        return left, logits[left - 1]

    def _pass(self, layer: int) -> Tensor:
        """Run a block on all states that wait in front of it; they wait at the next one."""
        h = self.waiting[layer]
        assert h is not None
        self.waiting[layer] = None
        out = self.runner.run(h, layer, layer + 1, self.read - h.shape[1])
        self._wait(layer + 1, out)
        if layer + 1 == self.runner.n_layers:
            self.waiting[layer + 1] = None
            return out
        waiting = self.waiting[layer + 1]
        assert waiting is not None
        return waiting

    def _wait(self, layer: int, h: Tensor) -> None:
        already = self.waiting[layer]
        self.waiting[layer] = h if already is None else torch.cat((already, h), 1)

    def _leave(self, ran: int) -> None:
        """Settle what the layers above are owed; waiting states settle themselves later."""
        if self.kv == "recompute":
            return
        h = self.waiting[ran]
        assert h is not None
        self.runner.fill(h, range(ran, self.runner.n_layers), self.read - h.shape[1])
        self.waiting[ran] = None

    def _confidence(
        self, before: Tensor | None, now: Tensor, ran: int
    ) -> tuple[float, Tensor | None]:
        if not isinstance(self.measure, str):
            return float(self.measure(now, ran)[0]), None
        if self.measure == "state":
            return float(of_states(before, now)[0]), None
        logits = self.runner.logits(now)[0]
        return float(of_logits(self.measure, logits)), logits
