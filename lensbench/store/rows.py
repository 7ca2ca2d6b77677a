"""Row and latent numbers as callers give them: integers, a slice, or a mask over every row."""

import operator
from collections.abc import Iterable
from typing import Any

import numpy as np

from lensbench.errors import ConfigError


def row_numbers(rows: Any, n_tokens: int) -> np.ndarray:
    """Row numbers, int64, in the order given: of a slice, of integers, or where a mask is true.

    A mask is an array of booleans, one for each of the ``n_tokens`` rows.

    Raises:
        ConfigError: a row that does not exist, a mask of another length, or floats or texts.
    """
    if isinstance(rows, slice):
        return np.arange(*rows.indices(n_tokens))
    allowed = f"whole numbers from 0 to {n_tokens - 1}, a slice, or a mask of {n_tokens} booleans"
    try:
        wanted = np.asarray(rows)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged, or a tensor with a gradient
        raise ConfigError(f"rows must be {allowed}; got {_shown(rows)}") from error
    if wanted.dtype == bool:
        if wanted.shape != (n_tokens,):
            raise ConfigError(
                f"rows must be {allowed}; got booleans of shape {list(wanted.shape)}"
            )  # fmt: skip
        return np.flatnonzero(wanted)
    mixed = isinstance(rows, (list, tuple)) and any(isinstance(r, (bool, np.bool_)) for r in rows)
    if (wanted.size and wanted.dtype.kind not in "iu") or mixed:
        raise ConfigError(f"rows must be {allowed}; got {_shown(rows)}")
    if wanted.size and (wanted.min() < 0 or wanted.max() >= n_tokens):
        raise ConfigError(
            f"rows run from 0 to {n_tokens - 1}; got {wanted.min()} to {wanted.max()}"
        )
    return wanted.astype(np.int64).reshape(-1)


def one_number(value: Any, what: str, end: int) -> int:
    """One number from 0 to ``end - 1``, such as that of a row or a latent.

    Raises:
        ConfigError: no whole number, or one that does not exist.
    """
    try:
        number = None if isinstance(value, (bool, np.bool_)) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise ConfigError(
            f"a {what} is a whole number from 0 to {end - 1}; got {type(value).__name__} {value!r}"
        )
    if not 0 <= number < end:
        raise ConfigError(f"{what}s run from 0 to {end - 1}; got {number}")
    return number


def numbers(values: Iterable[Any], what: str, end: int) -> list[int]:
    """Several of them; errors as of :func:`one_number`."""
    return [one_number(value, what, end) for value in values]


def _shown(rows: Any) -> str:
    text = repr(rows)
    return f"{type(rows).__name__} {text[:80]}{'...' if len(text) > 80 else ''}"
