"""The illusion test of subspace patches on 100 planted illusions and 100 planted used directions.

``python -m benchmarks.subspace_illusion``. Models, seeds, the claimed directions and the limits are
those of ``tests/ground_truth/test_subspace_illusion.py``, written before its first run; see
``tests/subspace_worlds.py`` for what is planted. Positive: an illusion. A false positive is a used
direction that is called "suspect illusion", a false negative an illusion that is called
"confirmed". Intervals of shares are exact (Clopper and Pearson 1934), 95 %; that of an AUROC
resamples both kinds of models.

Two sets. *As planted*: the seeds of the test, 0 to 99 of each kind; strengths are drawn alike, but
the effects of the patch need not come out alike. *Matched*: used directions of seeds 0 to 399, in
this order, each with the first illusion of these seeds that has no partner yet and whose effect is
at most 0.02 away, until there are 100 pairs. Only the effect of the patch is matched on.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.harness import Page, threads
from lensbench import interventions
from lensbench.interventions import SubspaceResult
from lensbench.stats import auroc
from tests.ground_truth import test_subspace_illusion as protocol

KINDS = ("used", "illusion")
VERDICTS = ("confirmed", "suspect illusion", "no effect", "no contrast", "too few pairs")
N_BOOT = 2000
CANDIDATES, WITHIN = 400, 0.02
"""Seeds of each kind to make pairs of, and how far two effects may be apart."""
Judged = dict[str, list[SubspaceResult]]


def main() -> None:
    """Judge every planted model and write the page."""
    threads(1)
    page = Page("subspace-illusion", "Illusions of subspace patches", ("torch", "transformers"))
    page.text(__doc__ or "")
    page.text(protocol.__doc__ or "")
    every = {kind: [_judge(kind, seed) for seed in range(CANDIDATES)] for kind in KINDS}
    planted = {kind: results[: protocol.N] for kind, results in every.items()}
    for name, judged in (("As planted", planted), ("Matched", matched(every))):
        page.heading(f"{name}: {len(judged['used'])} of each")
        page.table(_verdicts(judged))
        page.table(_rates(judged))
        page.text(
            "AUROC of illusion against used. The score is 1 - min(row part, whole state) / "
            "subspace. Controls: the effect of the subspace alone, and the score with the kinds "
            "dealt at random; what these tell apart is chance or a mismatch of sizes."
        )
        page.table(_scores(judged))
        page.text("Effects of the arms (0 the base run, 1 the source run): least, median, most.")
        page.table(_effects(judged))
    page.write()


def matched(every: Judged) -> Judged:
    """Pairs of a used direction and an illusion with effects of one size, first come first."""
    found: Judged = {kind: [] for kind in KINDS}
    free = list(every["illusion"])
    for one in every["used"]:
        near = [r for r in free if abs(r.effect[1] - one.effect[1]) <= WITHIN]
        if near and len(found["used"]) < protocol.N:
            free = [r for r in free if r is not near[0]]
            found["used"].append(one)
            found["illusion"].append(near[0])
    return found


def _judge(kind: str, seed: int) -> SubspaceResult:
    model, pairs, direction = protocol.load(kind, seed)
    return interventions.subspace_patch(model, pairs, protocol.SITE, direction)


def _verdicts(judged: Judged) -> list[list[Any]]:
    said = {kind: [r.verdict for r in results] for kind, results in judged.items()}
    return [["planted", *VERDICTS],
            *([kind, *(said[kind].count(v) for v in VERDICTS)] for kind in KINDS)]  # fmt: skip


def _rates(judged: Judged) -> list[list[Any]]:
    used, illusion = ([r.verdict for r in judged[kind]] for kind in KINDS)
    asked = (("false positives: used, suspected", used.count("suspect illusion"), len(used)),
             ("false negatives: illusions, confirmed", illusion.count("confirmed"), len(illusion)),
             ("illusions suspected", illusion.count("suspect illusion"), len(illusion)),
             ("used confirmed", used.count("confirmed"), len(used)))  # fmt: skip
    return [["", "count", "share", "95 % interval"],
            *([name, f"{k} of {n}", f"{k / n:.3f}", exact(k, n)]
              for name, k, n in asked)]  # fmt: skip


def exact(hits: int, n: int) -> str:
    """The exact 95 % interval of a share."""
    from scipy.stats import binomtest

    found = binomtest(hits, n).proportion_ci(method="exact")
    return f"{found.low:.3f} to {found.high:.3f}"


def _scores(judged: Judged) -> list[list[Any]]:
    score = _of(judged, lambda r: r.illusion_score)
    effect = _of(judged, lambda r: float(r.effect[1]))
    dealt = np.random.default_rng(0).permutation(np.concatenate(list(score.values())))
    mixed = dict(zip(KINDS, np.split(dealt, [len(score["used"])]), strict=True))
    rows = (("illusion score", score), ("effect of the subspace (control)", effect),
            ("illusion score, kinds at random (control)", mixed))  # fmt: skip
    return [["number", "AUROC", "95 % interval", "used: least, median, most",
             "illusion: least, median, most"],
            *([name, *area(x), *(_span(x[kind]) for kind in KINDS)]
              for name, x in rows)]  # fmt: skip


def _of(judged: Judged, number: Callable[[SubspaceResult], float]) -> dict[str, np.ndarray]:
    return {kind: np.array([number(r) for r in judged[kind]]) for kind in KINDS}


def area(values: dict[str, np.ndarray]) -> tuple[str, str]:
    """AUROC of illusions against used ones, and its percentile interval."""
    used, illusion = (values[kind] for kind in KINDS)
    labels = np.arange(len(used) + len(illusion)) >= len(used)
    rng = np.random.default_rng(0)
    drawn = [auroc(np.concatenate([rng.choice(used, len(used)),
                                   rng.choice(illusion, len(illusion))]), labels)
             for _ in range(N_BOOT)]  # fmt: skip
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{auroc(np.concatenate([used, illusion]), labels):.4f}", f"{low:.4f} to {high:.4f}"


def _span(values: np.ndarray) -> str:
    return ", ".join(f"{x:.2f}" for x in np.quantile(values, [0, 0.5, 1]))


def _effects(judged: Judged) -> list[list[Any]]:
    from lensbench.interventions.subspace.result import ARMS

    return [["planted", *ARMS],
            *([kind, *(_span(np.array([r.effect[i] for r in judged[kind]]))
                       for i in range(len(ARMS)))] for kind in KINDS)]  # fmt: skip


if __name__ == "__main__":
    main()
