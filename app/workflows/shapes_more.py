"""Geometry with a question of its own: codes, angles of probes, text length, two readings."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lensbench import probes
from lensbench.app.workflows.accelerating import read_prompts
from lensbench.app.workflows.answers import result_facts, rows_of_frame
from lensbench.app.workflows.live import running
from lensbench.app.workflows.patching import numbers
from lensbench.app.workflows.quality import read_labels
from lensbench.app.workflows.special_probes import json_lines
from lensbench.app.workflows.texts import WORLDS, find_text
from lensbench.errors import ConfigError, MismatchError, NotEnoughDataError
from lensbench.store import ActivationStore, open_store


@dataclass(frozen=True)
class LabelAsk:
    """Stores of one text, and labels of its rows: those of the text, or of a file."""

    stores: tuple[Path, ...]
    labels: tuple[str, ...]
    label_file: Path | None = None
    max_rows: int = 20_000
    seed: int = 0

    def data(self, store: ActivationStore, sites: Sequence[str] | None) -> probes.ProbeData:
        """Labelled rows of one store.

        Raises:
            LensbenchError: see :func:`lensbench.probes.probe_data`.
        """
        own = None if self.label_file is None else read_labels(self.label_file)
        return probes.probe_data(store, own, sites=list(sites) if sites else None,
                                 names=list(self.labels) or None, max_rows=self.max_rows,
                                 seed=self.seed)  # fmt: skip


def codes(
    ask: LabelAsk, sites: Sequence[str], *, controls: Sequence[Path] = (), out: Path | None = None
) -> dict[str, Any]:
    """Which units fire, as codes: how redundant, and how well a label is read off them.

    Raises:
        ConfigError: several labels.
        LensbenchError: see :func:`lensbench.probes.store_codes`.
    """
    if len(ask.labels) != 1:
        raise ConfigError(f"codes are read for one label; got {len(ask.labels)}: name one")
    opened = {path.name: open_store(path) for path in ask.stores}
    beside = {path.name: open_store(path) for path in controls}
    if len(opened) + len(beside) < len(ask.stores) + len(controls):
        raise ConfigError("two stores have one name; rename one of the folders")
    first = next(iter(opened.values()))
    every = LabelAsk(ask.stores, ask.labels, ask.label_file, first.n_tokens, ask.seed)
    data = every.data(first, list(first.sites)[:1])
    label = data.label(ask.labels[0])
    if (
        label.numeric
        or data.rows is None
        or len(data.rows) < first.n_tokens
        or (not label.known.all())
    ):
        raise MismatchError(f"label {label.name!r} must say a class of every row of the store")
    values = np.empty(first.n_tokens, np.int64)
    values[data.rows] = label.values
    found = probes.store_codes(opened, values, sites=list(sites), controls=beside or None,
                               max_rows=ask.max_rows, seed=ask.seed)  # fmt: skip
    return result_facts(str(first.model.get("name", "")), found, out, label=label.name)


def angles(
    ask: LabelAsk, site: str, *, method: str = "logistic", draws: int = 200,
    out: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Angles between what probes of several labels, or of several stores, read at one site.

    Raises:
        LensbenchError: see :func:`lensbench.probes.fit_probe` and ``subspace_angles``.
    """
    several = len(ask.stores) > 1
    fitted: dict[str, Any] = {}
    for path in ask.stores:
        data = ask.data(open_store(path), (site,))
        for label in data.labels:
            name = f"{label.name} @ {path.name}" if several else label.name
            fitted[name] = probes.fit_probe(data, label.name, site, method=method, seed=ask.seed)
    found = probes.subspace_angles(fitted, draws=draws, seed=ask.seed)
    return result_facts("", found, out, site=site, probes=list(fitted))


def checkpoints(
    model: str, text: str, sites: Sequence[str], out: Path, *, revisions: Sequence[str] = (),
    context: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Capture one text through every checkpoint of a model, for measures over training.

    Raises:
        ConfigError: the folder is there already.
        LensbenchError: see :func:`lensbench.probes.checkpoint_stores`.
    """
    if out.exists():
        raise ConfigError(f"--out {out} is there already; name a new folder")
    made = probes.checkpoint_stores(
        model, find_text(text), list(sites), out, revisions=list(revisions) or None,
        layout="pad", **({} if context is None else {"context": context}),
    )  # fmt: skip
    rows = [{"checkpoint": name, "store": str(one.url), "tokens": one.n_tokens}
            for name, one in made.items()]  # fmt: skip
    return {"model": model, "sites": list(sites), "rows": rows}


def lengths(
    model: str, text: str, *, at: str = "", n: int = 64, revision: str | None = None,
    seed: int = 0, out: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Similarity of tokens and attention's filtering against the length of a text.

    Raises:
        NotEnoughDataError: fewer than two texts of the longest length.
        LensbenchError: see :func:`lensbench.probes.length_profile`.
    """
    chosen = numbers(at, "lengths") or [4, 8, 16]
    said = list(find_text(text).texts()) if _is_world(text) else read_prompts(text)
    with running(model, revision) as opened:
        rows = [opened.tokens(one).ids[0].tolist() for one in said]
        kept = [row[: max(chosen)] for row in rows if len(row) >= max(chosen)][:n]
        if len(kept) < 2:
            raise NotEnoughDataError(
                f"{len(kept)} of {len(rows)} texts have {max(chosen)} tokens (the longest has "
                f"{max(map(len, rows), default=0)}); give longer texts, or smaller --lengths"
            )
        found = probes.length_profile(opened, kept, lengths=chosen, seed=seed)
    return result_facts(model, found, out, texts=len(kept))


def aligned(
    model: str, file: Path, *, site: str = "ln_final", twin: bool = True,
    revision: str | None = None, seed: int = 0, out: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Distances between sentences and their variants, token by token.

    A line is ``{"ambiguous": .., "variant": ..}``, with ``disambiguating`` (a word) and ``kind``
    where there are any.

    Raises:
        LensbenchError: see :func:`lensbench.probes.aligned_distances`.
    """
    known = ("ambiguous", "variant", "disambiguating", "kind")
    rows = json_lines(file, ("ambiguous", "variant"))
    odd = sorted({key for row in rows for key in row} - set(known))
    if odd:
        raise ConfigError(f"{file}: unknown key {odd[0]!r}; a line has {', '.join(known)}")
    pairs = [probes.SentencePair(**row) for row in rows]
    with running(model, revision) as opened:
        found = probes.aligned_distances(opened, pairs, site=site, twin=twin, seed=seed)
    means = rows_of_frame(found.means(seed=seed))
    return result_facts(model, found, out, pairs=len(pairs), means=means)


def _is_world(text: str) -> bool:
    return text.partition(":")[0] in WORLDS and not Path(text).exists()
