"""Absorption: where a label's own latents are silent although the activation has the label.

A latent of something more special (one word) may carry the direction of the general label (its
first letter) too; the label's own latent then stays off there. Two definitions are computed for
each row on which a linear probe rightly says the label: full, and the absorbed fraction.
"""

import time
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError
from lensbench.provenance import record
from lensbench.results import Controls
from lensbench.saes.evaluation.absorption_result import Absorption
from lensbench.saes.evaluation.inputs import decoder_of, fits, latents_of
from lensbench.saes.evaluation.labels import LabelledRows, Latents
from lensbench.saes.evaluation.linear import LEAST_F1, unreadable
from lensbench.saes.evaluation.main_latents import LabelLatents
from lensbench.saes.evaluation.shared import Shared, shared_of

SILENT = 1e-8
LEAST_COSINE, LEAST_SHARE, MOST_ABSORBERS = 0.1, 0.4, 3
LEAST_COSINE_FULL = 0.025


def absorption(
    acts: Any,
    rows: LabelledRows,
    x: Any,
    dictionary: Any,
    *,
    max_k: int = 10,
    least_f1: float = LEAST_F1,
    least_rows: int = 20,
    seed: int = 0,
    shared: Shared | None = None,
    main: LabelLatents | None = None,
    controls: bool = True,
) -> Absorption:
    """How much of each label is carried by latents that are not its own.

    Decoder norms are folded into the latents first. For every label: p is the unit weight of a
    logistic probe on the activations (classes weighted evenly), S its main latents
    (:func:`~lensbench.saes.evaluation.main_latents.main_latents`). On scored rows that have the
    label and of which the probe says so:

    proj_j = a_j cos(W_dec_j, p),  total = x . p,  M = sum_{j in S} proj_j,  A = the three largest
    proj_j > 0 of latents outside S with cos >= 0.1, summed.
    Fraction: 0 if M >= total or A < 0.4 total; 1 if M <= 0; else a / (a + M) with
    a = min(A, total - M).
    Full: all of S silent (below 1e-8), total >= 0, and the latent outside S of largest proj_j has
    cos >= 0.025 and proj_j >= 0.4 total.

    Source: Chanin et al. 2024 (arXiv:2409.14507) and the measure of Karvonen et al. 2025
    (arXiv:2503.09532), which needs no ablation and works at any layer. Both advise against models
    below 1 B parameters and dictionaries below 16 k latents. Deviations: the probes are fitted to
    their minimum instead of for a number of epochs (L1 probes at most 500 steps towards it), and
    F1 that accepts a latent is that of the fitting rows, so that nothing is chosen on what is
    scored.

    Controls: a random dictionary of the same width and L0, and the share of labels whose probe
    passes when labels are those of other documents (must be 0).

    Args:
        acts: latents ``[rows, d_sae]``.
        rows: labels (such as first letters), see :func:`~lensbench.saes.label_rows`.
        x: the activations ``[rows, d_model]`` that were encoded.
        dictionary: something with ``W_dec``, or decoder rows ``[d_sae, d_model]``.
        max_k: most latents of one label.
        least_f1: F1 below which a probe does not count as the truth.
        least_rows: rows below which a label is not scored.
        seed: of the controls.
        shared: what other dictionaries on these rows share, instead of ``x``.
        main: the main latents of this dictionary, where another measure found them.
        controls: False leaves them out.

    Raises:
        ConfigError: settings that are no such numbers, or no matrix of numbers.
        MismatchError: parts of different rows or dictionaries.
        NonFiniteError: NaN or infinity in them.

    Example:
        >>> found = saes.absorption(acts, rows, x, run, max_k=3)
    """
    began = time.perf_counter()
    whole_number("max_k", max_k, least=1)
    whole_number("least_rows", least_rows, least=1)
    if not 0 <= least_f1 <= 1:
        raise ConfigError(f"least_f1 must lie between 0 and 1, got {least_f1!r}")
    latents = latents_of(acts, len(rows.docs))
    W_dec, known = decoder_of(dictionary), shared_of(shared, x, rows, seed)
    fits(latents, W_dec, known.x.shape[1])
    settings = (max_k, float(least_f1), least_rows)
    own = main or LabelLatents(latents, rows, W_dec, max_k)
    found = _absorbed(own.check(rows, len(W_dec), max_k), W_dec, known, settings)
    beside = _controls(latents, known, settings) if controls else {}
    return replace(
        found,
        config={"max_k": max_k, "least_f1": least_f1, "least_rows": least_rows, "seed": seed},
        controls=Controls(beside),
        provenance=record(seed=seed, seconds=time.perf_counter() - began),
    )


