"""Notes on the latents of a run, for the page and the command line."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from lensbench.app.workflows.dictionaries import runs_named
from lensbench.errors import ConfigError, MismatchError
from lensbench.saes import notes
from lensbench.saes.latents.note import LONGEST_LABEL, LONGEST_NOTE
from lensbench.saes.latents.notes import Imported, LatentNotes
from lensbench.saes.latents.notes_files import (
    as_text,
    notes_frame,
    parse_notes,
    read_notes,
    write_notes,
)

__all__ = [
    "LONGEST_LABEL",
    "LONGEST_NOTE",
    "LatentNotes",
    "export_notes",
    "found_in",
    "import_notes",
    "import_text",
    "list_notes",
    "notes_of",
    "remove_note",
    "set_note",
    "text_of",
    "with_notes",
]


def notes_of(run: str) -> list[LatentNotes]:
    """The notes of every dictionary of ``RUN``, or of the one that ``RUN/NAME`` names.

    Raises:
        MissingDataError: no run there, or none of its dictionaries is finished.
        UnknownNameError: it has no dictionary of that name.
    """
    return [notes(one) for one in runs_named(run)]


def list_notes(run: str, text: str = "", *, starred: bool | None = None) -> dict[str, Any]:
    """What is said of the latents of a run: all, or what a search finds."""
    kept = notes_of(run)
    rows = [
        {"dictionary": one.name, "fingerprint": one.fingerprint, **asdict(note)}
        for one in kept
        for note in one.search(text, starred=starred)
    ]
    return {
        "run": run,
        "dictionaries": [{"name": one.name, "fingerprint": one.fingerprint, "notes": len(one)}
                         for one in kept],
        "notes": rows,
    }  # fmt: skip


def set_note(
    run: str,
    latent: int,
    *,
    label: str | None = None,
    note: str | None = None,
    starred: bool | None = None,
) -> dict[str, Any]:
    """Say something of one latent of ``RUN/NAME``; what is None stays.

    Raises:
        ConfigError: nothing to say, several dictionaries, or no such latent.
    """
    if label is None and note is None and starred is None:
        raise ConfigError("nothing to say: give a label, a note or a star")
    one = _one(run)
    return {"dictionary": one.name, "file": str(one.path),
            **asdict(one.set(latent, label=label, note=note, starred=starred))}  # fmt: skip


def remove_note(run: str, latent: int) -> dict[str, Any]:
    """Take back what is said of one latent of ``RUN/NAME``."""
    one = _one(run)
    return {"dictionary": one.name, "latent": latent, "removed": one.remove(latent)}


def export_notes(run: str, out: Path) -> dict[str, Any]:
    """Every note of a run (or of one dictionary of it) as one JSON or CSV file."""
    kept = notes_of(run)
    return {"out": str(write_notes(kept, out)), "notes": sum(map(len, kept))}


def import_notes(run: str, path: Path, *, overwrite: bool = False) -> dict[str, Any]:
    """Add the notes of a file to the dictionaries of a run that they are of.

    Raises:
        MismatchError: notes of a dictionary that is not in the run; then none is added.
    """
    return _merged(run, read_notes(path), str(path), overwrite)


def import_text(run: str, name: str, text: str, *, overwrite: bool = False) -> dict[str, Any]:
    """The same of a file's content, as a page gets it."""
    return _merged(run, parse_notes(text, name), name, overwrite)


def text_of(run: str, ending: str) -> str:
    """What :func:`export_notes` would write."""
    return as_text(notes_frame(notes_of(run)), ending)


def with_notes(table: pd.DataFrame, kept: LatentNotes) -> pd.DataFrame:
    """A table of latents with what people say of them beside the number."""
    known = {note.latent: note for note in kept}
    out = table.copy()
    said = [known.get(int(latent)) for latent in table["latent"]]
    out.insert(1, "starred", [bool(n and n.starred) for n in said])
    out.insert(2, "my label", [n.label if n else "" for n in said])
    out["note"] = [n.note if n else "" for n in said]
    out.attrs = dict(table.attrs)
    return out


def found_in(table: pd.DataFrame, text: str) -> pd.Series:
    """Which rows have ``text`` in a label, a note or the tokens written towards, in any case."""
    columns = [c for c in ("my label", "note", "label", "writes towards") if c in table]
    joined = pd.Series("", index=table.index)
    for column in columns:
        joined = joined + "\n" + table[column].fillna("").astype(str)
    return joined.str.casefold().str.contains(text.casefold(), regex=False)


def _one(run: str) -> LatentNotes:
    kept = notes_of(run)
    if len(kept) != 1:
        names = ", ".join(one.name for one in kept)
        raise ConfigError(f"{run} holds {len(kept)} dictionaries; name one as {run}/NAME: {names}")
    return kept[0]


def _merged(run: str, found: dict[str, Any], where: str, overwrite: bool) -> dict[str, Any]:
    known = {one.fingerprint: one for one in notes_of(run)}
    if others := sorted(found.keys() - known.keys()):
        ours = ", ".join(f"{one.name} {print_}" for print_, one in known.items())
        raise MismatchError(
            f"{where} holds notes of dictionary {', '.join(others)}, which is not in {run} "
            f"({ours}); latents of another dictionary have other meanings"
        )
    told = [known[print_].merge(notes, overwrite=overwrite) for print_, notes in found.items()]
    total = Imported(*(sum(getattr(t, k) for t in told) for k in ("added", "replaced", "kept")))
    return {"run": run, **asdict(total)}
