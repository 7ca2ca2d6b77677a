"""A patch of a line of neurons as an edit of the weights, and an edit as such a patch: by names."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lensbench import interventions, io
from lensbench.app.workflows.answers import result_facts, saved_in
from lensbench.app.workflows.circuits import CircuitAsk
from lensbench.app.workflows.live import running
from lensbench.app.workflows.patching import pairs_of, positions_of
from lensbench.errors import ConfigError, UnknownNameError
from lensbench.interventions import RankOneEdit
from lensbench.interventions.metrics import as_metric, ends_of
from lensbench.interventions.patching.sweep import DIRECTIONS
from lensbench.interventions.subspace.keys import key_site
from lensbench.interventions.subspace.patch import all_steps, one_place
from lensbench.plan import Plan
from lensbench.prompts.pairs import PromptPairs
from lensbench.results import load
from lensbench.sites import Site
from lensbench.standing import standing

if TYPE_CHECKING:
    from lensbench.models import Model


@dataclass(frozen=True)
class LineAsk:
    """Which line of neurons is patched, where: a file's, an edit's, or the runs' own step."""

    task: CircuitAsk
    layer: int
    position: str = ""
    """Role or number; empty: the subject, or the end where the task has none."""
    direction: str = "denoise"
    line: str = ""
    edit: str = ""
    random: int = 20
    out: Path | None = None


def patch_and_edit(ask: LineAsk) -> dict[str, Any]:
    """Patch a line and do the same by an edit of the weights, beside edits of random lines.

    Raises:
        ConfigError: a line and an edit, no rank-1 edit that does what the patch does, no line that
            does what the edit does.
        MismatchError: an edit of another model.
    """
    if ask.direction not in DIRECTIONS:
        raise UnknownNameError("direction", ask.direction, known=DIRECTIONS)
    if ask.line and ask.edit:
        raise ConfigError("give one of --line (a patch, made an edit) and --edit (the reverse)")
    given = ask.task
    with running(given.model, given.revision) as model:
        pairs = pairs_of(model, given.task, given.n, given.seed, given.pairs, given.several)
        (where,) = positions_of(ask.position or ("subject" if "subject" in pairs.roles else "end"))
        how: Any = {"position": where, "direction": ask.direction}
        if ask.edit:
            made = _edit(ask.edit)
            if Site.parse(made.site).layer != ask.layer:
                raise ConfigError(f"the edit of {ask.edit} is at {made.site}, not in layer "
                                  f"{ask.layer}; give its --layer")  # fmt: skip
            line = interventions.patch_of_edit(model, made, pairs, **how)
        else:
            line = _line(ask, model, pairs, where)
            made = interventions.edit_of_patch(model, pairs, ask.layer, line, **how)
        tested = interventions.subspace_patch(model, pairs, made.site, line, **how,
                                              seed=given.seed)  # fmt: skip
        start, source = float(tested.base.mean()), float(tested.source.mean())

        def effect(edit: RankOneEdit) -> float:
            return (_measured(model, pairs, edit.plan(), ask.direction) - start) / (source - start)

        rng = torch.Generator().manual_seed(given.seed)
        lines = torch.randn(ask.random, len(line), generator=rng, dtype=torch.float64)
        drawn = [effect(interventions.edit_of_patch(model, pairs, ask.layer, one, **how))
                 for one in lines]  # fmt: skip
        own = effect(made)
    facts = result_facts(given.model, tested, ask.out, task=pairs.task, verdict=tested.verdict)
    edit: dict[str, Any] = {"effect": own, **made.summary()}
    if drawn and np.isfinite(own):
        edit["random_edits"] = drawn
        if tested.verdict != "no effect":  # a rank among effects of nothing says nothing
            edit["verdict"] = standing(own, drawn).told("edits of random lines")
    folder = None if ask.out is None else ask.out / "edit"
    facts["edit"] = edit | saved_in(made, folder)
    if ask.out is not None:
        io.write_arrays(ask.out / "line.safetensors", {"directions": np.asarray(line)[None]})
        facts["line"] = str(ask.out / "line.safetensors")
    return facts


def _line(ask: LineAsk, model: "Model", pairs: PromptPairs, where: Any) -> np.ndarray:
    """The line of a file; without one the mean step of the neurons from one run to the other."""
    site = key_site(model, ask.layer)
    if not ask.line:
        place = one_place(model, pairs, site, where, None)
        return all_steps(model, pairs, place, ask.direction, 64).mean(0).double().numpy()
    found = io.read_arrays(Path(ask.line))
    rows = [np.atleast_2d(np.asarray(x)) for x in found.values()]
    if len(rows) != 1 or len(rows[0]) != 1:
        raise ConfigError(
            f"--line: {ask.line} must hold one direction [{model.width(site)}] of neurons, such as "
            "a tensor 'directions' with one row"
        )
    return rows[0][0].astype(np.float64)


def _edit(folder: str) -> RankOneEdit:
    found = load(folder)
    if not isinstance(found, RankOneEdit):
        raise ConfigError(f"{folder} holds a {type(found).__name__}, not a rank-1 edit; use the "
                          "folder OUT/edit of `lensbench edit patch --out OUT`")  # fmt: skip
    return found


def _measured(model: "Model", pairs: PromptPairs, plan: Plan, direction: str) -> float:
    """Mean logit difference of the prompts that are changed."""
    tokens = pairs.corrupted if direction == "denoise" else pairs.clean
    logits = model.run(tokens, plan, logits="last").logits
    assert logits is not None
    return float(as_metric("logit_diff")(ends_of(pairs, logits)).double().mean())
