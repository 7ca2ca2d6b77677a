"""One teacher-forced pass along a route: what a text's tokens would have been given."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench.interventions.acceleration.decoding import native
from lensbench.interventions.acceleration.skipping.live import along
from lensbench.interventions.acceleration.skipping.route import Route, whole_route
from lensbench.models.base import Model
from lensbench.models.ranges import LayerRunner


class Forced:
    """One text through the whole model, and then along routes, from where they part from it."""

    def __init__(self, model: Model, ids: Int[Tensor, " pos"]) -> None:
        self.model = native(model)
        self._ids = ids.to(self.model.device)[None]
        self._n = len(ids)
        self._states: dict[int, Tensor] = {}
        self._runner = self.model.layers(self._n)
        self._entry = self._runner.embed(self._ids, 0)
        last = self._runner.n_layers
        h = self._runner.run(self._entry, 0, last, 0, keep=self._states)
        self.full: Float[Tensor, "pos d_vocab"] = self._runner.logits(h)[0]

    def along(self, route: Route) -> Float[Tensor, "pos d_vocab"]:
        """Logits of every position along a route."""
        runner, begin = self._runner, 0
        n_layers = runner.n_layers
        if route.factors:  # they are edits, which a runner has from its start
            runner = self.model.layers(self._n, plan=route.plan)
        else:
            same = whole_route(n_layers).order
            while begin < min(len(route.order), n_layers) and route.order[begin] == same[begin]:
                if any((half, begin) in route.omit for half in ("attn", "mlp")):
                    break
                begin += 1
        h = self._states[begin - 1] if begin else self._entry
        rest = Route(route.order[begin:], route.omit)
        runner.crop(0, rest.order)
        return runner.logits(along(runner, h, rest, 0))[0]


def forced_budgets(
    model: Model, ids: Int[Tensor, " pos"], n_prompt: int, rows: Sequence[tuple[int, ...]]
) -> tuple[Float[Tensor, "pos d_vocab"], LayerRunner]:
    """Logits where new token ``t`` runs the blocks ``rows[t]`` and the prompt those of the first.

    The blocks of a token are among those of every token before it, so a block is run by the first
    tokens of the text, up to the last one that has it in its row.
    """
    runner = native(model).layers(len(ids))
    h = runner.embed(ids.to(runner.model.device)[None], 0)
    steps = [rows[max(0, p - n_prompt + 1)] for p in range(len(ids))]
    for layer in range(runner.n_layers):
        count = sum(layer in row for row in steps)
        if count:
            ran = runner.run(h[:, :count], layer, layer + 1, 0)
            h = torch.cat((ran, h[:, count:]), 1)
    return runner.logits(h)[0], runner
