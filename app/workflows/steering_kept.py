"""Dose curves of tasks that are kept: for the page, and in a folder for whoever comes later."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lensbench import io, results
from lensbench.app.workflows.answers import saved_in
from lensbench.app.workflows.live import Shelf
from lensbench.app.workflows.steering import SteerAsk, Steering, steer

if TYPE_CHECKING:
    import pandas as pd

    from lensbench.interventions.steering.direction import Direction
    from lensbench.interventions.steering.dose_result import SteeringResult

DIRECTION, TEXTS = "direction", "texts.json"
"""What lies beside a saved result."""
_results: "Shelf[Steering]" = Shelf(8)


def kept(ask: SteerAsk) -> Steering:
    """What came of a request, kept for the page."""
    return _results.get(ask, lambda: steer(ask))


def keep(ask: SteerAsk, found: Steering | None) -> None:
    """Take what a job has made; None: forget it."""
    if found is None:
        _results.drop(ask)
    elif _results.peek(ask) is not found:
        _results.put(ask, found)


def save(found: Steering, out: Path) -> dict[str, Any]:
    """The result in ``out``, beside it the direction and what both were made of; says where.

    Raises:
        ConfigError: there is a file of that name.
    """
    saved = saved_in(found.result, out)
    told = {"made_of": found.made_of, "tested_on": found.tested_on, "n_made_of": found.n_made_of,
            "texts": found.texts}  # fmt: skip
    found.direction.save(out / DIRECTION)
    io.write_json(out / TEXTS, told)  # last: where it is, all is
    return saved


def load(out: Path) -> Steering:
    """What :func:`save` wrote.

    Raises:
        MissingDataError, DamagedDataError: it is not there, or cannot be read.
    """
    told = io.read_json(out / TEXTS)
    return Steering(cast("SteeringResult", results.load(out)),
                    cast("Direction", results.load(out / DIRECTION)), tuple(told["made_of"]),
                    tuple(told["tested_on"]), told["n_made_of"], told["texts"])  # fmt: skip


def texts_of(found: Steering) -> "pd.DataFrame":
    """Clean and steered texts, a row each."""
    import pandas as pd

    return pd.DataFrame(found.texts)
