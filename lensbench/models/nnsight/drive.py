"""The block of a trace: every visit of one forward pass, in the order the model makes them.

This runs in nnsight's worker. It asks for one value after the other, shows it to the session of the
run (which edits and captures, exactly as under the native back end), and hands on what comes back.
Blocks that a plan skips are skipped by nnsight; what lies inside them is never asked for.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lensbench.models.families import Family
from lensbench.models.nnsight.atlas import Atlas, envoy_at, unobserved
from lensbench.models.nnsight.visits import Reach, Side
from lensbench.models.session import Key, Session, StopForward, first, replace_first


@dataclass(frozen=True)
class Visit:
    """A module's input or output, and the sites shown there; ``block`` marks those of a block."""

    rank: int
    path: str
    side: Side
    reaches: tuple[Reach, ...]
    block: tuple[int, str] | None


class Drive:
    """One run of one traced module under one session."""

    def __init__(self, atlas: Atlas, session: Session, within: str) -> None:
        self.atlas, self.session, self._within = atlas, session, within
        self._root: Any = None
        self._inputs: dict[str, Any] = {}
        self._entered: list[int] = []
        """Ranks at which blocks that run were entered."""
        self._rows = 0

    def run(self, root: Any, tracer: Any, result: list[Any]) -> None:
        """Make every visit, then put what the module returned into ``result``."""
        self.walk(root)
        result.append(tracer.result)

    def walk(self, root: Any) -> None:
        """Make every visit; StopForward once nothing more is wanted."""
        self._root = root
        for visit in self.visits():
            try:
                self._make(visit)
            except StopForward:
                self._count(visit.rank)
                raise
        self._count(None)

    def _count(self, before: int | None) -> None:
        ran = [rank for rank in self._entered if before is None or rank < before]
        self.session.layers_run += len(ran) * self._rows

    def visits(self) -> list[Visit]:
        """The visits this session needs, in execution order."""
        wanted: dict[tuple[str, Side], list[Reach]] = {}
        for reach in self.atlas.reaches:
            if self._is_within(reach.path) and self._is_wanted(reach):
                wanted.setdefault((reach.path, reach.side), []).append(reach)
                if reach.needs_input:
                    wanted.setdefault((reach.path, "input"), [])
        for path in (self.atlas.embedding, *self.atlas.blocks.values()):
            if self._is_within(path):
                for side in ("input", "output"):
                    wanted.setdefault((path, side), [])
        of_path = {path: place for place, path in self.atlas.blocks.items()}
        order = self.atlas.order
        found = [
            Visit(order[at], at[0], at[1], tuple(reaches), of_path.get(at[0]))
            for at, reaches in wanted.items()
            if at in order
        ]
        idle = tuple(f"{path}." for place, path in self.atlas.blocks.items() if self._idle(place))
        kept = (v for v in found if not (idle and v.path.startswith(idle)))
        return sorted((v for v in kept if self._needed(v)), key=lambda v: v.rank)

    def _is_within(self, path: str) -> bool:
        return not self._within or f"{path}.".startswith(f"{self._within}.")

    def _is_wanted(self, reach: Reach) -> bool:
        session = self.session
        asked = [key for key in reach.keys if key in session.keys]
        if reach.writes_through and asked == [reach.keys[-1]]:
            return reach.keys[-1] in session.edits
        return bool(asked)

    def _idle(self, place: tuple[int, str]) -> bool:
        """Blocks that do not run: those before the start, and those the plan skips."""
        layer, stack = place
        scope = self.session.scope
        return stack == scope.main and (layer < scope.start or layer in self.session.skips)

    def _needed(self, visit: Visit) -> bool:
        """Blocks are visited where something is to be done there; the embedding for gradients."""
        if visit.reaches or (visit.block is None and visit.side == "input"):
            return visit.path != self.atlas.embedding or bool(visit.reaches)
        if visit.block is None:
            return visit.path == self.atlas.embedding and self.session.grad
        if visit.side == "input":
            return True
        layer, stack = visit.block
        last = stack == self.session.scope.main and layer + 1 == self.session.scope.end
        return last or ("resid_post", layer, stack) in self.session.keys

    def _make(self, visit: Visit) -> None:
        envoy = envoy_at(self._root, visit.path)
        if visit.block is not None:
            if visit.side == "input":
                self._enter(visit, visit.block, envoy)
            else:
                self._leave(visit.block, envoy)
            return
        if any(reach.skips for reach in visit.reaches):
            (reach,) = visit.reaches
            envoy.skip(reach.show(self.session, envoy.inputs, envoy, None))
            return
        value = before = envoy.input if visit.side == "input" else envoy.output
        if visit.side == "input":
            self._inputs[visit.path] = value
        elif visit.path == self.atlas.embedding and self.session.grad and not value.requires_grad:
            value.requires_grad_()  # frozen weights: gradients still need a leaf
        for reach in visit.reaches:
            value = reach.show(self.session, value, envoy, self._inputs.get(visit.path))
        if value is not before:
            setattr(envoy, visit.side, value)

    def _enter(self, visit: Visit, place: tuple[int, str], envoy: Any) -> None:
        """A block's input: inject, edit, count, and skip the block where it does not run."""
        (layer, stack), scope = place, self.session.scope
        hidden = before = envoy.input
        main = stack == scope.main
        if main and layer < scope.start:
            envoy.skip(self._passed_on(place, hidden, envoy))
            return
        if main and layer == scope.start and scope.injected is not None:
            hidden = scope.injected
        key: Key = ("resid_pre", layer, stack)
        if key in self.session.keys:
            hidden = self.session.tap(key, hidden)
        if self._idle(place):
            envoy.skip(self._passed_on(place, hidden, envoy))
            return
        self._entered.append(visit.rank)
        self._rows = hidden.shape[0]
        self.session.resid_pre = hidden
        if hidden is not before:
            envoy.input = hidden

    def _leave(self, place: tuple[int, str], envoy: Any) -> None:
        layer, stack = place
        scope, key = self.session.scope, ("resid_post", layer, stack)
        main = stack == scope.main
        if main and layer < scope.start:
            return
        out = envoy.output
        if key in self.session.keys:
            new = replace_first(out, self.session.tap(key, first(out)))
            if new is not out:
                envoy.output = new
            out = new
        if main and layer + 1 == scope.end:
            self.session.last = first(out)
            raise StopForward

    def _passed_on(self, place: tuple[int, str], hidden: Tensor, envoy: Any) -> Any:
        """What a block that does not run hands to the next one."""
        family = self.atlas.architecture.stacks[place[1]]
        if not family.shared_bias:
            return (hidden, None) if family.gives_tuple else hidden
        args, options = envoy.inputs
        with unobserved(self._root):
            return _with_bias(family, envoy._module, hidden, args[1:], options)


def run_whole(drive: Drive, root: Any) -> dict[str, Any]:
    """All of a remote run: what was captured, and the logits where the pass went that far."""
    session, logits = drive.session, None
    try:
        drive.walk(root)
        logits = root.output.logits
    except StopForward:
        pass
    return {
        "acts": {str(site): x.detach().cpu() for site, x in session.acts.items()},
        "logits": None if logits is None else logits.detach().cpu(),
        "fired": sorted(session.keys - session.waiting),
        "layers_run": session.layers_run,
    }


def _with_bias(
    family: Family, block: Any, hidden: Tensor, args: tuple[Any, ...], options: dict[str, Any]
) -> Any:
    """T5: block 0 makes the position bias of all blocks, even where it does not run itself."""
    # Here, not above: this module is shipped to NDIF, and hooks are not needed there.
    from lensbench.models.streams import BlockForward

    return BlockForward(None, family, 0, "", block)._pass_on(hidden, args, options)
