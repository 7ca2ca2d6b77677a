"""Checks of single arguments, so that a slip gets the same sentence wherever it is made."""

import math
import numbers
import operator
from typing import Any

import torch

from lensbench.errors import ConfigError


def whole(value: Any) -> int | None:
    """The whole number that ``value`` is, or None; True and False are none."""
    if isinstance(value, bool) or getattr(value, "dtype", None) is torch.bool:
        return None
    try:
        return operator.index(value)
    except TypeError:  # text, a fraction, numpy's booleans
        return None


def whole_number(name: str, value: Any, *, least: int | None = None) -> int:
    """``value`` as an int.

    Raises:
        ConfigError: no whole number, or one below ``least``.
    """
    number = whole(value)
    if number is None or (least is not None and number < least):
        bound = "" if least is None else f" of at least {least}"
        raise ConfigError(f"{name} must be a whole number{bound}, got {value!r}")
    return number


def is_number(value: Any) -> bool:
    """Is this a real number (no truth value, no text)?"""
    return isinstance(value, numbers.Real) and value is not True and value is not False


def positive_number(name: str, value: Any) -> float:
    """``value`` as a finite float above 0; numbers of any library.

    Raises:
        ConfigError: no number, or none that is finite and above 0.
    """
    try:
        number = float("nan") if isinstance(value, str | bytes | bool) else float(value)
    except (TypeError, ValueError, RuntimeError):  # None, lists, tensors of several numbers
        number = float("nan")
    if not 0 < number < math.inf:
        raise ConfigError(f"{name} must be a finite number above 0, got {value!r}")
    return number


def refuse_no_model(value: Any) -> None:
    """Refuse what cannot be run under plans, such as None or a bare module.

    Raises:
        ConfigError: no model of ours.
    """
    if not (hasattr(value, "run_many") and hasattr(value, "card")):
        what = "None" if value is None else f"a {type(value).__name__}"
        bare = ". It takes a model of transformers too" * hasattr(value, "state_dict")
        raise ConfigError(f"model must be what lensbench.load_model(...) gives, got {what}{bare}")


def refuse_no_store(value: Any, instead: str = "") -> None:
    """Refuse what holds no activations, such as a model given first; ``instead`` says what to do.

    Raises:
        ConfigError: no store.
    """
    if not (hasattr(value, "sites") and hasattr(value, "check_model")):
        what = "None" if value is None else f"a {type(value).__name__}"
        raise ConfigError(
            f"store must be what lensbench.capture(...) or open_store(...) gives, got {what}"
            + f". {instead}" * bool(instead)
        )


def refuse_no_numbers(owner: str, name: str, value: Any) -> None:
    """Refuse what cannot become a tensor of real numbers.

    Raises:
        ConfigError: text, None, complex numbers and the like.
    """
    try:
        fine = not torch.as_tensor(value).is_complex()
    except (TypeError, ValueError, RuntimeError):  # what torch says of what it cannot read
        fine = False
    if not fine:
        raise ConfigError(f"{owner} needs a number or a tensor as {name}, got {value!r}")
