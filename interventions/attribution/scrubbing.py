"""Causal scrubbing: does a hypothesis say everything that matters about how a model does a task?

A hypothesis is a tree of claims: the state at this place matters only through this feature of the
prompt, and the place computes it from these children. What a claim allows is done at random:

1. For each prompt, the logits are those of another prompt drawn from all, with the place of each
   top claim set to what it is for a third one that has the same feature.
2. That state, where a claim has children, is again computed on a prompt drawn from all, with the
   children's places set for prompts that have the third one's features; and so on down the tree.
   Every path draws for itself.
3. ``recovered = (L_random - L_scrubbed) / (L_random - L_model)``: 1 where nothing that matters was
   left out, 0 where the hypothesis says nothing. A claim that is too fine is not punished.
4. Control: the same tree with its features shuffled over prompts.

Source: Chan et al. 2022, "Causal scrubbing".
"""

import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lensbench import provenance
from lensbench.arguments import whole_number
from lensbench.errors import ConfigError, UnknownSiteError
from lensbench.interventions.attribution.gradients import Question
from lensbench.interventions.attribution.scrub_result import ScrubResult
from lensbench.interventions.metrics import MetricLike, as_metric
from lensbench.interventions.patching.engine import pick_rows
from lensbench.interventions.places import Place, check_place
from lensbench.interventions.values import FromRun, groups, run_of
from lensbench.models.base import Model
from lensbench.ops import Set
from lensbench.plan import Edit, Plan
from lensbench.prompts.pairs import PromptPairs
from lensbench.prompts.score import check_pairs
from lensbench.results import Controls


@dataclass(frozen=True, eq=False)
class Claim:
    """A place matters through one feature of the prompt, and gets it from its children."""

    place: Place
    feature: Sequence[Hashable]
    """Its value for every pair."""
    children: Sequence["Claim"] = field(default_factory=tuple["Claim", ...])
    name: str = ""
    """What the feature is called, in print."""

    def lines(self, depth: int = 0) -> list[str]:
        """The tree in words, children indented."""
        told = self.name or f"{len(set(self.feature))} values"
        own = f"{'  ' * depth}{self.place}: {told}"
        return [own, *(line for child in self.children for line in child.lines(depth + 1))]

    def every(self) -> list["Claim"]:
        """This claim and all below it."""
        return [self, *(c for child in self.children for c in child.every())]

    def shuffled(self, order: np.ndarray) -> "Claim":
        """The same tree with the feature of another prompt."""
        feature = [self.feature[i] for i in order]
        return Claim(
            self.place, feature, tuple(c.shuffled(order) for c in self.children), self.name
        )


def causal_scrub(
    model: Model,
    pairs: PromptPairs,
    claims: Claim | Sequence[Claim],
    *,
    metric: MetricLike = "loss",
    draws: int = 8,
    batch_size: int = 64,
    seed: int = 0,
) -> ScrubResult:
    """Resample everything that a hypothesis says does not matter, and see what the loss becomes.

    ``recovered = (L_random - L_scrubbed) / (L_random - L_model)``. The clean prompts are the data
    set; the answer is theirs. Source: Chan et al. 2022, "Causal scrubbing".

    Args:
        model: any back end.
        pairs: prompts, each of whose clean half is a data point.
        claims: what the logits depend on, each claim with what it depends on in turn.
        metric: a loss: a name of :data:`lensbench.interventions.metrics.METRICS` or a function.
        draws: how often each prompt is scrubbed.
        batch_size: most rows in one forward pass.
        seed: of all draws.

    Raises:
        ConfigError: features that are not one per prompt; places that prompts of different length
            do not share, or that a prompt lacks; no claim.
        UnknownSiteError: a site this model has not.
        MismatchError: pairs of another tokenizer.

    Example:
        >>> from lensbench.interventions import Claim, Place
        >>> # the claim: at its last token, all that block 5 hands on is which answer is right
        >>> claim = Claim(Place("blocks.5.resid_post", "end"), list(pairs.answers))
        >>> found = interventions.causal_scrub(model, pairs, claim, draws=2)
    """
    began = time.monotonic()
    tree = [claims] if isinstance(claims, Claim) else list(claims)
    check_pairs(model, pairs)
    _check(model, pairs, tree)
    n, draws = len(pairs), whole_number("draws", draws, least=1)
    size = whole_number("batch_size", batch_size, least=1)
    rng = np.random.default_rng(seed)
    scrub = _Scrub(model, pairs, as_metric(metric), size, rng, tree)
    refs = np.tile(np.arange(n), draws)
    order = rng.permutation(n)
    losses = {
        "scrubbed": scrub.loss(tree, refs),
        "random": scrub.loss([], refs),
        "shuffled": scrub.loss([c.shuffled(order) for c in tree], refs),
    }
    table = {k: v.reshape(draws, n) for k, v in losses.items()}
    found = ScrubResult(
        task=pairs.task, metric=scrub.metric.name, unit=scrub.metric.unit,
        tree=tuple(line for claim in tree for line in claim.lines()), model=scrub.own,
        scrubbed=table["scrubbed"], random=table["random"], shuffled=table["shuffled"],
        config=_config(pairs, tree, draws, seed),
        provenance=provenance.record(
            model=vars(model.card), seed=seed, seconds=time.monotonic() - began
        ),
    )  # fmt: skip
    note = "loss recovered with the features shuffled over prompts"
    return replace(found, controls=Controls({"shuffled_features": found.control}, note))


