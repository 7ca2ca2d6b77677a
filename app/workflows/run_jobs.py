"""Work on a finished run that a page starts: its evaluation, and its latents on a store."""

from pathlib import Path
from typing import Any

from lensbench.app.workflows.curves import settings_of
from lensbench.app.workflows.live import hold_runs, hold_store
from lensbench.app.workflows.overview import is_evaluated
from lensbench.app.workflows.sequences import model_name
from lensbench.errors import ConfigError
from lensbench.saes.evaluation.settings import DEFAULT, MEASURES

__all__ = ["DEFAULT", "MEASURES", "dictionaries_of", "encoding", "evaluation", "own_store"]


def own_store(root: Path, run: Path) -> str:
    """The store a run was trained on, as the address names it; empty where it lies elsewhere."""
    told = settings_of(run).get("source.store")
    if not isinstance(told, str) or "://" in told:
        return ""
    folder = Path(told).resolve()
    inside = folder.is_relative_to(root.resolve()) and (folder / "manifest.json").is_file()
    return folder.relative_to(root.resolve()).as_posix() if inside else ""


def dictionaries_of(run: Path) -> list[str]:
    """Names of the finished dictionaries of a run."""
    return [one.name for one in hold_runs(run)]


def evaluation(
    run: Path, store: Path, *, measures: tuple[str, ...], sequences: int, twin: bool, again: bool
) -> dict[str, Any]:
    """Settings of a job that evaluates a run.

    Raises:
        ConfigError: no measure, or it is evaluated already and ``again`` is off.
    """
    if not measures:
        raise ConfigError("choose at least one measure")
    if is_evaluated(run) and not again:
        raise ConfigError("this run is evaluated already; tick Replace to do it again")
    return {"run": str(run), "store": str(store), "model": model_name(hold_store(str(store)))[0],
            "suite": ",".join(measures), "ce_sequences": sequences, "twin": twin,
            "overwrite": again}  # fmt: skip


def encoding(run: Path, name: str, store: Path) -> dict[str, Any]:
    """Settings of a job that keeps the latents of a dictionary on every token of a store."""
    return {"dictionary": str(run / name), "store": str(store)}