def _controls(
    latents: Latents, known: Shared, settings: tuple[int, float, int]
) -> dict[str, float]:
    noise = known.noise(latents)
    main = known.noise_main(noise, settings[0])
    by_chance = known.once(
        ("absorption", *noise.shape, *settings),
        lambda: _absorbed(main, noise.W_dec, known, settings).summary(),
    )
    return {
        "random dictionary, fraction": by_chance["absorbed fraction"],
        "random dictionary, full": by_chance["fully absorbed"],
        "shuffled labels, probes that pass": float(np.mean(known.moved_f1 >= settings[1])),
    }


def _absorbed(
    own: LabelLatents,
    W_dec: Float[np.ndarray, "d_sae d_model"],
    known: Shared,
    settings: tuple[int, float, int],
) -> Absorption:
    _, least_f1, least_rows = settings
    rows, x, probes, probe_f1 = known.rows, known.x, known.probes, known.probe_f1
    norm = np.linalg.norm(W_dec, axis=1)
    unit = W_dec / np.where(norm > 0, norm, 1.0)[:, None]
    n = len(rows.names)
    main_f1, why = np.full(n, np.nan), [""] * n
    agrees = (probes.logits(x[rows.held]) > 0) & rows.values[rows.held]
    main: list[tuple[int, ...]] = [()] * n
    parts: list[tuple[Any, ...]] = []
    for i in range(n):
        why[i] = unreadable(float(probe_f1[i]), least_f1)
        if not why[i] and agrees[:, i].sum() < least_rows:
            why[i] = f"{agrees[:, i].sum()} rows, fewer than {least_rows}"
    own.find([i for i in range(n) if not why[i]])
    for i in range(n):
        if why[i]:
            continue
        mine = own.of(i)
        main[i] = tuple(mine.latents.tolist())
        if not main[i]:
            why[i] = "no latent with a positive weight"
            continue
        main_f1[i] = mine.f1[0]
        w, right = probes.weights[i], np.flatnonzero(rows.held)[agrees[:, i]]
        p = w / np.linalg.norm(w)
        scored = _rows_scored(own.acts[right], x[right] @ p, unit @ p, main[i])
        parts.append((right, np.full(len(right), i), *scored))
    empty = (np.zeros(0, np.int64),) * 2 + (np.zeros(0), np.zeros(0, bool))
    empty = (*empty, np.zeros(0, np.int64), np.zeros(0))
    row, label, fraction, full, top, cosine = (
        np.concatenate(column) for column in zip(*(parts or [empty]), strict=True)
    )
    return Absorption(
        labels=rows.names, probe_f1=probe_f1, left_out=tuple(why), main=tuple(main),
        main_f1=main_f1, row=row, doc=rows.docs[row], label=label, fraction=fraction, full=full,
        top_latent=top, top_cosine=cosine, split=rows.split,
    )  # fmt: skip


def _rows_scored(
    acts: Latents,
    total: Float[np.ndarray, " rows"],
    cosine: Float[np.ndarray, " d_sae"],
    main: tuple[int, ...],
) -> tuple[Any, Any, Any, Any]:
    """Fraction, full, and the strongest latent outside ``main`` with its cosine, row by row."""
    own = np.isin(np.arange(len(cosine)), main)
    fraction, full = np.zeros(len(total)), np.zeros(len(total), bool)
    top, top_cosine = np.full(len(total), -1), np.full(len(total), np.nan)
    for r in range(len(total)):
        span = slice(acts.indptr[r], acts.indptr[r + 1])
        at, value = acts.indices[span], acts.data[span]
        proj, mine = value * cosine[at], own[at]
        others = np.where(mine, -np.inf, proj)
        absorbers = proj[~mine & (cosine[at] >= LEAST_COSINE) & (proj > 0)]
        strongest = float(np.sort(absorbers)[::-1][:MOST_ABSORBERS].sum())
        fraction[r] = absorbed_fraction(float(proj[mine].sum()), strongest, float(total[r]))
        if len(at) and not mine.all():
            best = int(others.argmax())
            top[r], top_cosine[r] = at[best], cosine[at[best]]
            carries = top_cosine[r] >= LEAST_COSINE_FULL and proj[best] >= LEAST_SHARE * total[r]
            silent = not (np.abs(value[mine]) >= SILENT).any()
            full[r] = silent and carries and total[r] >= 0
    return fraction, full, top, top_cosine


def absorbed_fraction(main: float, absorbers: float, total: float) -> float:
    """0 if main >= total or absorbers < 0.4 total; 1 if main <= 0; else a / (a + main).

    a = min(absorbers, total - main); all three are projections on the probe's direction. 0 to 1.
    Source: Karvonen et al. 2025 (arXiv:2503.09532), SAEBench's absorption fraction.
    """
    if main >= total or absorbers < LEAST_SHARE * total:
        return 0.0
    if main <= 0:
        return 1.0
    taken = min(absorbers, total - main)
    return taken / (taken + main)
