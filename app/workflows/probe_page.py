"""Linear probes of a page: what it begins with, and fits that are kept in the folder.

A small request is fitted while the reader waits. Any other is a job (``lensbench probe linear
--out``) whose result lies in ``probes/`` below the root, where the page Token finds it too.
"""

from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from lensbench.app.workflows.finding import once
from lensbench.app.workflows.live import Shelf, hold_store, store_version
from lensbench.app.workflows.probing import ProbeAsk, facts, probe
from lensbench.app.workflows.shapes import sites_in
from lensbench.probes.linear.sweep_result import ProbeSweep
from lensbench.results import load
from lensbench.sites import Site

PROBES, FILE = "probes", "result.json"
ROWS = 10_000
"""Rows that a fit of a page looks at."""
FEW, FEW_LABELS = 4, 6
"""Layers and labels that a page begins with."""
COMMON = 60
"""Rows of its rarer side that a label needs among them to be one of those."""
AT_ONCE, AT_ONCE_ROWS = 40, 20_000
"""Probes, and rows of the store, up to which a reader waits instead of starting a job."""
HEADINGS = {
    "site": "Site",
    "position": "Tokens",
    "method": "Probe",
    "score": "Score",
    "low": "Low",
    "high": "High",
    "control_task": "Control task",
    "shuffled_labels": "Shuffled",
    "token_lookup": "Token lookup",
    "majority": "Majority",
    "selectivity": "Less control task",
    "auroc": "AUROC",
    "n_train": "Training rows",
    "n": "n (test)",
    "twin": "Random twin",
}
"""What the table of the page calls its columns."""

_kept: "Shelf[ProbeSweep]" = Shelf(8)
_labels: "Shelf[dict[str, int]]" = Shelf(16)


def at_once(ask: ProbeAsk) -> bool:
    """Whether a request is fitted in seconds."""
    return cells_of(ask) <= AT_ONCE and hold_store(ask.store).n_tokens <= AT_ONCE_ROWS


def found_for(root: Path, ask: ProbeAsk) -> ProbeSweep | None:
    """What was fitted for a request; None where that takes a job that is not finished.

    Raises:
        LensbenchError: see :func:`lensbench.probes.probe_sweep`; DamagedDataError of a saved one.
    """
    if at_once(ask):
        return _kept.get((ask, store_version(ask.store)), lambda: probe(ask))
    file = folder_for(root, ask) / FILE
    found = once(file, "sweep", lambda p: load(p.parent)) if file.is_file() else None
    return found if isinstance(found, ProbeSweep) else None


def folder_for(root: Path, ask: ProbeAsk) -> Path:
    """Where the job of a page keeps its fit: another folder for every request and store."""
    store = hold_store(ask.store)
    print_ = sha256(f"{store.fingerprint} {ask}".encode()).hexdigest()[:8]
    return root / PROBES / f"{Path(ask.store).name}-{print_}"


def fit(settings: dict[str, Any], progress: Callable[..., Any]) -> dict[str, Any]:
    """What the job does: fit, save below ``out``, keep the labels for the page Token.

    Raises:
        LensbenchError: see :func:`lensbench.probes.probe_sweep`.
    """
    from lensbench.app.workflows.token_probes import keep_labels

    ask, out = ask_of(settings), Path(settings["out"])
    progress(f"fitting {cells_of(ask):,} probes and their controls")
    found = probe(ask)
    told = facts(found, 1, out)
    keep_labels(out.parent, ask.store)
    return {"probes": told["probes"], **told["summary"]}


def ask_of(settings: Mapping[str, Any]) -> ProbeAsk:
    """The request that ``probing.settings_of`` made settings of."""
    names = {"site": "sites", "method": "methods"}
    given: dict[str, Any] = {
        names.get(k, k): tuple(v) if isinstance(v, list) else v
             for k, v in settings.items() if k not in ("out", "no_twin")}  # fmt: skip
    return ProbeAsk(**given)


def cells_of(ask: ProbeAsk) -> int:
    """Probes that a request fits: labels by sites (all of the store where none is named)."""
    labels = len(ask.labels) or len(labels_in(ask.store))
    return labels * (len(ask.sites) or len(sites_in(ask.store)))


def labels_in(store: str) -> dict[str, int]:
    """Labels of a store's text, with the rows of the rarer side to be expected among ``ROWS``.

    None where the store knows no labels of its text.
    """
    return _labels.get((store, store_version(store)), lambda: _labels_in(store))


def _labels_in(store: str) -> dict[str, int]:
    from lensbench.worlds.corpora import WORLDS, corpus_from_spec

    spec = hold_store(store).text.get("spec")
    if not isinstance(spec, dict) or spec.get("world") not in WORLDS:
        return {}
    labels = corpus_from_spec(spec).labels
    drawn = {name: min(1.0, ROWS / len(v)) for name, v in labels.items()}
    return {name: int(min(v.sum(), len(v) - v.sum()) * drawn[name]) for name, v in labels.items()}


def few_sites(store: str) -> tuple[list[str], list[str]]:
    """Sites of a store that can be probed, and a few layers of one of them to begin with."""
    known = sites_in(store)
    kinds: dict[str, list[str]] = {}
    for name in known:
        kinds.setdefault(Site.parse(name).name, []).append(name)
    layers = kinds.get("resid_post") or max(kinds.values(), key=len, default=[])
    steps = np.linspace(0, len(layers) - 1, min(FEW, len(layers))).round().astype(int)
    return list(known), [layers[i] for i in steps]


def few_labels(known: Mapping[str, int]) -> list[str]:
    """Some labels to begin with, spread over those that are not rare (else the least)."""
    common = [name for name, rarer in known.items() if rarer >= COMMON]
    common = common or sorted(known, key=lambda name: -known[name])[:FEW_LABELS]
    steps = np.linspace(0, len(common) - 1, min(FEW_LABELS, len(common))).round().astype(int)
    return [common[i] for i in dict.fromkeys(steps.tolist())]


def in_words(labels: Iterable[str]) -> dict[str, str]:
    """Names of labels as people read them; a name stays where two would read the same."""
    told = {name: name.replace("_", " ") for name in labels}
    known = list(told.values())
    return {name: words if known.count(words) == 1 else name for name, words in told.items()}


def blank(found: ProbeSweep, column: str) -> list[str]:
    """Labels without that figure at any site, such as of a control that they cannot have."""
    frame: Any = found.mean(column)
    return [label for label in found.labels if frame[frame["label"] == label][column].isna().all()]
