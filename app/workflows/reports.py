"""From run folders to one report page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lensbench.app.report import Report, Section, write_report
from lensbench.app.workflows import page_ends, sections
from lensbench.app.workflows.run_data import RunData, read_run


def report_runs(
    folders: Sequence[Path],
    out: Path | None = None,
    *,
    title: str = "",
    extra: Sequence[Section] = (),
    cards: Sequence[tuple[str, str]] = (),
) -> dict[str, Any]:
    """Write one page about ``folders``.

    Raises:
        MissingDataError, DamagedDataError: a folder without a run, or one that cannot be read.
        DataError: the page cannot be written.
    """
    data = [read_run(Path(folder)) for folder in folders]
    path = write_report(
        build(data, title=title, extra=extra, cards=cards), out or Path(folders[0]) / "report.html"
    )
    figures = path.read_text(encoding="utf-8").count('class="plot"')
    return {"report": str(path), "runs": [str(f) for f in folders], "figures": figures,
            "bytes": path.stat().st_size}  # fmt: skip


def build(
    data: Sequence[RunData],
    *,
    title: str = "",
    extra: Sequence[Section] = (),
    cards: Sequence[tuple[str, str]] = (),
) -> Report:
    """The page of several runs: numbers first, then pictures, then how they were made."""
    several = len(data) > 1
    parts: list[Section] = []
    for one in data:
        prefix = f"{one.folder.name}: " if several else ""
        parts += [
            sections.headline(one, prefix),
            sections.pareto(one, prefix),
            sections.training(one, prefix),
            sections.latents(one, prefix),
            sections.lens(one, prefix),
            sections.controls(one, prefix),
        ]
    parts += [*extra, page_ends.provenance(data)]
    names = ", ".join(str(one.folder) for one in data)
    return Report(
        title or "Dictionaries, evaluated",
        page_ends.lead(data) or names,
        tuple(parts),
        (*cards, *page_ends.cards(data)),
    )
