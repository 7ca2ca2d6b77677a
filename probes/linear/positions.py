"""Which rows of a text a position means: a place in the document, ``first``, ``last``, or a role.

A *position* is ``all``, ``first`` or ``last`` stored token of each document, a whole number (place
in the document, negative from its last stored token), or the name of a yes-or-no label that marks a
role. Several of them choose their rows together; a sweep can fit each by itself.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Int

from lensbench.arguments import whole
from lensbench.errors import ConfigError, MismatchError, UnknownNameError
from lensbench.probes.linear.labels import Label

if TYPE_CHECKING:
    from lensbench.probes.linear.data import ProbeData

NAMED = ("all", "first", "last")
Position: TypeAlias = int | str
Rows: TypeAlias = Bool[np.ndarray, " rows"]


def marked(
    positions: Any,
    doc: Int[np.ndarray, " rows"],
    places: Int[np.ndarray, " rows"],
    labels: Sequence[Label],
) -> dict[str, Rows]:
    """The rows of each position by its name; one entry ``chosen rows`` for a mask.

    Raises:
        UnknownNameError: no such position or role.
        ConfigError: something else, or a position that no document has.
        MismatchError: a mask of another length.
    """
    if isinstance(positions, str):
        return {positions: _by_name(positions, doc, places, labels)}
    array = np.asarray(positions)
    if array.dtype == bool:
        if array.shape != doc.shape:
            raise MismatchError(
                f"positions is a mask of shape {list(array.shape)}; the store has {len(doc):,} rows"
            )
        if not array.any():
            raise ConfigError("positions choose no stored row")
        return {"chosen rows": array}
    asked: list[Any] = list(np.asarray(positions, object).reshape(-1))
    found: dict[str, Rows] = {}
    for one in asked:
        if isinstance(one, str):
            found[one] = _by_name(one, doc, places, labels)
            continue
        number = whole(one)
        if number is None:
            asked = []
            break
        found[str(number)] = _by_number(number, doc, places)
    if not asked:
        raise ConfigError(
            f"positions must be {', '.join(NAMED)}, the name of a yes-or-no label, whole "
            f"numbers, or a truth value per row; got {positions!r}"
        )
    return found


def rows_by_position(
    data: "ProbeData", positions: "Sequence[Position] | Position | None"
) -> "list[tuple[str, Int[np.ndarray, ' some'] | None]]":
    """Row numbers of each position asked for; None for all rows of the data, in one piece.

    ``each`` asks for every position that the data were chosen by.

    Raises:
        ConfigError: no position; ``each`` of data chosen by none; or a position of rows that were
            not all read.
        UnknownNameError: no such position or role.
    """
    if positions is None:
        return [(data.selected, None)]
    marks: Mapping[str, Rows] = data.marks
    if isinstance(positions, str) and positions == "each":
        if not marks:
            raise ConfigError(
                "positions='each' needs data that were chosen by positions: name them, such as "
                "positions=['first', -1]"
            )
        asked: list[Any] = list(marks)
    else:
        asked = [positions] if isinstance(positions, (str, int)) else list(positions)
    if not asked:
        raise ConfigError("positions needs at least one")
    if any(isinstance(one, (list, tuple, np.ndarray)) for one in asked):
        raise ConfigError(f"each position of a sweep is a whole number or a name; got {asked!r}")
    found: dict[str, Any] = {}
    for one in asked:
        name = str(one)
        if name not in marks and data.selected != "all":
            raise ConfigError(
                f"the data hold the rows {data.selected!r} only, so position {name!r} cannot be "
                "told there; name it in probe_data(positions=[...])"
            )
        at = marks[name] if name in marks else next(
            iter(marked([one], data.docs, data.places, data.labels).values()))  # fmt: skip
        found[name] = np.flatnonzero(at)
        if not len(found[name]):
            raise ConfigError(f"no row of the data is at position {name!r}")
    return list(found.items())


def _by_number(
    number: int, doc: Int[np.ndarray, " rows"], places: Int[np.ndarray, " rows"]
) -> Rows:
    if number >= 0:
        found = places == number
    else:  # the stored row itself counts: what a capture left out has no place to count from
        last = np.full(int(doc.max()) + 1, -1)
        np.maximum.at(last, doc, places)
        found = places - last[doc] - 1 == number
    if not found.any():
        raise ConfigError(f"positions choose no stored row: no document has a token {number}")
    return found


def _by_name(
    name: str,
    doc: Int[np.ndarray, " rows"],
    places: Int[np.ndarray, " rows"],
    labels: Sequence[Label],
) -> Rows:
    if name == "all":
        return np.ones(len(doc), bool)
    if name in ("first", "last"):
        sign = 1 if name == "first" else -1
        best = np.full(int(doc.max()) + 1, np.iinfo(np.int64).max)
        np.minimum.at(best, doc, sign * places)
        return sign * places == best[doc]
    roles = {label.name: label for label in labels if label.kind == "binary"}
    if name not in roles:
        raise UnknownNameError("position or role", name, known=(*NAMED, *roles))
    found = roles[name].values == 1
    if not found.any():
        raise ConfigError(f"no stored row is {name!r}")
    return found
