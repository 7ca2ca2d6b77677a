"""The table in which a latent is found: what is known of every one, joined and put in order."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lensbench.app.workflows.geometry import tokens_written
from lensbench.app.workflows.latent_page import dictionary_of, latent_table
from lensbench.app.workflows.latent_related import cosines, measured
from lensbench.app.workflows.notes import with_notes
from lensbench.saes import notes

if TYPE_CHECKING:
    from lensbench.saes.latents.notes import LatentNotes

FIRST = ("latent", "starred", "my label", "label", "f1", "control", "density", "largest", "cosine",
         "writes towards")  # fmt: skip
WRITTEN = "writes towards"
MOST_NAMED = 500
"""Latents that a piece of code names one by one."""


def joined(
    table: pd.DataFrame, kept: "LatentNotes | None", found: pd.DataFrame | None,
    cosine: np.ndarray | None, written: list[str],
) -> pd.DataFrame:  # fmt: skip
    """Weights and labels beside notes, what is measured, and what each writes; where it is there.

    ``attrs["looked_at"]``: tokens behind densities that are not of an evaluation.
    """
    attrs: dict[Any, Any] = dict(table.attrs)
    table = table.copy() if kept is None else with_notes(table, kept)
    if found is not None:
        table["largest"] = found["largest"].to_numpy()
        if "density" not in table:
            table["density"] = found["fires"].to_numpy()
            attrs["looked_at"] = found.attrs["n"]
    if cosine is not None:
        table["cosine"] = cosine
    if any(written):
        table[WRITTEN] = written
    first = [c for c in FIRST if c in table]
    table = pd.DataFrame(table[[*first, *[c for c in table if c not in first]]])
    table.attrs = attrs
    return table


def in_order(rows: pd.DataFrame, by: str = "", falling: bool = True) -> pd.DataFrame:
    """Rows by a column; as listed (no column), the best label first."""
    if by and by in rows:
        return rows.sort_values(by, ascending=not falling, na_position="last", kind="stable")
    if not by and "f1" in rows:
        return rows.sort_values("f1", ascending=False, na_position="last", kind="stable")
    return rows


def rows_again(
    run: Path, name: str, columns: tuple[str, ...], *, store: Path | None = None,
    opened: int | None = None, latents: tuple[int, ...] | None = None, by: str = "",
    falling: bool = True,
) -> pd.DataFrame:  # fmt: skip
    """The rows of the page Latents, made from names, as copied code calls it.

    ``store``: of which largest activations are; ``opened``: the latent of the cosines; ``latents``:
    those that pass the filters, all if left out.

    Raises:
        LensbenchError: as the workflows that each column is of.
    """
    table = joined(
        latent_table(run, name), notes(dictionary_of(run, name)),
        None if store is None else measured(run, name, store),
        cosines(run, name, opened) if opened is not None and "cosine" in columns else None,
        tokens_written(run, name)[0] if WRITTEN in columns else [],
    )  # fmt: skip
    kept = table if latents is None else table.loc[table["latent"].isin(latents)]
    return pd.DataFrame(in_order(kept, by, falling)[list(columns)])
