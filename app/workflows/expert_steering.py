"""Weights of single experts as sliders: a prompt answered clean and steered, rates beside controls.

A weight ``s`` of -1 to 1 stands for (each edit acts where the router has chosen already):

1. ``s < 0``: the expert's gate weight times ``1 + s``; -1 suppresses it;
2. ``s = 0``: no edit at all, so that the model runs exactly what it runs clean, bit for bit;
3. ``0 < s < 1``: its gate weight over ``1 - s``; 1 forces it into every token of its layer.

The other experts of a token keep its previous sum of weights (``docs/methods.md``, Experts).
"""

from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from lensbench.app.workflows.expert_page import YES, ExpertAsk, controls_named, says_of
from lensbench.app.workflows.expert_prompts import NamedPrompts, find_prompts
from lensbench.app.workflows.latent_steering import tokens_of
from lensbench.app.workflows.live import running
from lensbench.errors import ConfigError
from lensbench.interventions import experts
from lensbench.interventions.experts.behaviour import labels_of
from lensbench.interventions.experts.matching import NEAREST
from lensbench.interventions.experts.plans import Expert
from lensbench.interventions.experts.rows import rows_of
from lensbench.plan import Plan
from lensbench.standing import standing
from lensbench.stats import wilson
from lensbench.tokens import meant, token_texts

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from lensbench.models import Model

NEUTRAL, STEP = 0.0, 0.25
LONGEST = 2_000
"""Characters of a prompt."""
HELD_OUT, DRAWS = 48, 20
"""Prompts of which the rate is measured, and sets of matched random experts beside them."""
CLEAN, STEERED, RANDOM = "clean", "steered", "random"
Weights = tuple[tuple[int, int, float], ...]
"""Layer, expert, weight."""


@dataclass(frozen=True)
class Answered:
    """What the model says clean and steered, as ids and as the text of each token."""

    clean: tuple[int, ...]
    steered: tuple[int, ...]
    words: dict[str, tuple[str, ...]]
    texts: dict[str, str]
    """Both answers, decoded whole."""
    identical: bool
    """Whether the logits of the prompt are the clean ones, bit for bit."""
    kl: float
    """``KL(clean || steered)`` of the first token of the answer, nats."""

    @property
    def frame(self) -> pd.DataFrame:
        """Both answers, a row per token."""
        return tokens_of({CLEAN: self.clean, STEERED: self.steered}, self.words)


def plan_of(weights: Weights) -> Plan:
    """The edits of these sliders; all neutral: the empty plan."""
    plan, forced = Plan(), list[Expert]()
    for layer, expert, weight in weights:
        if not -1 <= weight <= 1:
            raise ConfigError(f"a weight runs from -1 to 1; got {weight:g}")
        if weight == 1:
            forced.append((layer, expert))
        elif weight < 0:
            plan += experts.scale((layer, expert), 1 + weight)
        elif weight:
            plan += experts.scale((layer, expert), 1 / (1 - weight))
    return plan + experts.force(forced) if forced else plan


@lru_cache(maxsize=64)
def answered(model: str, prompt: str, weights: Weights, new_tokens: int = 16) -> Answered:
    """One prompt answered clean and under the sliders, greedily.

    Raises:
        ConfigError: no prompt, one that is too long, a dense model, or more experts of a layer
            forced than a token has slots.
    """
    if not prompt.strip() or len(prompt) > LONGEST:
        raise ConfigError(f"give a prompt of 1 to {LONGEST:,} characters; got {len(prompt):,}")
    plan = plan_of(weights)
    with running(model) as opened:
        rows = rows_of(opened, prompt)
        said = {name: _said(opened, rows[0], one, new_tokens)
                for name, one in (("clean", Plan()), ("steered", plan))}  # fmt: skip
        logits = [opened.run(meant(rows[0]), one, logits="last").logits for one in (Plan(), plan)]
        words = {n: tuple(token_texts(opened.tokenizer, list(i))) for n, i in said.items()}
        texts = {n: str(opened.tokenizer.decode(list(i))) for n, i in said.items()}
    one, other = (x[0, -1].float() for x in logits if x is not None)
    p, q = one.log_softmax(-1), other.log_softmax(-1)
    kl = float((p.exp() * (p - q)).sum().clamp_min(0))
    same = bool((one == other).all())
    return Answered(said["clean"], said["steered"], words, texts, same, kl)


def shown(ask: ExpertAsk, said: Answered) -> str:
    """Whether the behaviour shows in the answers, in fixed words; empty where none is named."""
    named = find_prompts(ask.prompts)
    if not (ask.says or named.refusals):
        return ""
    says = says_of(named, ask.says)
    clean, steered = (says.of(said.texts[name]) == YES for name in (CLEAN, STEERED))
    if clean and said.identical:
        return "The behaviour shows on this prompt."
    if clean:
        return f"The behaviour shows clean, and {'still' if steered else 'no longer'} when steered."
    if steered:
        return "The behaviour does not show clean; it does when steered."
    return ("The behaviour does not show on this prompt, so there is nothing to suppress: take "
            "another prompt.")  # fmt: skip


def _said(model: "Model", row: list[int], plan: Plan, new_tokens: int) -> tuple[int, ...]:
    found: Any = model.generate(meant(row), plan, new_tokens)
    return tuple(int(i) for i in found[0])