class _Scrub:
    """One data set, and the runs that a tree asks for."""

    def __init__(
        self, model: Model, pairs: PromptPairs, metric: Any, size: int, rng: np.random.Generator,
        tree: Sequence[Claim],
    ) -> None:  # fmt: skip
        self.model, self.pairs, self.metric, self.size, self.rng = model, pairs, metric, size, rng
        leaves = {c.place for top in tree for c in top.every() if not c.children}
        self.states: dict[Place, list[Tensor]] = {place: [] for place in leaves}
        logits: list[Tensor] = []
        for rows in groups(len(pairs), size):
            part = pairs.select(rows)
            run, last = run_of(model, part.clean, part, [p.site for p in leaves])
            logits.append(last)
            for place, kept in self.states.items():
                kept += [x for r in range(len(part)) if (x := run.at(place, r)) is not None]
        self.asked = Question(metric, pairs, torch.cat(logits))
        self.own = self.asked.of(self.asked.clean).double().cpu().numpy()

    def loss(self, tree: Sequence[Claim], refs: np.ndarray) -> np.ndarray:
        """The metric of each prompt of ``refs`` under a tree of claims."""
        given = [(claim.place, self._states(claim, refs)) for claim in tree]
        rows = self.rng.integers(len(self.pairs), size=len(refs))
        found: list[np.ndarray] = []
        for part in groups(len(refs), self.size):
            out = self._run(rows, part, given)
            assert out.logits is not None
            loss = self.asked.of(out.logits[:, -1], [int(i) for i in refs[part]])
            found.append(loss.double().cpu().numpy())
        return np.concatenate(found)

    def _states(self, claim: Claim, refs: np.ndarray) -> list[Tensor]:
        """The claim's place for prompts that share the feature of each of ``refs``."""
        donors = self._alike(claim.feature, refs)
        if not claim.children:
            return [self.states[claim.place][i] for i in donors]
        given = [(child.place, self._states(child, donors)) for child in claim.children]
        rows = self.rng.integers(len(self.pairs), size=len(refs))
        found: list[Tensor] = []
        for part in groups(len(refs), self.size):
            out = self._run(rows, part, given, claim.place)
            run = FromRun(out.acts, self.pairs.select(rows[part]))
            found += [x for i in range(len(part)) if (x := run.at(claim.place, i)) is not None]
        return found

    def _run(
        self, rows: np.ndarray, part: np.ndarray, given: Sequence[tuple[Place, list[Tensor]]],
        read: Place | None = None,
    ) -> Any:  # fmt: skip
        """The prompts ``rows[part]`` with each place set."""
        plan = Plan(tuple(e for place, x in given for e in self._edits(place, x, rows, part)))
        tokens = pick_rows(self.pairs.clean, [int(i) for i in rows[part]])
        if read is None:
            return self.model.run(tokens, plan, logits="last")
        return self.model.run(tokens, plan, read.site, logits="none")

    def _edits(
        self, place: Place, x: Sequence[Tensor], rows: np.ndarray, part: np.ndarray
    ) -> list[Edit]:
        """One edit for all rows whose place is at the same token."""
        alike: dict[int | None, list[int]] = {}
        for row, i in enumerate(part):
            alike.setdefault(place.at(self.pairs, int(rows[i])), []).append(row)
        return [
            replace(place.edit(Set(torch.stack([x[part[r]] for r in some])), at), rows=some)
            for at, some in alike.items()
        ]

    def _alike(self, feature: Sequence[Hashable], refs: np.ndarray) -> np.ndarray:
        """For each prompt one with the same value, itself not left out."""
        same: dict[Hashable, list[int]] = {}
        for i, value in enumerate(feature):
            same.setdefault(value, []).append(i)
        return np.array([self.rng.choice(same[feature[i]]) for i in refs])


def _check(model: Model, pairs: PromptPairs, tree: Sequence[Claim]) -> None:
    model.require_next_token("causal scrubbing")
    if not tree or not all(isinstance(top, Claim) for top in tree):  # pyright: ignore[reportUnnecessaryIsInstance] - users
        raise ConfigError(f"a hypothesis needs claims, Claim(place, feature); got {tree!r}")
    known, lengths = model.sites(), {len(row) for row in pairs.clean_ids}
    for claim in (c for top in tree for c in top.every()):
        if claim.place.site not in known:
            raise UnknownSiteError(str(claim.place.site), known=tuple(map(str, known)))
        if len(claim.feature) != len(pairs):
            raise ConfigError(
                f"the feature at {claim.place} has {len(claim.feature)} values for {len(pairs)} "
                "prompts; give one each"
            )
        try:
            set(claim.feature)
        except TypeError as error:
            raise ConfigError(
                f"features at {claim.place} must be numbers, text or tuples of them: {error}"
            ) from error
        if late := [c.place for c in claim.children if not c.place.site < claim.place.site]:
            raise ConfigError(
                f"{late[0]} is computed too late for {claim.place} to be made of it; children name "
                "sites before their parent's"
            )
        if isinstance(claim.place.position, str):
            if -1 in pairs.position(claim.place.position):
                raise ConfigError(f"some prompts have no {claim.place.position!r}; select others")
        elif len(lengths) > 1:
            raise ConfigError(
                f"prompts of {min(lengths)} to {max(lengths)} tokens share no {claim.place}; name "
                f"a role, position={sorted(pairs.roles)}, or select prompts of one length"
            )
        check_place(model, pairs, claim.place)


def _config(pairs: PromptPairs, tree: Sequence[Claim], draws: int, seed: int) -> dict[str, Any]:
    features = [[str(c.place), [str(v) for v in c.feature]] for top in tree for c in top.every()]
    return {"pairs": pairs.fingerprint(), "features": features, "draws": draws, "seed": seed}
