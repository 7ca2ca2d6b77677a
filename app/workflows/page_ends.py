"""How a report begins and ends: headline cards, one line of what it is about, and provenance."""

from collections.abc import Sequence

import pandas as pd

from lensbench.app.report import Section, Table
from lensbench.app.workflows.run_data import RunData


def cards(data: Sequence[RunData]) -> tuple[tuple[str, str], ...]:
    """Up to six numbers, each with what it is and its n."""
    out = [(str(sum(len(d.runs) for d in data)), "dictionaries trained")]
    for one in data[:1]:
        result = one.evaluation
        if result is None:
            continue
        summary = result.summary()
        n = f"n = {result.n_documents:,} documents"
        scored = 0
        if "ce_recovered_zero" in result.metrics:
            scored = int(result.counts[:, result.metrics.index("ce_recovered_zero")].max())
        if "best ce_recovered_zero" in summary:
            out.append(
                (
                    f"{summary['best ce_recovered_zero']:.3f}",
                    f"best CE recovered, n = {scored:,} documents",
                )
            )
        out.append((f"{1 - summary['best explained_variance']:.3f}", f"lowest FVU, {n}"))
        if "label f1, mean" in summary:
            control = max(result.controls.values.values(), default=float("nan"))
            text = f"mean label F1 (strongest control {control:.2f})"
            out.append((f"{summary['label f1, mean']:.2f}", text))
    return tuple(out)


def lead(data: Sequence[RunData]) -> str:
    """Model, sites and tokens in one line."""
    first = data[0]
    model = first.runs[0].metadata.get("model", {}).get("name", "")
    sites = ", ".join(dict.fromkeys(r.site for d in data for r in d.runs))
    trained = max((int(r.history["tokens"][-1]) for d in data for r in d.runs if r.history),
                  default=0)  # fmt: skip
    parts = [model, sites, f"{trained:,} training tokens per dictionary" if trained else ""]
    return " · ".join(part for part in parts if part)


def provenance(data: Sequence[RunData]) -> Section:
    """Versions, seeds, times and folders, so that the page can be made again."""
    rows: list[dict[str, object]] = []
    for one in data:
        results = [("training", one.runs[0].provenance)]
        if one.evaluation is not None:
            results.append(("evaluation", one.evaluation.provenance))
        if one.lens is not None:
            results.append(("logit lens", one.lens.provenance))
        for what, made in results:
            rows.append(
                {
                    "run": str(one.folder),
                    "step": what,
                    "when": made.when,
                    "seconds": round(made.seconds, 1),
                    "seed": "absent" if made.seed is None else str(made.seed),
                    "commit": made.git or "absent",
                }
            )
    versions = data[0].runs[0].provenance.versions or {}
    table = pd.DataFrame([{"package": k, "version": v} for k, v in versions.items()])
    blocks = [Table(pd.DataFrame(rows), "Where each part comes from")]
    if len(table):
        blocks.append(Table(table, "Versions"))
    return Section("Provenance", tuple(blocks))
