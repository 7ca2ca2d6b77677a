"""Where the files of a store lie: a local folder, or any fsspec URL.

Local files are written beside their place, synced to the disk and renamed; a remote file is sent
whole. Readers get a local path either way: a remote shard is fetched once into a cache folder,
because activations are read through memory maps.
"""

import os
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lensbench import io
from lensbench.errors import ConfigError, DataError, MissingDataError

Chunks = Sequence[bytes | memoryview]


@runtime_checkable
class Folder(Protocol):
    """The few things a store asks of a place for files; names use ``/``."""

    url: str

    def exists(self, name: str) -> bool:
        """Whether there is a file of this name."""
        ...

    def size(self, name: str) -> int | None:
        """Size of a file in bytes, or None where there is none."""
        ...

    def read(self, name: str) -> bytes:
        """Whole content; MissingDataError where there is none."""
        ...

    def write(self, name: str, chunks: Chunks) -> None:
        """Write a file, all of it or nothing; DataError when that cannot be done."""
        ...

    def names(self, prefix: str) -> list[str]:
        """Names of the files directly under ``prefix``, sorted."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file if it is there."""
        ...

    def local(self, name: str) -> Path:
        """Path of a local file with this content; MissingDataError where there is none."""
        ...


def open_folder(url: str | os.PathLike[str]) -> Folder:
    """A folder for a path, a ``file://`` URL or any other URL that fsspec knows.

    Raises:
        ConfigError: a protocol that fsspec does not know or whose package is not installed.
    """
    text = os.fspath(url)
    if "://" not in text:
        return LocalFolder(Path(text).expanduser())
    if text.startswith("file://"):
        return LocalFolder(Path(text.removeprefix("file://")))
    return RemoteFolder(text)


class LocalFolder:
    """A folder of this machine."""

    def __init__(self, path: Path) -> None:
        self.path, self.url = path, str(path)

    def exists(self, name: str) -> bool:
        """See :class:`Folder`."""
        return (self.path / name).is_file()

    def size(self, name: str) -> int | None:
        """See :class:`Folder`."""
        path = self.path / name
        return path.stat().st_size if path.is_file() else None

    def read(self, name: str) -> bytes:
        """See :class:`Folder`."""
        return self.local(name).read_bytes()

    def write(self, name: str, chunks: Chunks) -> None:
        """See :class:`Folder`."""
        with io.atomic_path(self.path / name) as temp, temp.open("wb", buffering=0) as file:
            for chunk in chunks:
                rest = memoryview(chunk).cast("B")
                while rest:
                    rest = rest[file.write(rest) :]

    def names(self, prefix: str) -> list[str]:
        """See :class:`Folder`."""
        folder = self.path / prefix
        if not folder.is_dir():
            return []
        return sorted(f"{prefix}/{p.name}" for p in folder.iterdir() if p.name[0] != ".")

    def remove(self, name: str) -> None:
        """See :class:`Folder`."""
        (self.path / name).unlink(missing_ok=True)

    def local(self, name: str) -> Path:
        """See :class:`Folder`."""
        path = self.path / name
        if not path.is_file():
            raise MissingDataError(f"no file {path}")
        return path

    def sweep(self) -> None:
        """Remove the temporary files that a killed writer left."""
        if self.path.is_dir():
            for path in self.path.rglob(".*.tmp"):
                path.unlink(missing_ok=True)


class RemoteFolder:
    """A folder behind an fsspec URL (``s3://``, ``gs://``, ``memory://`` ...)."""

    def __init__(self, url: str) -> None:
        import fsspec

        try:
            fs, self._root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise ConfigError(f"cannot open {url!r}: {error}") from error
        self._fs: Any = fs
        self.url = url
        self._cache = Path(tempfile.mkdtemp(prefix="lensbench-store-"))
        weakref.finalize(self, shutil.rmtree, self._cache, ignore_errors=True)

    def exists(self, name: str) -> bool:
        """See :class:`Folder`."""
        return bool(self._fs.isfile(self._at(name)))

    def size(self, name: str) -> int | None:
        """See :class:`Folder`."""
        return int(self._fs.size(self._at(name))) if self.exists(name) else None

    def read(self, name: str) -> bytes:
        """See :class:`Folder`."""
        try:
            return bytes(self._fs.cat_file(self._at(name)))
        except FileNotFoundError as error:
            raise MissingDataError(f"no file {name} in {self.url}") from error

    def write(self, name: str, chunks: Chunks) -> None:
        """See :class:`Folder`."""
        try:
            self._fs.makedirs(self._at(name).rpartition("/")[0], exist_ok=True)
            self._fs.pipe_file(self._at(name), b"".join(chunks))
        except OSError as error:
            raise DataError(f"cannot write {name} in {self.url}: {error}") from error

    def names(self, prefix: str) -> list[str]:
        """See :class:`Folder`."""
        self._fs.invalidate_cache()
        if not self._fs.isdir(self._at(prefix)):
            return []
        found = [str(p).rpartition("/")[2] for p in self._fs.ls(self._at(prefix), detail=False)]
        return sorted(f"{prefix}/{name}" for name in found)

    def remove(self, name: str) -> None:
        """See :class:`Folder`."""
        if self.exists(name):
            self._fs.rm_file(self._at(name))

    def local(self, name: str) -> Path:
        """See :class:`Folder`."""
        path = self._cache / name
        if not path.is_file():
            content = self.read(name)
            with io.atomic_path(path) as temp:
                temp.write_bytes(content)
        return path

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"
