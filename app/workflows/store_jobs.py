"""What pages may do to a store while others may be at work on it."""

from pathlib import Path
from typing import Any

from lensbench.app.workflows import jobs
from lensbench.app.workflows.stores import remove_store
from lensbench.errors import MismatchError


def remove_from_page(root: Path, folder: Path) -> dict[str, Any]:
    """Remove a store below ``root``, unless a job reads or writes it.

    Raises:
        MismatchError: one does.
        LensbenchError: see ``stores.remove_store``.
    """
    for job in jobs.all_jobs(root):
        named = [one if isinstance(one, list) else [one] for one in job.settings.values()]
        if job.live and any(str(folder) in some for some in named):
            raise MismatchError(f"{job.title} is going on there; stop it first")
    return remove_store(folder, yes=True)
