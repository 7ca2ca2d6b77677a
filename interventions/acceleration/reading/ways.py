"""Ways through a model: the whole of it, a plan that skips or stops, or a route; and its states.

1. A text is cut into batches of whole documents, padded behind.
2. A plan runs through ``Model.run``; a route block by block through a layer runner.
3. Of every site, the rows of real tokens are kept, and the stream that enters the final norm.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench.errors import ConfigError
from lensbench.interventions.acceleration.decoding import native
from lensbench.interventions.acceleration.skipping.route import Route
from lensbench.models.base import Model
from lensbench.models.ranges import Sublayer
from lensbench.plan import Plan
from lensbench.sites import Site
from lensbench.tokens import Tokens

HALVES = ("attn", "mlp")
States = dict[Site | None, Tensor]
"""``[tokens, width]`` by site; under None what enters the final norm."""


@dataclass(frozen=True)
class Way:
    """One acceleration, and which halves of blocks it does not run."""

    name: str
    how: Plan | Route
    missing: frozenset[Sublayer]

    @property
    def halves(self) -> bool:
        """Does it leave out single halves of blocks?"""
        return len(self.missing) != 2 * len(self.layers)

    @property
    def layers(self) -> frozenset[int]:
        """Blocks neither half of which runs."""
        return frozenset(i for _, i in self.missing if all((h, i) in self.missing for h in HALVES))

    def before(self, site: Site | None) -> frozenset[Sublayer]:
        """What it leaves out before a site is reached; before the final norm, all."""
        if site is None:
            return self.missing
        return frozenset(
            (half, layer)
            for half, layer in self.missing
            if Site("attn_out" if half == "attn" else "mlp_out", layer) < site
        )

    def lacks(self, site: Site) -> bool:
        """Does the block (or the half of it) in which a site lies not run?"""
        if site.layer in self.layers:
            return True
        half = site.name.split(".")[0].removesuffix("_out")
        return any(half == h and site.layer == i for h, i in self.missing)


def named_ways(given: Any, n_layers: int) -> list[Way]:
    """A way for each name.

    Raises:
        ConfigError: no mapping, an empty one, or one that holds what is no acceleration.
    """
    if not isinstance(given, Mapping) or not given:
        raise ConfigError(
            f"accelerations must name at least one, {{'no 3': skip_layers([3])}}; got {given!r}"
        )
    return [way(str(name), how, n_layers) for name, how in given.items()]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def way(name: str, how: Any, n_layers: int) -> Way:
    """A way from what a user gave.

    Raises:
        ConfigError: neither plan nor route, one that changes nothing, runs nothing, or that names
            layers the model has not.
    """
    if isinstance(how, Route):
        how.check(n_layers)
        run = {(half, i) for i in how.order for half in HALVES} - how.omit
    elif isinstance(how, Plan):
        end = n_layers if how.stop is None else how.stop
        if max([*how.skips, end - 1]) >= n_layers:
            raise ConfigError(
                f"acceleration {name!r} names a layer beyond {n_layers - 1}, the last of this model"
            )
        run = {(half, i) for i in range(end) if i not in how.skips for half in HALVES}
    else:
        raise ConfigError(
            f"acceleration {name!r} must be a Plan such as skip_layers([2]) or Plan(stop=3), or a "
            f"Route such as without(n_layers, [2]); got {how!r}"
        )
    every: set[Any] = {(half, i) for i in range(n_layers) for half in HALVES}
    if not run:
        raise ConfigError(f"acceleration {name!r} runs no layer, so there is nothing to read")
    in_order = not isinstance(how, Route) or list(how.order) == sorted(how.order)
    if run == every and in_order and not (isinstance(how, Plan) and how.edits):
        raise ConfigError(f"acceleration {name!r} runs every layer, as the full model does")
    return Way(name, how, frozenset(every - run))


@dataclass(frozen=True)
class Texts:
    """Documents in batches, and the document of every real token."""

    batches: tuple[Tokens, ...]
    doc: Int[np.ndarray, " tokens"]

    @classmethod
    def of(cls, documents: Sequence[Sequence[int]], size: int) -> "Texts":
        """Batches of ``size`` documents in order, padded behind."""
        found: list[Tokens] = []
        for start in range(0, len(documents), size):
            rows = documents[start : start + size]
            width = max(map(len, rows))
            ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
            real = torch.tensor([[i < len(row) for i in range(width)] for row in rows])
            found.append(Tokens(ids, None if bool(real.all()) else real))
        doc = np.repeat(np.arange(len(documents)), [len(row) for row in documents])
        return cls(tuple(found), doc)


def states(
    model: Model, texts: Texts, how: Plan | Route, steer: Plan, sites: Iterable[Site | None]
) -> States:
    """Activations of every token along a way, under a steer; on the CPU, float32."""
    wanted = list(dict.fromkeys(sites))
    one = _route if isinstance(how, Route) else _plan
    parts = [one(model, batch, how, steer, wanted) for batch in texts.batches]  # pyright: ignore[reportArgumentType] - chosen by its type
    return {site: torch.cat([part[site] for part in parts]) for site in wanted}


def _plan(model: Model, batch: Tokens, how: Plan, steer: Plan, wanted: list[Site | None]) -> States:
    end = model.n_layers if how.stop is None else min(how.stop, model.n_layers)
    last = Site("resid_post", max(i for i in range(end) if i not in how.skips))
    names = {site: last if site is None else site for site in wanted}
    plan = how + steer
    acts = model.run(batch, plan, capture=list(dict.fromkeys(names.values())), logits="none").acts
    return {site: _rows(acts[name], batch) for site, name in names.items()}


def _route(
    model: Model, batch: Tokens, how: Route, steer: Plan, wanted: list[Site | None]
) -> States:
    runnable = native(model)
    batch = batch.to(runnable.device)
    runner = runnable.layers(batch.n_pos, rows=batch.n_rows, mask=batch.mask, plan=steer + how.plan)
    h = runner.embed(batch.ids, 0)
    found: States = {}
    for layer in how.order:
        here = [s for s in wanted if s is not None and s.layer == layer]
        h = runner.run(h, layer, layer + 1, 0, omit=how.omit, capture=here)
        found |= {site: _rows(runner.acts[site], batch) for site in here}
    return found | ({None: _rows(h, batch)} if None in wanted else {})


def _rows(acts: Tensor, batch: Tokens) -> Float[Tensor, "tokens width"]:
    return acts[batch.real.to(acts.device)].detach().float().cpu()
