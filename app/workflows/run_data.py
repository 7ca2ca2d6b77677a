"""Everything a run folder holds for a report, read once."""

from dataclasses import dataclass
from pathlib import Path

from lensbench import io
from lensbench.app.workflows.runs import EVALUATION, all_runs, evaluation_of
from lensbench.probes.lenses.grid import LensGrid
from lensbench.probes.lenses.logit import LensTrajectory
from lensbench.results import Result, load
from lensbench.saes.evaluation.result import SAEEvaluation
from lensbench.saes.latents.result import LatentDashboard
from lensbench.saes.runs import SAERun


@dataclass(frozen=True)
class RunData:
    """Everything a run folder holds for a report."""

    folder: Path
    runs: list[SAERun]
    evaluation: SAEEvaluation | None
    boards: tuple[LatentDashboard, ...]
    words: dict[int, str]
    lens: LensTrajectory | None
    grid: LensGrid | None


def read_run(folder: Path) -> RunData:
    """Read a run folder and its evaluation."""
    place = folder / EVALUATION
    boards = [
        board
        for path in sorted(place.glob("latents/*/result.json"))
        if isinstance(board := load(path.parent), LatentDashboard)
    ]
    words = io.read_json(place / "words.json") if (place / "words.json").is_file() else {}
    lens, grid = _optional(place / "lens"), _optional(place / "lens_grid")
    return RunData(
        folder,
        all_runs(folder),
        evaluation_of(folder),
        tuple(boards),
        {int(k): str(v) for k, v in words.items()},
        lens if isinstance(lens, LensTrajectory) else None,
        grid if isinstance(grid, LensGrid) else None,
    )


def _optional(folder: Path) -> Result | None:
    return load(folder) if (folder / "result.json").is_file() else None
