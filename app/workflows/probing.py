"""Linear probes by names: a store, labels and sites as a user typed them."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensbench import probes
from lensbench.app.workflows import jobs
from lensbench.app.workflows.answers import rows_of_frame, saved_in
from lensbench.app.workflows.quality import read_labels
from lensbench.app.workflows.twins import TWIN, passing_twin
from lensbench.probes.linear.sweep_result import BESIDE, ProbeSweep
from lensbench.store import open_store

if TYPE_CHECKING:
    import pandas as pd

METHODS = ("logistic", "mean_difference", "ridge", "pls")
SHOWN = ("site", "position", "label", "method", "score", "low", "high", *BESIDE, "selectivity",
         "auroc", "n_train", "n")  # fmt: skip


@dataclass(frozen=True)
class ProbeAsk:
    """A store and what is probed there."""

    store: str
    labels: tuple[str, ...] = ()
    """Names; empty: all that can be probed."""
    label_file: str = ""
    sites: tuple[str, ...] = ()
    methods: tuple[str, ...] = ("logistic",)
    positions: tuple[str, ...] = ("all",)
    """One: all of its rows together (``0,-1`` too). Several: each fitted by itself."""
    seeds: int = 1
    max_rows: int = 20_000
    twin: str = ""
    """Store of a re-initialised model on the same text."""
    metric: str = "balanced_accuracy"
    """Or ``accuracy``, which a rare label makes high for whoever says no to all."""
    make_twin: bool = False
    """Without ``twin``: capture one for the time of the sweep."""


def probe(ask: ProbeAsk) -> ProbeSweep:
    """Fit and score the grid.

    Raises:
        LensbenchError: see :func:`lensbench.probes.probe_sweep`.
    """
    return probe_and_why(ask)[0]


def probe_and_why(ask: ProbeAsk) -> tuple[ProbeSweep, str]:
    """The sweep, and why a twin that it was to have could not be made.

    Raises:
        LensbenchError: as :func:`probe`.
    """
    opened = open_store(ask.store)
    own = read_labels(Path(ask.label_file)) if ask.label_file else None
    data = probes.probe_data(
        opened, own, sites=list(ask.sites) or None, names=list(ask.labels) or None,
        positions=_positions(ask.positions), max_rows=ask.max_rows,
    )  # fmt: skip
    given = nullcontext((open_store(ask.twin) if ask.twin else None, ""))
    with given if ask.twin or not ask.make_twin else passing_twin(opened, data.sites) as pair:
        twin, why = pair
        found = probes.probe_sweep(
            data, positions="each" if len(ask.positions) > 1 else None, methods=list(ask.methods),
            seeds=ask.seeds, twin=twin, metric=ask.metric,
        )  # fmt: skip
    return found, why


def missing(found: ProbeSweep, why: str = "") -> dict[str, str]:
    """Baselines that a sweep lacks, and how the command line has them."""
    said = {**found.missing}
    if TWIN in said:
        how = "--twin STORE names the same text through random weights"
        said[TWIN] = f"{why}; {how}" if why else f"{how}, and without --no-twin it is made"
    return said


def facts(
    result: ProbeSweep, top: int | None = None, out: Path | None = None, why: str = ""
) -> dict[str, Any]:
    """What the command line says of a sweep: means over seeds, best first."""
    frame: Any = result.to_frame()
    keys = ["site", "position", "label", "method"]
    numbers = list(frame.select_dtypes("number").columns)
    groups: Any = frame.groupby(keys, sort=False)[numbers]
    means: Any = groups.agg(lambda x: x.mean(skipna=False)).reset_index()  # NaN is not left out
    ranked = means.sort_values("score", ascending=False, kind="stable")
    return {
        "probes": len(result), "documents": result.n_documents, "metric": result.metric,
        "rows": rows_of_frame(ranked, top), "summary": result.summary(),
        "left_out": dict(result.left_out), "missing": missing(result, why),
        "unit": result.unit, **saved_in(result, out),
    }  # fmt: skip


def table_of(result: ProbeSweep, label: str) -> "pd.DataFrame":
    """Probes of one label by site, with the columns that are known and tell them apart."""
    frame: Any = result.to_frame()
    mine = frame[frame["label"] == label].dropna(axis=1, how="all")
    same = {"label"} | {c for c in ("position", "method") if mine[c].nunique() == 1}
    return mine[[c for c in SHOWN if c in mine.columns and c not in same]]


def command_of(ask: ProbeAsk) -> str:
    """The same on the command line."""
    return jobs.command_of("probes", settings_of(ask))


def settings_of(ask: ProbeAsk, out: Path | None = None) -> dict[str, Any]:
    """The request as the settings of a job, and of the command line."""
    usual = ProbeAsk(ask.store)
    told: dict[str, Any] = {
        "store": ask.store, "labels": list(ask.labels), "site": list(ask.sites),
        "method": list(ask.methods),
        "positions": [] if ask.positions == usual.positions else list(ask.positions),
        "label_file": ask.label_file, "twin": ask.twin,
        "seeds": None if ask.seeds == usual.seeds else ask.seeds,
        "max_rows": None if ask.max_rows == usual.max_rows else ask.max_rows,
        "metric": None if ask.metric == usual.metric else ask.metric,
        "no_twin": not (ask.twin or ask.make_twin), "out": "" if out is None else str(out),
    }  # fmt: skip
    return {k: v for k, v in told.items() if v not in (None, "", [], False)}


def python_of(ask: ProbeAsk, then: str = "") -> str:
    """The same in a notebook; ``then`` follows the sweep, such as its plot."""
    named: Sequence[str] | None = list(ask.labels) or None
    labels = "labels, " if ask.label_file else ""
    twin = f", twin=lensbench.open_store({ask.twin!r})" if ask.twin else ""
    each = ", positions='each'" if len(ask.positions) > 1 else ""
    return "\n".join([
        *(_READ if ask.label_file else []), "import lensbench", "from lensbench import probes",
        *([_LABELS.format(ask.label_file)] if ask.label_file else []),
        f"store = lensbench.open_store({ask.store!r})",
        f"data = probes.probe_data(store, {labels}sites={list(ask.sites) or None!r}, "
        f"names={named!r}, positions={_positions(ask.positions)!r}, max_rows={ask.max_rows}, "
        "seed=0)",
        f"sweep = probes.probe_sweep(data{each}, methods={list(ask.methods)!r}, "
        f"seeds={list(range(ask.seeds))!r}, metric={ask.metric!r}{twin})",
        f"sweep{then}",
    ])  # fmt: skip


def table_code(ask: ProbeAsk, label: str) -> str:
    """The table of one label in a notebook."""
    first = "from lensbench.app.workflows.probing import table_of\n"
    return first + python_of(ask).removesuffix("sweep") + f"table_of(sweep, {label!r})"


_READ = ("import json", "from pathlib import Path", "import numpy as np")
_LABELS = """labels = {{name: np.array(values, bool)
          for name, values in json.loads(Path({!r}).read_text()).items()}}"""


def _positions(asked: tuple[str, ...]) -> Any:
    """``all``, ``first``, ``last``, a label's name, or places such as ``0,-1``; or several."""
    if len(asked) > 1:
        return [_number(one) for one in asked]
    one = next(iter(asked))
    found = [_number(p.strip()) for p in one.split(",")]
    return one if any(isinstance(p, str) for p in found) else found


def _number(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:  # a name
        return text
