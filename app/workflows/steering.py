"""Steering a prompt task: a direction from one half of its wordings, its doses on the other half.

One request serves the command line and the page, so that they cannot disagree.
"""

import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from lensbench.app.workflows.demonstrations import shown_direction
from lensbench.app.workflows.live import running
from lensbench.app.workflows.patching import pairs_of
from lensbench.errors import ConfigError, NotEnoughDataError, UnknownNameError
from lensbench.interventions.steering.aligned import check_align
from lensbench.interventions.steering.beside import generate_beside
from lensbench.interventions.steering.contrast import PCA, Contrast, contrast_states, towards
from lensbench.interventions.steering.direction import Direction
from lensbench.interventions.steering.dose import dose_curve
from lensbench.interventions.steering.dose_result import SteeringResult
from lensbench.interventions.steering.plans import steer as step
from lensbench.interventions.steering.rows import merged
from lensbench.interventions.steering.sources import activation_addition
from lensbench.interventions.steering.where import Steered
from lensbench.plan import Plan
from lensbench.prompts.pairs import PromptPairs

if TYPE_CHECKING:
    from lensbench.models import Model

METHODS = ("mean_difference", *PCA)
TOWARDS = {"agreement": "are,were,seem"}
"""The class of answers of a task, where it has one that goes without saying."""


@dataclass(frozen=True)
class SteerAsk:
    """A dose curve: which task on which model, which direction, where it is added, how far."""

    task: str
    model: str = "atlas-dense"
    revision: str | None = None
    towards: str = ""
    """Answers of one class, such as ``are,were``; the direction points to their prompts."""
    site: str = "resid_post"
    layer: int = 1
    source: str = "end"
    """Role or number of the token whose states make the direction."""
    at: str = ""
    """Tokens that are steered: all, after, roles or numbers; left out, those of ``source``."""
    method: str = "mean_difference"
    strengths: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0)
    metric: str = "logit_diff"
    pairs: str = ""
    n: int = 64
    random: int = 20
    shuffled: int = 20
    new_tokens: int = 12
    shown: int = 3
    """Prompts of which clean and steered texts are shown."""
    batch_size: int = 64
    seed: int = 0
    plus: str = ""
    minus: str = ""
    """Two prompts whose difference is the direction (ActAdd), instead of one made of pairs."""
    align: str = "front"
    """Where the vectors of such a direction stand in a prompt."""
    shown_file: str = ""
    """Demonstrations, whose in-context vector is the direction instead."""
    separator: str = "\n"


@dataclass(frozen=True)
class Steering:
    """What came of a request."""

    result: SteeringResult
    direction: Direction
    made_of: tuple[str, ...]
    """Wordings that the direction was made of, or its two prompts."""
    tested_on: tuple[str, ...]
    n_made_of: int
    texts: list[dict[str, str]]


def steer(ask: SteerAsk) -> Steering:
    """Make the direction, run the doses, and write some texts beside the clean ones.

    Raises:
        ConfigError, UnknownNameError, UnknownSiteError: something that does not fit.
        NotEnoughDataError: too few pairs of this class.
    """
    _check(ask)
    with running(ask.model, ask.revision) as model:
        found = pairs_of(model, ask.task, ask.n, ask.seed, ask.pairs)
        made_of, tested = _halves(towards(found, _answers(ask, found)))
        name = f"blocks.{ask.layer}.{ask.site}"
        direction = _direction(ask, model, made_of, name)
        at = _at(ask.at or ask.source)
        result = dose_curve(
            model, direction, tested, ask.strengths, effect=ask.metric, at=at, random=ask.random,
            shuffled=ask.shuffled, align=cast("Any", ask.align), new_tokens=ask.new_tokens,
            batch_size=ask.batch_size, seed=ask.seed,
        )  # fmt: skip
        texts = _texts(model, direction, tested, result, at, ask)
    own = (ask.plus, ask.minus) if ask.plus else tuple(sorted({*made_of.wordings}))
    n = 1 if ask.plus else len(made_of)
    return Steering(result, direction, own, tuple(sorted({*tested.wordings})), n, texts)


