"""``lensbench demo``: the whole bench once, on a bundled model, within five minutes."""

from pathlib import Path
from typing import Annotated

import typer

from lensbench.app.cli.console import Answer, Progress, table


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for store, runs and report.")] = Path(
        "demo-run"
    ),
    tokens: Annotated[int, typer.Option("--tokens", help="Stored tokens.")] = 250_000,
    seed: Annotated[int, typer.Option("--seed", help="Seed of everything.")] = 0,
) -> Answer:
    """Capture atlas-dense, train eight dictionaries, evaluate, read the lens, write a report."""
    from lensbench.app.workflows.demo import run_demo

    progress = Progress()
    facts = run_demo(out, tokens=tokens, seed=seed, progress=progress)
    progress.end()
    lines = [
        table(facts["dictionaries"]),
        "",
        f"controls: {facts['controls']}",
        f"logit lens: {facts['lens']}",
        "",
        "packages that took part",
        table(facts["packages"]),
        "",
        f"report: {facts['report']}",
        f"{facts['seconds']:.0f} s, peak memory {facts['peak_memory_gib']:.2f} GiB",
    ]
    return Answer(facts, "\n".join(lines))
