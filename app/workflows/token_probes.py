"""Probe read-outs of one stored token: fitted once, kept in the folder, read without a model run.

Probes lie in ``probes/`` below the root, as ``lensbench probe linear --out probes/NAME`` writes
them; those of the store's model are read at the row, and the text's own labels say what is true.
The job of a page keeps these labels beside the probes: a text of 20,000 documents takes seconds
to make again.
"""

from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lensbench import io
from lensbench.app.workflows import jobs, probing
from lensbench.app.workflows.finding import kept_in, once, read_json
from lensbench.app.workflows.live import Shelf, hold_store, store_version
from lensbench.app.workflows.probe_page import FILE, PROBES, ROWS, few_sites
from lensbench.app.workflows.probing import ProbeAsk
from lensbench.errors import LensbenchError, MissingDataError, UnknownNameError
from lensbench.probes.linear.probe import LinearProbe, decide
from lensbench.probes.linear.sweep_result import ProbeSweep
from lensbench.results import load

if TYPE_CHECKING:
    from lensbench.store import ActivationStore

TRUTH = "truth.safetensors"
_truths: "Shelf[dict[str, np.ndarray]]" = Shelf(2)
_best: "Shelf[list[tuple[float, Any, LinearProbe]]]" = Shelf(8)


@dataclass(frozen=True, eq=False)
class ProbeReadout:
    """What one probe says of one token."""

    probe: LinearProbe
    says: str
    probability: float
    """Of what it says, by a logistic probe; NaN of others, which have scores only."""
    score: float
    """Output at this token: above 0 the second class."""
    truth: str
    """The label of the text; empty where it is not known."""
    tested: float
    """Score on test documents, in the sweep's metric."""
    chance: float
    """The same of its strongest control."""
    n_test: int
    """Test documents."""


def fitted(root: Path, url: str) -> bool:
    """Whether the job of this page has been done for a store."""
    return (folder_for(root, url) / FILE).is_file()


def keep_labels(kept: Path, url: str) -> None:
    """Write the truth values of a store's text into the folder of probes, a bit for each row."""
    packed = {name: np.packbits(v) for name, v in _labels(url).items() if v.dtype == bool}
    if packed:
        io.write_arrays(kept / _name(url) / TRUTH, packed)


def ask_for(url: str) -> ProbeAsk:
    """What the button fits."""
    return ProbeAsk(url, sites=tuple(few_sites(url)[1]), max_rows=ROWS)


def folder_for(root: Path, url: str) -> Path:
    """Where the probes of a store are kept."""
    return root / PROBES / _name(url)


def _name(url: str) -> str:
    return f"{Path(url).name}-{hold_store(url).fingerprint[:8]}"


def command_for(root: Path, url: str) -> str:
    """The same on the command line."""
    return jobs.command_of("probes", settings_for(root, url))


def settings_for(root: Path, url: str) -> dict[str, Any]:
    """Settings of the job behind the button."""
    return probing.settings_of(ask_for(url), folder_for(root, url))


def saved_sweeps(root: Path, store: "ActivationStore") -> list[tuple[Path, ProbeSweep]]:
    """The sweeps kept below ``root`` whose probes read this store's model, by name of folder."""
    ours = store.model.get("fingerprint")
    found: list[tuple[Path, ProbeSweep]] = []
    for path in (folder / FILE for folder in sorted(kept_in(root, PROBES))):
        if not path.is_file():
            continue
        try:
            if read_json(path).get("kind") != "ProbeSweep":
                continue
            sweep: Any = once(path, "sweep", lambda p: load(p.parent))
        except LensbenchError:  # damaged: the page Probe and the command line say how
            continue
        theirs = sweep.model.get("fingerprint")
        if not (ours and theirs) or ours == theirs:
            found.append((path.parent, sweep))
    return found


def probe_cell(root: Path, url: str, row: int) -> list[ProbeReadout]:
    """Every label's best probe (by its test score) at one row, the surest first.

    Raises:
        MissingDataError: none is kept, or none reads a site of this store; says the command.
    """
    store = hold_store(url)
    sweeps = saved_sweeps(root, store)
    seen = tuple((str(p), (p / FILE).stat().st_mtime_ns) for p, _ in sweeps)
    best = _best.get((seen, tuple(store.sites)), lambda: _chosen([s for _, s in sweeps], store))
    if not best:
        if not labelled(url):
            raise MissingDataError(
                "no probe of this model is kept here, and the text of this store has no labels to "
                "fit one on; give your own. Add with: lensbench probe linear --store "
                f"{quote(url)} --label-file labels.json --out {quote(str(folder_for(root, url)))}"
            )
        raise MissingDataError("no probe of this model is kept here. Add with: "
                               f"{command_for(root, url)}")  # fmt: skip
    truth = labels_at(root, url, row)
    x = {site: store.rows(site, [row]) for site in {probe.site for _, _, probe in best}}
    found = [_read(x[p.site], score, line, p, truth) for score, line, p in best]

    def told(one: ProbeReadout) -> tuple[bool, float]:
        return "yes" not in (one.says, one.truth), -float(np.nan_to_num(one.probability))

    return sorted(found, key=told)


