"""Stores to compare: the same text shuffled, through random weights, and at every checkpoint."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError, MissingDataError
from lensbench.models.disk import bundled_models

if TYPE_CHECKING:
    from lensbench.models import Model
    from lensbench.store import ActivationStore

SHUFFLED, TWIN = "shuffled_text", "reinitialised_twin"
CONTROLS = (SHUFFLED, TWIN)


def control_stores(
    store: "ActivationStore",
    model: "Model",
    out: str | Path,
    *,
    which: Sequence[str] = CONTROLS,
    sites: Sequence[str] | None = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> "dict[str, ActivationStore]":
    """Capture the text of ``store`` again: its tokens in another order, and through random weights.

    ``shuffled_text`` keeps every sequence's first token and its special tokens in place and
    permutes the others within the sequence; ``reinitialised_twin`` reads the text as it is. Row
    numbers, documents and positions are those of ``store`` where all tokens of it were kept. Sites
    are those of ``store``, or some of them.

    Raises:
        ConfigError: an unknown control.
        MismatchError: another model's store.

    Example:
        >>> controls = probes.control_stores(store, model, "controls", which=("shuffled_text",))
    """
    from lensbench.harvest import capture
    from lensbench.worlds.controls import reinitialised_twin

    store.check_model(model.card)
    unknown = [name for name in which if name not in CONTROLS]
    if unknown:
        raise ConfigError(f"no control {unknown[0]!r}; use {' or '.join(CONTROLS)}")
    seed = whole_number("seed", seed, least=0)
    lines, found = _sequences(store), dict[str, Any]()
    for name in which:
        texts = shuffled_ids(lines, model, seed) if name == SHUFFLED else lines
        run = model if name == SHUFFLED else reinitialised_twin(model, seed + 1)
        kept, where = [int(i) for i in store.settings["excluded_ids"]], store.settings["positions"]
        found[name] = capture(
            run, texts, sites or store.sites, out=str(Path(out) / name), layout="pad",
            context=max(map(len, texts)), exclude_special=kept or False, dtype=store.dtype,
            positions=slice(*where.values()) if isinstance(where, Mapping) else where,
            batch_size=batch_size or int(store.settings["batch_size"]),
        )  # fmt: skip
    return found


def checkpoint_stores(
    name: str,
    texts: Any,
    sites: str | Sequence[str],
    out: str | Path,
    *,
    revisions: Sequence[str | None] | None = None,
    **options: Any,
) -> "dict[str, ActivationStore]":
    """Capture one text through every checkpoint of a model, earliest first, by revision name.

    ``revisions=None`` takes all of a bundled or local model's ``revisions`` folder and the final
    weights (named ``final``). ``options`` go to :func:`lensbench.capture`.

    Raises:
        MissingDataError: a model without a series of checkpoints.

    Example:
        >>> stores = probes.checkpoint_stores(
        ...     "atlas-dense",
        ...     documents,
        ...     ["blocks.3.resid_post"],
        ...     "checkpoints",
        ...     revisions=["step512"],
        ...     layout="pad",
        ... )
    """
    from lensbench.harvest import capture
    from lensbench.models import load_model

    series = _revisions(name) if revisions is None else list(revisions)
    if not series:
        raise ConfigError("revisions must name at least one checkpoint")
    found: dict[str, ActivationStore] = {}
    for revision in series:
        label = "final" if revision is None else str(revision)
        model = load_model(name, revision=revision)
        found[label] = capture(model, texts, sites, out=str(Path(out) / label), **options)
    return found


def _revisions(name: str) -> list[str | None]:
    folder = bundled_models().get(name) or Path(name)
    root = folder / "revisions"
    names = [p.name for p in root.iterdir() if p.is_dir()] if root.is_dir() else []
    ends = [(re.search(r"\d+$", name), name) for name in names]
    steps = sorted((int(end.group()), name) for end, name in ends if end is not None)
    if not steps:
        raise MissingDataError(
            f"{name} has no series of checkpoints (no folder {root}); name revisions of the hub, "
            "or train one with --save-steps"
        )
    return [*(step for _, step in steps), None]


def shuffled_ids(lines: "Sequence[np.ndarray]", model: "Model", seed: int) -> "list[np.ndarray]":
    """Each line's tokens in another order; its first token and special tokens stay in place."""
    special = [int(i) for i in getattr(model.tokenizer, "all_special_ids", None) or []]
    rng = np.random.default_rng(seed)
    found: list[np.ndarray] = []
    for given in lines:
        line = given.copy()
        free = np.flatnonzero(~np.isin(line, special))
        free = free[free > 0]
        line[free] = line[rng.permutation(free)]
        found.append(line)
    return found


def _sequences(store: "ActivationStore") -> "list[np.ndarray]":
    """Every stored sequence as ids, without padding."""
    return [
        ids[real]
        for batch in store.sequences()
        for ids, real in zip(batch.tokens.ids.numpy(), batch.tokens.real.numpy(), strict=True)
    ]
