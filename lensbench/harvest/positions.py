"""Which places of a sequence are kept: what a user writes, read once."""

from collections.abc import Iterable, Sequence
from operator import index
from typing import Any, TypeAlias

from lensbench.errors import ConfigError

Positions: TypeAlias = "int | Sequence[int] | slice | None"


def read_positions(given: Any, context: int) -> Positions:
    """``given`` with plain integers, or an error that says what is allowed.

    Raises:
        ConfigError: words, fractions, an empty list, or places outside ``context`` tokens.
    """
    if given is None:
        return None
    if isinstance(given, slice):
        if not all(p is None or _whole(p) for p in (given.start, given.stop, given.step)):
            raise _not_positions(given)
        return given
    single = _whole(given)
    listed = isinstance(given, Iterable) and not isinstance(given, (str, bytes, dict))
    if not single and not listed:
        raise _not_positions(given)
    named: list[Any] = [given] if single else list(given)
    if not all(map(_whole, named)):
        raise _not_positions(given)
    if not named:
        raise ConfigError("positions is empty: no row would be kept; leave it out for all")
    places = [int(p) for p in named]
    if outside := [p for p in places if not -context <= p < context]:
        raise ConfigError(
            f"positions {outside} lie outside a sequence of {context} tokens (context)"
        )
    return places[0] if single else places


def _whole(value: Any) -> bool:
    try:
        index(value)
    except TypeError:
        return False
    return not isinstance(value, bool)


def _not_positions(given: Any) -> ConfigError:
    return ConfigError(
        "positions must be a whole number, a list of them, a slice, or None for all; got "
        f"{given!r}. The first token is 0, the last token is -1"
    )
