"""A result as plain facts: what a command prints and gives as JSON."""

import os
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensbench.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

    from lensbench.models import Model
    from lensbench.results import Result

_KEPT: "ContextVar[list[Kept] | None]" = ContextVar("kept", default=None)


@dataclass(frozen=True)
class Kept:
    """A result, and which of its pictures is meant: arguments of ``plot``."""

    result: "Result"
    view: Mapping[str, Any]


@contextmanager
def kept_results() -> Generator[list[Kept]]:
    """Collect every result that is answered with meanwhile: for pictures and tables of them."""
    found: list[Kept] = []
    token = _KEPT.set(found)
    try:
        yield found
    finally:
        _KEPT.reset(token)


def facts_of(model: "Model", result: "Result", **more: Any) -> dict[str, Any]:
    """The model's name, what is given, headline numbers, and controls with their note."""
    return {
        "model": model.card.name, **more, "summary": result.summary(),
        "controls": dict(result.controls.values),
        "control": result.controls.note or str(result.controls),
    }  # fmt: skip


def rows_of_frame(frame: "pd.DataFrame", top: int | None = None) -> list[dict[str, Any]]:
    """The first rows as mappings; None takes all."""
    records: Any = (frame if top is None else frame.head(top)).to_dict("records")
    return records


def result_facts(
    model: str, result: "Result", out: Path | None, *, top: int | None = None, by: str = "",
    view: Mapping[str, Any] | None = None, **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """A result as one document: its rows (the ``top`` largest in size of ``by``), units, summary.

    Saved in ``out`` where a folder was named.
    """
    frame = result.to_frame()
    if by:
        frame = frame.sort_values(by, ascending=False, key=abs, kind="stable")
    return {
        "model": model, **more, "rows": rows_of_frame(frame, top), "of": len(frame),
        "units": dict(frame.attrs.get("units", {})), "summary": result.summary(),
        "controls": dict(result.controls.values),
        "control": result.controls.note or str(result.controls), **saved_in(result, out, view),
    }  # fmt: skip


def saved_in(
    result: "Result", out: Path | None, view: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Save a result where a folder was named, and say where; a new folder appears whole.

    Raises:
        ConfigError: there is a file of that name.
        DataError: the folder cannot be written.
    """
    kept = _KEPT.get()
    if kept is not None:
        kept.append(Kept(result, view or {}))
    if out is None:
        return {}
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out names a folder, and {out} is a file; choose another name")
    if out.exists():  # what lies there stays; each of our files is replaced at one stroke
        return {"saved": str(result.save(out))}
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        result.save(part)
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return {"saved": str(out)}
