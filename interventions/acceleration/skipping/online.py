"""AdaSkip while decoding: MLPs that turn out to do little on this very text are left out as well.

The halves of :func:`adaskip_route` are left out from the first token on. For the first ``window``
new tokens the similarity of the stream around every other MLP is averaged; those at or above the
K-th largest similarity of the calibration are left out then too, with the ratio of those tokens.
Attention is never added: its keys would be missing for the tokens before.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError
from lensbench.interventions.acceleration.decoding import Decoded, Decoding, Round
from lensbench.interventions.acceleration.sampling import Warp
from lensbench.interventions.acceleration.skipping.adaskip import HalfSimilarity, adaskip_route
from lensbench.interventions.acceleration.skipping.live import along
from lensbench.interventions.acceleration.skipping.route import Route
from lensbench.models.base import Model
from lensbench.models.ranges import LayerRunner, Sublayer
from lensbench.plan import Plan
from lensbench.sites import Site
from lensbench.tokens import TokensLike


def adaskip(
    model: Model,
    prompt: TokensLike,
    found: HalfSimilarity,
    skip: int,
    max_new_tokens: int = 64,
    *,
    window: int = 20,
    warp: Warp = Warp(),  # noqa: B008
    seed: int = 0,
    plan: Plan = Plan(),  # noqa: B008
    stop_ids: Sequence[int] = (),
) -> Decoded:
    """Decode without the ``skip`` most similar halves, and after ``window`` tokens with fewer MLPs.

    ``exits`` of the result counts the halves of blocks run for each new token.

    Args:
        model: a decoder-only model whose halves stand one after the other.
        prompt: one text.
        found: similarities of a calibration, from :func:`half_similarity`.
        skip: halves left out from the start, in prompt and continuation alike (K).
        max_new_tokens: length of the continuation.
        window: new tokens over which the other MLPs are watched; He et al. use 20.
        warp: temperature, top-k and top-p of the tokens.
        seed: of the draws.
        plan: acts beside the factors.
        stop_ids: tokens after which the text ends.

    Raises:
        ConfigError: similarities of another number of layers, blocks whose halves run side by side,
            or a setting out of range.

    Example:
        >>> x = torch.randn(6, 20, 16)
        >>> found = acceleration.half_similarity(x, x + 0.1, x + 0.2 * torch.randn(6, 20, 16))
        >>> said = acceleration.adaskip(early, early.tokens(text), found, skip=2, max_new_tokens=6)
    """
    route = adaskip_route(found, skip)
    whole_number("window", window, least=1)
    state = Decoding(model, prompt, max_new_tokens, warp, seed, plan + route.plan, stop_ids)
    runner, n = state.runner, state.runner.n_layers
    if found.similarity.shape[1] != n:
        raise ConfigError(
            f"the similarities are of {found.similarity.shape[1]} layers, the model has {n}"
        )
    bound = sorted(found.similarity.reshape(-1), reverse=True)[skip - 1]
    watch = _Watch(runner, route)
    at = step = 0
    while not state.done:
        h = runner.embed(state.tensor(at), at)
        h = watch.along(h, at) if 0 < step <= window else along(runner, h, route, at)
        at, step = len(state.ids), step + 1
        state.exits.append(int(2 * route.layers))
        state.emit([state.sampler.draw(runner.logits(h[:, -1:])[0, -1])], Round(0, 0, 0))
        if step == window + 1:
            route = watch.route_with(bound, window)
            runner.plan = plan + route.plan
    return state.result()


class _Watch:
    """Similarity and ratio of the stream around the MLPs that still run, summed over tokens."""

    def __init__(self, runner: LayerRunner, route: Route) -> None:
        self.runner, self.route = runner, route
        self.sums = {i: [0.0, 0.0] for i in route.order if ("mlp", i) not in route.omit}

    def along(self, h: Tensor, at: int) -> Tensor:
        """The stream after the route for one token, noting what its MLPs do."""
        for layer in self.route.order:
            sites = (Site("resid_mid", layer), Site("resid_post", layer))
            seen = sites if layer in self.sums else ()
            omit = self.route.omit
            h = self.runner.run(h, layer, layer + 1, at, omit=omit, capture=seen)
            if seen:
                mid, post = (self.runner.acts[s].double() for s in sites)
                self.sums[layer][0] += float(torch.cosine_similarity(mid, post, dim=-1).mean())
                self.sums[layer][1] += float(post.norm() / mid.norm())
        return h

    def route_with(self, bound: float, n: int) -> Route:
        """The route without the MLPs whose mean similarity reaches ``bound``."""
        still = {i: ratio / n for i, (cosine, ratio) in self.sums.items() if cosine / n >= bound}
        more: dict[Sublayer, float] = {("mlp", i): ratio for i, ratio in still.items()}
        omit = self.route.omit | frozenset(more)
        return Route(self.route.order, omit, {**self.route.factors, **more})
