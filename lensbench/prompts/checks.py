"""Arguments of prompt tasks looked at first, so that a slip is named where it was made."""

from operator import index
from typing import Any

from lensbench.errors import ConfigError
from lensbench.tokens import refuse_surrogates


def whole_number(value: Any, name: str, least: int = 1, most: int | None = None) -> int:
    """A whole number in its range; numpy's count too.

    Raises:
        ConfigError: another type, or a number outside.
    """
    allowed = f"at least {least}" if most is None else f"{least} to {most}"
    try:
        number = None if isinstance(value, bool) else index(value)
    except TypeError:
        number = None
    if number is None:
        got = f"{type(value).__name__} {str(value)[:40]!r}"
        raise ConfigError(f"{name} must be a whole number ({allowed}), got {got}")
    if number < least or (most is not None and number > most):
        raise ConfigError(f"{name} must be {allowed}, got {number}")
    return number


def text(value: Any, name: str) -> str:
    """Text that a tokenizer takes.

    Raises:
        ConfigError: another type, or half of a surrogate pair.
    """
    if not isinstance(value, str):
        raise ConfigError(f"{name} must be text, got {type(value).__name__}")
    refuse_surrogates(value, name)
    return value
