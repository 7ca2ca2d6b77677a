"""Patches of a line of an MLP's neurons as rank-1 edits of its output projection, and back.

A patch along a unit vector b moves the neurons h of a token to ``h + s b``, ``s = (h' - h) . b``,
and what the projection W writes by ``s W b``. An edit ``W + (W b) c^T`` writes as much wherever
``c . h = s``, and nothing more wherever ``c . h = 0``. So each such patch is a rank-1 edit on its
prompts, as long as the keys of their tokens leave such a c; and an edit is the patch of a line
where the runs differ enough in what W ignores. An edit that works is therefore no more evidence
that a layer holds a fact than a patch that works: the line may be an illusion.

Source: Makelov, Lange and Nanda 2023, arXiv:2311.17030, on fact editing; the constraints that keep
the other tokens of the prompts are ours.
"""

import time
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.errors import ConfigError, MismatchError, UnknownNameError
from lensbench.interventions.patching.sweep import DIRECTIONS
from lensbench.interventions.places import Place
from lensbench.interventions.subspace.keys import key_site, least_moving, moment_of
from lensbench.interventions.subspace.next_map import next_map
from lensbench.interventions.subspace.patch import both_runs, one_place
from lensbench.interventions.subspace.rank_one import RankOneEdit, made_edit, vector
from lensbench.interventions.subspace.spans import RANK, split
from lensbench.interventions.values import FromRun
from lensbench.models.base import Model
from lensbench.prompts.pairs import PromptPairs
from lensbench.prompts.score import check_pairs
from lensbench.sites import Site

MISSED = 1e-4
"""Most by which an edit may miss a patch's step, as a share of the longest one."""


def edit_of_patch(
    model: Model,
    pairs: PromptPairs,
    layer: int,
    line: Any,
    *,
    position: int | str = "end",
    direction: Literal["denoise", "noise"] = "denoise",
    moment: Any = None,
    ridge: float = 1e-4,
) -> RankOneEdit:
    """The rank-1 edit that does on these prompts what patching a line of the neurons does.

    ``W' = W + (W b) c^T``, ``c = argmin c^T C c`` with ``c . h = (h' - h) . b`` at the position of
    every base prompt and ``c . h = 0`` at its other tokens.

    Args:
        model: any back end.
        pairs: as in ``subspace_patch``, together with ``position`` and ``direction``.
        layer: whose ``mlp.post`` is patched.
        line: ``[d_mlp]``, any length but 0.
        position: a role or a number.
        direction: ``denoise``: the edit acts on the corrupted prompts; ``noise``: on the clean.
        moment: see :func:`rank_one_edit`, as for ``ridge``.
        ridge: the same.

    Raises:
        ConfigError: no rank-1 edit does it (two tokens with one key would need different steps,
            or there are more tokens than neurons), or arguments that do not fit.

    Example:
        >>> edit = interventions.edit_of_patch(model, pairs, 2, torch.randn(384))
    """
    began = time.monotonic()
    site, place = _asked(model, pairs, layer, position, direction)
    width = model.width(site)
    b = vector("line", line, width)
    if not bool(b.any()):
        raise ConfigError("line is 0 everywhere; there is nothing to patch")
    b = b / b.norm()
    base, source, _ = both_runs(model, pairs, place, direction)
    keys, wanted, own = _constraints(base, source, place, b)
    read = least_moving(keys, wanted, moment_of(moment, width, ridge))
    missed = float((keys @ read - wanted).abs().max())
    if missed > MISSED * float(wanted.abs().max()):
        raise ConfigError(
            f"no rank-1 edit does what this patch does on {len(pairs)} prompts ({len(keys)} "
            f"tokens, {width} neurons): some keys depend on each other and need different steps "
            f"(missed by {missed:.2g}). Take fewer prompts, such as pairs.select([0])"
        )
    write = b @ next_map(model, site).double()
    config = {"patch_of": pairs.fingerprint(), "direction": direction, "position": str(position),
              "moment": moment is not None, "ridge": ridge}  # fmt: skip
    return made_edit(model, site, own.mean(0), read, write, config, began)