def direction_for(ask: SteerAsk, model: "Model") -> Direction:
    """The direction of a request alone, with no dose run.

    Raises:
        ConfigError, UnknownNameError, UnknownSiteError, NotEnoughDataError: as :func:`steer`.
    """
    _check(ask)
    found = pairs_of(model, ask.task, ask.n, ask.seed, ask.pairs)
    made_of = _halves(towards(found, _answers(ask, found)))[0]
    return _direction(ask, model, made_of, f"blocks.{ask.layer}.{ask.site}")


def _check(ask: SteerAsk) -> None:
    """Refuse a method that is none, and half an ActAdd direction."""
    if ask.method not in METHODS:
        raise UnknownNameError("method", ask.method, known=METHODS)
    check_align(ask.align)
    if bool(ask.plus) != bool(ask.minus):
        raise ConfigError("an ActAdd direction is made of two prompts: give --plus and --minus")
    if ask.plus and ask.method != METHODS[0]:
        raise ConfigError(f"--plus and --minus make the direction; leave out --method {ask.method}")
    if ask.plus and ask.at:
        raise ConfigError("an ActAdd direction stands where --align says; leave out --at")
    if ask.shown_file and (ask.plus or ask.method != METHODS[0]):
        raise ConfigError("--demonstrations make the direction; leave out --plus and --method")
    if ask.align != "front" and not ask.plus:
        raise ConfigError("--align is of ActAdd directions: give --plus and --minus, or --at")


def _direction(ask: SteerAsk, model: "Model", made_of: PromptPairs, site: str) -> Direction:
    """Of two prompts, or of the states of pairs."""
    if ask.plus:
        return activation_addition(model, ask.plus, ask.minus, site)
    if ask.shown_file:
        return shown_direction(model, ask.shown_file, made_of, site, ask.separator)
    contrast = contrast_states(
        model, made_of, site, position=_one_token(ask.source), batch_size=ask.batch_size,
        label=f"towards {ask.towards}" if ask.towards else ask.task,
    )  # fmt: skip
    return direction_of(contrast, ask.method)


def direction_of(contrast: Contrast, method: str) -> Direction:
    """The direction by the name of a method."""
    if method == "mean_difference":
        return contrast.mean_difference()
    return contrast.pca(cast("Any", method))


def _answers(ask: SteerAsk, found: PromptPairs) -> list[str]:
    text = ask.towards or TOWARDS.get(ask.task, "")
    answers = [part.strip() for part in text.split(",") if part.strip()]
    if not answers:
        known = sorted({t.strip() for t in (*found.answer_texts, *found.foil_texts)})
        raise ConfigError(
            f"name the answers of one class of {ask.task!r} with --towards, such as "
            f"--towards {known[0]}; answers here: {', '.join(known[:20])}"
        )
    return answers


