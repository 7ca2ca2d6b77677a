"""Feature circuits of two readings of one sentence, and whether a later question uses them again.

1. ``m = p(continuations of A) - p(of B)`` after the ambiguous prefix; effects of latents on m, by
   integrated gradients to zero (:mod:`lensbench.interventions.graphs.effects`).
2. On one half of the items: latents whose mean effect is at least the threshold are A's circuit,
   at most minus the threshold B's, if it is beyond what the largest mean effect is with the
   readings exchanged in items at random (quantile .95; an exchange turns every effect round).
3. On the other half: are latents of both active at the prefix's last token, and how much of what
   they are where only their own reading is left? What where only the other one is?
4. There too: one reading's latents held at a dose times what they are, the other's at zero; does m
   turn? Control: as many latents of the same sites at random.
5. Effects on ``p(right) - p(wrong)`` after the question; its circuit is of latents whose effects
   have at least the threshold as mean size, since right is now this and now that answer. The
   overlap (IoU) of both circuits beside random ones of the same sites, and what the question loses
   without the readings' latents.

Source: Hanna & Mueller 2024, arXiv:2412.05353; effects as in Marks et al. 2024, arXiv:2403.19647.
We split the items, test the overlap, and take latents out of the question; they do not.
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from lensbench import provenance
from lensbench.arguments import positive_number, whole_number
from lensbench.errors import ConfigError, NotEnoughDataError, UnknownNameError
from lensbench.interventions.attribution.curve import alike
from lensbench.interventions.attribution.methods import RULES, Path, Rule
from lensbench.interventions.graphs.effects import (
    ERROR,
    Found,
    Nodes,
    Part,
    effects,
    listed,
    spliced,
)
from lensbench.interventions.graphs.effects_result import rises, sources
from lensbench.interventions.graphs.items import Preference, ReadingItems, reading_items
from lensbench.interventions.graphs.readings_result import GardenPathStudy
from lensbench.interventions.graphs.readings_runs import Runs
from lensbench.interventions.steering.rows import batch_of
from lensbench.interventions.values import groups
from lensbench.models.base import Model
from lensbench.models.spliced import SplicedModel
from lensbench.results import Controls

N_NULL = 1000
CHANCE = 0.95
LEAST = 12
"""Items: in half of them 2 of 64 exchanges leave all readings alike, so that .05 is in reach."""


def garden_path_circuits(
    model: Model, saes: Any, items: Any, *, threshold: float = 0.1,
    doses: Sequence[float] = (1.0, 1.5, 2.0, 3.0), steps: int = 10, rule: Rule = "midpoint",
    random: int = 20, shuffles: int = 1000, batch_size: int = 16, seed: int = 0,
) -> GardenPathStudy:  # fmt: skip
    """Circuits of both readings of ambiguous sentences, clamped, and beside that of a question.

    ``effect = sum over tokens of a . (mean slope of m from a to 0)``, m a difference of
    probabilities. See the module for the five steps. Source: Hanna & Mueller 2024,
    arXiv:2412.05353.

    Args:
        model: any back end that gives gradients.
        saes: autoencoders as in ``model.with_saes``; None: those spliced in already.
        items: from :func:`reading_items`, or what that takes (a CSV file, a frame, rows).
        threshold: least mean effect of a latent in a circuit, as probability; .1 as in the paper.
        doses: multiples of what a reading's latents are, to which they are set.
        steps: points of the integral.
        rule: ``midpoint``, or ``left`` ends of the steps as in the paper.
        random: draws of random latents for doses and for the question.
        shuffles: exchanges of the readings in items at random.
        batch_size: items (times points) in one pass.
        seed: of halves, draws and exchanges.

    Raises:
        ConfigError, UnknownNameError: arguments or a table that do not fit.
        MismatchError: dictionaries of another model, site or width.
        NotEnoughDataError: fewer than twelve items.
        NonFiniteError: NaN in a state or a gradient.

    Example:
        >>> verbs = ("sees", "knows", "likes")
        >>> rows = [
        ...     {"prefix": f"While the {who} {verb} the girl", "a": " seems| is", "b": " ,"}
        ...     for who in ("king", "boy", "doctor", "farmer")
        ...     for verb in verbs
        ... ]
        >>> found = interventions.garden_path_circuits(
        ...     model, {"blocks.3.resid_post": run}, rows, steps=2, random=2, shuffles=20
        ... )
    """
    began = time.monotonic()
    if rule not in RULES:
        raise UnknownNameError("rule", str(rule), known=RULES)
    least = positive_number("threshold", threshold)
    path = Path(whole_number("steps", steps, least=1), rule)
    size = whole_number("batch_size", batch_size, least=1)
    draws = whole_number("random", random, least=1)
    levels = _doses(doses)
    model.require_next_token("a garden-path study")
    given = items if isinstance(items, ReadingItems) else reading_items(model, items)
    if len(given) < LEAST:
        raise NotEnoughDataError(f"a garden-path study needs {LEAST} items or more, got "
                                 f"{len(given)}")  # fmt: skip
    with_saes = spliced(model, saes)
    rng = np.random.default_rng(whole_number("seed", seed, least=0))
    order = rng.permutation(len(given))
    found, held = np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])
    prefix = _found(with_saes, given, path, size, question=False)
    asked = _found(with_saes, given, path, size, question=True) if given.asked else None
    nodes = listed([_beside(p, q) for p, q in zip(prefix, asked or prefix, strict=True)])
    latent = nodes.latent != ERROR
    number = whole_number("shuffles", shuffles, least=20)
    chance, shuffled = _exchanged(nodes.values[0][latent][:, found], least, number, rng)
    floor = max(least, chance)
    masks = _circuits(nodes.values, found, latent, floor, least if asked else None)
    runs = Runs(with_saes, given, nodes, held, size)
    a, b = masks["in_a"], masks["in_b"]
    either = a | b
    free = latent & ~either
    rise = [rises(prefix), rises(asked) if asked else np.zeros((0, len(given)))]
    return GardenPathStudy(
        texts=given.texts, sites=nodes.sites, site=nodes.site, latent=nodes.latent,
        effect=nodes.values[0], question_effect=_or_none(nodes.values[1], asked), **masks,
        rise=rise[0], question_rise=rise[1], found_on=found, held_out=held, threshold=least,
        chance=chance, shuffled=shuffled, **runs.activity(either),
        doses=np.array(levels), **_dosed(runs, a, b, free, levels, draws, rng),
        ceiling=iou(either, latent & (np.abs(nodes.values[0][:, held].mean(1)) >= floor)),
        null=_null(either, masks["in_question"], nodes, latent, rng),
        **_asked(runs, either, free, draws, rng, asked=asked is not None),
        config={"steps": steps, "rule": rule, "seed": seed, "dictionaries": sources(with_saes),
                "batch_size": size},
        controls=Controls(
            {"shuffled_readings": float(shuffled.mean())},
            "mean number of latents in both circuits with the readings exchanged at random",
        ),
        provenance=provenance.record(model=vars(model.card), seed=seed,
                                     seconds=time.monotonic() - began),
    )  # fmt: skip


def _doses(doses: Any) -> list[float]:
    if isinstance(doses, str) or not hasattr(doses, "__iter__"):
        raise ConfigError(f"doses must be a list of multiples such as (1, 2, 3), got {doses!r}")
    found = [positive_number("doses", d) for d in doses]
    if not found:
        raise ConfigError("doses is empty; give multiples such as (1, 2, 3)")
    return found


def _found(
    model: SplicedModel, items: ReadingItems, path: Path, size: int, *, question: bool
) -> list[Found]:
    """Effects on the preference after the prefix, or after the question, group by group."""
    names = ("question", "right", "wrong") if question else ("prefix", "a", "b")
    prompts, plus, minus = (getattr(items, name) for name in names)
    parts: list[Found] = []
    for rows in groups(len(items), size):
        take = lambda column: [column[i] for i in rows]  # noqa: E731, B023 - used in this round
        tokens = batch_of(model, [list(p) for p in take(prompts)])
        part = Part(tokens, [Preference.of_tokens(take(plus), take(minus))])
        parts.append(effects(model, part, path, size))
    return parts


def _beside(prefix: Found, asked: Found) -> Found:
    """Effects on both questions as one table, so that both have the same nodes."""
    both = {s: [prefix.values[s][0], asked.values[s][0]] for s in prefix.values}
    moved = {s: prefix.moved[s] | asked.moved[s] for s in prefix.moved}
    return Found(both, prefix.rise, moved, prefix.clean)


def _circuits(
    values: Sequence[np.ndarray], rows: np.ndarray, latent: np.ndarray, floor: float,
    least: float | None,
) -> dict[str, Bool[np.ndarray, " nodes"]]:  # fmt: skip
    """Latents of A, of B, and of the question; ``least`` is None where there is no question."""
    mean = values[0][:, rows].mean(1)
    question = np.zeros_like(latent)
    if least is not None:
        question = latent & (np.abs(values[1][:, rows]).mean(1) >= least)
    return {"in_a": latent & (mean >= floor), "in_b": latent & (mean <= -floor),
            "in_question": question}  # fmt: skip


def _exchanged(
    values: Float[np.ndarray, "latents items"], least: float, n: int, rng: np.random.Generator
) -> tuple[float, Int[np.ndarray, " shuffles"]]:
    """Largest mean effect by chance (quantile .95), and how many latents then are in circuits.

    An exchange turns m, so also every effect, round: no pass is needed.
    """
    sizes = [np.abs(values @ rng.choice([-1.0, 1.0], values.shape[1])) / values.shape[1]
             for _ in range(n)]  # fmt: skip
    chance = float(np.quantile([s.max(initial=0.0) for s in sizes], CHANCE))
    return chance, np.array([int((s >= max(least, chance)).sum()) for s in sizes])


def iou(one: Bool[np.ndarray, " nodes"], other: Bool[np.ndarray, " nodes"]) -> float:
    """Intersection over union; NaN where both are empty."""
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else float("nan")


def _null(
    circuit: np.ndarray, question: np.ndarray, nodes: Nodes, latent: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:  # fmt: skip
    """Overlaps of the question's circuit with random ones of as many latents of each site."""
    if not circuit.any() or not question.any():
        return np.zeros(0)
    several = [alike(circuit, nodes.site, rng, latent) for _ in range(N_NULL)]
    return np.array([iou(one, question) for one in several])


