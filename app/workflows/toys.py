"""Toys whose truth is known: models of superposition, and dictionaries of worlds of known atoms."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lensbench import saes
from lensbench.app.workflows.answers import result_facts
from lensbench.app.workflows.dictionaries import open_dictionary
from lensbench.app.workflows.live import running
from lensbench.app.workflows.settings import assignments
from lensbench.errors import ConfigError
from lensbench.worlds.recovery import recovery
from lensbench.worlds.superposition import SuperpositionConfig, SuperpositionWorld
from lensbench.worlds.toy_models import ToyModelsConfig, train

BATCH = 512


def toy_models(
    given: Mapping[str, Any], sets: Sequence[str] = (), out: Path | None = None
) -> dict[str, Any]:
    """Train toy models of superposition, and the same without ReLU beside them.

    Raises:
        ConfigError: a setting that there is not (offers the nearest), or that cannot be.
    """
    config = ToyModelsConfig.parse({**_told(given), **assignments(sets)})
    found = train(config)
    facts = result_facts("", found, out, config=config.to_dict())
    kept = [row for row in facts["rows"] if row["role"] != "copy"]
    return {**facts, "rows": kept}


def atoms(
    given: Mapping[str, Any], sets: Sequence[str] = (), *, dictionary: Mapping[str, Any],
    steps: int = 600, threshold: float = 0.9, rows: int = 4096, seed: int = 0,
    keep: Path | None = None, out: Path | None = None, progress: Any = None,
) -> dict[str, Any]:  # fmt: skip
    """Train a dictionary on a world of known atoms, and count the atoms that it found.

    ``keep``: the folder of the run; left out, the dictionary is thrown away.

    Raises:
        ConfigError: a setting that there is not (offers the nearest), or that cannot be.
    """
    config = SuperpositionConfig.parse({**_told(given), **assignments(sets)})
    if keep is not None and keep.exists():
        raise ConfigError(f"--keep {keep} is there already; name a new folder")
    world = SuperpositionWorld(config)
    sweep = {"train": {"tokens": steps * BATCH, "batch_size": BATCH},
             "sweep": [{**_told(dictionary), "seed": seed}]}  # fmt: skip
    run = saes.train(world.source(seed=seed + 1), sweep, out=keep, device="cpu",
                     progress=progress or False)[0]  # fmt: skip
    found = recovery(run, world, n=rows, threshold=threshold)
    facts = result_facts("", found, out, world=config.to_dict(), dictionary=run.name, steps=steps)
    return {**facts, **({} if keep is None else {"run": str(keep)})}


def isolation(
    name: str, model: str, *, entities: str = "countries", at: str = "end",
    ks: Sequence[int] = (1, 4, 16), n_pairs: int = 64, twin: str = "", revision: str | None = None,
    seed: int = 0, out: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Whether exchanging an attribute's latents changes that attribute and no other.

    Raises:
        LensbenchError: see ``atlas_attributes`` and :func:`lensbench.saes.attribute_isolation`.
    """
    where: Any = at
    questions = saes.atlas_attributes(entities=entities, at=where)
    own, other = open_dictionary(name), open_dictionary(twin) if twin else None
    with running(model, revision) as opened:
        found = saes.attribute_isolation(own, opened, questions, ks=tuple(ks), n_pairs=n_pairs,
                                         twin=other, seed=seed)  # fmt: skip
    facts = result_facts(model, found, out, dictionary=name)
    return {**facts, "rows": [row for row in facts["rows"] if row["chosen"]]}


def _told(given: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in given.items() if value is not None}
