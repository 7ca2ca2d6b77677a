"""Notes on latents as files to send: JSON or CSV, of one dictionary or of a whole run.

Every entry carries the fingerprint of its dictionary, so that it finds that one and no other.
"""

import csv
import io as text_io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensbench import io
from lensbench.errors import ConfigError, DamagedDataError, MissingDataError
from lensbench.saes.latents.note import LatentNote, note_of
from lensbench.saes.latents.notes import KIND, SCHEMA, LatentNotes

if TYPE_CHECKING:
    import pandas as pd

ENDINGS = (".json", ".csv")
COLUMNS = ("dictionary", "fingerprint", "latent", "label", "note", "starred", "changed")
_YES, _NO = ("true", "yes", "1"), ("false", "no", "0", "")


def write_notes(notes: Sequence[LatentNotes], path: Path) -> Path:
    """Every note of some dictionaries in one file.

    Raises:
        ConfigError: an ending other than ``.json`` and ``.csv``.
    """
    frame = notes_frame(notes)
    text = as_text(frame, _ending(path))
    io.write_text(path, text)
    return path


def notes_frame(notes: Sequence[LatentNotes]) -> "pd.DataFrame":
    """Every note of some dictionaries, one row each."""
    import pandas as pd

    parts = [part for one in notes if len(part := one.to_frame())]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(COLUMNS))


def as_text(frame: "pd.DataFrame", ending: str) -> str:
    """The rows of :func:`notes_frame` as a JSON document or as CSV."""
    if ending == ".csv":
        return frame.to_csv(index=False, lineterminator="\n")
    rows = [{str(k): v for k, v in row.items()} for row in frame.to_dict("records")]
    return json.dumps({"kind": KIND, "schema": SCHEMA, "notes": rows}, indent=2) + "\n"


def read_notes(path: Path) -> dict[str, list[LatentNote]]:
    """Notes of a file by the fingerprint of their dictionary.

    Raises:
        ConfigError: an ending other than ``.json`` and ``.csv``.
        MissingDataError: no such file.
        DamagedDataError: no notes in it, or an entry that does not say of which dictionary it is.
    """
    _ending(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # line ends inside notes stay
            text = file.read()
    except FileNotFoundError as error:
        raise MissingDataError(f"no file {path}") from error
    except UnicodeDecodeError as error:
        raise DamagedDataError(f"{path} is not UTF-8 text: {error}") from error
    return parse_notes(text, str(path))


def parse_notes(text: str, where: str) -> dict[str, list[LatentNote]]:
    """The same of the content of a file called ``where``."""
    if _ending(Path(where)) == ".csv":
        return _by_dictionary(_csv_rows(text, where), where)
    try:
        tree: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise DamagedDataError(f"{where} is not valid JSON: {error}") from error
    if not isinstance(tree, dict) or tree.get("kind") != KIND or tree.get("schema") != SCHEMA:
        raise DamagedDataError(f"{where} holds no notes of schema {SCHEMA}")
    own = {"fingerprint": tree["fingerprint"]} if "fingerprint" in tree else {}
    rows: Any = tree.get("notes")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DamagedDataError(f"{where} has no list of notes")
    return _by_dictionary([{**own, **row} for row in rows], where)


def _by_dictionary(rows: list[dict[str, Any]], where: str) -> dict[str, list[LatentNote]]:
    found: dict[str, list[LatentNote]] = {}
    for row in rows:
        fingerprint = row.get("fingerprint")
        if not isinstance(fingerprint, str) or not fingerprint:
            raise DamagedDataError(
                f"{where} has an entry without the fingerprint of its dictionary: {row!r}; "
                "`lensbench runs notes ls RUN` prints those of a run"
            )
        found.setdefault(fingerprint, []).append(note_of(row, where))
    return found


def _csv_rows(text: str, where: str) -> list[dict[str, Any]]:
    reader = csv.DictReader(text_io.StringIO(text, newline=""))
    absent = {"fingerprint", "latent"} - set(reader.fieldnames or ())
    if absent:
        raise DamagedDataError(f"{where} lacks the columns {', '.join(sorted(absent))}")
    rows: list[dict[str, Any]] = []
    for row in reader:
        if None in row or None in row.values():
            raise DamagedDataError(f"{where}, line {reader.line_num}: not one value per column")
        known: dict[str, Any] = {k: v for k, v in row.items() if k in COLUMNS}
        star = str(known.pop("starred", "")).strip().lower()
        if not str(row["latent"]).strip().isdecimal() or star not in (*_YES, *_NO):
            raise DamagedDataError(
                f"{where}, line {reader.line_num}: latent must be a number and starred True or "
                f"False, got {row['latent']!r} and {star!r}"
            )
        rows.append({**known, "latent": int(row["latent"]), "starred": star in _YES})
    return rows


def _ending(path: Path) -> str:
    if path.suffix.lower() not in ENDINGS:
        raise ConfigError(f"notes are files that end in {' or '.join(ENDINGS)}, got {path.name!r}")
    return path.suffix.lower()
