"""Weights of single experts as sliders: a prompt answered clean and steered.

A weight ``s`` of -1 to 1 stands for (each edit acts where the router has chosen already):

1. ``s < 0``: the expert's gate weight times ``1 + s``; -1 suppresses it;
2. ``s = 0``: no edit at all, so that the model runs exactly what it runs clean, bit for bit;
3. ``0 < s < 1``: its gate weight over ``1 - s``; 1 forces it into every token of its layer.

The other experts of a token keep its previous sum of weights (``docs/methods.md``, Experts).
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pandas as pd

from lensbench.app.workflows.expert_page import YES, ExpertAsk, says_of
from lensbench.app.workflows.expert_prompts import find_prompts
from lensbench.app.workflows.latent_steering import tokens_of
from lensbench.app.workflows.live import running
from lensbench.errors import ConfigError
from lensbench.interventions import experts
from lensbench.interventions.experts.plans import Expert
from lensbench.interventions.experts.rows import rows_of
from lensbench.plan import Plan
from lensbench.tokens import meant, token_texts

if TYPE_CHECKING:
    from lensbench.models import Model

NEUTRAL, STEP = 0.0, 0.25
LONGEST = 2_000
"""Characters of a prompt."""
CLEAN, STEERED = "clean", "steered"
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
