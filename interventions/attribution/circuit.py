"""Run a circuit: the clean prompts, with every other edge given the corrupted run's share.

Layer by layer, each reader reads ``x_v(corrupted) + sum over kept edges of (z_u - z_u(corrupted))``
with ``z_u`` what writer u writes in this very run. No edges: the corrupted run. All: the clean one.
A block that is not being read is skipped, so a layer costs a few passes of one block.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lensbench.interventions.attribution.graph import Graph
from lensbench.interventions.attribution.streams import (
    Streams,
    head_outputs,
    last_site,
    skips_but,
)
from lensbench.interventions.patching.engine import pick_rows
from lensbench.models.base import Model
from lensbench.ops import Set
from lensbench.plan import Edit, Plan
from lensbench.sites import Site
from lensbench.tokens import Tokens

Written = Float[Tensor, "writers batch pos d_model"]


@dataclass(frozen=True)
class CircuitRun:
    """Some prompts, ready to be run under any circuit."""

    model: Model
    graph: Graph
    tokens: Tokens
    """Only their number and padding matter: every read is set."""
    clean: Streams
    corrupted: Streams

    def logits(
        self, kept: Bool[np.ndarray, " edges"], known: Written | None = None, first: int = 0
    ) -> Float[Tensor, "batch d_vocab"]:
        """Last logits of the circuit of the ``kept`` edges.

        ``known`` is what writers before layer ``first`` write under it, where that was worked out.
        """
        return self.run(kept, known, first)[0]

    def run(
        self, kept: Bool[np.ndarray, " edges"], known: Written | None = None, first: int = 0
    ) -> tuple[Float[Tensor, "batch d_vocab"], Written]:
        """Last logits, and what every writer wrote."""
        reads = torch.from_numpy(self.graph.matrix(kept))
        written = self.corrupted.written.clone()
        written[0] = self.clean.written[0]
        if known is not None:
            before = [i for i, w in enumerate(self.graph.writers) if w.layer < first]
            written[before] = known[before]
        for layer in range(first, self.model.n_layers):
            self._layer(layer, reads, written)
        last = self._inputs(reads, written, [-1], last_site(self.model.n_layers))[0]
        return self.model.unembed(last[:, -1]), written

    def _layer(self, layer: int, reads: Tensor, written: Written) -> None:
        """Attention, then the MLP, of one layer; what they write goes into ``written``."""
        ends, site = self.graph.readers, Site("resid_pre", layer)
        here = [i for i, r in enumerate(ends) if r.layer == layer and r.head >= 0]
        mlp = next(i for i, r in enumerate(ends) if r.layer == layer and r.head < 0)
        heads = self._heads(layer, here, self._inputs(reads, written, here, site), reads)
        if not self.graph.parallel:
            self._write(written, layer, heads=heads)
            site = Site("resid_mid", layer)
        x = self._inputs(reads, written, [mlp], site)[0]
        out = Site("mlp_out", layer)
        self._write(written, layer, mlp=self._read(self.tokens, layer, {site: x}, [out])[out])
        if self.graph.parallel:
            self._write(written, layer, heads=heads)

    def _inputs(
        self, reads: Tensor, written: Written, readers: list[int], site: Site
    ) -> Float[Tensor, "readers batch pos d_model"]:
        """What each of these readers reads."""
        share = reads[readers].to(written)
        moved = written - self.corrupted.written
        return self.corrupted.read[site] + torch.einsum("rw,wbtd->rbtd", share, moved)

    def _heads(self, layer: int, readers: list[int], x: Tensor, reads: Tensor) -> Tensor:
        """What each head writes, with queries, keys and values that read different streams."""
        rows, which = torch.unique(reads[readers].int(), dim=0, return_inverse=True)
        firsts = [int((which == i).nonzero()[0]) for i in range(len(rows))]
        n, tokens = self.tokens.n_rows, self.tokens
        many = pick_rows(tokens, list(range(n)) * len(firsts))
        sites = [Site(f"attn.{part}", layer) for part in "qkv"]
        stream = {Site("resid_pre", layer): x[firsts].flatten(0, 1)}
        found = self._read(many, layer, stream, sites)
        chosen: dict[Site, Tensor] = {}
        for site in sites:
            own = [(i, self.graph.readers[r]) for i, r in enumerate(readers)
                   if site.name.endswith(self.graph.readers[r].part)]  # fmt: skip
            of = found[site].unflatten(0, (len(firsts), n))
            chosen[site] = torch.stack([of[which[i], :, :, r.head] for i, r in own], 2)
        z = Site("attn.z", layer)
        mixed = self._read(tokens, layer, chosen, [z])[z]
        return head_outputs(self.model, tokens, {layer: mixed})[0][layer]

    def _read(
        self, tokens: Tokens, layer: int, given: dict[Site, Tensor], sites: list[Site]
    ) -> dict[Site, Tensor]:
        """One block under these settings; all others are skipped."""
        edits = tuple(Edit(site, Set(value)) for site, value in given.items())
        plan = Plan(edits, skips_but(self.model, [layer]))
        acts = self.model.run(tokens, plan, capture=sites, logits="none").acts
        return {site: acts[site] for site in sites}

    def _write(
        self, written: Written, layer: int, heads: Tensor | None = None, mlp: Tensor | None = None
    ) -> None:
        for i, end in enumerate(self.graph.writers):
            if end.layer != layer:
                continue
            if end.head >= 0 and heads is not None:
                written[i] = heads[:, :, end.head]
            if end.head < 0 and mlp is not None:
                written[i] = mlp
