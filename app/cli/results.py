"""A result as a command says it: its rows, what they are, the summary, the control."""

from collections.abc import Mapping, Sequence
from typing import Any

from lensbench.app.cli.console import Answer, fields, table


def result_answer(facts: Mapping[str, Any], columns: Sequence[str] = (), head: str = "") -> Answer:
    """The facts of ``answers.result_facts`` in words; ``columns`` chooses what is printed."""
    rows = facts["rows"]
    shown = [c for c in columns if rows and c in rows[0]]
    left = f"\n{len(rows)} of {facts['of']} rows" if len(rows) < facts["of"] else ""
    named = shown or (list(rows[0]) if rows else [])
    units = "; ".join(f"{k}: {v}" for k, v in facts["units"].items() if k in named)
    told = {**facts["summary"], **_controls(facts), "control": facts["control"]}
    told |= {"saved": facts["saved"]} if "saved" in facts else {}
    parts = [f"{head}\n" if head else "", f"{table(rows, shown)}{left}"]
    parts += [f"({units})" if units else "", f"\n{fields(told)}"]
    return Answer(dict(facts), "\n".join(part for part in parts if part))


def _controls(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Scores of controls that neither rows, summary nor note show."""
    shown = [*facts["summary"].values(), *(v for row in facts["rows"] for v in row.values())]
    said = {f"{value:.6g}" for value in shown if isinstance(value, (int, float))}
    note = str(facts["control"])
    return {
        f"control: {name.replace('_', ' ')}": value
        for name, value in facts.get("controls", {}).items()
        if f"{value:.6g}" not in said and name.replace("_", " ") not in note
    }