def held_out(ask: ExpertAsk) -> tuple[NamedPrompts, str]:
    """Prompts that the ranking has not seen, where there are some, and what they are.

    Of questions of the desk those of another seed; a file has no others, and that is said.
    """
    name, _, rest = ask.prompts.partition(":")
    if name != "desk" or Path(ask.prompts).exists():
        return find_prompts(ask.prompts), "the prompts of the ranking itself: none is held out"
    parts = [*rest.split(":"), *["", "heldout", "0"][len(rest.split(":")) :]]
    seed = int(parts[2]) + 1 if parts[2].isdigit() else 1
    spec = f"desk:{HELD_OUT}:{parts[1]}:{seed}"
    return find_prompts(spec), f"{spec}, which the ranking has not seen"


@lru_cache(maxsize=16)
def rates(ask: ExpertAsk, weights: Weights) -> tuple[pd.DataFrame, str]:
    """Rate of the behaviour clean, steered, and with matched random experts under equal weights.

    Raises:
        ConfigError: all sliders neutral, no phrase, or a dense model.
        NotEnoughDataError: too few other experts in a layer to draw controls from.
    """
    moved = tuple(w for w in weights if w[2])
    if not moved:
        raise ConfigError("every slider is at 0, so there is nothing to measure; move one")
    named, told = held_out(ask)
    with running(ask.model) as model:
        rows = rows_of(model, named.texts)
        says = says_of(named, ask.says)
        chosen = [(layer, expert) for layer, expert, _ in moved]
        # Few experts have few neighbours: look farther, as far as it takes for so many sets.
        near = max(NEAREST, ceil(DRAWS ** (1 / len(chosen))))
        drawn = experts.matched_random(experts.routing(model, rows), chosen, DRAWS, nearest=near)
        sets = {CLEAN: Plan(), STEERED: plan_of(moved)}
        for number, draw in enumerate(drawn.tolist(), 1):
            same = tuple((a, b, w) for (a, b), (_, _, w) in zip(draw, moved, strict=True))
            sets[f"{RANDOM} {number}"] = plan_of(same)
        hits = {n: labels_of(says, model, rows, p).count(YES) for n, p in sets.items()}
    order = sorted(hits, key=lambda name: (name != CLEAN, name != STEERED, hits[name]))
    spans = {name: wilson(hits[name], len(rows)) for name in order}
    frame = pd.DataFrame([
        {"experts": name, "rate": s.mean, "low": s.low, "high": s.high, "n": len(rows)}
        for name, s in spans.items()
    ])  # fmt: skip
    frame.attrs["units"] = {"rate": "share of prompts", "n": "prompts"}
    return frame, told


def verdict(frame: pd.DataFrame, weights: Weights) -> str:
    """Whether the rate moves farther than with random experts, in fixed words."""
    rate = dict(zip(frame["experts"], frame["rate"], strict=True))
    drawn = [value for name, value in rate.items() if name.startswith(RANDOM)]
    size = sum(bool(w) for *_, w in weights)
    found = standing(rate[STEERED], drawn, rate[CLEAN])
    return (f"From {rate[CLEAN]:.0%} to {rate[STEERED]:.0%} of {int(frame['n'].iloc[0])} prompts. "
            + found.told(controls_named(size)))  # fmt: skip


def rates_figure(frame: pd.DataFrame) -> "go.Figure":
    """Bars with their intervals."""
    from lensbench.plots import bars

    n_sets = len(frame) - 2
    figure = bars(
        frame, x="experts", y="rate", low="low", high="high", hover_columns=("n",),
        title="Rate of the behaviour", labels={"experts": "experts that are moved"}, height=360,
        subtitle=f"n = {int(frame['n'].iloc[0])} prompts · {n_sets} sets of random experts, lowest "
        "first · dotted: clean",
    )  # fmt: skip
    figure.add_hline(float(frame["rate"].iloc[0]), line_dash="dot", line_color="gray")
    return figure.update_yaxes(range=[0, 1.02])


def python_of(model: str, prompt: str, weights: Weights) -> str:
    """The same in a notebook."""
    return (
        "import lensbench\n"
        "from lensbench import interventions\n"
        "from lensbench.app.workflows.expert_steering import plan_of\n\n"
        f"model = lensbench.load_model({model!r})\n"
        f"plan = plan_of({weights!r})  # layer, expert, weight from -1 to 1\n"
        f"interventions.generate_beside(model, [{prompt!r}], plan, 16)\n"
    )


def rates_code(ask: ExpertAsk, weights: Weights) -> str:
    """The rates in a notebook."""
    return (
        "from lensbench.app.workflows.expert_page import ExpertAsk\n"
        "from lensbench.app.workflows.expert_steering import rates, rates_figure\n\n"
        f"frame, prompts = rates({ask!r}, {weights!r})\n"
        "rates_figure(frame)\n"
    )


def command_of(ask: ExpertAsk, weights: Weights) -> str:
    """The study of the moved experts on the command line (suppressed and forced)."""
    from lensbench.app.workflows.expert_page import command_of as command

    moved = ",".join(f"{a}:{b}" for a, b, w in weights if w)
    base = command(ask, "suppress")
    return f"{base} --experts {moved}" if moved else base
