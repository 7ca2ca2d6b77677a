"""Lists and ranges of numbers as they are typed."""

import re

from lensbench.errors import ConfigError


def floats(text: str, option: str) -> tuple[float, ...]:
    """``0,0.5 1`` as numbers.

    Raises:
        ConfigError: something that is none; the message names the option.
    """
    parts = [part for part in re.split(r"[,\s]+", text.strip()) if part]
    try:
        return tuple(float(part) for part in parts)
    except ValueError as error:
        raise ConfigError(f"{option} must be numbers such as 0,0.5,1; got {text!r}") from error


def span(text: str | None, option: str) -> tuple[int, int] | None:
    """``0:500`` as (0, 500): the first, and the one after the last; None where nothing is typed.

    Raises:
        ConfigError: no range; the message names the option.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d+):(\d+)", text.strip())
    if found is None or int(found[1]) >= int(found[2]):
        raise ConfigError(f"{option} must be the first and one after the last, such as 0:500; "
                          f"got {text!r}")  # fmt: skip
    return int(found[1]), int(found[2])
