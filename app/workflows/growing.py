"""A store that is still being written: how far it is, and whether anybody writes it."""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lensbench.app.workflows import jobs
from lensbench.app.workflows.stores import store_info
from lensbench.store.manifest import PARTS

RECENT = 60.0
"""Seconds since the last shard in which a store counts as being written, whoever does it."""


@dataclass(frozen=True)
class Growth:
    """Where the writing of a store stands."""

    info: dict[str, Any]
    """What ``store_info`` said at that moment."""
    live: bool
    """Whether somebody writes it: a job of a page that goes on, or a shard of the last minute."""
    total: int
    """Tokens that there will be, as the job of a page says; 0 where nobody has said."""

    @property
    def share(self) -> float:
        """How much of it is there, 0 to 1; 0 where the whole is not known."""
        return min(1.0, self.info["tokens"] / self.total) if self.total else 0.0

    @property
    def told(self) -> str:
        """The same in words; the number of shards to come is estimated from those there are."""
        shards, tokens = self.info["shards"], self.info["tokens"]
        count = f"{shards:,} shard{'' if shards == 1 else 's'}"
        if self.info["complete"]:
            return "complete"
        if not self.live:
            return f"not complete: its capture ended after {count}; the same capture goes on there"
        if not self.total or not tokens:
            return f"growing: {count} so far"
        whole = max(shards, math.ceil(shards * self.total / tokens))
        return (f"growing: {shards:,} of about {whole:,} shards, {tokens:,} of {self.total:,} "
                "tokens")  # fmt: skip


def growth_of(root: Path, folder: Path) -> Growth:
    """Where the store in ``folder`` stands.

    Raises:
        MissingDataError, DamagedDataError: no store there, or its manifest cannot be read.
    """
    info = store_info(folder)
    if info["complete"]:
        return Growth(info, live=False, total=info["tokens"])
    ours = [j for j in jobs.all_jobs(root, "capture") if j.settings["out"] == str(folder)]
    written = [path.stat().st_mtime for path in (folder / PARTS).glob("*.json")]
    recent = bool(written) and time.time() - max(written) < RECENT
    ended = any(job.state != "finished" for job in ours) and not any(job.live for job in ours)
    live = any(job.live for job in ours) or (recent and not ended)
    return Growth(info, live, ours[0].total if ours else 0)
