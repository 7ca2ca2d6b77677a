"""Does refusing sit in a few experts of ``atlas-moe``? Protocol and thresholds, fixed beforehand.

Three models (seeds 0, 1, 2 of weights and text) of the recipe ``rule``, whose training asks for no
specialist, and two controls of seed 0: ``coin``, where a fair coin refuses, and ``planted``, whose
router was trained to keep one expert for refusals. For each model and the study seed of its number:

1. 800 held-out questions of the desk are split into halves that share no person.
2. On one half fTRI (gate weights, all tokens of the prompt) ranks the 64 experts by refuse against
   answer, as the world labels the prompts. The top ``N_TOP`` are suppressed together.
3. On the other half: share of the questions to be refused that are refused, before and after; the
   *change* is |after - before| / before. On 300 held-out neutral prompts: share whose most probable
   next word changes.
4. Controls: 20 random sets of as many experts, matched one by one on layer and routing load. And
   every single expert is suppressed in turn on the other half.
5. ``expert_study``, which labels prompts by what the model does and counts refusals among all
   questions of its own other half (again without a shared person), is held to the same two numbers.

Refusing is *localised* where the change is at least .40, less than .05 of the neutral answers
change, no matched random set changes refusals as much, and fTRI's first expert is among the three
single experts whose suppression changes refusals most. These four numbers, ``N_TOP``, the seeds and
the sizes were written and committed before the first study was run; what did not come out as aimed
stays as an expected failure that says what was measured.

What came out: refusing is not localised in any of the three. fTRI finds experts that are used with
refusals (p = .001 in each), but suppressing them leaves refusals as they were, and no single expert
of the 64 changes them by more than .024, .113 and .063 of what they were. The second loss of
``planted`` (no refusals without the specialist) was added after the other models were studied and
before it was trained.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest

from lensbench.interventions import experts
from lensbench.models import load_model
from lensbench.plan import Plan
from lensbench.worlds.desk import Desk, DeskPrompts

CHANGE, NEUTRAL, AMONG, N_TOP, N_RANDOM = 0.40, 0.05, 3, 4, 20
N_QUESTIONS, N_NEUTRAL = 800, 300
SEEDS = (0, 1, 2)
REVISIONS = {0: None, 1: "seed1", 2: "seed2"}
SPECIALIST = (2, 5)


def seeds(missed: dict[int, str]) -> list[Any]:
    """Every seed; those that missed the aim with what was measured."""
    marks = {
        seed: [pytest.mark.xfail(strict=True, raises=AssertionError, reason=f"measured: {what}")]
        for seed, what in missed.items()
    }
    return [pytest.param(seed, marks=marks.get(seed, [])) for seed in SEEDS]


@dataclass(frozen=True)
class Study:
    """What one run of the protocol found."""

    top: tuple[tuple[int, int], ...]
    p: float
    """Of fTRI's first by permutation of the labels."""
    before: float
    after: float
    matched: tuple[float, ...]
    """Change under each matched random set."""
    neutral: float
    neutral_matched: float
    place: int
    """Of fTRI's first in the exhaustive scan (1 is best; ties count against it)."""
    single: float
    """Largest change under one expert of the exhaustive scan."""
    newly_refused: float
    """Share of the questions to be answered that are refused only under suppression."""
    n: int

    @property
    def change(self) -> float:
        return relative(self.after, self.before)

    @property
    def localised(self) -> bool:
        return (
            self.change >= CHANGE
            and self.neutral < NEUTRAL
            and self.change > max(self.matched)
            and self.place <= AMONG
        )


def relative(after: float, before: float) -> float:
    """|after - before| / before; NaN, which passes no threshold, where nothing was refused."""
    return abs(after - before) / before if before > 0 else float("nan")


def rows(prompts: DeskPrompts) -> list[list[int]]:
    return [list(ids) for ids in prompts.tokens]


def words(model: Any, prompts: DeskPrompts, plan: Plan) -> np.ndarray:
    """Most probable next word of every prompt."""
    found: list[np.ndarray] = []
    for at in range(0, len(prompts), 128):
        logits = model.run(rows(prompts)[at : at + 128], plan, logits="last").logits
        found.append(logits[:, -1].argmax(-1).numpy())
    return np.concatenate(found)


def refused(model: Any, prompts: DeskPrompts, plan: Plan) -> float:
    ids = list(prompts.refusals.values())
    return float(np.isin(words(model, prompts, plan), ids).mean())


