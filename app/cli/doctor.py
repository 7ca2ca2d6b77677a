"""``lensbench doctor``: is this installation, and is this model, what it should be?"""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from lensbench.app.cli.console import Answer, fields, size, table
from lensbench.app.cli.groups import RevisionOption


def doctor(
    model: Annotated[
        str | None, typer.Option("--model", help="Model to certify: bundled name, folder, hub id.")
    ] = None,
    revision: RevisionOption = None,
    hub: Annotated[
        bool, typer.Option("--hub/--no-hub", help="Ask whether the model hub answers.")
    ] = True,
) -> Answer:
    """Show versions, devices, memory, what is missing and what that costs; certify --model.

    Exit code 3 when a check of the model fails.
    """
    from lensbench.app.workflows.doctor import examine

    found = examine(model, revision, hub=hub)
    parts = [fields(found["versions"])]
    if "machine" in found:
        parts += _about(found)
    parts += ["", "bundled models", table(found["bundled"])]
    certificate = found.get("certificate")
    if certificate is not None:
        verdict = "every check passed" if certificate["passed"] else "CHECKS FAILED"
        parts += [
            "",
            f"certificate of {certificate['model']} ({certificate['fingerprint']}): {verdict}",
            table(certificate["checks"], ("name", "passed", "value", "limit", "unit", "note")),
        ]
    failed = certificate is not None and not certificate["passed"]
    return Answer(found, "\n".join(parts), exit_code=3 if failed else 0)


def _about(found: Mapping[str, Any]) -> list[str]:
    """Machine, devices, parts, hub, and what to mend."""
    machine, folder, hub, exports = (found[k] for k in ("machine", "folder", "hub", "exports"))
    reached = {None: "not asked", True: "yes", False: "no (bundled models and folders work)"}
    told = {
        "system": machine["system"],
        "cores, threads of torch": f"{machine['cores']}, {machine['threads']}",
        "memory": _room(machine),
        "GPU driver": machine["cuda_driver"] or "none",
        "this folder": f"{size(folder['free_bytes'])} free, "
        f"{'writable' if folder['writable'] else 'NOT WRITABLE'}: {folder['path']}",
        "hub reachable": reached[hub["reachable"]],
        "hub offline by": ", ".join(hub["offline_settings"]) or "no setting",
        "hub cache": f"{hub['cached_models']} models in {hub['cache']}",
        "figures as PNG, SVG": "yes" if exports["png"] else "no: needs chromium or chrome",
    }
    devices = [{**row, **{k: size(row[k]) for k in row if k.endswith("_bytes")}}
               for row in found["devices"]]  # fmt: skip
    parts = [{**row, "version": row["version"] or "-"} for row in found["parts"]]
    mend = [f"  {line}" for line in found["problems"]] or ["  nothing"]
    columns = list(dict.fromkeys(k for row in devices for k in row))
    return [
        "", fields(told), "", table([{c: r.get(c, "") for c in columns} for r in devices]), "",
        table(parts, ("package", "version", "for")), "", "to mend", *mend,
    ]  # fmt: skip


def _room(machine: Mapping[str, Any]) -> str:
    if machine["memory_bytes"] is None:
        return "not told by this system"
    return f"{size(machine['memory_free_bytes'])} free of {size(machine['memory_bytes'])}"
