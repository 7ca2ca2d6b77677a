"""Path patching: what a place does to another place directly, with everything between held still.

For each sender, in four passes (A and B are done once for all senders):

A. The other prompts run, and the sender's state is kept.
B. The prompts run, and every head's and MLP's output is kept.
C. The prompts run again with all those outputs set to what they were and the sender to its state in
   A; what the receivers then read is kept. (What a head reads may differ, what it says may not.)
D. The prompts run with the receivers set to what they read in C; all else follows. The metric.

Source: Wang et al. 2022, arXiv:2211.00593 (IOI), who freeze queries, keys and values; a head's
``z`` is a function of them, so freezing it is the same and leaves them to be read.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError, UnknownNameError, UnknownSiteError
from lensbench.interventions.metrics import MetricLike, as_metric
from lensbench.interventions.patching.engine import Engine, Group, pick_rows
from lensbench.interventions.patching.result import PatchingResult
from lensbench.interventions.patching.sweep import DIRECTIONS
from lensbench.interventions.patching.whole import anchored, run_sweep
from lensbench.interventions.places import Each, Place, check_place, places
from lensbench.interventions.values import FromRun, Planned, RandomSteps, Values, run_of
from lensbench.models.base import Acts, Model
from lensbench.ops import Set
from lensbench.plan import Edit, Plan
from lensbench.prompts.pairs import PromptPairs
from lensbench.sites import Site

SENDERS = ("embed", "resid_pre", "attn.z", "attn_out", "resid_mid", "mlp.post", "mlp_out",
           "resid_post")  # fmt: skip
RECEIVERS = ("attn.q", "attn.k", "attn.v", "mlp.in", "resid_pre", "resid_mid", "resid_post",
             "ln_final")  # fmt: skip
Receiver = Place | str | Site


def path_patch(
    model: Model,
    pairs: PromptPairs,
    senders: str | Site | Sequence[str | Site] = "attn.z",
    receivers: Receiver | Sequence[Receiver] = "ln_final",
    *,
    freeze_mlps: bool = True,
    direction: Literal["denoise", "noise"] = "denoise",
    metric: MetricLike = "logit_diff",
    layers: Sequence[int] | None = None,
    positions: Each | Sequence[int | str] | None = "together",
    heads: Each | Sequence[int] = "each",
    random_patches: int = 8,
    batch_size: int = 64,
    seed: int = 0,
) -> PatchingResult:
    """Patch each sender, but only along its direct paths to the receivers.

    Effects are those of :func:`patch_sweep`. With ``receivers="ln_final"`` they are direct effects
    on the logits; with ``freeze_mlps=False`` paths through MLPs count as direct. A sender behind
    all receivers has no path: its effect is that of no patch; where that is so of every sender,
    it is an error.
    Source: Wang et al. 2022, arXiv:2211.00593, appendix B.

    Args:
        model: any back end.
        pairs: from :mod:`lensbench.prompts`; aligned token by token.
        senders: places that are swept, as in :func:`patch_sweep`: outputs of heads, MLPs, layers.
        receivers: what they send to: sites, or places such as ``Place(Site("attn.k", 3), head=1)``.
        freeze_mlps: hold MLPs between them still, too.
        direction: ``denoise``: clean states into the corrupted run; ``noise``: the reverse.
        metric: a name of :data:`lensbench.interventions.metrics.METRICS` or a function.
        layers: of the senders; left out, all.
        positions: of the senders: ``each``, ``together``, numbers or roles.
        heads: of the senders: ``each``, ``together`` or numbers.
        random_patches: senders that are moved by a random step of the patch's length, too.
        batch_size: most rows in one forward pass.
        seed: of the control.

    Raises:
        ConfigError, UnknownNameError, UnknownSiteError: arguments that do not fit; a sender that is
            read rather than said, a receiver that is said rather than read, no receiver behind
            any sender.
        MismatchError: pairs of another tokenizer.
        NonFiniteError: NaN in a state that would be patched in.

    Example:
        >>> found = interventions.path_patch(model, pairs, "attn.z", "ln_final", layers=[2, 3])
    """
    if direction not in DIRECTIONS:
        raise UnknownNameError("direction", str(direction), known=DIRECTIONS)
    where = places(model, pairs, senders, layers=layers, positions=positions, heads=heads)
    to = _receivers(model, receivers)
    _check(where, to)
    for place in to:
        check_place(model, pairs, place)
    n = whole_number("random_patches", random_patches, least=0)
    order = np.random.default_rng(seed).permutation(len(where))[:n]
    tried = sorted(int(i) for i in order)
    read = list(dict.fromkeys(p.site for p in where))

    def values_of(some: PromptPairs, at: Sequence[Place]) -> Callable[..., Any]:
        rng = torch.Generator().manual_seed(seed)
        route = _Route(model, at, to if some is pairs else anchored(to), freeze_mlps, batch_size)

        def values(group: Group) -> tuple[Planned, Planned | None]:
            part = group.pairs
            source = part.clean if direction == "denoise" else part.corrupted
            there, _ = run_of(model, source, part, read)  # pass A
            frozen = route.frozen()
            here, _ = run_of(model, group.base, part, [*read, *frozen])  # pass B
            moved = RandomSteps(there, here, rng)
            control = route.plans(group, [at[i] for i in tried], moved, here.acts)
            return route.plans(group, at, there, here.acts), control if tried else None

        return values

    sweep = Engine(model, pairs, where, direction, as_metric(metric), batch_size, seed)
    found = run_sweep(sweep, values_of, tried)
    found.config.update(receivers=[str(p) for p in to], freeze_mlps=freeze_mlps)
    return found


class _Route:
    """Passes C and what D needs of them."""

    def __init__(
        self, model: Model, where: Sequence[Place], to: Sequence[Place], mlps: bool, size: int
    ) -> None:
        self.model, self.where, self.to, self.size = model, where, to, size
        self.said = ("attn.z", "mlp_out") if mlps else ("attn.z",)

    def frozen(self) -> list[Site]:
        """Outputs between the first sender and the last receiver."""
        first, last = min(p.site for p in self.where), max(p.site for p in self.to)
        return [s for s in self.model.sites() if s.name in self.said and first < s < last]

    def plans(self, group: Group, where: Sequence[Place], states: Values, before: Acts) -> Planned:
        """The plan of pass D for every sender of every prompt."""
        jobs = [(place, row) for place in where for row in range(len(group.pairs))]
        found: dict[tuple[Place, int], Plan] = {}
        for start in range(0, len(jobs), self.size):
            part = jobs[start : start + self.size]
            ready = [(job, p) for job in part if (p := self._hold(group, *job, states, before))]
            if not ready:
                continue
            rows = [row for (_, row), _ in ready]
            out = self.model.run_many(
                pick_rows(group.base, rows), [plan for _, plan in ready],
                list(dict.fromkeys(p.site for p in self.to)), logits="none", batch_size=self.size,
            )  # fmt: skip
            read = FromRun(out.acts, group.pairs.select(rows))
            for i, (job, _) in enumerate(ready):
                found[job] = self._send(read, i)
        return Planned(found)

    def _hold(
        self, group: Group, place: Place, row: int, states: Values, before: Acts
    ) -> Plan | None:
        """Pass C: later outputs as they were, then the sender as it is in the other prompts."""
        op = states.op(place, row)
        if op is None:
            return None
        own = "mlp_out" if place.site.name == "mlp.post" else ""
        later = [s for s in self.frozen() if not s < place.site
                 and not (s.name == own and s.layer == place.site.layer)]  # fmt: skip
        held = (Edit(s, Set(before[s][row])) for s in later)
        return Plan((*held, place.edit(op, place.at(group.pairs, row))))

    def _send(self, read: FromRun, i: int) -> Plan:
        """Pass D: what the receivers read in pass C."""
        edits: list[Edit] = []
        for place in self.to:
            op = read.op(place, i)
            if op is not None:
                edits.append(place.edit(op, place.at(read.pairs, i)))
        return Plan(tuple(edits))


def _receivers(model: Model, given: Receiver | Sequence[Receiver]) -> tuple[Place, ...]:
    listed = [given] if isinstance(given, str | Site | Place) else list(given)
    known = model.sites()
    found: list[Place] = []
    for one in listed:
        if isinstance(one, Place):
            found.append(one)
        elif isinstance(one, str) and (every := [s for s in known if s.name == one]):
            found += [Place(s) for s in every]
        else:
            found.append(Place(Site.parse(one)))
    if unknown := [p.site for p in found if p.site not in known]:
        raise UnknownSiteError(str(unknown[0]), known=tuple(map(str, known)))
    if not found:
        raise ConfigError("path patching needs a receiver, such as 'blocks.3.attn.q'")
    return tuple(found)


def _check(where: Sequence[Place], to: Sequence[Place]) -> None:
    first = min(p.site for p in where)
    if all(p.site < first for p in to):
        raise ConfigError(
            f"no receiver stands behind a sender: the last receiver is {max(p.site for p in to)}, "
            f"the first sender {first}, so that no path leads from one to the other; name later "
            "receivers, or earlier layers of senders"
        )
    if wrong := [p.site for p in where if p.site.name not in SENDERS]:
        raise ConfigError(f"{wrong[0]} sends nothing of its own; senders are {', '.join(SENDERS)}")
    if wrong := [p.site for p in to if p.site.name not in RECEIVERS]:
        raise ConfigError(
            f"{wrong[0]} is held still while paths are followed; receivers are what is read: "
            f"{', '.join(RECEIVERS)}"
        )
