"""Steering with one latent of a dictionary: clean text beside steered text, from one seed.

1. The direction is the latent's decoder row, at the site where the dictionary writes.
2. A strength counts in largest activations of the latent in the store; 0 is the empty plan, so that
   the model runs exactly what it runs clean, bit for bit.
3. Beside it: a random direction of equal length, which continues the prompt too, and more of them
   in the divergence per step.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from lensbench.app.workflows.directions import LONGEST, Rows, model_of
from lensbench.app.workflows.live import Shelf
from lensbench.errors import ConfigError
from lensbench.interventions.steering.controls import random_directions
from lensbench.interventions.steering.direction import Direction
from lensbench.interventions.steering.plans import steer
from lensbench.plan import Plan
from lensbench.tokens import meant, token_texts

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from lensbench.models import Model

STRENGTHS = (-8.0, -4.0, -2.0, -1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""What a slider offers: steps that double on either side of nothing."""
ALL, AFTER = "all", "after"
WHERE = {ALL: "Every token", AFTER: "From the prompt's last token on"}
RANDOM = 8
"""Random directions of equal length."""
NEW, MOST_NEW = 20, 100
"""Tokens that are written."""


@dataclass(frozen=True)
class LatentSteer:
    """What is asked for; hashable, so that its answer can be kept."""

    run: str
    name: str
    latent: int
    prompt: str
    largest: float
    """Largest activation of the latent in the store: strength 1."""
    strength: float = 1.0
    where: str = ALL
    new_tokens: int = NEW
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Beside:
    """Three continuations of a prompt, and how far the steered models are from the clean one."""

    site: str
    length: float
    """Of the vector that is added, units of the site."""
    ids: dict[str, tuple[int, ...]]
    """By ``clean``, ``steered`` and ``random``, tokens of the continuation."""
    words: dict[str, tuple[str, ...]]
    n_prompt: int
    kl: pd.DataFrame
    """Per step of the clean text: token, ``KL(clean || steered)``, and of the random directions."""
    identical: bool
    """Whether the steered logits along the clean text are the clean ones, bit for bit."""

    def changed(self, name: str) -> tuple[bool, ...]:
        """Which tokens of a continuation are not in the clean one, in its order."""
        return tuple(changed(self.ids["clean"], self.ids[name]))

    @property
    def frame(self) -> pd.DataFrame:
        """See :func:`tokens_of`."""
        return tokens_of(self.ids, self.words)


