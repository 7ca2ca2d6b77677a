"""Models that are changed: edits of facts, and what still reads where blocks are left out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lensbench import interventions, plan
from lensbench.app.workflows.accelerating import read_prompts
from lensbench.app.workflows.answers import result_facts
from lensbench.app.workflows.circuits import CircuitAsk, dictionaries_named
from lensbench.app.workflows.live import running
from lensbench.app.workflows.patching import numbers, pairs_of, positions_of
from lensbench.errors import ConfigError
from lensbench.interventions.acceleration import readability
from lensbench.plan import Plan


def edit_facts(
    ask: CircuitAsk, *, layers: str, position: str, steps: int, out: Path | None = None
) -> dict[str, Any]:
    """Edit every fact of a task at every layer, one at a time, beside random keys and layers.

    Raises:
        LensbenchError: see :func:`lensbench.interventions.edit_study`.
    """
    with running(ask.model, ask.revision) as model:
        pairs = pairs_of(model, ask.task, ask.n, ask.seed, ask.pairs, ask.several)
        usual = "subject" if "subject" in pairs.roles else "end"
        (where,) = positions_of(position or usual)
        found = interventions.edit_study(model, pairs, layers=numbers(layers, "layers"),
                                         position=where, seed=ask.seed, steps=steps)  # fmt: skip
    return result_facts(ask.model, found, out, task=pairs.task)


def read_accelerated(
    model: str,
    prompts: str,
    *,
    skips: Sequence[str],
    exits: Sequence[int],
    dictionaries: Sequence[str],
    random: int = 3,
    revision: str | None = None,
    seed: int = 0,
    out: Path | None = None,
) -> dict[str, Any]:
    """Do dictionaries, and the model's own output, read the same where blocks are not run?

    Raises:
        ConfigError: nothing that accelerates.
        LensbenchError: see ``acceleration.readability``.
    """
    ways: dict[str, Plan] = {}
    for one in skips:
        ways[f"skip {one}"] = plan.skip_layers(numbers(one, "skip") or [])
    for layer in exits:
        ways[f"exit {layer}"] = Plan(stop=layer)
    if not ways:
        raise ConfigError("say what is left out: --skip 2,3 or --exit 4 (both repeatable)")
    text = read_prompts(prompts)
    coders = dictionaries_named(dictionaries) if dictionaries else []
    readouts: dict[str, Any] = {
        name.rpartition("/")[2]: one for name, one in zip(dictionaries, coders, strict=True)
    }
    with running(model, revision) as opened:
        found = readability(opened, text, ways, readouts, n_random=random, seed=seed)
    return result_facts(model, found, out)
