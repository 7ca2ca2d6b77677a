"""Parts of what a latent reads taken out of the model, held and free: see ``feature_check``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.interventions.graphs.feature_parts import HEAD
from lensbench.interventions.graphs.feature_result import FeatureAttribution
from lensbench.interventions.graphs.local import START
from lensbench.models.base import Model
from lensbench.ops import Call, Set
from lensbench.plan import Edit, Plan
from lensbench.sites import Site
from lensbench.tokens import Tokens

HELD = ("ln1.scale", "attn.pattern", "ln2.scale")
ROWS = 16
"""Removals in one pass."""


def lost_without(
    model: Model, found: FeatureAttribution, nodes: np.ndarray, *, held: bool
) -> Float[np.ndarray, " tried"]:
    """How much less the latent's pre-activation is without each node, one at a time."""
    base = _Base.of(model, found)
    parts = [_values(base, nodes[i : i + ROWS], held=held) for i in range(0, len(nodes), ROWS)]
    return base.value - np.concatenate(parts)


@dataclass(frozen=True, eq=False)
class _Base:
    """The clean run that the removals are beside."""

    model: Model
    found: FeatureAttribution
    layers: range
    clean: dict[Site, Tensor]
    value: float

    @classmethod
    def of(cls, model: Model, found: FeatureAttribution) -> "_Base":
        known, read = set(model.sites()), Site.parse(found.read)
        layers = range((read.layer or 0) + 1)
        names = ("resid_pre", *HELD, "attn.v", "attn.z", "attn_out", "mlp_out")
        sites = [s for i in layers for n in names if (s := Site(n, i)) in known]
        tokens = Tokens(torch.as_tensor(found.ids)[None])
        acts = model.run(tokens, capture=sorted({*sites, read}), logits="none").acts
        clean = {s: acts[s] for s in sites}
        return cls(model, found, layers, clean, float(_read(found, acts[read])[0]))

    def part_of(self, node: int) -> tuple[int, int, Tensor]:
        """Position, head and ``A v`` of a head's node."""
        found, layer = self.found, Site.parse(self.found.site[node]).layer or 0
        at, head, source = (int(x[node]) for x in (found.at, found.head, found.source))
        values, pattern = self.clean[Site("attn.v", layer)], self.clean[Site("attn.pattern", layer)]
        shared = pattern.shape[1] // values.shape[2]
        return at, head, pattern[0, head, at, source] * values[0, source, head // shared]


def _read(found: FeatureAttribution, x: Tensor) -> np.ndarray:
    state = x[:, found.position].flatten(1).double().cpu()
    return (state @ torch.as_tensor(found.encoder).double() + found.offset).numpy()


def _site(found: FeatureAttribution, node: int) -> Site:
    """Where a node is taken out: latents of ``attn.z`` where they reach the stream."""
    site = Site.parse(found.site[node])
    inside = site.name == "attn.z" and found.node_kind[node] != HEAD
    return Site("attn_out", site.layer) if inside else site


@dataclass(frozen=True, eq=False)
class _Removal:
    """The edits of one pass whose rows each take one node out."""

    base: _Base
    nodes: Sequence[int]
    held: bool
    came: dict[int, Tensor] = field(default_factory=dict[int, Tensor])
    """By layer: the stream that entered it."""

    def here(self, site: Site) -> list[tuple[int, int]]:
        """Rows and nodes that are written at a site."""
        return [(row, n) for row, n in enumerate(self.nodes) if _site(self.base.found, n) == site]

    def hops(self, layer: int) -> list[tuple[int, int]]:
        """Rows and heads of a layer that a removal goes through."""
        found = self.base.found
        return [(row, p) for row, n in enumerate(self.nodes) for p in found.path(n)[1:]
                if Site.parse(found.site[p]).layer == layer]  # fmt: skip

    def subtract(self, x: Tensor, site: Site) -> Tensor:
        """What nodes write here, taken out of their rows."""
        found = self.base.found
        for row, node in self.here(site):
            if found.node_kind[node] == HEAD:
                at, head, value = self.base.part_of(node)
                x[row, at, head] -= value
                continue
            vector = found.written[int(np.flatnonzero(found.written_by == node)[0])]
            x[row, int(found.at[node])] -= torch.as_tensor(vector).to(x)
        return x

    def at(self, site: Site) -> Callable[[Tensor], Tensor]:
        """What becomes of a site."""
        clean, layer = self.base.clean.get(site), site.layer or 0

        def stream(x: Tensor) -> Tensor:
            x = self.subtract(x, site)
            if site.name == "resid_pre":
                self.came[layer] = x
            return x

        def write(x: Tensor) -> Tensor:
            assert clean is not None  # all writes are kept
            out = clean.expand_as(x).clone()
            if site.name == "attn.z":
                for row, p in self.hops(layer):
                    at, head, _ = self.base.part_of(p)
                    out[row, at, head] = x[row, at, head]
            if site.name == "attn_out":
                before = self.base.clean[Site("resid_pre", layer)][0]
                for row, _ in self.here(Site("attn.z", layer)):
                    out[row] = x[row]
                for row, _ in self.hops(layer):  # the removal went through a head: no further here
                    out[row] = x[row]
                    if str(site) != self.base.found.read:  # else there is no further
                        out[row] += before - self.came[layer][row]
            return self.subtract(out, site)

        return write if self.held and not site.name.startswith("resid") else stream


def _values(base: _Base, nodes: np.ndarray, *, held: bool) -> np.ndarray:
    """The latent's pre-activation with each node taken out of a row of its own."""
    removal = _Removal(base, nodes.tolist(), held)
    written = {_site(base.found, n) for n in nodes.tolist()}
    sites = {*written, START}
    edits: list[Edit] = []
    if held:
        sites |= {s for s in base.clean if s.name in ("resid_pre", "attn.z", "attn_out", "mlp_out")}
        edits = [Edit(s, Set(x)) for s, x in base.clean.items() if s.name in HELD]
    edits += [Edit(s, Call(removal.at(s), "take out")) for s in sites]
    edits.sort(key=lambda e: e.site)
    ids = torch.as_tensor(base.found.ids)[None].expand(len(nodes), -1)
    read = Site.parse(base.found.read)
    acts = base.model.run(Tokens(ids), Plan(tuple(edits)), [read], logits="none").acts
    return _read(base.found, acts[read])
