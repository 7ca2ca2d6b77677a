"""A result as a command says it: its rows, what they are, the summary, the control."""

from collections.abc import Mapping, Sequence
from typing import Any

from lensbench.app.cli.console import Answer, fields, table


def result_answer(facts: Mapping[str, Any], columns: Sequence[str] = (), head: str = "") -> Answer:
    """The facts of ``answers.result_facts`` in words; ``columns`` chooses what is printed."""
    rows = facts["rows"]
    shown = [c for c in columns if rows and c in rows[0]]
    left = f"\n{len(rows)} of {facts['of']} rows" if len(rows) < facts["of"] else ""
    units = "; ".join(f"{k}: {v}" for k, v in facts["units"].items() if not shown or k in shown)
    told = {**facts["summary"], "control": facts["control"]}
    told |= {"saved": facts["saved"]} if "saved" in facts else {}
    parts = [f"{head}\n" if head else "", f"{table(rows, shown)}{left}"]
    parts += [f"({units})" if units else "", f"\n{fields(told)}"]
    return Answer(dict(facts), "\n".join(part for part in parts if part))
