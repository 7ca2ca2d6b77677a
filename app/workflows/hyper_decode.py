"""Hypervectors by names: how much a bundle holds, a probe of your own analogies, what one reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lensbench import probes
from lensbench.app.workflows.answers import result_facts
from lensbench.app.workflows.live import running
from lensbench.app.workflows.patching import numbers
from lensbench.app.workflows.typed_files import utf8
from lensbench.errors import ConfigError, MissingDataError, NotEnoughDataError
from lensbench.probes.hd.atlas import Dealt
from lensbench.probes.hd.encoder import HDEncoder
from lensbench.probes.hd.ingest import upper_half
from lensbench.probes.hd.prompts import check_words
from lensbench.probes.hd.study import BASELINES

LEAST = 10
"""Analogies of a file at least: they are dealt to three sides."""


def capacity(
    space: str, *, dim: int = 1024, n_items: int = 500, sizes: str = "", trials: int = 200,
    seed: int = 0, out: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """How many bound pairs a bundle gives back, measured beside theory.

    Raises:
        LensbenchError: no such space, sizes that are none; see ``capacity_curve``.
    """
    found = probes.capacity_curve(
        space, dim=dim, n_items=n_items, sizes=numbers(sizes, "sizes") or (1, 2, 4, 8, 16, 32, 64),
        trials=trials, seed=seed,
    )  # fmt: skip
    return result_facts("", found, out, space=space, dim=dim, names=n_items)


def concepts(
    model: str, file: Path, *, dim: int = 2048, baselines: Sequence[str] = BASELINES,
    revision: str | None = None, seed: int = 0, out: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The hyperdimensional study on your own analogies; ``out`` gets encoder and codebook too.

    Raises:
        MissingDataError: no such file.
        NotEnoughDataError: too few analogies, or too few questions to hold some out.
        LensbenchError: see :func:`lensbench.probes.hd_study`.
    """
    if not file.is_file():
        raise MissingDataError(f"no file {file}; write an analogy a line: France : Paris = Peru : "
                               "Lima")  # fmt: skip
    lines = [line.strip() for line in utf8(file).splitlines()]
    dealt = deal(probes.from_analogies([line for line in lines if line]), seed)
    with running(model, revision) as opened:
        check_words(opened, dealt.test.texts)
        found = probes.hd_study(
            opened, prompts=dealt, dim=dim, baselines=list(baselines), seed=seed,
            keep=None if out is None else out / "encoder",
        )  # fmt: skip
    return result_facts(model, found, out, held_out=len(dealt.held_out), test=len(dealt.test))


def deal(whole: probes.ConceptPrompts, seed: int = 0) -> Dealt:
    """Three sides by question: no pair that is asked on one side is asked on another.

    Raises:
        NotEnoughDataError: fewer than :data:`LEAST` analogies, or fewer than three questions.
    """
    asked = [pairs[-1] for pairs in whole.pairs]
    facts = sorted(set(asked))
    if len(whole) < LEAST or len(facts) < 3:
        raise NotEnoughDataError(
            f"{len(whole)} analogies with {len(facts)} questions; at least {LEAST} with 3 are "
            "needed: some are held out"
        )
    order = [facts[i] for i in np.random.default_rng(seed).permutation(len(facts))]
    cuts = max(1, len(order) // 5)
    sides = (order[2 * cuts :], order[:cuts], order[cuts : 2 * cuts])
    rows = [[i for i, pair in enumerate(asked) if pair in set(side)] for side in sides]
    train, validation, test = (whole.select(some) for some in rows)
    return Dealt(train, validation, test, "own", "pair", tuple(sides[2]))


@torch.no_grad()
def decode(
    folder: Path, model: str, prompt: str, *, query: Sequence[str] = (), top: int = 10,
    revision: str | None = None, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Read the concepts of one prompt with a kept encoder; ``query`` names are unbound first.

    The control unbinds the same names from random hypervectors: the largest similarity that chance
    reaches, as a mean over 100 of them.

    Raises:
        MissingDataError: no encoder there.
        UnknownNameError: a name that is not in the codebook; offers the nearest.
    """
    place = folder / "encoder" if (folder / "encoder").is_dir() else folder
    if not (place / "encoder.json").is_file():
        raise MissingDataError(f"no encoder in {folder}; `lensbench probe concepts --out` and "
                               "`lensbench probe hd --out` keep one")  # fmt: skip
    fitted, memory = HDEncoder.load(place), probes.ItemMemory.load(place)
    if not prompt.strip():
        raise ConfigError("the prompt is empty; type what stands before the word")
    names = [memory.vector(memory.names[i]) for i in memory.indices(list(query))]
    with running(model, revision) as opened:
        check_words(opened, [prompt])
        layers = upper_half(opened.n_layers)
        x = probes.ingest_layers(probes.prompt_states(opened, [prompt], layers=layers))
    width = int(fitted.weights["mean"].shape[-1])
    if x.shape[1] != width:
        raise ConfigError(f"the encoder reads {width} numbers, {model} gives {x.shape[1]}; it was "
                          "fitted on another model")  # fmt: skip
    vectors = fitted.encode(x, seed=seed + 3)
    chance = memory.space.random(100, dim=memory.dim, seed=seed + 7)
    for name in names:
        vectors, chance = (memory.space.unbind(v, name) for v in (vectors, chance))
    floor = float(memory.space.threshold(memory.dim))
    best = memory.cleanup(vectors, min(top, len(memory)))[0]
    null = float(memory.similarities(chance).amax(-1).mean())
    rows = [{"rank": i, "concept": name, "similarity": value, "above": value > floor}
            for i, (name, value) in enumerate(best, 1)]  # fmt: skip
    return {
        "model": model, "prompt": prompt, "query": list(query), "rows": rows, "of": len(rows),
        "units": {"similarity": "cosine", "above": "the threshold that chance does not reach"},
        "summary": {"threshold": floor, "concepts": len(memory), "dim": memory.dim},
        "controls": {"largest similarity of a random hypervector": null},
        "control": f"random hypervectors, same query: {null:.3f}; n 100",
    }  # fmt: skip
