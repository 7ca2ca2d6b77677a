"""Lists of numbers as they are typed."""

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
