"""Which sublayers a draft leaves out, searched ahead: the offline half of Draft & Verify.

1. A candidate is scored by drafting with it, on prompts of the user's, over a fixed number of new
   tokens. ``passes``: new tokens per run of the whole model, where a drafted token costs the share
   of sublayers it runs and a check costs 1 whatever its length; plain decoding scores 1. It is the
   same on every machine. ``seconds``: new tokens per second of CPU time, as in the paper.
2. The first candidate leaves nothing out, the next ones are random, of all sizes.
3. From the best of them on, one sublayer at a time is exchanged between left out and kept, and the
   change stays where the score is higher.

The paper searches by Bayesian optimisation over 2L continuous coordinates; no library for it is
among our requirements, so step 3 takes its place. Zhang et al. 2024.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from lensbench import provenance
from lensbench.arguments import whole_number
from lensbench.errors import ConfigError, UnknownNameError
from lensbench.interventions.acceleration.decoding import Decoded, native
from lensbench.interventions.acceleration.speculative.schedules import AdaptiveThreshold
from lensbench.interventions.acceleration.speculative.skips import draft_and_verify
from lensbench.models.base import Model
from lensbench.models.ranges import Sublayer
from lensbench.results import Controls, Result
from lensbench.tokens import TokensLike

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

Objective = Literal["passes", "seconds"]


@dataclass(frozen=True, kw_only=True, eq=False)
class SkipSearch(Result):
    """Candidates in the order they were tried; :attr:`skips` is the best."""

    tried: np.ndarray
    """bool ``[trials, 2 L]``: attention of every layer, then MLP of every layer; True: left out."""
    scores: np.ndarray
    """New tokens per pass of the whole model, or per second; see the objective."""
    acceptance: np.ndarray
    """Accepted over drafted tokens."""
    steps: list[str] = field(default_factory=list[str])
    """``none``, ``random`` or ``exchange``."""
    objective: str = "passes"

    @property
    def best(self) -> int:
        """The trial of the highest score; the earliest of equals."""
        return int(np.nanargmax(self.scores))

    @property
    def skips(self) -> list[Sublayer]:
        """Sublayers to leave out, as :func:`draft_and_verify` takes them."""
        return sublayers(self.tried[self.best])

    def to_frame(self) -> "pd.DataFrame":
        """One row per trial."""
        import pandas as pd

        frame = pd.DataFrame(
            {
                "trial": range(len(self.scores)),
                "step": self.steps,
                "skipped": self.tried.sum(1),
                "score": self.scores,
                "acceptance": self.acceptance,
                "best": np.fmax.accumulate(self.scores),
            }
        )
        frame.attrs["units"] = {
            "score": f"new tokens per {'pass' if self.objective == 'passes' else 'second'}",
            "acceptance": "accepted / drafted",
            "skipped": "sublayers",
        }
        return frame

    def plot(self) -> "go.Figure":
        """Score of every trial."""
        from lensbench.plots import scatter

        unit = self.to_frame().attrs["units"]["score"]
        return scatter(
            self.to_frame(), x="trial", y="score", color="step", unit=unit,
            title="Sublayers left out of the draft",
            subtitle=f"n = {len(self.scores)} trials", hover_columns=["skipped", "acceptance"],
        )  # fmt: skip

    def summary(self) -> dict[str, float]:
        """The best trial."""
        n = self.best
        return {
            "score": float(self.scores[n]),
            "acceptance": float(self.acceptance[n]),
            "skipped": float(self.tried[n].sum()),
            "trials": float(len(self.scores)),
        }


def search_skips(
    model: Model,
    prompts: Sequence[TokensLike],
    *,
    max_new_tokens: int = 32,
    trials: int = 100,
    objective: Objective = "passes",
    threshold: float = 0.6,
    most: int = 12,
    seed: int = 0,
) -> SkipSearch:
    """Search the sublayers that a draft should leave out.

    score = new tokens / sum over rounds of (1 + drafted (1 - skipped / 2L)); 1 is plain decoding.

    Args:
        model: a decoder-only model.
        prompts: texts to draft on, each a single one; the paper has 8.
        max_new_tokens: new tokens of each.
        trials: candidates to score, at least 2; the first leaves nothing out.
        objective: ``passes`` is the same on every machine; ``seconds`` is measured.
        threshold: where the adaptive threshold of every trial begins.
        most: longest draft.
        seed: of the candidates.

    Raises:
        ConfigError: no prompt, or a setting out of range.
        UnknownNameError: another objective.

    Example:
        >>> found = acceleration.search_skips(
        ...     early, [early.tokens(text)], max_new_tokens=6, trials=3
        ... )
    """
    if objective not in get_args(Objective):
        raise UnknownNameError("objective", objective, known=get_args(Objective))
    if isinstance(prompts, str) or not len(prompts):
        raise ConfigError("prompts is a list of at least one text")
    whole_number("trials", trials, least=2)
    n_layers = native(model).n_layers
    tries = _Trials(model, prompts, n_layers, max_new_tokens, objective, threshold, most)
    rng = np.random.default_rng(seed)
    tries.score(np.zeros(2 * n_layers, dtype=bool), "none")
    for _ in range((trials - 1) // 2):
        tries.score(rng.random(2 * n_layers) < rng.uniform(0.1, 0.6), "random")
    while len(tries.scores) < trials:
        candidate = tries.tried[tries.best].copy()
        candidate[rng.integers(2 * n_layers)] ^= True
        tries.score(candidate, "exchange")
    random = [s for s, step in zip(tries.scores, tries.steps, strict=True) if step == "random"]
    config: dict[str, Any] = {
        "max_new_tokens": max_new_tokens, "trials": trials, "objective": objective,
        "threshold": threshold, "most": most, "seed": seed, "prompts": len(prompts),
    }  # fmt: skip
    return SkipSearch(
        tried=np.stack(tries.tried),
        scores=np.array(tries.scores),
        acceptance=np.array(tries.acceptance),
        steps=tries.steps,
        objective=objective,
        config=config,
        controls=Controls(
            {
                "nothing left out": tries.scores[0],
                "random sets, mean": float(np.mean(random)) if random else float("nan"),
            },
            note="plain decoding scores 1" if objective == "passes" else "",
        ),
        provenance=provenance.record(model=vars(model.card), seed=seed),
    )


def sublayers(left_out: np.ndarray) -> list[Sublayer]:
    """Pairs from a row of :attr:`SkipSearch.tried`."""
    n_layers = len(left_out) // 2
    found = np.flatnonzero(left_out).tolist()
    return [("attn", i) if i < n_layers else ("mlp", i - n_layers) for i in found]


def passes(found: Decoded, skipped: int, n_layers: int) -> float:
    """Runs of the whole model that a text cost, a drafted token counting the share it ran.

    The prompt and its first token count as one.
    """
    share = 1 - skipped / (2 * n_layers)
    return sum(1 + r.drafted * share for r in found.rounds)


@dataclass
class _Trials:
    """What was tried and what it scored."""

    model: Model
    prompts: Sequence[TokensLike]
    n_layers: int
    max_new_tokens: int
    objective: str
    threshold: float
    most: int
    tried: list[np.ndarray] = field(default_factory=list[np.ndarray])
    scores: list[float] = field(default_factory=list[float])
    acceptance: list[float] = field(default_factory=list[float])
    steps: list[str] = field(default_factory=list[str])

    @property
    def best(self) -> int:
        return int(np.argmax(self.scores))

    def score(self, candidate: np.ndarray, step: str) -> None:
        known = next((i for i, t in enumerate(self.tried) if (t == candidate).all()), None)
        if known is not None and self.objective == "passes":  # scored already, and the same again
            score, rate = self.scores[known], self.acceptance[known]
        else:
            score, rate = self._run(candidate)
        self.tried.append(candidate)
        self.scores.append(score)
        self.acceptance.append(rate)
        self.steps.append(step)

    def _run(self, candidate: np.ndarray) -> tuple[float, float]:
        skips, schedule = sublayers(candidate), AdaptiveThreshold(self.threshold, self.most)
        runs = [
            draft_and_verify(self.model, p, skips, self.max_new_tokens, schedule=schedule)
            for p in self.prompts
        ]
        cost = sum(
            passes(r, len(skips), self.n_layers) if self.objective == "passes" else r.seconds
            for r in runs
        )
        drafted = sum(r.drafted for r in runs)
        rate = sum(r.accepted for r in runs) / drafted if drafted else float("nan")
        return sum(len(r.new) for r in runs) / cost, rate