def _dosed(
    runs: Runs, a: np.ndarray, b: np.ndarray, free: np.ndarray, doses: Sequence[float], draws: int,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Preference clamped towards A and towards B at every dose, and with random latents."""
    towards = [(a, b), (b, a)]
    own = [[runs.clamped(up, down, dose) for dose in doses] for up, down in towards]
    band: list[list[list[np.ndarray]]] = []
    for up, down in towards:
        pairs: list[tuple[np.ndarray, np.ndarray]] = []
        for _ in range(draws):
            first = alike(up, runs.nodes.site, rng, free)
            pairs.append((first, alike(down, runs.nodes.site, rng, free & ~first)))
        band.append([[runs.clamped(*pair, dose) for pair in pairs] for dose in doses])
    return {"preference": runs.preference(), "dosed": np.array(own),
            "dosed_random": np.array(band)}  # fmt: skip


def _asked(
    runs: Runs, either: np.ndarray, free: np.ndarray, draws: int, rng: np.random.Generator,
    *, asked: bool,
) -> dict[str, np.ndarray]:  # fmt: skip
    """The question as it is, without the readings' latents, and without random ones."""
    if not asked:
        none = np.zeros(0)
        return {"answers": none, "without": none, "without_random": np.zeros((0, 0))}
    several = [alike(either, runs.nodes.site, rng, free) for _ in range(draws)]
    nobody = np.zeros_like(either)
    return {"answers": runs.answers(nobody), "without": runs.answers(either),
            "without_random": np.array([runs.answers(one) for one in several])}  # fmt: skip


def _or_none(values: np.ndarray, asked: Any) -> np.ndarray:
    return values if asked is not None else np.zeros((0, values.shape[1]))
