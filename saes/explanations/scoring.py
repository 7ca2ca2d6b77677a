"""Detection and fuzzing: how well an explanation predicts, as balanced accuracy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int

from lensbench.saes.evaluation.controls import own_seed
from lensbench.saes.evaluation.sums import Sums, bootstrap_documents
from lensbench.saes.explanations.contexts import Context, Evidence, hidden, with_marks
from lensbench.saes.explanations.explainers import Explanation
from lensbench.saes.explanations.judges import Judge, OracleJudge

SCORERS = ("detection", "fuzzing")


@dataclass(frozen=True)
class Score:
    """What a judge's answers are worth; rates from 0 to 1, NaN where a class is missing."""

    MEASURES: ClassVar[tuple[str, ...]] = (
        "balanced_accuracy", "low", "high", "tpr", "tnr", "tnr_random", "tnr_hard", "f1",
        "accuracy", "n_yes", "n_no", "n_hard", "unanswered",
    )  # fmt: skip
    balanced_accuracy: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    tpr: float = float("nan")
    tnr: float = float("nan")
    tnr_random: float = float("nan")
    tnr_hard: float = float("nan")
    """Of silent contexts that hold a token on which the latent fires (detection only)."""
    f1: float = float("nan")
    accuracy: float = float("nan")
    n_yes: float = 0
    n_no: float = 0
    n_hard: float = 0
    unanswered: float = 0

    def row(self) -> Float[np.ndarray, " measures"]:
        """The measures in the order of ``MEASURES``."""
        return np.array([getattr(self, m) for m in self.MEASURES], np.float64)


def score_answers(
    truth: Sequence[bool],
    answers: Sequence[bool | None],
    docs: Sequence[int] | None = None,
    *,
    hard: Sequence[bool] | None = None,
    seed: int = 0,
) -> Score:
    """Balanced accuracy = (TPR + TNR) / 2, with F1 and accuracy beside it.

    Unitless, 0 to 1. On halves, a judge that always says yes has 0.5 but an F1 of 2/3, which is why
    F1 is not the score. No answer is a wrong answer. 95 % bootstrap over ``docs``.
    Source: Brodersen et al. 2010; detection and fuzzing: Paulo et al. 2024, arXiv:2410.13928.
    """
    yes = np.asarray(truth, bool)
    said = np.array([(not t) if a is None else a for t, a in zip(yes, answers, strict=True)], bool)
    tricky = np.zeros(len(yes), bool) if hard is None else np.asarray(hard, bool)
    _, index = np.unique(np.arange(len(yes)) if docs is None else docs, return_inverse=True)
    known = bool(len(yes))
    measured = bootstrap_documents(_sums(yes, said, index), _balanced, seed=seed) if known else None
    right = said == yes
    hits, both = float((said & yes).sum()), float(said.sum() + yes.sum())
    return Score(
        balanced_accuracy=measured.mean if measured else float("nan"),
        low=measured.low if measured else float("nan"),
        high=measured.high if measured else float("nan"),
        tpr=_share(right[yes]),
        tnr=_share(right[~yes]),
        tnr_random=_share(right[~yes & ~tricky]),
        tnr_hard=_share(right[~yes & tricky]),
        f1=2 * hits / both if yes.any() else float("nan"),
        accuracy=_share(right),
        n_yes=float(yes.sum()),
        n_no=float((~yes).sum()),
        n_hard=float((~yes & tricky).sum()),
        unanswered=float(sum(a is None for a in answers)),
    )


def detection(
    explanation: Explanation, evidence: Evidence, judge: Judge, *, seed: int = 0
) -> Score:
    """Which of the contexts hold the latent? Half do; the others are random and hard ones."""
    contexts = [evidence.score[i] for i in _order(len(evidence.score), seed)]
    return score_answers(
        [c.kind == "firing" for c in contexts],
        judge.detect(explanation, _shown(judge, contexts)),
        [c.doc for c in contexts],
        hard=[c.kind == "hard" for c in contexts],
        seed=seed,
    )


def fuzzing(explanation: Explanation, evidence: Evidence, judge: Judge, *, seed: int = 0) -> Score:
    """Are the marked tokens those that fire? In half of the cases as many others are marked."""
    marked, truths = with_marks(evidence.score, seed)
    if not marked:
        return Score()
    order = _order(len(marked), seed)
    contexts, truth = [marked[i] for i in order], [truths[i] for i in order]
    answers = judge.fuzz(explanation, _shown(judge, contexts))
    return score_answers(truth, answers, [c.doc for c in contexts], seed=seed)


def both_scores(
    explanation: Explanation, evidence: Evidence, judge: Judge, *, seed: int = 0
) -> Float[np.ndarray, "scorers measures"]:
    """Detection and fuzzing of one explanation."""
    scores = [scorer(explanation, evidence, judge, seed=seed) for scorer in (detection, fuzzing)]
    return np.stack([s.row() for s in scores])


def _order(n: int, seed: int) -> list[int]:
    """A judge that is shown several contexts at once must not learn from their order."""
    return np.random.default_rng(own_seed(seed, "order")).permutation(n).tolist()


def _shown(judge: Judge, contexts: Sequence[Context]) -> Sequence[Context]:
    return contexts if isinstance(judge, OracleJudge) else [hidden(c) for c in contexts]


def _sums(
    yes: Bool[np.ndarray, " n"], said: Bool[np.ndarray, " n"], index: Int[np.ndarray, " n"]
) -> Sums:
    columns = {"tp": said & yes, "p": yes, "tn": ~said & ~yes, "n": ~yes}
    return {name: np.bincount(index, weights=c) for name, c in columns.items()}


def _balanced(sums: Sums) -> Float[np.ndarray, " draws"]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return (sums["tp"] / sums["p"] + sums["tn"] / sums["n"]) / 2


def _share(values: Bool[np.ndarray, " n"]) -> float:
    return float(values.mean()) if values.size else float("nan")
