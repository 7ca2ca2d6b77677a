"""One note on a latent as a value, and what may stand in it."""

from dataclasses import dataclass, replace
from typing import Any

from lensbench.arguments import whole
from lensbench.errors import ConfigError, DamagedDataError

LONGEST_LABEL, LONGEST_NOTE = 120, 10_000
"""Characters of a label (one line) and of a note."""


@dataclass(frozen=True)
class LatentNote:
    """What is said of one latent; an empty one where nothing is."""

    latent: int
    label: str = ""
    note: str = ""
    starred: bool = False
    changed: str = ""
    """When, in UTC (``2026-01-31T12:00:00.000000Z``)."""

    def __bool__(self) -> bool:
        """Whether anything is said."""
        return bool(self.label or self.note or self.starred)


def note_of(row: Any, where: str) -> LatentNote:
    """A note from a row of a file.

    Raises:
        DamagedDataError: not a row of a latent, texts and a star.
    """
    try:
        kept = {k: row[k] for k in ("latent", "label", "note", "starred", "changed") if k in row}
        note = LatentNote(**kept)
    except (TypeError, KeyError) as error:
        raise DamagedDataError(f"{where} holds an entry that is no note: {row!r}") from error
    texts: tuple[Any, ...] = (note.label, note.note, note.changed)
    star: Any = note.starred
    fine = all(isinstance(text, str) for text in texts) and isinstance(star, bool)
    if not fine or whole(note.latent) is None:
        raise DamagedDataError(f"{where} holds an entry that is no note: {row!r}")
    return note


def checked(note: LatentNote) -> LatentNote:
    """The same with surrounding space off, and the label on one line.

    Raises:
        ConfigError: a text that is too long, or what is no text and no truth value.
    """
    given: tuple[Any, Any, Any] = (note.label, note.note, note.starred)
    if not isinstance(given[0], str) or not isinstance(given[1], str):
        raise ConfigError("label and note must be texts")
    if not isinstance(given[2], bool):
        raise ConfigError(f"starred must be True or False, got {given[2]!r}")
    label, text = " ".join(note.label.split()), note.note.strip()
    for what, value, most in (("label", label, LONGEST_LABEL), ("note", text, LONGEST_NOTE)):
        if len(value) > most:
            raise ConfigError(f"a {what} has at most {most:,} characters, got {len(value):,}")
    return replace(note, label=label, note=text)
