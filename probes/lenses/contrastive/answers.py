"""Given answers scored under a contrastive rule and under the model alone: MC1, MC2, MC3.

1. Every prompt with every answer behind it is one row; the answer's tokens are scored one by one
   with the right ones before them. Score of an answer = sum of its tokens' log-probabilities.
2. The rule's log-probability: log softmax of its scores, then -1000 for implausible tokens.
3. MC1: the first correct answer outscores all wrong ones. MC2: the correct answers' share of the
   probability of all answers. MC3: share of the correct answers that outscore all wrong ones.
4. Control: the rule's scores moved at random among the answers of a question.

Source of the measures: Lin et al. 2022, arXiv:2109.07958 (MC1, MC2); MC3 and -1000 as in the code
released with DoLa, arXiv:2309.03883.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from lensbench import provenance
from lensbench.arguments import whole_number
from lensbench.errors import ConfigError
from lensbench.probes.lenses.contrastive.decode import settings_of
from lensbench.probes.lenses.contrastive.rules import ContrastiveRule
from lensbench.probes.lenses.prompts import Prompts, prompt_rows
from lensbench.results import Controls, Result
from lensbench.stats import bootstrap_mean

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lensbench.models import Model

MEASURES = ("MC1", "MC2", "MC3")
WAYS = ("model", "rule", "shuffled")
_SHUFFLES = 50


@dataclass(frozen=True, kw_only=True, eq=False)
class AnswerScores(Result):
    """MC1 to MC3 (0 to 1) of the model alone, of the rule, and of the rule's scores shuffled.

    95 % intervals by a bootstrap over questions; ``gain`` is the paired difference rule - model.
    """

    rule: str
    mean: Float[np.ndarray, "measures ways"]
    low: Float[np.ndarray, "measures ways"]
    high: Float[np.ndarray, "measures ways"]
    gain: Float[np.ndarray, "measures three"]
    """Mean, lower and upper bound of rule - model."""
    question: Int[np.ndarray, " answers"]
    correct: Int[np.ndarray, " answers"]
    scores: Float[np.ndarray, "answers two"]
    """Of each answer under the model and under the rule; nats."""
    n: int

    def to_frame(self) -> "pd.DataFrame":
        """One row per measure and way of scoring, and the paired gain."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for i, measure in enumerate(MEASURES):
            for j, way in enumerate(WAYS):
                value, low, high = (float(a[i, j]) for a in (self.mean, self.low, self.high))
                rows.append({"measure": measure, "way": way, "value": value, "low": low,
                             "high": high, "n": self.n})  # fmt: skip
            value, low, high = (float(x) for x in self.gain[i])
            rows.append({"measure": measure, "way": "rule - model", "value": value, "low": low,
                         "high": high, "n": self.n})  # fmt: skip
        frame = pd.DataFrame(rows)
        frame.attrs["units"] = {"value": "share, 0 to 1", "n": "questions"}
        return frame

    def plot(self) -> "go.Figure":
        """Bars of each measure: model, rule, shuffled."""
        from lensbench.plots import bars

        frame = self.to_frame()
        part = frame.loc[frame["way"] != "rule - model"]
        part.attrs["units"] = frame.attrs["units"]
        return bars(
            part, x="measure", y="value", color="way", low="low", high="high",
            title=f"Given answers under {self.rule}", subtitle=f"{self.n} questions",
        )  # fmt: skip

    def summary(self) -> dict[str, float]:
        """Every measure of model and rule, and the gain's bounds on MC1."""
        found: dict[str, float] = {}
        for i, measure in enumerate(MEASURES):
            found[f"{measure}_model"] = float(self.mean[i, 0])
            found[f"{measure}_rule"] = float(self.mean[i, 1])
        return {**found, "MC1_gain_low": float(self.gain[0, 1]),
                "MC1_gain_high": float(self.gain[0, 2])}  # fmt: skip


