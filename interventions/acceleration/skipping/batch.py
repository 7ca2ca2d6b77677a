"""Several prompts at once, where every text of the batch runs the same layers at the same step.

Routes and falling budgets allow it (SkipDecode was made for it). Checked drafts and exits by
confidence do not: each text would hold another number of tokens per layer; decode those one by one.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError
from lensbench.interventions.acceleration.decoding import native
from lensbench.interventions.acceleration.skipping.live import along, blocks_per_token
from lensbench.interventions.acceleration.skipping.route import Route, whole_route
from lensbench.interventions.acceleration.skipping.schedule import Budgets
from lensbench.models.base import Model
from lensbench.models.ranges import Counts
from lensbench.plan import Plan
from lensbench.tokens import TokensLike


@dataclass(frozen=True)
class DecodedBatch:
    """New tokens of several prompts decoded together, and what that took."""

    new: tuple[tuple[int, ...], ...]
    """Per prompt, up to and with the token that ends it."""
    counts: Counts = field(repr=False)
    """Of the whole batch, padding and ended texts included."""
    seconds: float
    """CPU time of the process."""
    kv_bytes: int


def decode_batch(
    model: Model,
    prompts: TokensLike,
    route: Route | Budgets | Sequence[Sequence[int]] | None = None,
    max_new_tokens: int = 64,
    *,
    plan: Plan = Plan(),  # noqa: B008
    stop_ids: Sequence[int] = (),
) -> DecodedBatch:
    """Decode several prompts greedily in one batch, each as it would be decoded alone.

    Args:
        model: a decoder-only model.
        prompts: a list of lists of ids of any lengths (padded here, on the left), or ids padded on
            the left.
        route: blocks to run (:func:`decode_route`), budgets per new token (:func:`skip_decode`), or
            None for all blocks.
        max_new_tokens: length of the longest continuation.
        plan: acts on every text alike.
        stop_ids: tokens after which a text ends; the others go on.

    Raises:
        ConfigError: padding on the right, a route or budgets the model cannot take, no room.

    Example:
        >>> prompts_of = early.tokens(["Alice the baker", "The king that the boys know"])
        >>> said = acceleration.decode_batch(early, prompts_of, acceleration.without(6, [4]), 6)
    """
    began = time.process_time()
    runnable = native(model)
    batch = runnable.layout.batch(prompts, runnable.device)
    if not bool(batch.real[:, -1].all()):
        raise ConfigError("padding must stand on the left; pass a list of unpadded lists of ids")
    steps = whole_number("max_new_tokens", max_new_tokens, least=1)
    stops = frozenset(whole_number("each of stop_ids", i) for i in stop_ids)
    n = runnable.n_layers
    one = whole_route(n) if route is None else route if isinstance(route, Route) else None
    if one is not None:
        routes = [one.check(n)] * steps
    else:
        assert route is not None
        assert not isinstance(route, Route)
        routes = [Route(blocks) for blocks in blocks_per_token(route, n, steps)]
    runner = runnable.layers(
        batch.ids.shape[1] + steps, rows=batch.n_rows, mask=batch.real, plan=plan + routes[0].plan
    )
    ids, at = batch.ids, 0
    new: list[list[int]] = [[] for _ in range(batch.n_rows)]
    alive = [True] * batch.n_rows
    for step in range(steps):
        h = along(runner, runner.embed(ids, at), routes[step], at)
        at += ids.shape[1]
        ids = runner.logits(h[:, -1:]).argmax(-1)
        for row, token in enumerate(ids[:, 0].tolist()):
            if alive[row]:
                new[row].append(token)
                alive[row] = token not in stops
        if not any(alive):
            break
    held = runner.cache.bytes_held()
    return DecodedBatch(tuple(map(tuple, new)), runner.counts, time.process_time() - began, held)
