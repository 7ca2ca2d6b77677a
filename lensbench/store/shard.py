"""One file of a store: safetensors bytes without a copy, checksum, check for NaN, memory map.

The header is written by hand because ``save_file`` needs all data as one mapping and gives no
checksum; the files are ordinary safetensors and any reader of that format opens them.
"""

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch

from lensbench.errors import DamagedDataError

_CODES = {"float16": "F16", "float32": "F32", "bfloat16": "BF16"}
_NUMPY = {
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "BF16": np.dtype("<u2"),  # numpy has no bfloat16: the bits, widened by to_float32
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "U8": np.dtype("u1"),
}
_CODE_OF = {v: k for k, v in _NUMPY.items() if k != "BF16"}
# Bits of +infinity as an integer of the same size. NaN lies above it, and -infinity and the
# negative NaNs lie above -infinity when read without a sign.
_INFINITY = {"float16": 0x7C00, "bfloat16": 0x7F80, "float32": 0x7F800000}
_CHUNK = 1 << 18
Chunks: TypeAlias = "list[bytes | memoryview]"
"""Content of a file in pieces, so that nothing is copied to be joined."""


def encode(arrays: Mapping[str, np.ndarray], codes: Mapping[str, str] | None = None) -> Chunks:
    """Header and data of a safetensors file as a list of buffers; no array is copied."""
    header: dict[str, object] = {}
    chunks: Chunks = []
    offset = 0
    for name, array in arrays.items():
        data = np.ascontiguousarray(array)
        code = (codes or {}).get(name) or _CODE_OF[data.dtype]
        span = [offset, offset + data.nbytes]
        header[name] = {"dtype": code, "shape": list(data.shape), "data_offsets": span}
        if data.nbytes:
            chunks.append(data.reshape(-1).view(np.uint8).data)
        offset += data.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return [struct.pack("<Q", len(text)) + text, *chunks]


def encode_rows(rows: torch.Tensor) -> Chunks:
    """A file of activations: one array ``acts`` ``[n, width]``."""
    name = str(rows.dtype).removeprefix("torch.")
    return encode({"acts": bits(rows)}, {"acts": _CODES[name]})


def bits(rows: torch.Tensor) -> np.ndarray:
    """A CPU tensor as numpy, without a copy; bfloat16 as uint16."""
    if rows.dtype is torch.bfloat16:
        return rows.view(torch.int16).numpy().view(np.uint16)
    return rows.numpy()


def checksum(chunks: Chunks) -> str:
    """Hex sha256 of the buffers in a row."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def first_bad_row(rows: torch.Tensor) -> int | None:
    """First row that holds NaN or infinity, or None.

    Two maxima over the bits, with and without sign: several times faster than ``isfinite`` on half
    precision, and it sees values that overflowed in the conversion.
    """
    top = _INFINITY[str(rows.dtype).removeprefix("torch.")]
    size = rows.dtype.itemsize
    signed = bits(rows).reshape(-1).view(f"i{size}")
    unsigned = signed.view(f"u{size}")
    negative = top | 1 << (8 * size - 1)
    for start in range(0, signed.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        if signed[part].max() >= top or unsigned[part].max() >= negative:
            bad = (signed[part] >= top) | (unsigned[part] >= negative)
            return (start + int(np.argmax(bad))) // rows.shape[1]
    return None


def map_file(path: Path, name: str, dtype: str | None = None) -> np.ndarray:
    """Array ``name`` of a safetensors file as a read-only numpy memory map.

    Raises:
        DamagedDataError: shorter than its header says, or not such a file.
    """
    try:
        with path.open("rb") as file:
            size = struct.unpack("<Q", file.read(8))[0]
            if size > path.stat().st_size:
                raise ValueError("the header is cut off")
            entry = json.loads(file.read(size))[name]
        start, stop = entry["data_offsets"]
        if 8 + size + stop > path.stat().st_size:
            raise ValueError("the data are cut off")
        shape, kind = tuple(entry["shape"]), _NUMPY[entry["dtype"]]
    except (ValueError, KeyError, struct.error) as error:
        raise DamagedDataError(f"{path} is truncated or not a shard: {error}") from error
    if dtype is not None and entry["dtype"] != _CODES[dtype]:
        raise DamagedDataError(f"{path} holds {entry['dtype']}, the manifest says {dtype}")
    if start == stop:
        return np.empty(shape, dtype=kind)
    return np.memmap(path, dtype=kind, mode="r", offset=8 + size + start, shape=shape)


def to_tensor(rows: np.ndarray, dtype: str) -> torch.Tensor:
    """Gathered rows (writable numpy, as :func:`map_file` types them) as a tensor, no copy."""
    if dtype == "bfloat16":
        return torch.from_numpy(rows.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(rows)


def numpy_dtype(dtype: str) -> np.dtype:
    """How :func:`map_file` types arrays of ``dtype``."""
    return _NUMPY[_CODES[dtype]]
