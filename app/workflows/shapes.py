"""Geometry of stored activations by names, for the command line and its page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensbench import probes
from lensbench.app.workflows import jobs, studies
from lensbench.app.workflows.answers import rows_of_frame, saved_in
from lensbench.app.workflows.live import Shelf, hold_store, store_version
from lensbench.app.workflows.models import open_model
from lensbench.app.workflows.sequences import model_name
from lensbench.errors import ConfigError, UnknownNameError
from lensbench.results import Result
from lensbench.sites import Site
from lensbench.store import open_store

if TYPE_CHECKING:
    import plotly.graph_objects as go

MEASURES = ("anisotropy", "dimension", "neighbours")
ROWS = {"anisotropy": 20_000, "dimension": 2000, "neighbours": 1000}
"""Rows where none are asked for; distances grow with their square."""
AT_ONCE = 5e9
"""Multiplications up to which a reader waits instead of starting a job: some seconds."""
GEOMETRY = "geometry"

COLUMNS = {
    "anisotropy": ("source", "site", "rows", "anisotropy", "isotropic", "largest_norm", "n"),
    "dimension": ("source", "site", "estimator", "n1", "dimension", "low", "high", "scale",
                  "n_duplicates", "n"),
    "neighbours": ("site_a", "source_b", "site_b", "imbalance", "imbalance_low", "imbalance_high",
                   "imbalance_shuffled", "overlap", "overlap_shuffled", "n"),
}  # fmt: skip
"""What a terminal shows of a measure."""


@dataclass(frozen=True)
class ShapeAsk:
    """Stores of one text (a model, or checkpoints of it), and what is measured."""

    stores: tuple[str, ...]
    measure: str = "anisotropy"
    sites: tuple[str, ...] = ()
    rows: int = 0
    """0: as many as :data:`ROWS` says."""
    controls: tuple[str, ...] = ()
    """Stores of the text shuffled, or of a re-initialised model."""
    seed: int = 0


def measure(ask: ShapeAsk) -> Any:
    """The result of a measure.

    Raises:
        UnknownNameError: no such measure.
        LensbenchError: see :mod:`lensbench.probes.geometry`.
    """
    if ask.measure not in MEASURES:
        raise UnknownNameError("measure", ask.measure, known=MEASURES)
    call = {"anisotropy": probes.anisotropy, "dimension": probes.intrinsic_dimension,
            "neighbours": probes.neighbourhoods}[ask.measure]  # fmt: skip
    names = short_names((*ask.stores, *ask.controls))
    given = {names[s]: open_store(s) for s in ask.stores}
    beside = {names[s]: open_store(s) for s in ask.controls}
    return call(
        given, sites=list(ask.sites) or None, controls=beside or None,
        max_rows=ask.rows or ROWS[ask.measure], seed=ask.seed,
    )  # fmt: skip


def short_names(stores: Sequence[str]) -> dict[str, str]:
    """Names of folders by which to tell them apart: their last part, or as many as that takes.

    Raises:
        ConfigError: one of them twice.
    """
    if twice := sorted({s for s in stores if stores.count(s) > 1}):
        raise ConfigError(f"{twice[0]} is named twice; name a store once, as one of the text or as "
                          "a control")  # fmt: skip
    parts, names = {s: Path(s).parts for s in stores}, dict(zip(stores, stores, strict=True))
    for n in range(1, max(map(len, parts.values()), default=1) + 1):
        names = {s: "/".join(path[-n:]) for s, path in parts.items()}
        if len(set(names.values())) == len(stores):
            break
    return names


def facts(ask: ShapeAsk, out: Path | None = None) -> dict[str, Any]:
    """What the command line says of it.

    Raises:
        LensbenchError: as :func:`measure`.
    """
    found: Result = measure(ask)
    return {
        "measure": ask.measure, "rows": rows_of_frame(found.to_frame()),
        "summary": found.summary(), "control": str(found.controls),
        "warnings": list(getattr(found, "warnings", ())), **saved_in(found, out),
    }  # fmt: skip


def make_controls(store: str, out: Path, model: str | None = None) -> list[str]:
    """Capture the text of a store shuffled, and through a re-initialised model; their folders.

    Raises:
        LensbenchError: see :func:`lensbench.probes.control_stores`.
    """
    opened = open_store(store)
    name, revision = (model, None) if model else model_name(opened)
    made = probes.control_stores(opened, open_model(name, revision), out)
    return [str(one.url) for one in made.values()]


_kept: Shelf[Any] = Shelf(16)


def kept(root: Path, ask: ShapeAsk) -> Any:
    """The result of a page: what its job has left, or measured now where that takes seconds.

    None where that takes a job that is not finished.

    Raises:
        LensbenchError: as :func:`measure`; DamagedDataError of a saved one.
    """
    saved = studies.opened(folder_for(root, ask), Result)
    if saved is not None or not at_once(ask):
        return saved
    versions = tuple(store_version(s) for s in (*ask.stores, *ask.controls))
    return _kept.get((ask, versions), lambda: measure(ask))


def at_once(ask: ShapeAsk) -> bool:
    """Whether a request is measured in seconds, from the multiplications that it takes."""
    work = 0
    for url in (*ask.stores, *ask.controls):
        store = hold_store(url)
        sites = ask.sites or [s for s in sites_in(url) if Site.parse(s).name == "resid_post"]
        rows = min(ask.rows or ROWS[ask.measure], store.n_tokens)
        for site in sites:
            each = store.width(site) if ask.measure == "anisotropy" else rows
            work += rows * each * store.width(site)
    return work <= AT_ONCE


def folder_for(root: Path, ask: ShapeAsk) -> Path:
    """Where the job of a page keeps the result: another folder for every request and store."""
    prints = [hold_store(s).fingerprint for s in (*ask.stores, *ask.controls)]
    return studies.place(root, GEOMETRY, f"{Path(ask.stores[0]).name}-{ask.measure}", ask, *prints)


def settings_of(ask: ShapeAsk, out: Path | None = None) -> dict[str, Any]:
    """The request as the settings of a job, and of the command line."""
    told = {"measure": ask.measure, "store": list(ask.stores), "site": list(ask.sites),
            "control": list(ask.controls)}  # fmt: skip
    told |= {"rows": ask.rows} if ask.rows else {}
    return {k: v for k, v in told.items() if v} | ({} if out is None else {"out": str(out)})


def job(settings: dict[str, Any], progress: Callable[..., Any]) -> dict[str, Any]:
    """What the job does: measure, and save below ``out``.

    Raises:
        LensbenchError: as :func:`measure`.
    """
    progress("measuring distances between the rows of every site")
    ask = ShapeAsk(tuple(settings["store"]), settings["measure"], tuple(settings.get("site", ())),
                   settings.get("rows", 0), tuple(settings.get("control", ())))  # fmt: skip
    return dict(facts(ask, Path(settings["out"]))["summary"])


def figures(found: Any, ask: ShapeAsk) -> "dict[str, go.Figure]":
    """Every figure of a result, by what it shows."""
    if ask.measure == "anisotropy":
        return {"Anisotropy of every site": found.plot()}
    if ask.measure == "dimension":
        return {"Dimension of every site": found.plot(),
                "Dimension against scale at the middle site": found.plot_scale()}  # fmt: skip
    return {"Information imbalance between sites": found.plot(),
            "Neighbours kept from site to site": found.plot_overlap()}  # fmt: skip


DRAWS = {
    "anisotropy": ("plot()",),
    "dimension": ("plot()", "plot_scale()"),
    "neighbours": ("plot()", "plot_overlap()"),
}
"""What each of :func:`figures` is made by."""


def sites_in(store: str) -> list[str]:
    """Sites of a store that hold one vector per token."""
    opened = hold_store(store)
    return [s for s in opened.sites if len(opened.shape(s)) == 1 < opened.width(s)]


def command_of(ask: ShapeAsk) -> str:
    """The same on the command line."""
    return jobs.command_of("geometry", settings_of(ask))


def python_of(ask: ShapeAsk, draw: str = "plot()") -> str:
    """The same in a notebook; ``draw`` makes the figure."""
    call = {"anisotropy": "anisotropy", "dimension": "intrinsic_dimension",
            "neighbours": "neighbourhoods"}[ask.measure]  # fmt: skip
    names = short_names((*ask.stores, *ask.controls))
    named = ", ".join(f"{names[s]!r}: lensbench.open_store({s!r})" for s in ask.stores)
    beside = ", ".join(f"{names[s]!r}: lensbench.open_store({s!r})" for s in ask.controls)
    more = f", controls={{{beside}}}" if beside else ""
    return "\n".join([
        "import lensbench", "from lensbench import probes",
        f"probes.{call}({{{named}}}, sites={list(ask.sites) or None!r}, "
        f"max_rows={ask.rows or ROWS[ask.measure]}{more}, seed={ask.seed}).{draw}",
    ])  # fmt: skip
