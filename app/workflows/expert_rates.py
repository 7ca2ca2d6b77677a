"""The rate of a behaviour under the sliders, beside experts moved as far that were drawn at random.

1. Experts of the same layers and about the same load are drawn, as many sets as ``draws``.
2. Every prompt is answered clean, with the chosen experts moved, and with each set moved as far.
3. What counts is how often an answer has the behaviour (``docs/methods.md``, Experts).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lensbench import provenance
from lensbench.app.workflows.answers import facts_of, rows_of_frame, saved_in
from lensbench.app.workflows.expert_page import DRAWS, YES, ExpertAsk, controls_named, says_of
from lensbench.app.workflows.expert_prompts import find_prompts
from lensbench.app.workflows.expert_steering import Weights, plan_of
from lensbench.app.workflows.live import running
from lensbench.app.workflows.models import open_model
from lensbench.errors import ConfigError
from lensbench.interventions import experts
from lensbench.interventions.experts.behaviour import described, labels_of
from lensbench.interventions.experts.matching import NEAREST
from lensbench.interventions.experts.rows import rows_of
from lensbench.plan import Plan
from lensbench.progress import each
from lensbench.results import Controls, Result
from lensbench.standing import Standing, standing
from lensbench.stats import wilson

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from lensbench.models import Model

HELD_OUT = 48
"""Prompts of the desk of which the rate is measured."""
CLEAN, STEERED, RANDOM = "clean", "steered", "random"


@dataclass(frozen=True, kw_only=True, eq=False)
class ExpertRates(Result):
    """How often a behaviour shows clean, with experts moved, and with random ones moved as far."""

    sets: tuple[str, ...]
    """``clean``, ``steered``, then ``random 1``, ..."""
    hits: np.ndarray
    """Prompts with the behaviour, for each of :attr:`sets`."""
    n: int
    """Prompts."""
    weights: tuple[tuple[int, int, float], ...]
    """Layer, expert, and how far it was moved, -1 to 1."""
    random: np.ndarray
    """``[draw, expert, (layer, expert)]``."""

    def rate(self, name: str = CLEAN) -> float:
        """Share of the prompts."""
        return int(self.hits[self.sets.index(name)]) / self.n

    def standing(self) -> Standing:
        """The rate with the chosen experts among those with random ones."""
        drawn = [self.rate(name) for name in self.sets if name.startswith(RANDOM)]
        return standing(self.rate(STEERED), drawn, self.rate())

    def verdict(self) -> str:
        """Whether the rate moves farther than with random experts, in fixed words."""
        told = self.standing().told(controls_named(len(self.weights)))
        return f"From {self.rate():.0%} to {self.rate(STEERED):.0%} of {self.n} prompts. {told}"

    def to_frame(self) -> pd.DataFrame:
        """A row per set, those of random experts by their rate; Wilson's intervals, 95 %."""
        order = sorted(range(len(self.sets)), key=lambda i: (
            self.sets[i] != CLEAN, self.sets[i] != STEERED, int(self.hits[i])))  # fmt: skip
        spans = [(self.sets[i], wilson(int(self.hits[i]), self.n)) for i in order]
        frame = pd.DataFrame([
            {"experts": name, "rate": s.mean, "low": s.low, "high": s.high, "n": self.n}
            for name, s in spans
        ])  # fmt: skip
        frame.attrs["units"] = {"rate": "share of prompts", "n": "prompts"}
        return frame

    def summary(self) -> dict[str, float]:
        """Both rates, and how the second one stands."""
        return {"clean rate": self.rate(), "rate": self.rate(STEERED), "p": self.standing().p}

    def plot(self) -> "go.Figure":
        """Bars with their intervals."""
        from lensbench.plots import bars

        figure = bars(
            self.to_frame(), x="experts", y="rate", low="low", high="high", hover_columns=("n",),
            title="Rate of the behaviour", labels={"experts": "experts that are moved"},
            height=360, subtitle=f"n = {self.n} prompts · {len(self.sets) - 2} sets of random "
            "experts, lowest first · dotted: clean",
        )  # fmt: skip
        figure.add_hline(self.rate(), line_dash="dot", line_color="gray")
        return figure.update_yaxes(range=[0, 1.02])


def held_out(ask: ExpertAsk) -> tuple[str, str]:
    """Prompts that the ranking has not seen, where there are some, and what they are.

    Of questions of the desk those of another seed; a file has no others, and that is said.
    """
    name, _, rest = ask.prompts.partition(":")
    if name != "desk" or Path(ask.prompts).exists():
        return ask.prompts, "the prompts of the ranking itself: none is held out"
    parts = [*rest.split(":"), *["", "heldout", "0"][len(rest.split(":")) :]]
    seed = int(parts[2]) + 1 if parts[2].isdigit() else 1
    spec = f"desk:{HELD_OUT}:{parts[1]}:{seed}"
    return spec, f"{spec}, which the ranking has not seen"