def tokens_of(ids: Mapping[str, Sequence[int]], words: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """One row per token of every text: its step, id and word, and whether the first has it not."""
    first = ids[next(iter(ids))]
    return pd.DataFrame([
        {"text": name, "step": step, "token_id": token, "token": word, "differs": new}
        for name, own in ids.items()
        for step, (token, word, new) in enumerate(
            zip(own, words[name], changed(first, own), strict=True), 1)
    ])  # fmt: skip


def changed(first: Sequence[int], other: Sequence[int]) -> list[bool]:
    """Which tokens of ``other`` are not in ``first``, in its order."""
    out = [True] * len(other)
    match = SequenceMatcher(None, first, other, autojunk=False)
    for block in match.get_matching_blocks():
        out[block.b : block.b + block.size] = [False] * block.size
    return out


def direction_of(run: Path, name: str, latent: int) -> Direction:
    """What one unit of a latent writes.

    Raises:
        ConfigError: no such latent.
        MismatchError: a crosscoder, whose rows lie in several sites.
    """
    rows = Rows.of(run, name)
    if not 0 <= latent < len(rows.W_dec):
        raise ConfigError(f"latents run from 0 to {len(rows.W_dec) - 1}; got {latent}")
    vector = rows.W_dec[latent].detach().float().cpu().numpy()
    return Direction(site=rows.site, vector=vector, label=f"latent {latent}",
                     config={"method": "latent", "latent": latent})  # fmt: skip


_kept: "Shelf[Beside]" = Shelf(32)


def beside(ask: LatentSteer) -> Beside:
    """The texts and divergences that are asked for, made once.

    Raises:
        ConfigError: no prompt, one that is too long, or a latent that never fires.
        MissingDataError, MismatchError: the model is not to be found, or is another.
    """
    return _kept.get(ask, lambda: _made(ask))


def _made(ask: LatentSteer) -> Beside:
    if not ask.prompt.strip() or len(ask.prompt) > LONGEST:
        raise ConfigError(f"give a prompt of 1 to {LONGEST:,} characters; got {len(ask.prompt):,}")
    if not ask.largest > 0:
        raise ConfigError(
            f"latent {ask.latent} never fires on the tokens looked at, so there is no largest "
            "activation to count strengths in"
        )
    direction = direction_of(Path(ask.run), ask.name, ask.latent)
    others = random_directions(direction, RANDOM, ask.seed)
    with model_of(Path(ask.run), ask.name) as model:
        direction.check(model)
        prompt: list[int] = model.tokens(ask.prompt).ids[0].tolist()
        check_room(model, len(prompt) + ask.new_tokens)
        said = said_beside(model, prompt, ask, [direction, *others], plan_of)
    kl = said.kl.rename(columns={"kl": "latent", "low": "random_least", "high": "random_most"})
    kl.attrs["units"] = dict.fromkeys(("latent", "random"), "KL(clean ‖ steered) [nats]")
    length = abs(ask.strength) * ask.largest * direction.norm
    return Beside(direction.site, length, said.ids, said.words, len(prompt), kl, said.identical)


class Said(NamedTuple):
    """Three texts, and how far the steered model is from the clean one along the clean text."""

    ids: dict[str, tuple[int, ...]]
    words: dict[str, tuple[str, ...]]
    kl: pd.DataFrame
    """``step``, ``token``, ``kl``; of random directions ``random`` (mean), ``low``, ``high``."""
    identical: bool


def said_beside(
    model: "Model",
    prompt: list[int],
    ask: Any,
    directions: Sequence[Direction],
    plan_of: Callable[..., Plan],
) -> Said:
    """The prompt continued clean, with the first direction, and with the second, a random one.

    ``plan_of(ask, direction, n_prompt, n)`` is the edit; all directions but the first are random.
    """
    said = {"clean": Plan(), **{name: plan_of(ask, one, len(prompt)) for name, one in
                                zip(("steered", "random"), directions, strict=False)}}  # fmt: skip
    ids = {name: continued(model, prompt, plan, ask) for name, plan in said.items()}
    words = {name: tuple(token_texts(model.tokenizer, list(i))) for name, i in ids.items()}
    whole = [*prompt, *ids["clean"]]
    clean = logits_of(model, whole, Plan())
    moved, *drawn = (
        logits_of(model, whole, plan_of(ask, one, len(prompt), len(whole))) for one in directions
    )
    steps = slice(len(prompt) - 1, len(whole) - 1)
    randoms = np.stack([kl_of(clean, one, steps) for one in drawn])
    kl = pd.DataFrame({
        "step": range(1, len(ids["clean"]) + 1), "token": words["clean"],
        "kl": kl_of(clean, moved, steps), "random": randoms.mean(0),
        "low": randoms.min(0), "high": randoms.max(0),
    })  # fmt: skip
    return Said(ids, words, kl, bool((clean == moved).all()))


def plan_of(ask: LatentSteer, direction: Direction, n_prompt: int, n: int = 0) -> Plan:
    """The edit: ``strength * largest`` times the direction; strength 0 is the empty plan."""
    span = range(n_prompt - 1, n or n_prompt + ask.new_tokens)  # no further than a text goes
    positions = None if ask.where == ALL else list(span)
    return steer(direction, ask.strength * ask.largest, positions=positions)


def check_room(model: "Model", n: int) -> None:
    """Refuse more tokens than the model reads.

    Raises:
        ConfigError: how many there are and how many fit.
    """
    limit = model.card.n_ctx
    if limit and n > limit:
        raise ConfigError(
            f"prompt and continuation have {n} tokens together and the model reads {limit}; "
            "shorten the prompt, or write fewer tokens"
        )


def continued(model: "Model", prompt: list[int], plan: Plan, ask: Any) -> tuple[int, ...]:
    """The continuation under a plan; ``ask`` has tokens, temperature and seed."""
    said: Any = model.generate(meant(prompt), plan, ask.new_tokens, temperature=ask.temperature,
                               seed=ask.seed)  # fmt: skip
    return tuple(int(i) for i in said[0])


def logits_of(model: "Model", ids: list[int], plan: Plan) -> Any:
    """Logits of every token of a text under a plan, ``[pos, d_vocab]``."""
    out = model.run(meant(ids), plan).logits
    assert out is not None  # asked for
    return out[0].float().cpu()


def kl_of(clean: Any, other: Any, steps: slice) -> Any:
    """``KL(clean || other)`` of the next token at every step, nats."""
    p, q = clean[steps].log_softmax(-1), other[steps].log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).clamp_min(0).double().numpy()


def kl_frame(found: Beside) -> pd.DataFrame:
    """The divergences in long form, as they are drawn."""
    parts = [
        pd.DataFrame({"step": found.kl["step"], "kl": found.kl[column], "low": found.kl[low],
                      "high": found.kl[high], "direction": told})
        for told, column, low, high in (
            ("this latent", "latent", "latent", "latent"),
            (f"{RANDOM} random directions", "random", "random_least", "random_most"),
        )
    ]  # fmt: skip
    frame = pd.concat(parts, ignore_index=True)
    frame.attrs["units"] = {"kl": "KL(clean ‖ steered) [nats]"}
    return frame


def kl_figure(frame: pd.DataFrame) -> "go.Figure":
    """A line for the latent, and one with a band for the random directions."""
    from lensbench import plots

    return plots.lines(
        frame, x="step", y="kl", color="direction", low="low", high="high", height=320,
        labels={"step": "step of the clean text"},
        title="How far the next-token prediction moves", subtitle="line of random: mean; band: "
        "least to most",
    )  # fmt: skip


def python_of(ask: LatentSteer) -> str:
    """Python that steers the same way and draws the same figure."""
    return (
        "from lensbench.app.workflows.latent_steering import (\n"
        "    LatentSteer, beside, kl_figure, kl_frame)\n\n"
        f"ask = {ask!r}\n"
        "found = beside(ask)  # found.words, found.kl\n"
        "kl_figure(kl_frame(found))\n"
    )