def patch_of_edit(
    model: Model,
    edit: RankOneEdit,
    pairs: PromptPairs,
    *,
    position: int | str = "end",
    direction: Literal["denoise", "noise"] = "denoise",
) -> Float[np.ndarray, " d_mlp"]:
    """The line of the neurons whose patch does on a pair what a rank-1 edit does; unit length.

    ``line = step + x n``: n the unit vector along which the runs differ most of what W ignores, x
    the smaller root of ``s x^2 - (D . n) x + s |step|^2 - D . step = 0``, D = h' - h, s = read . h.
    Of several pairs h and D are means, and the two agree on the mean alone. Test it with
    ``subspace_patch``: moving along n while writing along the step is what an illusion does.

    Raises:
        ConfigError: there is no such line (the runs differ too little in what W ignores), the edit
            does not read this token.
        MismatchError: an edit of another model.

    Example:
        >>> edit = interventions.edit_of_patch(model, pairs, 2, torch.randn(384))
        >>> shares = interventions.patch_of_edit(model, edit, pairs)
    """
    if edit.model != model.card.fingerprint:
        raise MismatchError(f"the edit was made for the model {edit.model}, not for {model!r}")
    layer = Site.parse(edit.site).layer
    assert layer is not None
    site, place = _asked(model, pairs, layer, position, direction)
    base, source, _ = both_runs(model, pairs, place, direction)
    found = [(at, to) for row in range(len(pairs))
             if (at := base.at(place, row)) is not None
             and (to := source.at(place, row)) is not None]  # fmt: skip
    if not found:
        raise ConfigError(f"none of the {len(pairs)} pairs has a token at {place}")
    h, other = (torch.cat(x).double().cpu().mean(0) for x in zip(*found, strict=True))
    moved, step = other - h, torch.from_numpy(edit.step)
    s = float(torch.from_numpy(edit.read) @ h)
    _, null = split(moved[:, None], next_map(model, site).double())
    free, length = null[:, 0], float(null.norm())
    if abs(s) < 1e-9:
        raise ConfigError(f"the edit does not read the token at {place}: no patch there is like it")
    free = free / length if length > RANK * float(moved.norm()) else torch.zeros_like(free)
    along, rest = float(moved @ free), s * float(step @ step) - float(moved @ step)
    under = along**2 - 4 * s * rest
    if under < 0:
        raise ConfigError(
            f"no line at {place} does what the edit does: the runs would have to differ by "
            f"{(4 * s * rest) ** 0.5:.3g} in what the projection ignores, and do by {length:.3g}"
        )
    x = min(((along + sign * under**0.5) / (2 * s) for sign in (1, -1)), key=abs)
    line = step + x * free
    return (line / line.norm()).numpy()


def _asked(
    model: Model, pairs: PromptPairs, layer: int, position: int | str, direction: str
) -> tuple[Site, Place]:
    if direction not in DIRECTIONS:
        raise UnknownNameError("direction", str(direction), known=DIRECTIONS)
    check_pairs(model, pairs)
    site = key_site(model, layer)
    return site, one_place(model, pairs, site, position, None)


def _constraints(
    base: FromRun, source: FromRun, place: Place, b: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Keys of all tokens ``[n, d]``, the step each needs, and the keys that are patched."""
    pairs, acts = base.pairs, base.acts[place.site]
    keys: list[Tensor] = []
    wanted: list[Tensor] = []
    own: list[Tensor] = []
    for row, ids in enumerate(pairs.clean_ids):
        mine = acts[row, acts.shape[1] - len(ids) :].double().cpu()
        steps = torch.zeros(len(ids), dtype=torch.float64)
        at, to = base.at(place, row), source.at(place, row)
        if at is not None and to is not None:
            position = place.at(pairs, row)
            assert position is not None
            own.append(mine[position])
            steps[position] = (to.double().cpu()[0] - mine[position]) @ b
        keys.append(mine)
        wanted.append(steps)
    if not own:
        raise ConfigError(f"none of the {len(pairs)} pairs has a token at {place}")
    return torch.cat(keys), torch.cat(wanted), torch.stack(own)