def rates(ask: ExpertAsk, weights: Weights) -> ExpertRates:
    """The rates of a page, once for what is asked.

    Raises:
        LensbenchError: as :func:`rates_of`.
    """
    file = Path(held_out(ask)[0])
    written = (file.stat().st_mtime_ns, file.stat().st_size) if file.is_file() else None
    return _rates(ask, weights, written)


@lru_cache(maxsize=16)
def _rates(ask: ExpertAsk, weights: Weights, written: tuple[int, int] | None) -> ExpertRates:
    del written  # part of the key only
    with running(ask.model) as model:
        return _measure(model, held_out(ask)[0], (ask.says,) if ask.says else (), weights, DRAWS)


def rates_of(
    model: str, prompts: str, weight: Mapping[str, float | str], *, says: Sequence[str] = (),
    new_tokens: int = 16, draws: int = DRAWS, out: Path | None = None, revision: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What the command line says of the rates; ``weight`` is by ``LAYER:EXPERT``.

    Raises:
        ConfigError: nothing is moved, no phrase, or a dense model.
        NotEnoughDataError: too few other experts in a layer to draw controls from.
    """
    weights = tuple(_moved(name, value) for name, value in weight.items())
    opened = open_model(model, revision)
    found = _measure(opened, prompts, tuple(says), weights, draws, new_tokens)
    facts = facts_of(opened, found, rates=rows_of_frame(found.to_frame()), verdict=found.verdict())
    return {**facts, **saved_in(found, out)}


def rates_code(ask: ExpertAsk, weights: Weights) -> str:
    """The rates in a notebook."""
    return (
        "from lensbench.app.workflows.expert_page import ExpertAsk\n"
        "from lensbench.app.workflows.expert_rates import rates\n\n"
        f"rates({ask!r}, {weights!r}).plot()\n"
    )


def _moved(name: str, value: float | str) -> tuple[int, int, float]:
    from lensbench.app.workflows.experts import read_experts

    try:
        [(layer, expert)] = read_experts(name)
        return layer, expert, float(value)
    except ValueError:
        raise ConfigError(f"--weight takes LAYER:EXPERT=WEIGHT, such as 1:6=-1; got "
                          f"{name}={value}") from None  # fmt: skip


def _measure(
    model: "Model", prompts: str, says: tuple[str, ...], weights: Weights, draws: int,
    new_tokens: int = 16,
) -> ExpertRates:  # fmt: skip
    began = time.monotonic()
    moved = tuple(w for w in weights if w[2])
    if not moved:
        raise ConfigError("every slider is at 0, so there is nothing to measure; move one")
    named = find_prompts(prompts)
    rows = rows_of(model, named.texts)
    behaviour = replace(says_of(named, *says), new_tokens=new_tokens)
    chosen = [(layer, expert) for layer, expert, _ in moved]
    # Few experts have few neighbours: look farther, as far as it takes for so many sets.
    near = max(NEAREST, ceil(draws ** (1 / len(chosen))))
    drawn = experts.matched_random(experts.routing(model, rows), chosen, draws, nearest=near)
    plans = {CLEAN: Plan(), STEERED: plan_of(moved)}
    for number, draw in enumerate(drawn.tolist(), 1):
        same = tuple((a, b, w) for (a, b), (_, _, w) in zip(draw, moved, strict=True))
        plans[f"{RANDOM} {number}"] = plan_of(same)
    asked = each(list(plans.values()), "expert rates", "set")
    hits = [labels_of(behaviour, model, rows, plan).count(YES) for plan in asked]
    told = dict(zip(plans, (h / len(rows) for h in hits), strict=True))
    by_chance = [rate for name, rate in told.items() if name.startswith(RANDOM)]
    return ExpertRates(
        sets=tuple(plans), hits=np.array(hits), n=len(rows), weights=moved, random=np.array(drawn),
        config={"prompts": prompts, "behaviour": described(behaviour), "draws": draws},
        controls=Controls({"random_rate": float(np.mean(by_chance))} if by_chance else {},
                          f"{len(by_chance)} sets of random experts of the same layers and about "
                          "the same load, moved as far"),
        provenance=provenance.record(model=vars(model.card), seed=0,
                                     seconds=time.monotonic() - began),
    )  # fmt: skip
