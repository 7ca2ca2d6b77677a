"""The quality measures as scores: each runs its own function and says what every source reached.

A measure gives the detailed result (kept in the evaluation) and rows of the common table. The same
function runs once more on the twin's latents, so that its control is the measure itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from lensbench.errors import NotEnoughDataError
from lensbench.results import Result
from lensbench.saes.evaluation.absorption import absorption
from lensbench.saes.evaluation.coverage import coverage
from lensbench.saes.evaluation.labels import LabelledRows, Latents
from lensbench.saes.evaluation.linear import LEAST_F1
from lensbench.saes.evaluation.main_latents import LabelLatents
from lensbench.saes.evaluation.meta import meta_sae
from lensbench.saes.evaluation.probing import SCORES, sparse_probing
from lensbench.saes.evaluation.scores import ITSELF, Score
from lensbench.saes.evaluation.scr import scr
from lensbench.saes.evaluation.settings import EvaluationConfig
from lensbench.saes.evaluation.shared import Shared
from lensbench.saes.evaluation.splitting import feature_splitting
from lensbench.saes.evaluation.tpp import tpp
from lensbench.stats import Interval, bootstrap_mean

LEAST_CROSSED = 10
"""Rows of the rarest combination of two labels that SCR could be asked about."""
NOTHING = Interval(float("nan"), float("nan"), float("nan"), 0)
Scored = tuple[Result, list[Score]]


@dataclass(frozen=True)
class Subject:
    """One dictionary on the rows of a measure: latents, decoder, and what others share with it."""

    acts: Latents
    W_dec: Float[np.ndarray, "d_sae d_model"]
    shared: Shared
    main: Callable[[], LabelLatents]
    """Its main latents, made once for all measures."""
    bare: bool = False
    """Without the controls of its own (it is a control itself)."""

    @property
    def rows(self) -> LabelledRows:
        """Labels of the rows."""
        return self.shared.rows


def probing_scores(subject: Subject, config: EvaluationConfig) -> Scored:
    """Accuracy, F1 and AUROC of k-sparse probes, mean over labels."""
    ks = tuple(k for k in config.ks if k <= subject.acts.shape[1])
    found = sparse_probing(
        subject.acts, subject.rows, ks=ks, seed=config.seed, shared=subject.shared,
        controls=not subject.bare,
    )  # fmt: skip
    scores: list[Score] = []
    for at, score in enumerate(SCORES):
        name = "AUROC" if score == "auroc" else score if score == "accuracy" else "F1"
        for j, k in enumerate(found.ks):
            metric = f"{name}, k={k}"
            for s, source in enumerate(found.sources):
                m = over_labels(found.scores[s, :, j, at])
                scores.append(Score.of(metric, _source(source), m, "0 to 1"))
            chance = over_labels(found.chance[:, at])
            scores.append(Score.of(metric, "chance", chance, "0 to 1"))
    return found, scores


def tpp_scores(subject: Subject, config: EvaluationConfig) -> Scored:
    """TPP at every number of latents, of the dictionary, of random latents, of a random one."""
    shared = subject.shared

    def measured(acts: Latents, W_dec: Float[np.ndarray, "d_sae d_model"], controls: bool) -> Any:
        return tpp(acts, shared.rows, shared.x, W_dec, probes=shared.probes, seed=config.seed,
                   controls=controls)  # fmt: skip

    found = other = measured(subject.acts, subject.W_dec, not subject.bare)
    if not subject.bare:
        noise = shared.noise(subject.acts)
        other = shared.once(("tpp", *noise.shape), lambda: measured(noise.acts, noise.W_dec, False))
    scores: list[Score] = []
    for n in found.thresholds:
        metric, unit = f"TPP, {n} latents", "accuracy lost"
        scores += [
            Score.of(metric, ITSELF, found.score(n), unit),
            Score.of(metric, "random_latents", found.score(n, random=True), unit),
            Score.of(metric, "random_dictionary", other.score(n), unit),
            Score(metric, "chance", 0.0, unit=unit),
        ]
    return found, scores


def scr_scores(subject: Subject, config: EvaluationConfig) -> Scored:
    """SCR at every number of latents, taken out or held at their mean, for one pair of labels."""
    pair = config.scr_labels or only_pair(subject.rows)
    shared, seed = subject.shared, config.seed
    found = other = scr(subject.acts, shared.rows, shared.x, subject.W_dec, pair, seed=seed)
    if not subject.bare:
        noise = shared.noise(subject.acts)
        other = shared.once(
            ("scr", *noise.shape, *pair),
            lambda: scr(noise.acts, shared.rows, shared.x, noise.W_dec, pair, seed=seed),
        )
    scores: list[Score] = []
    unit, documents = "share of the gap", found.n_documents
    for n in found.thresholds:
        values = {
            "random_latents": found.score(n, random=True),
            "random_dictionary": other.score(n),
            "always_on": found.one_sided,
            "chance": 0.0,
        }
        out, held = f"SCR, {n} latents", f"SCR at the mean, {n} latents"
        scores += [Score.of(out, ITSELF, found.interval(n), unit)]
        scores += [Score(out, s, value, n=documents, unit=unit) for s, value in values.items()]
        for source, of in ((ITSELF, found), ("random_dictionary", other)):
            value = of.score(n, at_mean=True)
            scores.append(Score(held, source, value, n=documents, unit=unit))
    return found, scores


def coverage_scores(subject: Subject, config: EvaluationConfig) -> Scored:
    """Coverage (the largest of many, and with the latent chosen beforehand) and reconstruction."""
    x = None if subject.bare else subject.shared.x
    found = coverage(subject.acts, subject.rows, x=x, seed=config.seed)
    scores: list[Score] = []
    for source in found.sources:
        measured = {
            "coverage": found.coverage(source),
            "coverage, latent chosen": found.coverage(source, chosen=True),
            "reconstruction": found.reconstruction(source),
        }
        scores += [Score.of(m, _source(source), value, "F1") for m, value in measured.items()]
    return found, scores


def absorption_scores(subject: Subject, config: EvaluationConfig) -> Scored:
    """Both rates of absorption over the labels whose probe passes.

    Raises:
        NotEnoughDataError: no label could be scored; says why.
    """
    _some_readable(subject)
    found = absorption(
        subject.acts, subject.rows, subject.shared.x, subject.W_dec, shared=subject.shared,
        main=subject.main(), seed=config.seed, controls=not subject.bare,
    )  # fmt: skip
    if all(found.left_out):
        reasons = "; ".join(f"{n}: {w}" for n, w in zip(found.labels, found.left_out, strict=True))
        raise NotEnoughDataError(f"none of {len(found.labels)} labels can be scored ({reasons})")
    kept = [name for name, why in zip(found.labels, found.left_out, strict=True) if not why]
    controls = found.controls.values
    scores: list[Score] = []
    for metric, of, key in (
        ("absorbed fraction", found.fraction_of, "random dictionary, fraction"),
        ("fully absorbed", found.full_of, "random dictionary, full"),
    ):
        own = over_labels(np.array([of(name).mean for name in kept]))
        scores.append(Score.of(metric, ITSELF, own, "share"))
        if key in controls:
            by_chance = controls[key]
            scores.append(Score(metric, "random_dictionary", by_chance, n=own.n, unit="share"))
    return found, scores


def splitting_scores(subject: Subject, config: EvaluationConfig) -> Scored:
    """Latents per label, and the F1 of the first and of all of them, where its probe passes.

    Raises:
        NotEnoughDataError: no label could be scored; says why.
    """
    _some_readable(subject)
    found = feature_splitting(
        subject.acts, subject.rows, dictionary=subject.W_dec, shared=subject.shared,
        main=subject.main(), seed=config.seed, controls=not subject.bare,
    )  # fmt: skip
    scores: list[Score] = []
    for s, source in enumerate(found.sources):
        measured = {
            "latents per label": (found.n_latents[s], "latents"),
            "F1 of the first latent": (found.f1[s, :, 0], "0 to 1"),
            "F1 of all latents": (found.f1[s, :, 1], "0 to 1"),
        }
        scores += [
            Score.of(m, _source(source), over_labels(np.asarray(v, float)), unit)
            for m, (v, unit) in measured.items()
        ]
    return found, scores


def meta_scores(W_dec: Float[np.ndarray, "d_sae d_model"], config: EvaluationConfig) -> Scored:
    """Variance of the decoder rows that a quarter as many meta-latents explain."""
    found = meta_sae(W_dec, seed=config.seed)
    n, unit = int(np.isfinite(found.error).sum()), "share of variance"
    own = Score("variance explained", ITSELF, found.explained, n=n, unit=unit)
    return found, [
        own, replace(own, source="random_dictionary", value=found.explained_random)
    ]  # fmt: skip


ON_ROWS: dict[str, Callable[[Subject, EvaluationConfig], Scored]] = {
    "sparse_probing": probing_scores,
    "tpp": tpp_scores,
    "scr": scr_scores,
    "coverage": coverage_scores,
    "absorption": absorption_scores,
    "splitting": splitting_scores,
}
"""Measures of labelled rows."""


def as_twin(scores: Sequence[Score]) -> list[Score]:
    """What the measure itself gave on the twin, as a control."""
    return [replace(s, source="reinitialised_twin") for s in scores if s.source == ITSELF]


def only_pair(rows: LabelledRows) -> tuple[str, str]:
    """The labels, where there are two; which of more do not depend on each other is for you to say.

    Raises:
        NotEnoughDataError: more or fewer; names pairs that could be asked for.
    """
    if len(rows.names) == 2:
        return rows.names[0], rows.names[1]
    could = [f"{a},{b}" for a, b in crossed_pairs(rows)[:3]]
    here = "no two of these labels occur often enough in all four combinations"
    if could:
        here = f"of those in all four combinations, the least related here are {'; '.join(could)}"
    raise NotEnoughDataError(
        "SCR frees a probe of one property from another that does not depend on it (a person's job "
        f"and gender), and which two of {len(rows.names)} labels are such it cannot tell: name "
        f"them (--scr-labels A,B; in Python config={{'scr_labels': ('A', 'B')}}); {here}"
    )


def crossed_pairs(rows: LabelledRows) -> list[tuple[str, str]]:
    """Pairs of labels of all whose combinations both halves hold ``LEAST_CROSSED`` rows or more.

    The least correlated come first, |phi| over all rows.
    """
    found: list[tuple[float, str, str]] = []
    for i in range(len(rows.names)):
        for j in range(i + 1, len(rows.names)):
            one, two = rows.values[:, i], rows.values[:, j]
            halves = [np.bincount((2 * one + two)[h], minlength=4) for h in (rows.held, ~rows.held)]
            if min(int(half.min()) for half in halves) >= LEAST_CROSSED:
                phi = float(np.corrcoef(one, two)[0, 1])
                found.append((abs(phi), rows.names[i], rows.names[j]))
    return [(a, b) for _, a, b in sorted(found)]


def over_labels(values: Float[np.ndarray, " labels"]) -> Interval:
    """Mean over the labels that have a value, interval over labels."""
    known = values[np.isfinite(values)]
    return bootstrap_mean(known) if len(known) else NOTHING


def _some_readable(subject: Subject) -> None:
    """Refuse labels of which no linear probe on the activations reaches ``LEAST_F1``."""
    f1 = subject.shared.probe_f1
    if not (f1 >= LEAST_F1).any():
        best = float(np.nanmax(f1)) if np.isfinite(f1).any() else 0.0
        raise NotEnoughDataError(
            f"no label has a linear probe of F1 {LEAST_F1} or more on held-out rows (the best of "
            f"{len(f1)} reaches {best:.2f}), so nothing says where a label is absorbed or split: "
            "the site does not hold them linearly, or there are too few words. Take another site, "
            "more tokens (suite_tokens), or the labels themselves (letters=False)"
        )


def _source(source: str) -> str:
    """Sources of single measures by the names of the common table."""
    return {"latents": ITSELF, "neurons": "channels", "constant": "always_on"}.get(source, source)
