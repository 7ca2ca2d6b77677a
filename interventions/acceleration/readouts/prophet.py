"""When the answer of a diffusion language model can be committed (Prophet, Li et al. 2025).

1. At each step, the mean gap between largest and second logit over the answer's positions, masked
   or not, is compared with a threshold that falls with progress.
2. At the first step that reaches it, every mask takes its largest logit and decoding stops.
3. Up to there the run is the full one, so one full run per text decides every threshold's exit.

``final_filter`` asks a trained classifier instead whether each masked token is already final (Bao
et al. 2025, "Learning to Parallel"); here the text is committed when all are said to be.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from lensbench import provenance
from lensbench.errors import ConfigError
from lensbench.interventions.acceleration.readouts.denoising import Commit, Denoising, Step
from lensbench.interventions.acceleration.readouts.logistic import Logistic, fit_logistic
from lensbench.interventions.acceleration.readouts.rows import split
from lensbench.results import Controls, Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

THRESHOLDS = (7.5, 5.0, 2.5)
"""Gap in logits asked for in the first, second and last third of the steps."""
PARTS = (0.33, 0.67)


@dataclass(frozen=True, kw_only=True, eq=False)
class CommitReport(Result):
    """Where each text would have been committed, and whether its answer was the final one."""

    rule: str
    n_steps: Int[np.ndarray, " texts"]
    exit_step: Int[np.ndarray, " texts"]
    """Step of the commit, from 1; the last one where the rule never held."""
    settled_step: Int[np.ndarray, " texts"]
    """First step from which on a commit gives the final answer: the best any rule can do."""
    same: Bool[np.ndarray, " texts"]
    """Is the committed answer the one of the full run?"""

    def to_frame(self) -> "pd.DataFrame":
        """One row per text."""
        import pandas as pd

        frame = pd.DataFrame(
            {
                "text": np.arange(len(self.same)),
                "exit_step": self.exit_step,
                "settled_step": self.settled_step,
                "n_steps": self.n_steps,
                "steps_saved": 1 - self.exit_step / self.n_steps,
                "same": self.same,
            }
        )
        frame.attrs["units"] = {"exit_step": "steps", "steps_saved": "share of steps"}
        return frame

    def plot(self) -> "go.Figure":
        """Exit step against the step from which the answer stood."""
        from lensbench.plots import scatter

        return scatter(
            self.to_frame(), x="settled_step", y="exit_step", color="same",
            title=f"When the answer is committed ({self.rule})",
            subtitle=f"{len(self.same)} texts; below the diagonal the answer was not settled yet",
        )  # fmt: skip

    def summary(self) -> dict[str, float]:
        """Steps of the full run over steps made, and the share of unchanged answers."""
        return {
            "fewer_steps": float(self.n_steps.sum() / self.exit_step.sum()),
            "agreement": float(self.same.mean()),
            "settled_share": float((self.settled_step / self.n_steps).mean()),
        }


def prophet(
    runs: Sequence[Denoising],
    answer: Sequence[int],
    *,
    thresholds: tuple[float, float, float] = THRESHOLDS,
    seed: int = 0,
) -> CommitReport:
    """Exit steps and committed answers of Prophet's rule, read from full runs.

    Args:
        runs: made by :func:`denoise` without a commit.
        answer: positions over which the gap is averaged and the answer compared (the authors: five
            from where the answer begins).
        thresholds: gap asked for up to a progress of .33, of .67, and beyond.
        seed: of the control, which commits each text at another text's exit step.

    Raises:
        ConfigError: no run, a run that was committed early, or positions outside the text.

    Example:
        >>> predict = lambda ids: (
        ...     torch.nn.functional.one_hot(torch.arange(len(ids)), 20).float() * 9
        ... )
        >>> runs = [acceleration.denoise(predict, torch.full((6,), 19), mask_id=19, n_steps=3)]
        >>> found = acceleration.prophet(runs, answer=[4, 5])
    """
    return commit_report(runs, answer, prophet_rule(answer, thresholds), "prophet", seed=seed)


def prophet_rule(
    answer: Sequence[int], thresholds: tuple[float, float, float] = THRESHOLDS
) -> Commit:
    """The rule as :func:`denoise` takes it for ``commit``; progress is step / steps, from 1.

    Raises:
        ConfigError: no position.

    Example:
        >>> rule = acceleration.prophet_rule(answer=[4, 5])
    """
    where = np.array(answer, dtype=np.int64)
    if not len(where):
        raise ConfigError("answer must name at least one position")

    def commit(step: int, n_steps: int, said: Step) -> bool:
        progress = step / n_steps
        part = 0 if progress < PARTS[0] else 1 if progress < PARTS[1] else 2
        return float(said.gap[where].mean()) >= thresholds[part]

    return commit


@dataclass(frozen=True, eq=False)
class FinalFilter:
    """Chance that the token a masked position would take now is the one it ends with."""

    classifier: Logistic

    def __call__(self, step: int, n_steps: int, said: Step) -> Float[np.ndarray, " masks"]:
        """One chance per masked position."""
        return self.classifier(_features(step, n_steps, said))

    def rule(self, threshold: float = 0.9) -> Commit:
        """Commit when every masked position is said to be final with this chance."""
        return lambda step, n, said: bool((self(step, n, said) >= threshold).all())


def final_filter(
    runs: Sequence[Denoising],
    answer: Sequence[int],
    *,
    threshold: float = 0.9,
    test: float = 0.5,
    seed: int = 0,
) -> tuple[FinalFilter, CommitReport]:
    """Train the filter on some full runs, and report its commits on the others.

    Features of a masked position: gap, largest probability, entropy, progress; label: is the
    largest logit's token the final one?

    Raises:
        ConfigError: no run, a run that was committed early, or positions outside the text.
        NotEnoughDataError: fewer than two runs.

    Example:
        >>> def predict(ids):  # surer of a place, the further left it lies
        ...     return (
        ...         torch.eye(20)[torch.arange(len(ids))] * (9.0 - torch.arange(len(ids)))[:, None]
        ...     )
        >>> runs = [
        ...     acceleration.denoise(predict, torch.full((n,), 19), 19, n) for n in (5, 6, 7, 8)
        ... ]
        >>> rule, found = acceleration.final_filter(runs, answer=[3, 4])
    """
    _check(runs, answer)
    fit, held = split(list(runs), test, seed)
    x, y = list[np.ndarray](), list[np.ndarray]()
    for i in fit:
        for number, said in enumerate(runs[i].steps, 1):
            x.append(_features(number, runs[i].n_steps, said))
            y.append((said.best == runs[i].final)[said.masked])
    found = FinalFilter(fit_logistic(np.concatenate(x), np.concatenate(y).astype(float)))
    tested = [runs[i] for i in held]
    return found, commit_report(tested, answer, found.rule(threshold), "final filter", seed=seed)


def commit_report(
    runs: Sequence[Denoising], answer: Sequence[int], rule: Commit, name: str, *, seed: int = 0
) -> CommitReport:
    """What any rule would have done on full runs.

    Raises:
        ConfigError: no run, a run that was committed early, or positions outside the text.
    """
    _check(runs, answer)
    where = np.array(answer, dtype=np.int64)
    exits = np.array([_exit(run, rule) for run in runs])
    others = np.random.default_rng(seed).permutation(len(runs))
    shifted = np.array(
        [
            np.array_equal(run.committed(min(e, len(run.steps)))[where], run.final[where])
            for run, e in zip(runs, exits[others].tolist(), strict=True)
        ]
    )
    return CommitReport(
        rule=name,
        n_steps=np.array([run.n_steps for run in runs]),
        exit_step=exits,
        settled_step=np.array([_settled(run, where) for run in runs]),
        same=np.array(
            [
                np.array_equal(run.committed(e)[where], run.final[where])
                for run, e in zip(runs, exits.tolist(), strict=True)
            ]
        ),
        config={"answer": [int(i) for i in answer], "seed": seed},
        controls=Controls(
            {"other_texts_exit": float(shifted.mean())},
            "share of unchanged answers where each text is committed at another text's exit step",
        ),
        provenance=provenance.record(seed=seed),
    )


def _check(runs: Sequence[Denoising], answer: Sequence[int]) -> None:
    if not runs:
        raise ConfigError("runs is empty; make some with denoise(...)")
    if any(len(run.steps) != run.n_steps for run in runs):
        raise ConfigError("a run was committed early; exits are read from full runs, commit=None")
    if not len(answer) or any(not 0 <= i < len(run.final) for run in runs for i in answer):
        raise ConfigError(f"answer must name positions of every text, got {list(answer)}")


def _exit(run: Denoising, rule: Commit) -> int:
    for number, said in enumerate(run.steps, 1):
        if rule(number, run.n_steps, said):
            return number
    return run.n_steps


def _settled(run: Denoising, where: np.ndarray) -> int:
    step = run.n_steps
    while step > 1 and np.array_equal(run.committed(step - 1)[where], run.final[where]):
        step -= 1
    return step


def _features(step: int, n_steps: int, said: Step) -> Float[np.ndarray, "masks 4"]:
    progress = np.full(len(said.gap), step / n_steps)
    return np.stack([said.gap, said.top1, said.entropy, progress], -1)[said.masked]