def _halves(pairs: PromptPairs) -> tuple[PromptPairs, PromptPairs]:
    """One half to make the direction of, one to test it on; by wording where there are several."""
    names = sorted(set(pairs.wordings))
    if len(pairs) < 8:
        raise NotEnoughDataError(
            f"{len(pairs)} pairs are answered by this class, and 8 are needed, half of them to "
            "test on; ask for more prompts with --n"
        )
    if len(names) > 1:
        first = np.isin(pairs.wordings, names[: len(names) // 2])
    else:
        first = np.arange(len(pairs)) % 2 == 0
    return pairs.select(first), pairs.select(~first)


def _tokens(text: str) -> list[int | str]:
    parts = [p for p in re.split(r"[,\s]+", text.strip()) if p]
    if not parts:
        raise ConfigError("name a token: a role such as subject, or a number such as -1")
    return [int(p) if re.fullmatch(r"-?\d+", p) else p for p in parts]


def _one_token(text: str) -> int | str:
    found = _tokens(text)
    if len(found) > 1:
        raise ConfigError(f"a direction is made of the states of one token, got {text!r}")
    return found[0]


def _at(text: str) -> Any:
    return text if text in ("all", "after") else _tokens(text)


def _texts(
    model: "Model",
    direction: Direction,
    tested: PromptPairs,
    result: SteeringResult,
    at: Any,
    ask: SteerAsk,
) -> list[dict[str, str]]:
    """Clean and steered texts of the first prompts, at every strength but 0."""
    if not (ask.shown and ask.new_tokens):
        return []
    some = tested.select(range(min(ask.shown, len(tested))))
    rows = [list(row) for row in some.corrupted_ids]
    where = Steered(rows, some, at, ask.new_tokens)
    unit = direction.with_norm(float(result.scale[0]))

    def plan(row: int, strength: float) -> Plan:
        if unit.vector.ndim == 2:
            return step(unit, strength, align=cast("Any", ask.align), length=len(rows[row]))
        return step(unit, strength, positions=where.positions(row, generating=True))

    plans = {f"{s:g}": merged([plan(row, s) for row in range(len(rows))])
             for s in result.strengths if s}  # fmt: skip
    if not plans:
        return []
    frame = generate_beside(model, rows, plans, ask.new_tokens, seed=ask.seed).to_frame()
    return [{str(k): str(v) for k, v in row.items()} for row in frame.to_dict("records")]


def command_of(ask: SteerAsk) -> str:
    """The same on the command line."""
    options = {"model": ask.model, "towards": ask.towards, "layer": ask.layer, "from": ask.source,
               "method": ask.method, "n": ask.n, "new-tokens": ask.new_tokens}  # fmt: skip
    named = [word for k, v in options.items() if v != "" for word in (f"--{k}", str(v))]
    return shlex.join(["lensbench", "steer", ask.task, *named])


def python_of(ask: SteerAsk, measure: str = "effect") -> str:
    """Code that makes the same curve in a notebook; without a measure, its table at equal KL."""
    return (
        f"{direction_lines(ask)}"
        f"result = interventions.dose_curve(\n    model, direction, some.select(~first), "
        f"{ask.strengths!r}, effect={ask.metric!r},\n    at={_at(ask.at or ask.source)!r}, "
        f"random={ask.random}, shuffled={ask.shuffled}, new_tokens={ask.new_tokens}, "
        f"seed={ask.seed})\n"
        f"{f'result.plot({measure!r})' if measure else 'result.matched()'}\n"
    )


def direction_lines(ask: SteerAsk) -> str:
    """Code that makes the direction of a task."""
    text = ask.towards or TOWARDS.get(ask.task, "")
    answers = [part.strip() for part in text.split(",") if part.strip()]
    label = f"towards {ask.towards}" if ask.towards else ask.task
    revision = f", revision={ask.revision!r}" if ask.revision else ""
    make = "mean_difference()" if ask.method == "mean_difference" else f"pca({ask.method!r})"
    return (
        "import lensbench\nimport numpy as np\nfrom lensbench import interventions, prompts\n\n"
        f"model = lensbench.load_model({ask.model!r}{revision})\n"
        f"pairs = prompts.{ask.task}(model, n={ask.n}, seed={ask.seed})\n"
        f"some = interventions.towards(pairs, {answers!r})\n"
        "names = sorted(set(some.wordings))  # half of the wordings makes it, half tries it\n"
        "first = np.isin(some.wordings, names[: len(names) // 2]) if len(names) > 1 else (\n"
        "    np.arange(len(some)) % 2 == 0)\n"
        f"contrast = interventions.contrast_states(\n    model, some.select(first), "
        f"'blocks.{ask.layer}.{ask.site}', position={_one_token(ask.source)!r}, label={label!r})\n"
        f"direction = contrast.{make}\n"
    )
