"""A result as plain facts: what a command prints and gives as JSON."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from lensbench.models import Model
    from lensbench.results import Result


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
    **more: Any,
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
        "control": result.controls.note or str(result.controls), **saved_in(result, out),
    }  # fmt: skip


def saved_in(result: "Result", out: Path | None) -> dict[str, Any]:
    """Save a result where a folder was named, and say where."""
    return {} if out is None else {"saved": str(result.save(out))}
