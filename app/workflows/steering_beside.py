"""Any direction on any prompt: clean text beside steered text and a random direction's, one seed.

1. The direction is made of two sets of prompts (states at their last tokens), a task, a latent
   of a dictionary, or a vector in a file.
2. A strength counts in lengths of the state: the median over the steered tokens of the prompt, as
   in ``interventions.dose_curve``. Strength 0 is the empty plan: the model as it is.
3. Every continuation draws with the same seed; the divergence per step is along the clean text.
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lensbench.app.workflows.directions import model_of
from lensbench.app.workflows.latent_steering import (
    RANDOM,
    Beside,
    check_room,
    said_beside,
)
from lensbench.app.workflows.latent_steering import direction_of as latent_of
from lensbench.app.workflows.live import Shelf, running
from lensbench.app.workflows.steering import SteerAsk, direction_for
from lensbench.app.workflows.steering_code import is_public, step_code
from lensbench.errors import ConfigError
from lensbench.interventions.steering.contrast import Contrast
from lensbench.interventions.steering.controls import random_directions
from lensbench.interventions.steering.direction import Direction, probe_direction
from lensbench.interventions.steering.plans import steer
from lensbench.interventions.steering.where import Steered as Steering
from lensbench.interventions.steering.where import scale_at
from lensbench.plan import Plan
from lensbench.saes import read_direction
from lensbench.tokens import meant, token_texts

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from lensbench.models import Model

PROMPTS, TASK, LATENT, FILE = "prompts", "task", "latent", "file"
KINDS = {
    PROMPTS: "Two sets of prompts", TASK: "A prompt task", LATENT: "A latent of a dictionary",
    FILE: "A probe or vector in a file",
}  # fmt: skip
STRENGTHS = (-4.0, -2.0, -1.0, -0.5, -0.25, -0.125, 0.0, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
"""Steps that double on either side of nothing."""
WHERE = {"all": "Every token", "after": "From the prompt's last token on"}
LONGEST = 2_000
"""Characters of a prompt."""


@dataclass(frozen=True)
class BesideAsk:
    """What is asked for; hashable, so that its answer can be kept."""

    model: str
    prompt: str
    kind: str = PROMPTS
    plus: tuple[str, ...] = ()
    minus: tuple[str, ...] = ()
    task: SteerAsk | None = None
    run: str = ""
    dictionary: str = ""
    latent: int = 0
    file: str = ""
    layer: int = 1
    """The direction stands after this block; a latent knows its own site."""
    strength: float = 1.0
    where: str = "after"
    new_tokens: int = 20
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Steered(Beside):
    """With the prompt itself, and which of its tokens are steered."""

    unit: float
    """Length of a step of strength 1, units of the site."""
    prompt: tuple[str, ...]
    on: tuple[bool, ...]


_kept: "Shelf[Steered]" = Shelf(32)


def steered(ask: BesideAsk) -> Steered:
    """The texts and divergences that are asked for, made once.

    Raises:
        ConfigError: no prompt, one that is too long, or half of a contrast.
        LensbenchError: a direction that cannot be made (see the workflows it comes from).
    """
    return _kept.get(ask, lambda: _made(ask))


@contextmanager
def opened(ask: BesideAsk) -> "Generator[tuple[Model, list[int], Direction]]":
    """The model, for the caller alone, ids of the prompt, and a step of strength 1.

    Raises:
        ConfigError, LensbenchError: as :func:`steered`.
    """
    if not ask.prompt.strip() or len(ask.prompt) > LONGEST:
        raise ConfigError(f"give a prompt of 1 to {LONGEST:,} characters; got {len(ask.prompt):,}")
    with held(ask) as model:
        direction = direction_of(ask, model)
        direction.check(model)
        prompt: list[int] = model.tokens(ask.prompt).ids[0].tolist()
        check_room(model, len(prompt) + ask.new_tokens)
        at = Steering([prompt], None, "all" if ask.where == "all" else "after", ask.new_tokens)
        yield model, prompt, direction.with_norm(scale_at(model, at, direction, 1))


@contextmanager
def held(ask: BesideAsk) -> "Generator[Model]":
    """The model that is steered, for the caller alone: of a latent, the one it was trained on.

    Raises:
        MissingDataError, MismatchError: it is not to be found, or is another.
    """
    own = ask.kind == LATENT
    with model_of(Path(ask.run), ask.dictionary) if own else running(ask.model) as model:
        yield model


def _made(ask: BesideAsk) -> Steered:
    with opened(ask) as (model, prompt, unit):
        others = random_directions(unit, RANDOM, ask.seed)
        said = said_beside(model, prompt, ask, [unit, *others], plan_of)
        shown = tuple(token_texts(model.tokenizer, prompt))
    on = tuple(ask.strength != 0 and (ask.where == "all" or i == len(prompt) - 1)
               for i in range(len(prompt)))  # fmt: skip
    return Steered(unit.site, abs(ask.strength) * unit.norm, said.ids, said.words, len(prompt),
                   said.kl, said.identical, unit.norm, shown, on)  # fmt: skip


def plan_of(ask: BesideAsk, unit: Direction, n_prompt: int, n: int = 0) -> Plan:
    """The edit of a text of ``n`` tokens, or of one still to be written; 0: the empty plan."""
    span = list(range(n_prompt - 1, n or n_prompt + ask.new_tokens))
    return steer(unit, ask.strength, positions=None if ask.where == "all" else span)


def direction_of(ask: BesideAsk, model: "Model") -> Direction:
    """The direction by its kind.

    Raises:
        ConfigError: a set without prompts; LensbenchError: as the workflow of that kind.
    """
    if ask.kind == LATENT:
        return latent_of(Path(ask.run), ask.dictionary, ask.latent)
    if ask.kind == TASK and ask.task is not None:
        return direction_for(ask.task, model)
    site = f"blocks.{ask.layer}.resid_post"
    if ask.kind == FILE:
        return probe_direction(site, read_direction(ask.file, d_model=model.card.d_model))
    if not ask.plus or not ask.minus:
        raise ConfigError("a contrast needs a prompt or more on either side, one per line")
    sides = [np.stack([_last(model, text, site) for text in texts])
             for texts in (ask.plus, ask.minus)]  # fmt: skip
    contrast = Contrast(site, sides[0], sides[1], paired=False, label="contrast of prompts")
    return contrast.mean_difference()


def _last(model: "Model", text: str, site: str) -> np.ndarray:
    ids: list[int] = model.tokens(text).ids[0].tolist()
    acts: Any = model.run(meant(ids), capture=site, logits="none").acts[site]
    return acts[0, -1].double().cpu().numpy()


def kl_frame(found: Steered) -> pd.DataFrame:
    """The divergences in long form, as they are drawn."""
    own = found.kl[["step", "token", "kl"]].assign(low=found.kl["kl"], high=found.kl["kl"],
                                                   direction="this direction")  # fmt: skip
    drawn = found.kl[["step", "token", "low", "high"]].assign(
        kl=found.kl["random"], direction=f"{RANDOM} random directions")  # fmt: skip
    frame = pd.concat([own, drawn], ignore_index=True)
    frame.attrs["units"] = {"kl": "KL(clean ‖ steered) [nats]"}
    return frame


def kl_figure(frame: pd.DataFrame) -> "go.Figure":
    """A line for the direction, and one with a band for random ones."""
    from lensbench.plots import lines

    return lines(
        frame, x="step", y="kl", color="direction", low="low", high="high", height=320,
        hover_columns=("token",), labels={"step": "step of the clean text"},
        title="How far the prediction moves, step by step",
        subtitle="random: mean, band from least to most",
    )  # fmt: skip


def python_of(ask: BesideAsk, unit: float) -> str:
    """Python that steers the same way and draws the same figure."""
    if is_public(ask):
        return step_code(ask, unit)
    task = ", SteerAsk" if ask.task else ""
    first = "from lensbench.app.workflows.steering import SteerAsk\n" if task else ""
    return (
        f"{first}from lensbench.app.workflows.steering_beside import (\n"
        "    BesideAsk, kl_figure, kl_frame, steered)\n\n"
        f"found = steered({ask!r})  # found.words, found.kl\n"
        "kl_figure(kl_frame(found))\n"
    )
