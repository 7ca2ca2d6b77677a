"""Patch every place of a sweep, many prompts and places to a batch.

1. Both runs of a group of prompts are captured once.
2. Every (place, prompt) is a plan of one edit; plans run as rows of one batch that starts at the
   first edited block (``Model.run_many``).
3. A few places are patched with random steps as long as the patch's: the control.

Denoising (clean states into the corrupted run) asks what is enough to bring the answer back,
noising (the reverse) what it cannot do without (Heimersheim & Nanda 2024, arXiv:2404.15255).
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch

from lensbench.arguments import whole_number
from lensbench.errors import UnknownNameError
from lensbench.interventions.metrics import MetricLike, as_metric
from lensbench.interventions.patching.engine import Engine, Group
from lensbench.interventions.patching.result import PatchingResult
from lensbench.interventions.patching.whole import run_sweep
from lensbench.interventions.places import Each, Place, places
from lensbench.interventions.subspace.slices import SubspaceLike
from lensbench.interventions.values import RandomSteps, Values, run_of
from lensbench.models.base import Model
from lensbench.prompts.pairs import PromptPairs
from lensbench.sites import Site

DIRECTIONS = ("denoise", "noise")


def patch_sweep(
    model: Model,
    pairs: PromptPairs,
    sites: str | Site | Sequence[str | Site] = "resid_pre",
    *,
    direction: Literal["denoise", "noise"] = "denoise",
    metric: MetricLike = "logit_diff",
    layers: Sequence[int] | None = None,
    positions: Each | Sequence[int | str] | None = None,
    heads: Each | Sequence[int] = "each",
    dims: Sequence[int] | None = None,
    subspace: SubspaceLike | None = None,
    random_patches: int = 20,
    batch_size: int = 64,
    seed: int = 0,
) -> PatchingResult:
    """Patch each place from one run of the pairs into the other, one at a time.

    ``effect = (m(patched) - m(corrupted)) / (m(clean) - m(corrupted))``, means over prompts.
    Equivalent to TransformerLens' ``patching`` helpers, several prompts and places to a batch.

    Args:
        model: any back end.
        pairs: from :mod:`lensbench.prompts`; aligned token by token.
        sites: names without a layer (every layer) or whole ones; see
            :func:`lensbench.interventions.places.places` for this and the next five.
        direction: ``denoise``: clean states into the corrupted run; ``noise``: the reverse.
        metric: a name of :data:`lensbench.interventions.metrics.METRICS` or a function. Where
            answers of several tokens are summed, ``logit_diff`` is ``log_prob_diff``, the
            difference of the summed log-probabilities of answer and foil.
        layers: which layers; left out, all.
        positions: ``each``, ``together``, numbers or roles.
        heads: ``each``, ``together`` or numbers.
        dims: neurons, latents or channels, one by one. Latents are dims of a dictionary's site:
            ``patch_sweep(model.with_saes([sae]), pairs, "blocks.3.resid_post.sae.acts", dims=[7])``
            moves the state by ``(f' - f) W_dec[7]`` and keeps what the dictionary leaves over.
        subspace: directions ``[k, d]`` whose span alone is patched, ``h + (h' - h) B B^T`` with B
            an orthonormal basis of it; for each layer its own with ``{layer: directions}``.
        random_patches: number of random steps as long as a patch's, each at a place drawn at
            random (some places twice where there are fewer); 0 for none. Fewer than 19 give no p
            of .05.
        batch_size: most rows in one forward pass.
        seed: of the control.

    Raises:
        ConfigError, UnknownNameError, UnknownSiteError: arguments that do not fit.
        MismatchError: pairs of another tokenizer.
        NonFiniteError: NaN in a state that would be patched in.

    Example:
        >>> found = interventions.patch_sweep(model, pairs, "resid_pre")
        >>> found.top(3)[["site", "position", "effect"]]
        >>> check = found.verify(model, prompts.agreement(model, n=8, seed=7))  # on other pairs
        >>> print(check.verdict)
        block ...
    """
    if direction not in DIRECTIONS:
        raise UnknownNameError("direction", str(direction), known=DIRECTIONS)
    where = places(
        model, pairs, sites, layers=layers, positions=positions, heads=heads, dims=dims,
        subspace=subspace,
    )  # fmt: skip
    tried = _tried(where, random_patches, whole_number("seed", seed, least=0))
    read = list(dict.fromkeys(p.site for p in where))

    def values_of(_: PromptPairs, __: Sequence[Place]) -> Callable[..., Any]:
        rng = torch.Generator().manual_seed(seed)

        def values(group: Group) -> tuple[Values, Values | None]:
            clean, corrupted = group.pairs.clean, group.pairs.corrupted
            to, _ = run_of(model, clean if direction == "denoise" else corrupted, group.pairs, read)
            if not tried:
                return to, None
            at, _ = run_of(model, group.base, group.pairs, read)
            return to, RandomSteps(to, at, rng)

        return values

    sweep = Engine(model, pairs, where, direction, as_metric(metric), batch_size, seed)
    return run_sweep(sweep, values_of, tried)


def _tried(where: Sequence[Place], n: int, seed: int) -> list[int]:
    """Places of the control; attention patterns are left out, a random step makes none."""
    n = whole_number("random_patches", n, least=0)
    able = [i for i, p in enumerate(where) if takes_steps(p)]
    order = np.random.default_rng(seed).permutation(len(able))
    # Where there are fewer places than steps, each is tried again, in another direction.
    return sorted(able[i] for i in np.resize(order, n if able else 0))


def takes_steps(place: Place) -> bool:
    """Whether a random step can be made here: what softmax or a router gave is no free vector."""
    return place.site.name.split(".")[-1] not in _NO_STEPS


_NO_STEPS = ("pattern", "scores", "weights", "indices")