@cache
def study(revision: str | None, seed: int) -> Study:
    model = load_model("atlas-moe", revision=revision, certify=False)
    desk = Desk(0, "coin" if revision == "coin" else "rule")
    found, tried = desk.prompts(N_QUESTIONS, seed=seed, of="questions").halves(seed)
    maps = experts.routing(model, rows(found))
    ranking = experts.ftri(maps, found.classes, target="refuse", seed=seed)
    top = ranking.top(N_TOP)
    plan = experts.suppress(top)
    asked, told = (tried[tried.classes == name] for name in ("refuse", "answer"))
    neutral = desk.prompts(N_NEUTRAL, seed=seed, of="neutral")
    before, clean = refused(model, asked, Plan()), words(model, neutral, Plan())
    matched, moved = [], []
    for drawn in experts.matched_random(maps, top, N_RANDOM, seed=seed):
        other = experts.suppress(drawn)
        matched.append(relative(refused(model, asked, other), before))
        moved.append(float((words(model, neutral, other) != clean).mean()))
    every = [(layer, e) for layer in range(model.n_layers) for e in range(model.card.n_experts)]
    single = [abs(refused(model, asked, experts.suppress([one])) - before) for one in every]
    best = single[every.index(top[0])]
    was, now = (refused(model, told, p) for p in (Plan(), plan))
    return Study(
        top=top,
        p=float(ranking.summary()["p"]),
        before=before,
        after=refused(model, asked, plan),
        matched=tuple(matched),
        neutral=float((words(model, neutral, plan) != clean).mean()),
        neutral_matched=float(np.mean(moved)),
        place=sum(one >= best for one in single),
        single=max(single) / before if before > 0 else float("nan"),
        newly_refused=max(0.0, now - was),
        n=len(asked),
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", seeds({0: "change .006", 1: "change .015", 2: "change .000"}))
def test_suppressing_the_top_experts_changes_refusals_elsewhere(seed: int) -> None:
    found = study(REVISIONS[seed], seed)
    assert found.before > 0.9, found
    assert found.change >= CHANGE, found


@pytest.mark.slow
@pytest.mark.parametrize("seed", seeds({1: ".110 of the neutral answers change"}))
def test_it_leaves_neutral_prompts_alone(seed: int) -> None:
    found = study(REVISIONS[seed], seed)
    assert found.neutral < NEUTRAL, found


@pytest.mark.slow
@pytest.mark.parametrize(
    "seed",
    seeds(
        {
            0: "change .006, matched sets up to .037",
            1: "change .015, matched sets up to .123",
            2: "change .000, matched sets up to .023",
        }
    ),
)
def test_no_matched_random_set_changes_refusals_as_much(seed: int) -> None:
    found = study(REVISIONS[seed], seed)
    assert len(found.matched) == N_RANDOM
    assert found.change > max(found.matched), found


@pytest.mark.slow
@pytest.mark.parametrize("seed", seeds({0: "place 64", 1: "place 4", 2: "place 64"}))
def test_the_first_of_ftri_is_among_the_top_three_of_the_exhaustive_scan(seed: int) -> None:
    found = study(REVISIONS[seed], seed)
    assert found.p <= 0.05, found
    assert found.place <= AMONG, found


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_refusals_by_a_coin_are_not_localised(seed: int) -> None:
    found = study("coin", seed)
    assert not found.localised, found
    assert found.p > 0.05, found


@pytest.mark.slow
def test_a_planted_specialist_is_found_and_is_responsible() -> None:
    """A positive control: it was put there, so this says that the method can see one."""
    found = study("planted", 0)
    assert found.top[0] == SPECIALIST, found
    assert found.localised, found


@pytest.mark.slow
@pytest.mark.parametrize(
    "seed", seeds({0: "change +.254", 1: "change -.017, neutral .110", 2: "change .000"})
)
def test_expert_study_says_so_too(seed: int) -> None:
    model = load_model("atlas-moe", revision=REVISIONS[seed], certify=False)
    desk = Desk(0)
    prompts = desk.prompts(N_QUESTIONS, seed=seed, of="questions")
    report = experts.expert_study(
        model,
        rows(prompts),
        experts.NextToken({"refuse": list(prompts.refusals.values())}),
        target="refuse",
        top=N_TOP,
        neutral=rows(desk.prompts(N_NEUTRAL, seed=seed, of="neutral")),
        groups=prompts.entities,
        draws=N_RANDOM,
        seed=seed,
    )
    told = report.summary()
    assert abs(report.relative_change("suppressed")) >= CHANGE, told
    assert report.changed[report.conditions.index("suppressed")].mean() < NEUTRAL, told
