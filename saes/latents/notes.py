"""What people say of latents: a label, a note, a star, kept beside the run of the dictionary.

One JSON file per dictionary, named by the fingerprint of its weights: a dictionary that was trained
again under the same name is another one, and none of these notes land on it. Writers take turns
under a lock and replace the file whole, so two open pages and a command line lose nothing.
"""

import fcntl
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensbench import io
from lensbench.arguments import whole
from lensbench.errors import ConfigError, DamagedDataError, DataError, MismatchError
from lensbench.models.splice import fingerprint_of
from lensbench.saes.latents.note import LatentNote, checked, note_of

if TYPE_CHECKING:
    import pandas as pd

KIND, SCHEMA = "latent-notes", 1
FOLDER = "notes"


@dataclass(frozen=True)
class Imported:
    """What became of the entries of a file."""

    added: int
    replaced: int
    kept: int
    """Entries that were left out because another one was here."""


class LatentNotes:
    """The notes on the latents of one dictionary; every change is on disk when its call returns."""

    def __init__(self, folder: Path, name: str, fingerprint: str, d_sae: int) -> None:
        self.folder, self.name, self.fingerprint, self.d_sae = folder, name, fingerprint, d_sae

    @property
    def path(self) -> Path:
        """The file, which exists from the first note on."""
        return self.folder / f"{self.fingerprint}.json"

    def __repr__(self) -> str:
        """Name, number and place."""
        return f"LatentNotes({self.name}: {len(self)} of {self.d_sae} latents, {str(self.path)!r})"

    def __len__(self) -> int:
        """Latents of which something is said."""
        return len(self._read())

    def __iter__(self) -> Iterator[LatentNote]:
        """The notes, by number of the latent."""
        return iter([note for _, note in sorted(self._read().items())])

    def __getitem__(self, latent: int) -> LatentNote:
        """The note of a latent, an empty one where nothing is said.

        Raises:
            ConfigError: no such latent.
        """
        number = self._number(latent)
        return self._read().get(number, LatentNote(number))

    def set(
        self,
        latent: int,
        *,
        label: str | None = None,
        note: str | None = None,
        starred: bool | None = None,
    ) -> LatentNote:
        """Say something of a latent; what is None stays as it is, an empty text takes it back.

        Raises:
            ConfigError: no such latent, or a text that is too long.
            DataError: the folder cannot be written.
        """
        given = {k: v for k, v in (("label", label), ("note", note), ("starred", starred))
                 if v is not None}  # fmt: skip
        number = self._number(latent)
        with self._changing() as known:
            before = known.get(number, LatentNote(number))
            after = checked(replace(before, **given))
            if after != before:
                known[number] = replace(after, changed=_now())
        return known.get(number, after)

    def remove(self, latent: int) -> bool:
        """Take back all that is said of a latent; whether there was anything.

        Raises:
            ConfigError: no such latent.
        """
        number = self._number(latent)
        with self._changing() as known:
            return known.pop(number, None) is not None

    def search(self, text: str = "", *, starred: bool | None = None) -> list[LatentNote]:
        """Notes with ``text`` in their label or note, in any case; with or without a star."""
        wanted = text.casefold()
        return [
            note
            for note in self
            if wanted in f"{note.label}\n{note.note}".casefold()
            and (starred is None or note.starred == starred)
        ]

    def merge(self, notes: Iterable[LatentNote], *, overwrite: bool = False) -> Imported:
        """Add notes made elsewhere; where a latent has one already, that one stays.

        With ``overwrite`` the new one replaces it. All or nothing.

        Raises:
            ConfigError: a latent that is not there, twice in ``notes``, or a text too long.
        """
        new: dict[int, LatentNote] = {}
        for note in notes:
            number = self._number(note.latent)
            if number in new:
                raise ConfigError(f"latent {number} of {self.name} is noted twice in what came")
            if note := checked(replace(note, latent=number)):
                new[number] = replace(note, changed=note.changed or _now())
        with self._changing() as known:
            there = new.keys() & known.keys()
            known |= {n: note for n, note in new.items() if overwrite or n not in there}
        if overwrite:
            return Imported(len(new) - len(there), len(there), 0)
        return Imported(len(new) - len(there), 0, len(there))

    def to_frame(self) -> "pd.DataFrame":
        """One row per note: dictionary, fingerprint, latent, label, note, starred, changed."""
        import pandas as pd

        rows = [{**self._whose(), **asdict(note)} for note in self]
        columns = ["dictionary", "fingerprint", "latent", "label", "note", "starred", "changed"]
        return pd.DataFrame(rows, columns=columns)

    def _repr_html_(self) -> str:
        """The notes as a table; inert, whatever was written."""
        from lensbench.plots.tables import html_table

        frame = self.to_frame().drop(columns=["dictionary", "fingerprint"])
        return html_table(frame, caption=repr(self))

    def export(self, path: Path | str) -> Path:
        """Write every note to ``path``, as ``.json`` or ``.csv`` by its ending.

        Raises:
            ConfigError: another ending.
        """
        from lensbench.saes.latents.notes_files import write_notes

        return write_notes([self], Path(path))

    def read_file(self, path: Path | str, *, overwrite: bool = False) -> Imported:
        """Add the notes of a file that :meth:`export` wrote, of this very dictionary.

        Raises:
            MissingDataError, DamagedDataError: no such file, or no notes in it.
            MismatchError: it holds notes of another dictionary.
        """
        from lensbench.saes.latents.notes_files import read_notes

        found = read_notes(Path(path))
        if others := sorted(found.keys() - {self.fingerprint}):
            raise MismatchError(
                f"{path} holds notes of dictionary {', '.join(others)}, but {self.name} is "
                f"{self.fingerprint}: latents of another dictionary have other meanings"
            )
        return self.merge(found.get(self.fingerprint, []), overwrite=overwrite)

    def _whose(self) -> dict[str, str]:
        return {"dictionary": self.name, "fingerprint": self.fingerprint}

    def _number(self, latent: int) -> int:
        number = whole(latent)
        if number is None or not 0 <= number < self.d_sae:
            raise ConfigError(f"latents of {self.name} run from 0 to {self.d_sae - 1}; "
                              f"got {latent!r}")  # fmt: skip
        return number

    def _read(self) -> dict[int, LatentNote]:
        if not self.path.is_file():
            return {}
        tree = io.read_json(self.path)
        if not isinstance(tree, dict) or tree.get("kind") != KIND or tree.get("schema") != SCHEMA:
            raise DamagedDataError(f"{self.path} holds no notes of schema {SCHEMA}")
        if tree.get("fingerprint") != self.fingerprint:
            raise MismatchError(
                f"{self.path} says that its notes are of dictionary {tree.get('fingerprint')!r}"
            )
        notes = [note_of(row, str(self.path)) for row in tree.get("notes", ())]
        return {note.latent: note for note in notes}

    @contextmanager
    def _changing(self) -> Generator[dict[int, LatentNote]]:
        """The notes to change, while nobody else can; written when the block ends."""
        with _locked(self.folder):
            known = self._read()
            before = dict(known)
            yield known
            if known != before:
                rows = [asdict(known[n]) for n in sorted(known) if known[n]]
                head = {"kind": KIND, "schema": SCHEMA, **self._whose(), "d_sae": self.d_sae}
                io.write_json(self.path, {**head, "notes": rows})