def score_answers(
    rule: ContrastiveRule,
    prompts: Prompts,
    answers: Sequence[Sequence[str]] | Sequence[Sequence[Sequence[int]]],
    correct: Sequence[Sequence[bool]],
    *,
    batch_size: int = 16,
    seed: int = 0,
) -> AnswerScores:
    """Score the answers of each question under the rule, beside its model alone.

    ``answers[q]`` are texts (joined to the prompt as they are, so with their space) or ids;
    ``correct[q]`` says which are; the first correct one is the best for MC1.

    Raises:
        ConfigError: lists that do not fit, a question without a correct or a wrong answer, an
            empty answer, text that the tokenizer joins with the prompt.

    Example:
        >>> rule = probes.DoLa(model)
        >>> asked = ["The king that the boys know"]
        >>> found = probes.score_answers(rule, asked, [[" is", " are"]], [[True, False]])
    """
    start = time.time()
    batch_size = whole_number("batch_size", batch_size, least=1)
    model = rule.model
    heads = prompt_rows(model, prompts)
    right = _correct(correct, [len(some) for some in answers], len(heads))
    tails = [_tails(model, q, prompts, heads[q], some) for q, some in enumerate(answers)]
    jobs = [(q, tail) for q, some in enumerate(tails) for tail in some]
    scores = np.concatenate(
        [_scored(rule, heads, jobs[i : i + batch_size]) for i in range(0, len(jobs), batch_size)]
    )  # 1, 2
    question = np.array([q for q, _ in jobs])
    flat = np.concatenate(right)
    parts = [np.flatnonzero(question == q) for q in range(len(heads))]
    rng = np.random.default_rng(seed)
    found = np.zeros((len(heads), len(MEASURES), len(WAYS)))
    for q, part in enumerate(parts):
        found[q, :, 0] = measures(scores[part, 0], flat[part])
        found[q, :, 1] = measures(scores[part, 1], flat[part])
        mixed = [rng.permutation(scores[part, 1]) for _ in range(_SHUFFLES)]  # 4
        found[q, :, 2] = np.mean([measures(s, flat[part]) for s in mixed], 0)
    spans = [[bootstrap_mean(c, seed=seed) for c in column] for column in found.transpose(1, 2, 0)]
    gains = [bootstrap_mean(c, seed=seed) for c in (found[:, :, 1] - found[:, :, 0]).T]
    shuffled = {f"{m}_shuffled": spans[i][2].mean for i, m in enumerate(MEASURES)}
    return AnswerScores(
        rule=type(rule).__name__,
        mean=np.array([[s.mean for s in row] for row in spans]),
        low=np.array([[s.low for s in row] for row in spans]),
        high=np.array([[s.high for s in row] for row in spans]),
        gain=np.array([[g.mean, g.low, g.high] for g in gains]),
        question=question,
        correct=flat.astype(np.int64),
        scores=scores,
        n=len(heads),
        config={**settings_of(rule), "seed": seed},
        controls=Controls(shuffled, note="the rule's scores moved among a question's answers"),
        provenance=provenance.record(
            model=vars(model.card), seed=seed, seconds=time.time() - start
        ),
    )


def measures(scores: Float[np.ndarray, " answers"], correct: np.ndarray) -> tuple[float, ...]:
    """MC1, MC2 and MC3 of one question; ``correct`` is True for at least one, not for all."""
    right, wrong = scores[correct], scores[~correct]
    weights = np.exp(scores - scores.max())
    return (
        float(right[0] > wrong.max()),
        float(weights[correct].sum() / weights.sum()),
        float((right > wrong.max()).mean()),
    )


def _scored(
    rule: ContrastiveRule, heads: Sequence[list[int]], jobs: Sequence[tuple[int, list[int]]]
) -> Float[np.ndarray, "answers two"]:
    """Sums of log-probabilities of some answers, under the model and under the rule."""
    model = rule.model
    sites = [str(site) for site in rule.sites]
    out = model.run([heads[q] + tail for q, tail in jobs], capture=sites)
    numbers = [q for q, _ in jobs]
    second = rule.second(heads, numbers)
    other = None
    if second is not None:
        beside, rows = second
        texts = [row + tail for row, (_, tail) in zip(rows, jobs, strict=True)]
        other = beside.run(texts).logits
    assert out.logits is not None
    found: list[list[float]] = []
    for i, (_, tail) in enumerate(jobs):
        span = slice(-len(tail) - 1, -1)  # rows end together: padding is on the left
        plain = out.logits[i, span]
        states = [out.acts[site][i, span] for site in sites]
        ruled = rule.contrast(states, plain, None if other is None else other[i, span].to(plain))
        logs = (plain.float().log_softmax(-1), ruled.log_probs())
        found.append([_sum(log, tail) for log in logs])
    return np.array(found)


def _sum(logp: Tensor, tail: Sequence[int]) -> float:
    return float(logp.double()[range(len(tail)), list(tail)].sum())


def _tails(
    model: "Model", number: int, prompts: Any, head: list[int], answers: Sequence[Any]
) -> list[list[int]]:
    """Token ids of each answer of one question."""
    found: list[list[int]] = []
    for answer in answers:
        if isinstance(answer, str):
            text = prompts if isinstance(prompts, str) else prompts[number]
            if not isinstance(text, str):
                raise ConfigError("answers are texts but prompts are ids; give both in one form")
            whole = prompt_rows(model, text + answer)[0]
            if whole[: len(head)] != head:
                raise ConfigError(
                    f"the tokenizer joins {answer!r} with the end of prompt {number}; begin the "
                    "answer with a space, or give token ids"
                )
            tail = whole[len(head) :]
        else:
            tail = [whole_number("each id of an answer", i, least=0) for i in answer]
        if not tail:
            raise ConfigError(f"an answer of question {number} is empty")
        found.append(tail)
    return found


def _correct(given: Sequence[Sequence[bool]], sizes: Sequence[int], n: int) -> list[np.ndarray]:
    found = [np.asarray(row, dtype=bool) for row in given]
    if len(sizes) != n or [len(r) for r in found] != list(sizes):
        raise ConfigError(
            f"{n} prompts need as many lists of answers and of which are correct; got "
            f"{list(sizes)} answers and {[len(r) for r in found]} marks"
        )
    for number, row in enumerate(found):
        if row.all() or not row.any():
            raise ConfigError(
                f"question {number} needs a correct and a wrong answer, got {row.tolist()}"
            )
    return found