def _chosen(
    sweeps: list[ProbeSweep], store: "ActivationStore"
) -> list[tuple[float, Any, LinearProbe]]:
    """Every label's probe of largest test score, over all sweeps and sites."""
    best: dict[str, tuple[float, Any, ProbeSweep]] = {}
    for sweep in sweeps:
        frame = sweep.to_frame()
        for line in frame.loc[frame["site"].isin(store.sites)].to_dict("records"):
            known = best.get(str(line["label"]))
            if line["score"] == line["score"] and (known is None or line["score"] > known[0]):
                best[str(line["label"])] = (float(line["score"]), line, sweep)
    return [
        (score, line, sweep.probe(str(line["label"]), str(line["site"]),
                                  method=str(line["method"]), seed=int(line["seed"]),
                                  position=line["position"]))
        for score, line, sweep in best.values()
    ]  # fmt: skip


def _read(
    x: np.ndarray, tested: float, line: Any, probe: LinearProbe, truth: dict[str, str]
) -> ProbeReadout:
    out = probe.score(x)
    number = decide(out, probe.numeric)[0]
    says = f"{float(number):.3g}" if probe.numeric else _worded(probe.classes[int(number)])
    chance = [float(line[c]) for c in ("control_task", "token_lookup", "majority") if c in line]
    known = [c for c in chance if c == c]
    score = float(np.asarray(out).ravel()[int(number) if out.ndim > 1 else 0])
    return ProbeReadout(probe, says, _probability(probe, out, int(number)), score,
                        truth.get(probe.label, ""), tested, max(known, default=float("nan")),
                        int(line["n"]))  # fmt: skip


def _probability(probe: LinearProbe, out: np.ndarray, number: int) -> float:
    if probe.method != "logistic" or probe.numeric:
        return float("nan")
    if out.ndim > 1:
        logs = out[0] - out[0].max()
        return float(np.exp(logs[number]) / np.exp(logs).sum())
    yes = 1 / (1 + np.exp(-float(out[0])))
    return yes if number else 1 - yes


def labelled(url: str) -> bool:
    """Whether the text of a store has labels; the text is not made for it."""
    from lensbench.worlds.corpora import WORLDS

    spec = hold_store(url).text.get("spec")
    return isinstance(spec, dict) and spec.get("world") in WORLDS


def labels_at(root: Path, url: str, row: int) -> dict[str, str]:
    """The text's own labels at one row, in words; empty where it has none."""
    kept = folder_for(root, url) / TRUTH
    if kept.is_file():
        packed: Any = once(kept, "truth", io.read_arrays)
        bit = 7 - row % 8
        return {name: _worded(bool(v[row // 8] >> bit & 1)) for name, v in packed.items()}
    if not labelled(url):
        return {}
    found = _truths.get((url, store_version(url)), lambda: _labels(url))
    return {name: _worded(values[row]) for name, values in found.items()}


def _labels(url: str) -> dict[str, np.ndarray]:
    """Labels of every row of a store; none where its tokens are not those of its text."""
    from lensbench.store.places import places_in_documents
    from lensbench.worlds.corpora import corpus_from_spec

    store = hold_store(url)
    if not labelled(url):
        return {}
    corpus, index = corpus_from_spec(store.text["spec"]), store.index()
    docs, places = np.asarray(index.doc_ids), places_in_documents(store)
    if docs.max() >= corpus.n_docs or (places >= corpus.lengths[docs]).any():
        return {}
    at = corpus.rows(docs, places)
    if (index.token_ids != corpus.tokens[at]).any():
        return {}
    return {name: np.asarray(values)[at] for name, values in corpus.labels.items()}


def _worded(value: Any) -> str:
    return {"True": "yes", "False": "no"}.get(str(value), str(value))


def table_of(found: list[ProbeReadout]) -> pd.DataFrame:
    """One row per probe, as the page lists them."""
    frame = pd.DataFrame([
        {"label": one.probe.label, "says": one.says, "probability": one.probability,
         "the text says": one.truth or "not known", "right": _right(one),
         "score on test": one.tested, "chance": one.chance, "n": one.n_test,
         "site": one.probe.site}
        for one in found
    ])  # fmt: skip
    frame.attrs["units"] = {"probability": "of what it says", "score on test": "balanced accuracy",
                            "n": "test documents"}  # fmt: skip
    return frame


def _right(one: ProbeReadout) -> str:
    if not one.truth:
        return ""
    return "✓" if one.says == one.truth else "✗"


def probe_named(root: Path, url: str, row: int, label: str) -> ProbeReadout:
    """The read-out of one label.

    Raises:
        UnknownNameError: no probe of that label.
    """
    found = {one.probe.label: one for one in probe_cell(root, url, row)}
    if label not in found:
        raise UnknownNameError("probe", label, known=list(found))
    return found[label]
