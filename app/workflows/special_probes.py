"""Probes and lenses with a question of their own: boards, numbers, trees, spans, later tokens."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lensbench import probes
from lensbench.app.workflows.accelerating import read_prompts
from lensbench.app.workflows.answers import result_facts
from lensbench.app.workflows.live import hold_store, running
from lensbench.app.workflows.patching import numbers
from lensbench.app.workflows.sequences import model_name
from lensbench.app.workflows.typed_files import utf8
from lensbench.errors import ConfigError, MissingDataError
from lensbench.probes.lenses.rift.successors import BigramPrior


def boards(
    model: str, *, games: int, kinds: Sequence[str], revision: str | None = None,
    seed: int = 0, out: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Probe every square of the board at every layer of a model of games.

    Raises:
        LensbenchError: see :func:`lensbench.probes.board_probes`.
    """
    with running(model, revision) as opened:
        found = probes.board_probes(opened, n_games=games, kinds=list(kinds), seed=seed)
    return result_facts(model, found, out)


def board_flips(
    model: str, *, games: int, layers: str = "", cases: int = 400, revision: str | None = None,
    seed: int = 0, out: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Turn discs over in the stream, and score whether the moves follow, beside random directions.

    Raises:
        LensbenchError: see ``board_probes`` and :func:`lensbench.probes.flip_study`.
    """
    chosen = numbers(layers, "layers")
    with running(model, revision) as opened:
        read = probes.board_probes(opened, n_games=games, seed=seed)
        found = probes.flip_study(opened, read, layers=chosen, n_cases=cases, seed=seed)
    return result_facts(model, found, out)


def number_subspaces(
    model: str, *, n: int, components: str, flips: int = 0, revision: str | None = None,
    seed: int = 0, out: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Subspaces of a number in a model of the atlas, and comparisons turned by steps along them.

    Raises:
        LensbenchError: see ``atlas_numbers`` and ``attribute_subspaces``.
    """
    sizes = numbers(components, "components") or [1]
    with running(model, revision) as opened:
        data = probes.atlas_numbers(opened, n=n, seed=seed)
        found = probes.attribute_subspaces(data, components=sizes, seed=seed)
        facts = result_facts(model, found, out)
        if flips:
            asked = probes.atlas_comparisons(opened, n=flips, seed=seed)
            turned = probes.comparison_flips(opened, asked, found, seed=seed)
            folder = None if out is None else out / "flips"
            facts["flips"] = result_facts(model, turned, folder)
    return facts


def trees(
    model: str, file: Path, *, task: str, sites: Sequence[str] = (), rank: int | None = None,
    epochs: int = 100, revision: str | None = None, seed: int = 0, out: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Structural probes of sentences with parse trees: ``{"words": [...], "heads": [...]}`` a line.

    Raises:
        LensbenchError: see ``word_states`` and ``structural_probe``.
    """
    rows = json_lines(file, ("words", "heads"))
    with running(model, revision) as opened:
        words = probes.word_states(opened, [r["words"] for r in rows], sites=list(sites) or None)
    found = probes.structural_probe(words, [r["heads"] for r in rows], task=task, rank=rank,
                                    epochs=epochs, seed=seed)  # fmt: skip
    return result_facts(model, found, out)


def spans(
    model: str, file: Path, *, heads: Sequence[str], pooling: str, sites: Sequence[str] = (),
    revision: str | None = None, seed: int = 0, out: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Edge probes: ``{"words": [...], "spans": [[0, 2], ..], "labels": [..]}`` a line.

    Raises:
        LensbenchError: see ``word_states`` and ``edge_probe``.
    """
    rows = json_lines(file, ("words", "spans", "labels"))
    with running(model, revision) as opened:
        words = probes.word_states(opened, [r["words"] for r in rows], sites=list(sites) or None)
    found = probes.edge_probe(words, [r["spans"] for r in rows], [r["labels"] for r in rows],
                              heads=list(heads), pooling=pooling, seed=seed)  # fmt: skip
    return result_facts(model, found, out)


def future(
    store: Path, *, model: str | None, ahead: str, layers: str = "", target: str = "state",
    max_tokens: int = 2000, seed: int = 0, out: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Fit linear future lenses on a store's first documents and score them on its last fifth.

    Raises:
        LensbenchError: see ``fit_future_lens`` and ``future_scores``.
    """
    to: Any = target
    far, chosen = numbers(ahead, "ahead") or [0], numbers(layers, "layers")
    held = hold_store(str(store))
    with running(*((model, None) if model else model_name(held))) as opened:
        lens = probes.fit_future_lens(held, opened, ahead=far, layers=chosen, target=to)
        found = probes.future_scores(held, opened, lens, ahead=far, layers=chosen,
                                     max_tokens=max_tokens, seed=seed)  # fmt: skip
    facts = result_facts(opened.card.name, found, out)
    if out is not None:
        facts["lens"] = str(lens.save(out / "lens"))
    rows = [r for r in facts["rows"] if r["metric"] == found.metrics[0]]
    return {**facts, "rows": rows, "all_rows": facts["rows"], "of": len(rows)}


def context(
    store: Path, prompts: str, *, model: str | None, at_least: int = 5, seed: int = 0,
    out: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Prior against context: bigrams counted in a store's text, prompts that repeat a token.

    Raises:
        LensbenchError: see :func:`lensbench.probes.prior_context`.
    """
    held = hold_store(str(store))
    index = held.index()
    cuts = np.flatnonzero(np.diff(index.doc_ids)) + 1
    prior = BigramPrior.count(np.split(index.token_ids, cuts), at_least=at_least)
    asked = read_prompts(prompts)
    with running(*((model, None) if model else model_name(held))) as opened:
        held.check_model(opened.card)
        found = probes.prior_context(opened, asked, prior, seed=seed)
    return result_facts(opened.card.name, found, out)


def json_lines(file: Path, keys: Sequence[str]) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file, each with these keys.

    Raises:
        MissingDataError: no such file.
        ConfigError: a line that is no object, or lacks a key; nothing in the file.
    """
    if not file.is_file():
        raise MissingDataError(f"no file {file}; give one with an object a line: {_shape(keys)}")
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(utf8(file).splitlines(), start=1):
        if line.strip():
            rows.append(_object(line, f"{file}, line {number}", keys, json.loads))
    if not rows:
        raise ConfigError(f"{file} is empty; write an object a line: {_shape(keys)}")
    return rows


def _object(
    line: str, where: str, keys: Sequence[str], read: Callable[[str], Any]
) -> dict[str, Any]:
    try:
        found = read(line)
    except ValueError as error:
        raise ConfigError(f"{where} is no JSON; write {_shape(keys)}") from error
    if not isinstance(found, dict) or set(keys) - set(found):
        raise ConfigError(f"{where}: write {_shape(keys)}")
    return found


def _shape(keys: Sequence[str]) -> str:
    return "{" + ", ".join(f'"{key}": [..]' for key in keys) + "}"
