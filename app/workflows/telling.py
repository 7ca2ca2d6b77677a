"""Probes that say how much is there: erasure with fresh probes, and codelengths."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensbench import probes
from lensbench.app.workflows.answers import rows_of_frame, saved_in
from lensbench.app.workflows.quality import read_labels
from lensbench.errors import ConfigError
from lensbench.store import open_store

if TYPE_CHECKING:
    from lensbench.probes import ProbeData

ERASED = ("change", "label", "accuracy", "accuracy_new", "chance", "low", "high", "at_chance",
          "moved", "n")  # fmt: skip
CODED = ("site", "label", "code", "bits", "compression", "control_task", "shuffled_labels",
         "uniform_bits", "accuracy", "n_rows", "n")  # fmt: skip


@dataclass(frozen=True)
class RowsAsk:
    """Labelled rows of a store, as a user names them."""

    store: Path
    label_file: Path | None = None
    sites: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    max_rows: int = 20_000

    def data(self) -> "ProbeData":
        """The rows.

        Raises:
            LensbenchError: see :func:`lensbench.probes.probe_data`.
        """
        own = None if self.label_file is None else read_labels(self.label_file)
        return probes.probe_data(
            open_store(self.store), own, sites=list(self.sites) or None,
            names=list(self.labels) or None, max_rows=self.max_rows,
        )  # fmt: skip


def erase(
    ask: RowsAsk,
    label: str,
    *,
    methods: Sequence[str] = ("leace", "orthogonal"),
    seed: int = 0,
    out: Path | None = None,
) -> dict[str, Any]:
    """Fresh probes before and after a label is erased; with ``out`` the erasers are saved too.

    Raises:
        ConfigError: several sites.
        LensbenchError: see :func:`lensbench.probes.erasure_check`.
    """
    data = ask.data()
    site, *others = data.sites
    if others:
        raise ConfigError(
            f"the store has {1 + len(others)} sites; say at which one with --site, such as "
            f"{others[-1]}"
        )
    found = probes.erasure_check(data, label, site, methods=list(methods), seed=seed)
    facts = _facts(found, site=found.site, erased=label, rows=rows_of_frame(found.to_frame()))
    facts |= saved_in(found, None if out is None else out / "check")
    if out is None:
        return facts
    fit = lambda way: probes.fit_eraser(data, label, site, method=way, seed=seed)  # noqa: E731
    saved = {way: str(fit(way).save(out / way)) for way in methods}
    return {**facts, "erasers": saved}


def code(
    ask: RowsAsk,
    *,
    codes: Sequence[str] = ("variational",),
    seeds: int = 1,
    epochs: int | None = None,
    top: int | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """Bits of labels given activations, shortest code against the uniform one first.

    Raises:
        LensbenchError: see :func:`lensbench.probes.codelength`.
    """
    found = probes.codelength(ask.data(), codes=list(codes), seeds=seeds, epochs=epochs)
    ranked = found.to_frame().sort_values("compression", ascending=False, kind="stable")
    facts = _facts(found, codes=len(found), rows=rows_of_frame(ranked, top))
    return {**facts, **saved_in(found, out)}


def _facts(found: Any, **more: Any) -> dict[str, Any]:
    return {**more, "summary": found.summary(), "controls": dict(found.controls.values),
            "control": found.controls.note or str(found.controls)}  # fmt: skip
