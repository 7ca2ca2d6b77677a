"""SWIFT (Xia et al. 2025): the sublayers a draft leaves out are searched while decoding.

1. The first and the last layer are kept; of the other 2 (L - 2) sublayers int(2 (L - 2) r) are left
   out, in the beginning every second layer.
2. Once ``window`` + 1 tokens are written, one candidate is scored after each round by its
   matchness: the model without it reads the first ``window`` new tokens in one pass, over the full
   model's keys and values of the prompt, and the share of next tokens it names is the score.
3. The best set drafts. The search ends at ``goal``, after ``patience`` candidates without a better
   one, or after ``most_trials``; it goes on from text to text where one object is handed on.
4. A draft is a chain that stops after a token of probability below .8, at most 25 tokens.

Deviations: drafts are chains, not trees; instead of a Bayesian proposal every 25th candidate is the
best set with one sublayer exchanged; the initial set is scored too, while in the released code the
first candidate replaces it whatever its score; the bonus token is drawn from the warped
distribution as every other.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError
from lensbench.interventions.acceleration.decoding import Decoded, Decoding, native, one_prompt
from lensbench.interventions.acceleration.sampling import Warp
from lensbench.interventions.acceleration.speculative.dynamic import Schedule, by_confidence
from lensbench.interventions.acceleration.speculative.schedules import ConfidenceStop
from lensbench.interventions.acceleration.speculative.skips import SkipDrafter
from lensbench.models.base import Model
from lensbench.models.ranges import LayerRunner, Sublayer
from lensbench.models.ranges.omission import check_sublayers
from lensbench.plan import Plan
from lensbench.tokens import TokensLike

EXCHANGE_EVERY = 25


@dataclass
class SwiftSearch:
    """Candidates of skipped sublayers and the best so far; a state without a model.

    ``ratio`` is the share r of the inner sublayers left out, ``goal`` the matchness that ends the
    search.
    """

    n_layers: int
    ratio: float = 0.45
    window: int = 32
    goal: float = 0.95
    patience: int = 300
    most_trials: int = 1000
    seed: int = 0
    best: frozenset[Sublayer] = field(init=False)
    score: float = field(init=False, default=float("nan"))
    """Matchness of ``best``; NaN before it was scored."""
    history: list[tuple[frozenset[Sublayer], float]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        """Begin with every second layer; refuse what leaves nothing to skip."""
        for name in ("window", "patience", "most_trials"):
            whole_number(name, getattr(self, name), least=1)
        if whole_number("n_layers", self.n_layers) < 3:
            raise ConfigError(
                f"the first and the last layer are always kept, so at least 3 layers are needed; "
                f"got {self.n_layers}"
            )
        if not 0 < self.ratio < 1:
            raise ConfigError(f"ratio is the share of sublayers left out, got {self.ratio!r}")
        self._inner = inner_sublayers(self.n_layers)
        self._size = max(1, int(len(self._inner) * self.ratio))
        self.best = frozenset(s for s in self._inner if s[1] % 2 == 1)
        self._since = 0
        self._rng = np.random.default_rng(self.seed)

    @property
    def over(self) -> bool:
        """Is nothing more to be tried?"""
        tried = len(self.history)
        return self.score >= self.goal or self._since >= self.patience or tried >= self.most_trials

    def propose(self) -> frozenset[Sublayer]:
        """The next candidate: the initial set, then random ones and exchanges."""
        tried = len(self.history)
        if not tried:
            return self.best
        out = [s for s in self._inner if s in self.best]
        kept = [s for s in self._inner if s not in self.best]
        if tried % EXCHANGE_EVERY == 0 and out and kept:
            gone = out[self._rng.integers(len(out))]
            return self.best - {gone} | {kept[self._rng.integers(len(kept))]}
        chosen = self._rng.choice(len(self._inner), self._size, replace=False)
        return frozenset(self._inner[i] for i in chosen)

    def report(self, candidate: frozenset[Sublayer], matchness: float) -> None:
        """Take in a score; a better candidate drafts from now on."""
        first = not self.history
        self.history.append((candidate, matchness))
        if first or matchness > self.score:
            self.best, self.score, self._since = candidate, matchness, 0
        else:
            self._since += 1


def swift(
    model: Model,
    prompt: TokensLike,
    max_new_tokens: int = 64,
    *,
    search: SwiftSearch | None = None,
    schedule: Schedule | None = None,
    warp: Warp = Warp(),  # noqa: B008
    seed: int = 0,
    plan: Plan = Plan(),  # noqa: B008
    stop_ids: Sequence[int] = (),
) -> Decoded:
    """Draft without sublayers that are searched on the way, and check with all layers.

    The passes of the search are among the counts and the time.

    Args:
        model: a decoder-only model of at least 3 layers.
        prompt: one text.
        max_new_tokens: length of the continuation; the search needs more than the window.
        search: hand one :class:`SwiftSearch` from text to text to go on searching.
        schedule: default ``ConfidenceStop(.8, 25)``.
        warp: temperature, top-k and top-p of draft and check alike.
        seed: of the draws.
        plan: acts on draft, check and search alike.
        stop_ids: tokens after which the text ends.

    Raises:
        ConfigError: a search for another number of layers, a setting out of range, several prompts,
            or an architecture without keys and values per layer.

    Example:
        >>> said = acceleration.swift(early, early.tokens(text), 6)
    """
    state = Decoding(model, prompt, max_new_tokens, warp, seed, plan, stop_ids)
    runner, n_prompt = state.runner, state.prompt.shape[1]
    search = SwiftSearch(runner.n_layers) if search is None else search
    if search.n_layers != runner.n_layers:
        raise ConfigError(
            f"the search is for {search.n_layers} layers, the model has {runner.n_layers}"
        )
    schedule = ConfidenceStop(0.8, 25) if schedule is None else schedule
    schedule.new_text()
    drafter, go_on = SkipDrafter(state), by_confidence(schedule.go_on)
    matcher: Matcher | None = None
    while not state.done:
        drafter.round(search.best, schedule.most, go_on)
        schedule.update(state.rounds[-1].drafted, state.rounds[-1].accepted)
        new = state.ids[n_prompt:]
        if search.over or state.done or len(new) <= search.window:
            continue
        if matcher is None:
            matcher = Matcher(runner, n_prompt, new[: search.window + 1])
        candidate = search.propose()
        search.report(candidate, matcher(candidate))
    return state.result()


def matchness(
    model: Model,
    prompt: TokensLike,
    continuation: Sequence[int],
    skips: Iterable[Sublayer],
    *,
    plan: Plan = Plan(),  # noqa: B008
) -> float:
    """Share of a continuation's tokens that the model less some sublayers names, in one pass.

    The prompt is read by the full model; the continuation's first token is given. In [0, 1], and 1
    on greedy text where nothing is left out. A live draft reads the full model's keys and values
    of all checked text, here only of the prompt, so long continuations score lower than drafts do.
    Source: Xia et al. 2025 (SWIFT).

    Raises:
        ConfigError: fewer than 2 tokens of continuation, a sublayer that the model has not, several
            prompts, or an architecture without keys and values per layer.

    Example:
        >>> said = acceleration.greedy(early, early.tokens(text), 6)
        >>> acceleration.matchness(early, early.tokens(text), said.new, [("attn", 4)])
    """
    known = native(model)
    ids = one_prompt(known, prompt)
    if len(continuation) < 2:
        raise ConfigError(f"at least 2 new tokens are needed, got {len(continuation)}")
    runner = known.layers(ids.shape[1], plan=plan)
    omit = check_sublayers(skips, runner.n_layers)
    runner.run(runner.embed(ids, 0), 0, runner.n_layers, 0)
    return Matcher(runner, ids.shape[1], continuation)(omit)


class Matcher:
    """Scores candidates on one continuation, beside a text that is being decoded.

    What it runs is counted by the runner whose prompt it borrows.
    """

    def __init__(self, runner: LayerRunner, n_prompt: int, continuation: Sequence[int]) -> None:
        self.n_prompt, model = n_prompt, runner.model
        self._read = torch.tensor([continuation[:-1]], device=model.device)
        self._next = torch.tensor(continuation[1:], device=model.device)
        self._runner = model.layers(n_prompt + len(continuation) - 1, plan=runner.plan)
        self._runner.counts = runner.counts
        for layer in range(runner.n_layers):
            held = runner.cache.held(layer)
            if held is not None:  # the plan may skip a block
                keys, values = (t[..., :n_prompt, :] for t in held)
                self._runner.cache.put(layer, keys, values)

    def __call__(self, omit: frozenset[Sublayer]) -> float:
        """Share of next tokens that the model without these sublayers names."""
        runner = self._runner
        h = runner.embed(self._read, self.n_prompt)
        h = runner.run(h, 0, runner.n_layers, self.n_prompt, omit=omit)
        runner.crop(self.n_prompt)
        return float((runner.logits(h)[0].argmax(-1) == self._next).double().mean())


def inner_sublayers(n_layers: int) -> list[Sublayer]:
    """Attention and MLP of every layer but the first and the last."""
    inner = range(1, n_layers - 1)
    return [*(("attn", n) for n in inner), *(("mlp", n) for n in inner)]
