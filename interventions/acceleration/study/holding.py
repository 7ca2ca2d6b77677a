"""What each class of prediction demands of a live run, and the passes it takes to say so."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float

from lensbench.interventions.acceleration.decoding import Decoded, native
from lensbench.interventions.acceleration.exits.live import check_exits
from lensbench.interventions.acceleration.study.lens_read import table_of_text
from lensbench.interventions.acceleration.study.methods import Evidence, Forecast, Method
from lensbench.interventions.acceleration.study.methods_exits import EarlyExit, Free
from lensbench.interventions.acceleration.study.methods_skips import DraftAndVerify, Forcible
from lensbench.interventions.acceleration.study.rows import shared
from lensbench.interventions.acceleration.study.simulate_exits import exit_layers
from lensbench.interventions.acceleration.study.trace import ExitTrace, Trace
from lensbench.interventions.acceleration.study.work import Work
from lensbench.models.base import Model
from lensbench.models.ranges import Counts, Sublayer

_COUNTED = ("attention", "mlp", "heads", "filled", "calls", "attended")


def held(
    chosen: Method,
    wanted: str,
    told: Forecast,
    live: Decoded,
    full: Sequence[int],
    model: Model,
    evidence: Evidence,
) -> list[str]:
    """Lines saying what a live run did that the prediction of its class rules out."""
    problems: list[str] = []
    if chosen.lossless and tuple(live.new) != tuple(full):
        problems.append(f"the text differs after {shared(live.new, full)} tokens")
    layers = evidence.n_layers
    if isinstance(told.trace, Trace):
        problems += _rounds(told.trace, live)
    if isinstance(told.trace, ExitTrace):
        problems += _exits(chosen, told.trace, live, model)
    elif told.least is not None and told.most is None and wanted != "bounded":
        problems += _counts(told.least, live.counts, layers)
    if isinstance(chosen, Forcible):
        problems += _forced(chosen, live, model, evidence)
    if isinstance(chosen, DraftAndVerify):
        problems += _first_drafts(chosen, live, model)
    return problems


def _rounds(told: Trace, live: Decoded) -> list[str]:
    rows = list(zip(told.rounds, told.most_drafted, live.rounds, strict=False))[: told.known]
    for number, (ours, most, theirs) in enumerate(rows):
        if (ours.exit_layer, ours.accepted) != (theirs.exit_layer, theirs.accepted):
            return [f"round {number} was told {ours} and is {theirs}"]
        if not ours.drafted <= theirs.drafted <= most:
            return [f"round {number} drafted {theirs.drafted}, not {ours.drafted} to {most}"]
    if told.known == len(told.rounds) != len(live.rounds):
        return [f"{len(told.rounds)} rounds were told, {len(live.rounds)} ran"]
    return []


def _counts(told: Work, live: Counts, n_layers: int) -> list[str]:
    ours = told.counts(n_layers)
    theirs = {name: getattr(live, name) for name in _COUNTED}
    wrong = [f"{k} {ours[k]}, not {theirs[k]}" for k in _COUNTED if ours[k] != theirs[k]]
    return [f"counted {', '.join(wrong)}"] if wrong else []


def _exits(chosen: Method, told: ExitTrace, live: Decoded, model: Model) -> list[str]:
    """The shared beginning, then the whole free run: its own text through the full model."""
    k = told.known
    if (told.exits[:k], told.tokens[:k]) != (live.exits[:k], live.new[:k]):
        return [f"exits or tokens differ within the first {k}"]
    table = table_of_text(model, live.prompt, live.new)
    if isinstance(chosen, Free):
        found = exit_layers(table, chosen.threshold, "softmax_diff", (chosen.exit_layer,))
    elif isinstance(chosen, EarlyExit):
        allowed = check_exits(chosen.exits, table.n_layers)
        found = exit_layers(table, chosen.threshold, chosen.measure, allowed, chosen.decay)
    else:
        return []
    new = table.new
    left = found[new]
    tokens = np.take_along_axis(table.best[:, new], left[None] - 1, 0)[0]
    if left.tolist() != list(live.exits) or tokens.tolist() != list(live.new):
        return ["the free run is not what the full model's layers say of its text"]
    return []


def _forced(chosen: Forcible, live: Decoded, model: Model, evidence: Evidence) -> list[str]:
    logits, _ = chosen.forced(model, live.prompt, live.new, evidence)
    found = logits.argmax(-1).tolist()
    if found == list(live.new):
        return []
    return [f"one pass over the live text differs after {shared(found, live.new)} tokens"]


def _first_drafts(chosen: DraftAndVerify, live: Decoded, model: Model) -> list[str]:
    agrees = first_draft_agreement(model, live.prompt, live.new, chosen.skips)
    at = 0
    for number, entry in enumerate(live.rounds):
        if entry.drafted and (entry.accepted > 0) != bool(agrees[at]):
            return [f"the first draft of round {number} is not what one pass says"]
        at += entry.accepted + 1
    return []


def forced_quality(
    chosen: Forcible,
    model: Model,
    prompt: Sequence[int],
    text: Sequence[int],
    evidence: Evidence,
) -> dict[str, Float[np.ndarray, " new"]]:
    """Agreement, KL and log p of the text of the changed model, teacher-forced."""
    changed, full = chosen.forced(model, prompt, text, evidence)
    ours, theirs = changed.double().log_softmax(-1), full.double().log_softmax(-1)
    target = torch.tensor(list(text), device=ours.device)
    kl = (theirs.exp() * (theirs - ours)).nan_to_num(0.0).sum(-1).clamp_min(0)
    return {
        "agreement": (ours.argmax(-1) == theirs.argmax(-1)).double().cpu().numpy(),
        "kl": kl.cpu().numpy(),
        "log_target": ours.gather(1, target[:, None])[:, 0].cpu().numpy(),
    }


def first_draft_agreement(
    model: Model, prompt: Sequence[int], text: Sequence[int], skips: Iterable[Sublayer]
) -> Bool[np.ndarray, " new"]:
    """Would a draft without ``skips`` name each new token, all before it read by the full model?

    Position by position from the last: a draft overwrites its own keys only, and those of earlier
    tokens are still the full model's. The first new token is the full model's and counts as named.
    """
    runner = native(model).layers(len(prompt) + len(text))
    ids = torch.tensor([[*prompt, *text]], device=native(model).device)
    omit = tuple(skips)
    entry = runner.embed(ids, 0)
    runner.run(entry, 0, runner.n_layers, 0)
    agrees = np.ones(len(text), dtype=bool)
    for t in range(len(text) - 1, 0, -1):
        at = len(prompt) + t - 1
        runner.crop(at)
        h = runner.run(entry[:, at : at + 1], 0, runner.n_layers, at, omit=omit)
        agrees[t] = int(runner.logits(h)[0, -1].argmax()) == text[t]
    return agrees
