"""Safe files: atomic writes, checksums, JSON and safetensors; tensors of others' ``.pt`` files.

Every artefact of lensbench is written through this file, so that a killed run never leaves a
half-written file under its final name, and a damaged one is found by its sha256.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lensbench.errors import DamagedDataError, DataError, MissingDataError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


T = TypeVar("T")
_UNREADABLE = (
    RuntimeError,
    EOFError,
    OSError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
)
"""What ``torch.load`` raises for cut or foreign files."""


@contextmanager
def atomic_path(path: Path) -> Generator[Path]:
    """Yield a temporary path beside ``path``; on success fsync it and rename it into place.

    Raises:
        DataError: the folder is not writable or the disk is full, or ``path`` is a device, a pipe
            or a folder; it is left as it was.
    """
    if path.exists() and not path.is_file():
        # A rename would put a file in the place of the device itself.
        kind = "a folder" if path.is_dir() else "no regular file but a device, pipe or socket"
        raise DataError(f"cannot write {path}: it is {kind}; choose another name")
    temp: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
        temp = Path(name)
        yield temp
        with temp.open("rb") as file:
            os.fsync(file.fileno())
        temp.chmod(0o644)
        temp.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(
            f"cannot write {path}: {reason}. Nothing was changed there; free space or choose a "
            "writable folder."
        ) from error
    finally:
        if temp is not None:
            temp.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically, in UTF-8."""
    with atomic_path(path) as temp:
        temp.write_text(text, encoding="utf-8")


def append_text(path: Path, text: str) -> None:
    """Add ``text`` to a file that grows, in UTF-8.

    Raises:
        DataError: the disk is full, or the file may not be written.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise DataError(
            f"cannot write {path}: {error.strerror or error}. What was there before is kept; free "
            "space or choose a writable folder."
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; NaN and infinity are refused (ValueError)."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; a missing or malformed one is named.

    Raises:
        MissingDataError: no such file.
        DamagedDataError: the content is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingDataError(f"no file {path}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DamagedDataError(f"{path} is not valid JSON: {error}") from error
    except OSError as error:  # not ours to read, a folder, a disk that fails
        raise MissingDataError(f"cannot read {path}: {error.strerror or error}") from error


def write_arrays(
    path: Path, arrays: "Mapping[str, np.ndarray]", metadata: Mapping[str, str] | None = None
) -> None:
    """Write named numpy arrays as one safetensors file, atomically."""
    import numpy as np
    from safetensors.numpy import save_file

    with atomic_path(path) as temp, saving():
        save_file(
            {k: np.ascontiguousarray(v) for k, v in arrays.items()},
            temp,
            metadata=dict(metadata or {}),
        )


@contextmanager
def saving() -> Generator[None]:
    """Make of safetensors' own error the system's, so that a full disk is told as one."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        reason = str(error).removeprefix("Error while serializing: ").removeprefix("I/O error: ")
        raise OSError(reason) from error


def read_arrays(path: Path) -> "dict[str, np.ndarray]":
    """Read a safetensors file as numpy arrays.

    Raises:
        MissingDataError: no such file.
        DamagedDataError: truncated or not safetensors.
    """
    from safetensors.numpy import load_file

    return _read_safetensors(path, load_file)


def read_tensors(path: Path) -> "dict[str, Tensor]":
    """The same as torch tensors (bfloat16 has no numpy type)."""
    from safetensors.torch import load_file

    return _read_safetensors(path, load_file)


def _read_safetensors(path: Path, load: Callable[[Path], dict[str, T]]) -> dict[str, T]:
    from safetensors import SafetensorError

    if not path.is_file():
        raise MissingDataError(f"no file {path}")
    try:
        return load(path)
    except (SafetensorError, ValueError) as error:
        raise DamagedDataError(f"{path} is truncated or not safetensors: {error}") from error


def read_torch(path: Path) -> dict[str, Any]:
    """The dict in a ``.pt`` file: tensors and plain values, nothing that needs code to be run.

    Raises:
        MissingDataError: no such file.
        DamagedDataError: truncated, no torch file, or a pickle that wants more than tensors.
    """
    import pickle
    import warnings

    import torch

    if not path.is_file():
        raise MissingDataError(f"no file {path}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols that are refused anyway
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DamagedDataError(f"{path} {_why_not_unpickled(_reason(error))}") from error
    except _UNREADABLE as error:
        raise DamagedDataError(
            f"{path} is truncated or no torch file: {type(error).__name__}: {_reason(error)}"
        ) from error
    if not isinstance(found, Mapping):
        raise DamagedDataError(f"{path} must hold a dict of tensors, not a {type(found).__name__}")
    return {str(name): value for name, value in found.items()}


def _why_not_unpickled(reason: str) -> str:
    if "GLOBAL" not in reason:
        return f"is truncated, no torch file, or a pickle of something else ({reason}); not opened"
    return (
        f"holds more than tensors and plain values ({reason}); pickles can run any code, so it is "
        "not opened. Where you trust it, load it with torch and save its state_dict again"
    )


def _reason(error: Exception) -> str:
    """The line of torch's long message that says what was found."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "nsupported" in line or "GLOBAL" in line]
    return (telling or lines or ["empty"])[0][:200]


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """First 16 hex digits of the sha256 of ``value`` as canonical JSON (sorted keys)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