def notes(dictionary: Any, folder: Path | str | None = None) -> LatentNotes:
    """The notes on the latents of a dictionary.

    Those of a run (an ``SAERun``) lie in the folder of the run, ``RUN/notes``; any other dictionary
    needs ``folder``. They are found by the fingerprint of its weights, not by its name.

    Raises:
        ConfigError: no dictionary, or no place to keep them.

    Example:
        >>> kept = saes.notes(run, "notes")
        >>> kept.set(3, label="days of the week")
    """
    codec = getattr(dictionary, "coder", getattr(dictionary, "codec", dictionary))
    if not hasattr(codec, "W_dec") or not hasattr(codec, "d_sae"):
        raise ConfigError(f"notes are kept on a dictionary, got a {type(dictionary).__name__}")
    kept = str(getattr(dictionary, "folder", "") or "")
    if folder is None and not kept:
        raise ConfigError(
            "this dictionary lies in no run folder; say where its notes are kept: "
            "saes.notes(sae, folder=DIR)"
        )
    place = Path(kept).parent / FOLDER if folder is None else Path(folder)
    metadata: Any = getattr(codec, "metadata", {})
    name = getattr(dictionary, "name", "") or metadata.get("name") or "dictionary"
    return LatentNotes(place, str(name), fingerprint_of(codec), int(codec.d_sae))


@contextmanager
def _locked(folder: Path) -> Generator[None]:
    """Alone among all threads and processes that change notes here; waits for its turn."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise DataError(
            f"cannot write notes in {folder}: {error.strerror}. Choose a writable folder"
        ) from error
    with file:  # closing it frees the lock, and so does the end of the process
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
