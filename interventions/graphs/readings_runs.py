"""Passes of a garden-path study over its held-out items: activity, clamps, removals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lensbench.interventions.graphs.effects import ERROR, Nodes, part_of
from lensbench.interventions.graphs.items import Preference, ReadingItems
from lensbench.interventions.steering.rows import batch_of
from lensbench.interventions.values import groups
from lensbench.models.spliced import SplicedModel
from lensbench.ops import Set, Zero
from lensbench.plan import Edit, Plan
from lensbench.sites import Site

Mask = Bool[np.ndarray, " nodes"]


@dataclass(frozen=True, eq=False)
class Runs:
    """The held-out items, and the model with its dictionaries."""

    model: SplicedModel
    items: ReadingItems
    nodes: Nodes
    held: Int[np.ndarray, " held"]
    size: int

    def activity(self, circuit: Mask) -> dict[str, Float[np.ndarray, "circuit held"]]:
        """Activation of each latent of the circuit at the last token; NaN where there is no text.

        After the ambiguous prefix, and after prefixes with only one of the readings.
        """
        names = (("active", "prefix"), ("active_only_a", "only_a"), ("active_only_b", "only_b"))
        return {key: self._last(getattr(self.items, name), circuit) for key, name in names}

    def _last(self, prompts: Sequence[tuple[int, ...]], circuit: Mask) -> np.ndarray:
        found = np.full((int(circuit.sum()), len(self.held)), np.nan)
        there = [k for k, i in enumerate(self.held) if prompts[i]]
        which = np.flatnonzero(circuit)
        wanted = [part_of(Site.parse(s), "acts") for s in self.nodes.sites]
        for rows in groups(len(there), self.size):
            columns = [there[r] for r in rows]
            tokens = batch_of(self.model, [list(prompts[int(self.held[k])]) for k in columns])
            acts = self.model.run(tokens, capture=wanted, logits="none").acts
            for line, node in enumerate(which):
                number = int(self.nodes.latent[node])
                x = acts[wanted[int(self.nodes.site[node])]][:, -1, number]
                found[line, columns] = x.double().cpu().numpy()
        return found

    def preference(self) -> Float[np.ndarray, " held"]:
        """The preference as it is."""
        none = np.zeros(len(self.nodes.latent), dtype=bool)
        return self.clamped(none, none, 1.0)

    def clamped(self, up: Mask, down: Mask, dose: float) -> Float[np.ndarray, " held"]:
        """The preference with ``up`` at ``dose`` times what it is at each token, ``down`` at 0."""
        return self._measured("prefix", "a", "b", up, down, dose)

    def answers(self, out: Mask) -> Float[np.ndarray, " held"]:
        """``p(right) - p(wrong)`` after the question, with latents at zero."""
        nobody = np.zeros_like(out)
        return self._measured("question", "right", "wrong", nobody, out, 1.0)

    def _measured(
        self, prompts: str, plus: str, minus: str, up: Mask, down: Mask, dose: float
    ) -> Float[np.ndarray, " held"]:
        take = lambda name, rows: [getattr(self.items, name)[i] for i in self.held[rows]]  # noqa: E731
        found: list[Tensor] = []
        for rows in groups(len(self.held), self.size):
            tokens = batch_of(self.model, [list(p) for p in take(prompts, rows)])
            above = [part_of(Site.parse(s), "acts") for s in self._sites(up)]
            acts = self.model.run(tokens, capture=above, logits="none").acts if above else {}
            values = {str(s): dose * acts[s] for s in above}
            out = self.model.run(tokens, self._plan(values, up, down), logits="last").logits
            assert out is not None
            asked = Preference.of_tokens(take(plus, rows), take(minus, rows))
            found.append(asked.of(out[:, -1]).detach())
        return torch.cat(found).double().cpu().numpy()

    def _sites(self, mask: Mask) -> list[str]:
        return [self.nodes.sites[n] for n in np.unique(self.nodes.site[mask])]

    def _numbers(self, mask: Mask) -> list[int]:
        return [int(n) for n in self.nodes.latent[mask]]

    def _plan(self, values: dict[str, Tensor], up: Mask, down: Mask) -> Plan:
        edits: list[Edit] = []
        for number, name in enumerate(self.nodes.sites):
            at = part_of(Site.parse(name), "acts")
            here = (self.nodes.site == number) & (self.nodes.latent != ERROR)
            if (up & here).any():
                dims = self._numbers(up & here)
                edits.append(Edit(at, Set(values[str(at)][..., dims]), dims=dims))
            if (down & here).any():
                edits.append(Edit(at, Zero(), dims=self._numbers(down & here)))
        return Plan(tuple(edits))
