"""``lensbench doctor``: is this installation, and is this model, what it should be?"""

from typing import Annotated

import typer

from lensbench.app.cli.console import Answer, fields, table
from lensbench.app.cli.groups import RevisionOption


def doctor(
    model: Annotated[
        str | None, typer.Option("--model", help="Model to certify: bundled name, folder, hub id.")
    ] = None,
    revision: RevisionOption = None,
) -> Answer:
    """Show versions and bundled models; with --model, run the certificate on it.

    Exit code 3 when a check of the model fails.
    """
    from lensbench.app.workflows.doctor import examine

    found = examine(model, revision)
    parts = [fields(found["versions"]), "", "bundled models", table(found["bundled"])]
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
