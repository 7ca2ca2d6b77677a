"""The processes of a job: they meet, sum tensors, and notice when one of them is lost.

Meetings go through the key-value store of the rendezvous, so ranks that share no tensor need no
collective. Every rank counts upward in the store from a thread of its own; one whose count stands
still is gone. What ended a rank is written there too, so that the others can say it.
"""

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from lensbench.errors import ConfigError, RankError
from lensbench.saes.distributed.environment import Place

BEAT = 0.5
"""Seconds between two counts."""
PAUSE = 0.02
"""Seconds between two looks at how far the others are."""
LISTEN = 2.5
"""Seconds over which a count that stands still is looked for after something failed."""
LEAVE = 5.0
"""Seconds that rank 0 stays for the others to read why it ends, where it keeps the store."""


class Job:
    """One call of ``train`` in all its processes."""

    def __init__(self, place: Place, timeout: float, number: int) -> None:
        self.rank, self.world, self.local_rank = place.rank, place.world, place.local_rank
        self.timeout, self._place = timeout, place
        self._store = _store(timeout)
        self._prefix = f"lensbench/{place.attempt}/{number}"
        self._group: Any = None
        self._met: dict[str, int] = {}
        self._gone = set[int]()
        self._done = threading.Event()
        self._set("beat", self.rank, "0")
        threading.Thread(target=self._beat, name="rank-heartbeat", daemon=True).start()

    # --- meetings

    def meet(self, tag: str, ranks: int | None = None) -> None:
        """Wait until the first ``ranks`` ranks (default: all) have come to ``tag``.

        Raises:
            RankError: one of them failed, or has not been heard of for ``timeout`` seconds.
        """
        self._met[tag] = count = self._met.get(tag, 0) + 1
        self.reach(tag, count, ranks)

    def reach(self, what: str, number: int, ranks: int | None = None, *, wait: bool = True) -> None:
        """Say how far this rank is, and wait until the first ``ranks`` are as far.

        Raises:
            RankError: as :meth:`meet`.
        """
        try:
            self._set(what, self.rank, str(number))
            heard: dict[int, tuple[str, float]] = {}
            others = range(self.world if ranks is None else ranks)
            while wait and any(int(self._get(what, r) or -1) < number for r in others):
                silent = self._silent(heard, self.timeout)
                if silent or self._failures():
                    raise self.lost(f"while waiting for all ranks ({what})", silent)
                time.sleep(PAUSE)
        except RuntimeError as error:  # the store went away, and with it rank 0 or torchrun
            raise self._storeless(error) from error

    def lost(self, when: str, silent: list[int] | None = None) -> RankError:
        """An error that says which rank is missing, and why if that is known."""
        try:
            found = self.absent() if silent is None else self._told(silent)
        except RuntimeError as error:
            return self._storeless(error)
        what = "; ".join(found) or f"no rank is missing, but none answered in {self.timeout:g} s"
        return RankError(f"rank {self.rank} of {self.world} stops {when}: {what}")

    def absent(self) -> list[str]:
        """Which ranks failed or are gone, in words (listens for a while)."""
        heard: dict[int, tuple[str, float]] = {}
        until = time.monotonic() + LISTEN + 2 * BEAT
        silent = list[int]()
        while time.monotonic() < until and not self._failures():
            silent = self._silent(heard, LISTEN)
            time.sleep(0.1)
        return self._told(silent)

    def _told(self, silent: list[int]) -> list[str]:
        failed = self._failures()
        self._gone |= set(silent)
        return [f"rank {r} ended with {text}" for r, text in failed.items()] + [
            f"rank {r} no longer answers (killed, or its machine is gone)"
            for r in silent
            if r not in failed
        ]

    def leave(self, error: BaseException | None) -> None:
        """Say why this rank ends; where rank 0 keeps the store it stays until the others know."""
        try:
            if error is not None and not isinstance(error, RankError):
                self._set("failed", self.rank, f"{type(error).__name__}: {error}")
                self._hang_up()
            self._set("left", self.rank, "1")
            until = time.monotonic() + LEAVE
            staying = set(range(self.world)) - self._gone
            others = [f"{self._prefix}/left/{r}" for r in staying]
            if self.rank == 0 and not self._place.agent_store:
                while time.monotonic() < until and not self._store.check(others):
                    time.sleep(0.02)
        except RuntimeError:
            pass  # the store is gone, and nobody is left to tell
        self._done.set()

    def _hang_up(self) -> None:
        """End exchanges that others wait in for this rank, while it still can be asked why."""
        if self._group is not None:
            dist.destroy_process_group(self._group)
            self._group = None

    # --- tensors

    def sum_(self, x: Tensor) -> Tensor:
        """Sum over all ranks, in place; the same bits everywhere."""
        return self._reduced(x, dist.ReduceOp.SUM)

    def min_(self, x: Tensor) -> Tensor:
        """Smallest over all ranks, in place."""
        return self._reduced(x, dist.ReduceOp.MIN)

    def max_(self, x: Tensor) -> Tensor:
        """Largest over all ranks, in place."""
        return self._reduced(x, dist.ReduceOp.MAX)

    def all(self, x: Tensor) -> list[Tensor]:
        """Every rank's tensor; all of one shape."""
        out = [torch.empty_like(x) for _ in range(self.world)]
        self._safely(lambda: dist.all_gather(out, x.contiguous(), group=self._tensors()))
        return out

    def ragged(self, x: Tensor, fill: float, dim: int = 0) -> list[Tensor]:
        """Every rank's tensor, made equally long in ``dim`` with ``fill``."""
        size = int(self.max_(torch.tensor(float(x.shape[dim]))))
        short = list(x.shape)
        short[dim] = size - x.shape[dim]
        return self.all(torch.cat([x, x.new_full(short, fill)], dim))

    def _reduced(self, x: Tensor, how: Any) -> Tensor:
        self._safely(lambda: dist.all_reduce(x, op=how, group=self._tensors()))
        return x

    def _safely(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except RuntimeError as error:
            raise self.lost("in an exchange of tensors") from error

    def _tensors(self) -> Any:
        """The group of processes that sums tensors; made at the first need."""
        if self._group is None:
            limit = timedelta(seconds=self.timeout)
            if not dist.is_initialized():
                dist.init_process_group(
                    _backend(), store=self._store, rank=self.rank, world_size=self.world,
                    timeout=limit,
                )  # fmt: skip
            self._group = dist.new_group(timeout=limit)
        return self._group

    # --- signs of life

    def _beat(self) -> None:
        count = 0
        while not self._done.wait(BEAT):
            count += 1
            try:
                self._set("beat", self.rank, str(count))
            except RuntimeError:
                return

    def _silent(self, heard: dict[int, tuple[str, float]], limit: float) -> list[int]:
        """Ranks whose count has not moved for ``limit`` seconds; ``heard`` is what is known."""
        now = time.monotonic()
        for r in range(self.world):
            gone = self._store.check([f"{self._prefix}/left/{r}"])
            count = "left" if gone else self._get("beat", r)
            if r not in heard or heard[r][0] != count or gone:
                heard[r] = (count, now)
        return [r for r, (_, at) in heard.items() if now - at > limit]

    def _failures(self) -> dict[int, str]:
        return {
            r: self._get("failed", r)
            for r in range(self.world)
            if r != self.rank and self._store.check([f"{self._prefix}/failed/{r}"])
        }

    def _get(self, what: str, rank: int) -> str:
        key = f"{self._prefix}/{what}/{rank}"
        return self._store.get(key).decode() if self._store.check([key]) else ""

    def _set(self, what: str, rank: int, value: str) -> None:
        self._store.set(f"{self._prefix}/{what}/{rank}", value)

    def _storeless(self, error: Exception) -> RankError:
        keeper = "torchrun" if self._place.agent_store else "rank 0"
        return RankError(
            f"rank {self.rank} of {self.world} stops: {keeper}, which keeps the store of the job, "
            f"no longer answers ({str(error).splitlines()[0]})"
        )


_known: list[Any] = []
"""The store of this process; one for all its jobs."""


def _store(timeout: float) -> Any:
    if not _known:
        if dist.is_initialized():
            _known.append(dist.distributed_c10d._get_default_store())
        else:
            limit = timedelta(seconds=timeout)
            try:
                _known.append(next(iter(rendezvous("env://", timeout=limit)))[0])
            except (RuntimeError, ValueError) as error:
                raise ConfigError(
                    f"the ranks of the job did not find one another in {timeout:g} s: {error}"
                ) from error
    return _known[0]


def _backend() -> str:
    """NCCL where every rank of this machine has a GPU of its own; otherwise gloo."""
    enough = torch.cuda.device_count() >= Place.per_machine()
    return "cpu:gloo,cuda:nccl" if enough and dist.is_nccl_available() else "gloo"
