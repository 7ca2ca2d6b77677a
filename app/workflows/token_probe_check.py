"""Does the model use what a probe or an encoder reads at a token? Take it out and see what it says.

1. *Out*: ``x <- x - (x . u) u``, u the probe's direction at length 1.
2. *Turned*: ``x <- x - 2 s w / |w|^2``, s the probe's output (w . x + b): the output changes sign.
3. Controls: the same with random directions, those of step 2 steps of equal length.

All are rows of one batch of one run, at this position alone.
"""

import time
from pathlib import Path

import numpy as np

from lensbench.app.workflows.token_checks import (
    CONTROLS,
    Check,
    kl,
    one_batch,
    place_of,
    running_of,
)
from lensbench.app.workflows.token_checks import moves as moved
from lensbench.app.workflows.token_hyper import reading_direction
from lensbench.app.workflows.token_probes import probe_named
from lensbench.errors import ConfigError
from lensbench.ops import Project
from lensbench.plan import Add, Edit
from lensbench.sites import Site


def check_probe(root: Path, url: str, row: int, label: str, seed: int = 0) -> Check:
    """Take a probe's direction out at this token, and turn its output round.

    Value: ``KL(clean || without the direction)`` of the next token, nats. Control: random
    directions taken out, their mean.

    Raises:
        UnknownNameError: no probe of that label.
        ConfigError: a probe of several classes, which has no one direction.
        MissingDataError, MismatchError: the model is not to be found, or is another.
    """
    import torch

    one, place, began = probe_named(root, url, row, label), place_of(url, row), time.perf_counter()
    if len(one.probe.bias) > 1:
        raise ConfigError(
            f"the probe of {label!r} tells {len(one.probe.classes)} classes apart, so it has no "
            "one direction; fit a label of two"
        )
    site = Site.parse(one.probe.site)
    w = torch.from_numpy(one.probe.weights[0]).float()
    u, turn = w / w.norm(), -2 * one.score * w / w.norm() ** 2
    gen = torch.Generator().manual_seed(seed)
    random = torch.nn.functional.normalize(torch.randn(CONTROLS, len(w), generator=gen), dim=1)
    ops = [Project(u[None]), Add(turn), *(Project(r[None]) for r in random),
           *(Add(r * turn.norm()) for r in random)]  # fmt: skip
    edits = [Edit(site, op, rows=(i,), positions=(place.position,)) for i, op in enumerate(ops, 1)]
    with running_of(place.store) as model:
        logits = one_batch(model, place, edits, len(ops) + 1)
        table = moved(model, logits[0], logits[2])
    gaps = kl(logits[:1].expand(len(ops), -1), logits[1:]).cpu().numpy()
    out, others = float(gaps[0]), gaps[2 : 2 + CONTROLS]
    turned, steps = float(gaps[1]), gaps[2 + CONTROLS :]
    higher = int((others >= out).sum()), int((steps >= turned).sum())
    if higher == (0, 0):
        verdict = (
            f"Taken out or turned round, what the probe of {label} reads moves the next-token "
            f"prediction more than each of {CONTROLS} random directions."
        )
    else:
        verdict = (
            f"{higher[0]} of {CONTROLS} random directions taken out, and {higher[1]} of {CONTROLS} "
            "random steps of equal length, move the prediction at least as much: no sign that it "
            f"depends on what the probe of {label} reads here."
        )
    details = {
        "control": f"mean of {CONTROLS} random directions taken out (largest {others.max():.3g})",
        "turned round": f"{turned:.3g} nats, random steps of equal length {np.mean(steps):.3g} "
                        f"(largest {steps.max():.3g}); the table shows this one",
        "edit": f"{site} at position {place.position}, a step of length {float(turn.norm()):.3g}",
    }  # fmt: skip
    return Check(f"KL(clean ‖ without the direction of {label}) of the next token", out,
                 float(others.mean()), "nats", verdict, table, time.perf_counter() - began,
                 details)  # fmt: skip


def check_hyper(root: Path, url: str, row: int, task: str, concept: str, seed: int = 0) -> Check:
    """Take out the direction along which a concept is read, in the first layer that is read.

    Value: ``KL(clean || without it)`` of the next token, nats; the layers above follow. Control:
    random directions taken out, their mean.

    Raises:
        MissingDataError, MismatchError: no encoder, or the model is not to be found.
        UnknownNameError: no such concept.
    """
    import torch

    place, began = place_of(url, row), time.perf_counter()
    layer, u = reading_direction(root, url, row, task, concept)
    gen = torch.Generator().manual_seed(seed)
    random = torch.nn.functional.normalize(torch.randn(CONTROLS, len(u), generator=gen), dim=1)
    site = Site("resid_post", layer)
    edits = [Edit(site, Project(v[None]), rows=(i,), positions=(place.position,))
             for i, v in enumerate((u, *random), 1)]  # fmt: skip
    with running_of(place.store) as model:
        logits = one_batch(model, place, edits, CONTROLS + 2)
        table = moved(model, logits[0], logits[1])
    gaps = kl(logits[:1].expand(CONTROLS + 1, -1), logits[1:]).cpu().numpy()
    higher = int((gaps[1:] >= gaps[0]).sum())
    verdict = (f"Without the direction along which {concept!r} is read, the prediction moves more "
               f"than without each of {CONTROLS} random ones." if not higher else
               f"{higher} of {CONTROLS} random directions move the prediction at least as much: no "
               f"sign that it depends on what is read as {concept!r} here.")  # fmt: skip
    return Check(f"KL(clean ‖ without the direction of {concept!r}) of the next token",
                 float(gaps[0]), float(gaps[1:].mean()), "nats", verdict, table,
                 time.perf_counter() - began,
                 {"control": f"mean of {CONTROLS} random directions taken out (largest "
                             f"{gaps[1:].max():.3g})",
                  "edit": f"{site} at position {place.position}; layers above follow"})  # fmt: skip
