"""``lensbench report``: one self-contained HTML page about one or more runs."""

from pathlib import Path
from typing import Annotated

import typer

from lensbench.app.cli.console import Answer


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="File (default: report.html in the first RUN).")
    ] = None,
) -> Answer:
    """Write report.html: Pareto front, training curves, latents with contexts, controls."""
    from lensbench.app.workflows.reports import report_runs

    facts = report_runs(runs, out)
    return Answer(facts, f"wrote {facts['report']}")
