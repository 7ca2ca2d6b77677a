"""Decoding along a route: layers or halves of them left out, for all tokens or the new ones."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError, UnknownNameError
from lensbench.interventions.acceleration.decoding import Decoded, Decoding, Round
from lensbench.interventions.acceleration.sampling import Warp
from lensbench.interventions.acceleration.skipping.route import Route
from lensbench.interventions.acceleration.skipping.schedule import Budgets, nested
from lensbench.models.base import Model
from lensbench.models.ranges import LayerRunner
from lensbench.plan import Plan
from lensbench.tokens import TokensLike

Phases = Literal["both", "decode"]


def decode_route(
    model: Model,
    prompt: TokensLike,
    route: Route,
    max_new_tokens: int = 64,
    *,
    phases: Phases = "both",
    warp: Warp = Warp(),  # noqa: B008
    seed: int = 0,
    plan: Plan = Plan(),  # noqa: B008
    stop_ids: Sequence[int] = (),
) -> Decoded:
    """Decode with the blocks of a route; nothing is checked, so the text may differ.

    Args:
        model: a decoder-only model.
        prompt: one text.
        route: blocks in order, halves left out, factors in their place.
        max_new_tokens: length of the continuation.
        phases: ``both``, or ``decode``: the prompt but for its last token passes the whole model.
        warp: temperature, top-k and top-p of the tokens.
        seed: of the draws.
        plan: acts beside the route (its factors are edits of the same kind).
        stop_ids: tokens after which the text ends.

    Raises:
        ConfigError: a route the model cannot take (factors in an architecture whose halves run
            side by side), several prompts.

    Example:
        >>> said = acceleration.decode_route(
        ...     early, early.tokens(text), acceleration.without(6, [4]), 6
        ... )
    """
    if phases not in ("both", "decode"):
        raise UnknownNameError("phases", phases, known=("both", "decode"))
    if not isinstance(route, Route):  # pyright: ignore[reportUnnecessaryIsInstance] - users
        raise ConfigError(f"route must be a Route, such as without(L, [3]), got {route!r}")
    state = Decoding(model, prompt, max_new_tokens, warp, seed, plan + route.plan, stop_ids)
    runner = state.runner
    route.check(runner.n_layers)
    at = 0
    if phases == "decode" and len(state.ids) > 1:
        before = state.tensor(0, len(state.ids) - 1)
        at = before.shape[1]
        runner.plan = plan
        runner.run(runner.embed(before, 0), 0, runner.n_layers, 0)
        runner.plan = plan + route.plan
    while not state.done:
        h = along(runner, runner.embed(state.tensor(at), at), route, at)
        at = len(state.ids)
        state.emit([state.sampler.draw(runner.logits(h[:, -1:])[0, -1])], Round(0, 0, 0))
    return state.result()


def skip_decode(
    model: Model,
    prompt: TokensLike,
    budgets: Budgets | Sequence[Sequence[int]],
    max_new_tokens: int = 64,
    *,
    warp: Warp = Warp(),  # noqa: B008
    seed: int = 0,
    plan: Plan = Plan(),  # noqa: B008
    stop_ids: Sequence[int] = (),
) -> Decoded:
    """Decode with a number of layers per position that only falls (SkipDecode).

    The prompt runs the blocks of the first new token. A model that was not trained for it degrades:
    its scores are those of an untuned model.

    Args:
        model: a decoder-only model.
        prompt: one text.
        budgets: :func:`linear_budgets`, or the blocks of every new token.
        max_new_tokens: length of the continuation; past the last budget the last one goes on.
        warp: temperature, top-k and top-p of the tokens.
        seed: of the draws.
        plan: acts at every layer that runs.
        stop_ids: tokens after which the text ends.

    Raises:
        ConfigError: blocks that later tokens run and earlier ones did not, or that the model lacks.

    Example:
        >>> budgets = acceleration.linear_budgets(6, length=40, least=2)
        >>> said = acceleration.skip_decode(early, early.tokens(text), budgets, 6)
    """
    state = Decoding(model, prompt, max_new_tokens, warp, seed, plan, stop_ids)
    runner = state.runner
    rows = blocks_per_token(budgets, runner.n_layers, max_new_tokens)
    at = 0
    while not state.done:
        route = rows[len(state.ids) - state.prompt.shape[1]]
        h = along(runner, runner.embed(state.tensor(at), at), Route(route), at)
        at = len(state.ids)
        state.exits.append(len(route))
        state.emit([state.sampler.draw(runner.logits(h[:, -1:])[0, -1])], Round(0, 0, 0))
    return state.result()


def blocks_per_token(
    budgets: Budgets | Sequence[Sequence[int]], n_layers: int, length: int
) -> list[tuple[int, ...]]:
    """Blocks of every new token, checked.

    Raises:
        ConfigError: budgets of another model, or sets that are not nested.
    """
    if isinstance(budgets, Budgets):
        if budgets.n_layers != n_layers:
            raise ConfigError(
                f"these budgets are for {budgets.n_layers} layers, the model has {n_layers}"
            )
        return [budgets.blocks(t) for t in range(length)]
    rows = [tuple(sorted(whole_number("each block", i) for i in row)) for row in budgets]
    if not rows or any(not 0 <= i < n_layers for row in rows for i in row):
        raise ConfigError(f"blocks of a token are 0..{n_layers - 1}, got {rows[:3]} ...")
    if not nested(rows):
        raise ConfigError(
            "a token may run only blocks that all tokens before it ran: keys would be missing"
        )
    return [rows[min(t, len(rows) - 1)] for t in range(length)]


def along(runner: LayerRunner, h: Tensor, route: Route, at: int) -> Tensor:
    """The stream after the blocks of a route, for tokens from column ``at``."""
    for first, last in _stretches(route.order):
        h = runner.run(h, first, last, at, omit=route.omit)
    return h


def _stretches(order: Sequence[int]) -> list[tuple[int, int]]:
    """Runs of successive blocks as (first, one past the last)."""
    found: list[tuple[int, int]] = []
    for layer in order:
        if found and found[-1][1] == layer:
            found[-1] = (found[-1][0], layer + 1)
        else:
            found.append((layer, layer + 1))
    return found
