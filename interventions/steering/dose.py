"""Dose curves: what a direction does at every strength, what it costs, and what chance does.

1. All directions get one length: that of the state at the steered tokens, times the strength.
2. Random directions of the same length stand beside them, and such made under shuffled labels.
3. Every (direction, strength, prompt) is a plan and a row of ``Model.run_many``.
4. Continuations are decoded under the plans and scored by the unsteered model.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from torch import Tensor

from lensbench import provenance
from lensbench.arguments import refuse_no_model, whole_number
from lensbench.errors import ConfigError
from lensbench.interventions.metrics import Metric
from lensbench.interventions.patching.engine import LOGITS_AT_ONCE, pick_rows
from lensbench.interventions.steering.aligned import Align
from lensbench.interventions.steering.continuations import continue_rows, surprise
from lensbench.interventions.steering.controls import random_directions, shuffled_directions
from lensbench.interventions.steering.direction import Direction
from lensbench.interventions.steering.dose_result import SteeringResult
from lensbench.interventions.steering.effects import Effect, OfText, as_effect, last_effect
from lensbench.interventions.steering.plans import steer
from lensbench.interventions.steering.rows import Asked, batch_of
from lensbench.interventions.steering.where import At, Steered, asked, scale_at
from lensbench.interventions.values import groups
from lensbench.models.base import Model
from lensbench.models.sweep import rows_told
from lensbench.plan import Plan
from lensbench.progress import bar
from lensbench.results import Controls

STRENGTHS = (0.0, 0.25, 0.5, 1.0, 2.0)


def dose_curve(
    model: Model,
    directions: Direction | Sequence[Direction],
    prompts: Asked,
    strengths: Sequence[float] = STRENGTHS,
    *,
    effect: Effect = "logit_diff",
    base: Literal["clean", "corrupted"] = "corrupted",
    at: At = "all",
    align: Align = "front",
    random: int = 20,
    shuffled: int | Sequence[Direction] = 20,
    new_tokens: int = 12,
    above: float = 0.0,
    batch_size: int = 64,
    seed: int = 0,
) -> SteeringResult:
    """Steer prompts along directions at every strength, beside controls of equal length.

    The step is ``strength * scale * v / |v|`` with ``scale`` the median length of the state at the
    steered tokens. Strength 0 is the clean run itself.

    Args:
        model: any back end.
        directions: one or several; of several sites, each has controls of its own.
        prompts: pairs, or texts or ids where the effect is one of text.
        strengths: in lengths of the state; negative ones step the other way.
        effect: a metric of :data:`lensbench.interventions.METRICS`, or :class:`OfText`.
        base: which prompts of pairs are steered. A step from corrupted to clean prompts should
            bring the answer.
        at: ``all`` tokens, those ``after`` the prompt, or numbers and roles; a direction with a
            vector per token is added where ``align`` says.
        align: ``front``, ``middle`` or ``back`` of every prompt, for directions with a vector per
            token (ActAdd).
        random: number of random directions per site.
        shuffled: number of directions of shuffled labels per direction that has labels
            (:meth:`Direction.shuffled`; the result says where there are none), or directions.
        new_tokens: length of the continuations; 0 for none (no perplexity).
        above: a prompt is a success where its effect is above this.
        batch_size: most rows in one forward pass.
        seed: of the random directions.

    Raises:
        ConfigError, UnknownNameError: arguments that do not fit.
        MismatchError: pairs of another tokenizer, or a direction of another width.
        NotEnoughDataError: a direction of length 0.

    Example:
        >>> direction = interventions.contrast_states(
        ...     model, pairs, "blocks.2.resid_post"
        ... ).mean_difference()
        >>> curve = interventions.dose_curve(model, direction, pairs, (0.0, 0.5, 1.0))
        >>> curve.matched()
    """
    refuse_no_model(model)
    began = time.monotonic()
    model.require_next_token("steering")
    for name, value, least in (("random", random, 0), ("new_tokens", new_tokens, 0),
                               ("batch_size", batch_size, 1)):  # fmt: skip
        whole_number(name, value, least=least)
    rows, pairs = asked(model, prompts, base)
    measure = as_effect(effect, pairs, new_tokens)
    own = [directions] if isinstance(directions, Direction) else list(directions)
    steered = Steered(rows, pairs, at, new_tokens, align)
    mixed, why_not = _mixed(own, shuffled, seed)
    doses = _all(model, own, mixed, random, seed)
    alike = {(d.site, d.vector.shape): d for d, _ in doses}
    scales = {key: scale_at(model, steered, d, batch_size) for key, d in alike.items()}
    scale = np.array([scales[d.site, d.vector.shape] for d, _ in doses])
    sized = [d.with_norm(s) for (d, _), s in zip(doses, scale, strict=True)]
    dosed = Doses(model, steered, measure, sized, _strengths(strengths), new_tokens, batch_size)
    found = dosed.run()
    result = SteeringResult(
        task=pairs.task if pairs else "prompts",
        metric=measure.name, unit=measure.unit, above=above, at=_told(at, own, align),
        labels=tuple(d.label for d, _ in doses), kinds=tuple(kind for _, kind in doses),
        unshuffled=why_not,
        sites=tuple(d.site for d, _ in doses), scale=scale,
        norms=np.array([d.norm for d, _ in doses]), strengths=np.array(dosed.strengths),
        effect=found["effect"], kl=found["kl"], nll=found["nll"],
        clean=found["clean"], clean_nll=found["clean_nll"],
        config={"pairs": pairs.fingerprint() if pairs else rows, "base": base, "seed": seed,
                "directions": [d.config for d in own], "new_tokens": new_tokens},
        provenance=provenance.record(
            model=vars(model.card), seed=seed, seconds=time.monotonic() - began
        ),
    )  # fmt: skip
    return replace(result, controls=_controls(result))


@dataclass(frozen=True)
class Doses:
    """Every direction, already of the scale's length, at every strength, on every prompt."""

    model: Model
    steered: Steered
    effect: Metric | OfText
    directions: Sequence[Direction]
    strengths: Sequence[float]
    new_tokens: int
    batch_size: int

    def run(self) -> dict[str, np.ndarray]:
        """The arrays of a :class:`SteeringResult`; strength 0 holds the clean run's own numbers."""
        n = len(self.steered.rows)
        shape = (len(self.directions), len(self.strengths), n)
        found: dict[str, np.ndarray] = {k: np.full(shape, np.nan) for k in ("effect", "kl", "nll")}
        found["clean"], found["clean_nll"] = np.full(n, np.nan), np.full(n, np.nan)
        doses = n * len(self.directions) * sum(1 for strength in self.strengths if strength)
        with bar("doses", doses * (2 if self.new_tokens else 1), unit="run") as shown:
            self._next_tokens(found, shown.update)
            if self.new_tokens:
                self._continuations(found, shown.update)
        for j, strength in enumerate(self.strengths):
            if strength == 0:
                found["effect"][:, j], found["kl"][:, j] = found["clean"], 0.0
                found["nll"][:, j] = found["clean_nll"]
        return found

    def _cells(self, prompts: np.ndarray) -> Iterator[tuple[int, int, int]]:
        for i in range(len(self.directions)):
            for j, strength in enumerate(self.strengths):
                if strength:
                    yield from ((i, j, int(row)) for row in prompts)

    def _plan(self, cell: tuple[int, int, int], *, generating: bool = False) -> Plan:
        i, j, row = cell
        direction = self.directions[i]
        if direction.vector.ndim == 2:
            steered = self.steered
            length = len(steered.rows[row])
            return steer(direction, self.strengths[j], align=steered.align, length=length)
        where = self.steered.positions(row, generating=generating)
        return steer(direction, self.strengths[j], positions=where)

    def _next_tokens(self, found: dict[str, np.ndarray], tick: Callable[[int], object]) -> None:
        """Effect and KL of every dose, from the logits of all tokens."""
        rows = self.steered.rows
        per_row = self.model.card.d_vocab * max(map(len, rows))
        size = max(1, LOGITS_AT_ONCE // 4 // per_row)  # both runs, and their log probabilities
        for part in groups(len(rows), min(size, self.batch_size)):
            tokens = batch_of(self.model, [rows[i] for i in part])
            clean = self.model.run(tokens).logits
            assert clean is not None
            if isinstance(self.effect, Metric):
                found["clean"][part] = self._last(part, clean, clean)
            cells = list(self._cells(part))
            for start in range(0, len(cells), size):
                some = cells[start : start + size]
                here = [row - int(part[0]) for *_, row in some]
                picked = pick_rows(tokens, here)
                plans = [self._plan(cell) for cell in some]
                with rows_told(tick, len(some)):
                    logits = self.model.run_many(picked, plans, batch_size=self.batch_size).logits
                assert logits is not None
                index = tuple(np.array(some).T)
                found["kl"][index] = _kl(clean[here], logits, picked.real)
                if isinstance(self.effect, Metric):
                    found["effect"][index] = self._last(index[2], logits, clean[here])

    def _last(self, rows: Any, logits: Tensor, clean: Tensor) -> np.ndarray:
        assert isinstance(self.effect, Metric)
        pairs = None if self.steered.pairs is None else self.steered.pairs.select(rows)
        return last_effect(self.effect, pairs, logits[:, -1], clean[:, -1])

    def _continuations(self, found: dict[str, np.ndarray], tick: Callable[[int], object]) -> None:
        """What is said under every dose, scored by the model as it is."""
        rows, size = self.steered.rows, self.batch_size
        said = continue_rows(self.model, rows, [Plan()] * len(rows), self.new_tokens, size)
        found["clean_nll"][:] = surprise(self.model, rows, said, size)
        if isinstance(self.effect, OfText):
            found["clean"][:] = self.effect(self.model, said)
        cells = list(self._cells(np.arange(len(rows))))
        if not cells:
            return
        given = [rows[row] for *_, row in cells]
        plans = [self._plan(cell, generating=True) for cell in cells]
        said = continue_rows(self.model, given, plans, self.new_tokens, size, tick)
        index = tuple(np.array(cells).T)
        found["nll"][index] = surprise(self.model, given, said, size)
        if isinstance(self.effect, OfText):
            found["effect"][index] = self.effect(self.model, said)


def _kl(clean: Tensor, steered: Tensor, real: Tensor) -> np.ndarray:
    """``KL(clean || steered)`` of the next token, mean over a row's real tokens, nats."""
    p, q = clean.float().log_softmax(-1), steered.float().log_softmax(-1)
    real = real.to(p.device)
    each = (p.exp() * (p - q)).sum(-1).double() * real
    return (each.sum(-1) / real.sum(-1)).clamp(min=0).cpu().numpy()  # rounding can go below 0


def _strengths(values: Sequence[float]) -> list[float]:
    found = [float(v) for v in np.asarray(values, dtype=np.float64).ravel()]
    if not found or not np.isfinite(found).all() or len(set(found)) < len(found):
        raise ConfigError(f"strengths must be different finite numbers, got {list(values)!r}")
    return sorted(found)


def _mixed(
    own: Sequence[Any], shuffled: int | Sequence[Direction], seed: int
) -> tuple[Sequence[Any], tuple[str, ...]]:
    """Directions of shuffled labels, drawn or given, and why there are none of a direction."""
    if isinstance(shuffled, Direction):
        return [shuffled], ()
    if isinstance(shuffled, (list, tuple)):
        return shuffled, ()
    n = whole_number("shuffled", shuffled, least=0)
    there = all(isinstance(d, Direction) for d in own)  # else :func:`_all` refuses them
    return shuffled_directions(own, n, seed) if n and there else ((), ())


def _all(
    model: Model, own: Sequence[Any], shuffled: Sequence[Any], random: int, seed: int
) -> list[tuple[Direction, str]]:
    """Directions and their controls, each with its kind."""
    if not own or not all(isinstance(d, Direction) for d in (*own, *shuffled)):
        raise ConfigError(f"directions must be one or more Direction values, got {own!r}")
    for direction in (*own, *shuffled):
        direction.check(model)
    found = [(d, "direction") for d in own]
    shapes = dict.fromkeys((d.site, d.vector.shape) for d in own)
    for site, shape in shapes:
        like = next(d for d in own if (d.site, d.vector.shape) == (site, shape))
        found += [(r, "random") for r in random_directions(like, random, seed)]
    if strange := [d for d in shuffled if (d.site, d.vector.shape) not in shapes]:
        raise ConfigError(
            f"shuffled directions stand at {strange[0].site}; the directions at "
            f"{', '.join(site for site, _ in shapes)}"
        )
    return [*found, *((d, "shuffled") for d in shuffled)]


def _told(at: At, own: Sequence[Direction], align: Align) -> str:
    if all(d.vector.ndim == 2 for d in own):
        return {"front": "the first tokens", "middle": "the middle", "back": "the last tokens"}[
            align
        ]
    return f"{at} tokens" if isinstance(at, str) and at == "all" else str(at)


def _controls(result: SteeringResult) -> Controls:
    """Mean effect of each kind of control at the strongest step."""
    j = int(np.argmax(np.abs(result.strengths)))
    found = {
        f"{kind}_directions": float(result.effect[rows, j].mean())
        for kind in ("random", "shuffled")
        if len(rows := result.rows_of(kind))
    }
    note = f"mean effect at strength {result.strengths[j]:g}"
    return Controls(found, "; ".join([note, *result.undefined]))
