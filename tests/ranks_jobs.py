"""Real processes for tests of several ranks: started clean, one torch thread each, on 127.0.0.1."""

import multiprocessing
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

D, BATCH = 12, 30
SITES = ("blocks.0.resid_post", "blocks.1.resid_post")
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.ranks_jobs", "lensbench.saes.training.trainer"])


class Source:
    """Two sites of seeded noise around a few directions; the position is a number.

    At batch ``at`` the process with rank ``rank`` sends itself ``signal``, or raises.
    """

    sites = SITES

    def __init__(self, rank: int = -1, at: int = -1, what: int | None = None) -> None:
        self._at, self._rank, self._when, self._what = 0, rank, at, what

    def width(self, site: str) -> int:
        assert site in self.sites
        return D

    def batches(self, batch_size: int) -> Iterator[dict[str, Tensor]]:
        while True:
            if self._at == self._when and self._rank == int(os.environ.get("RANK", 0)):
                if self._what is None:
                    raise RuntimeError("the disk is full")
                os.kill(os.getpid(), self._what)
            rng = torch.Generator().manual_seed(self._at)
            atoms = torch.randn(20, D, generator=torch.Generator().manual_seed(7))
            found = {}
            for site in self.sites:
                on = torch.rand(batch_size, 20, generator=rng) < 0.15
                found[site] = on.float() @ atoms + 0.1 * torch.randn(batch_size, D, generator=rng)
            self._at += 1
            yield found

    def state_dict(self) -> dict[str, Any]:
        return {"at": self._at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._at = state["at"]


def sweep(*, steps: int = 40, entries: Any = None, **changes: Any) -> dict[str, Any]:
    train = {"tokens": steps * BATCH, "batch_size": BATCH, "log_every": 7, "engine": "dense"}
    train |= {"checkpoint_every": 10, "rank_timeout": 20.0}
    site = {"site": SITES[0]}
    default = [
        {
            "architecture": "topk",
            "d_sae": 64,
            "k": [3, 5],
            "lr": 3e-3,
            "dead_after": 200,
            "aux_k": 2,
        }
        | site,
        {"architecture": "batchtopk", "d_sae": 65, "k": 3, "lr": 3e-3, "dead_after": 200} | site,
        {"architecture": "relu", "d_sae": 48, "l1_coefficient": 1.0, "site": SITES[1]},
    ]
    return {"train": train | changes, "sweep": default if entries is None else entries}


def train(source: Any, config: dict[str, Any], **options: Any) -> Any:
    from lensbench import saes

    return saes.train(source, config, progress=False, device="cpu", **options)


def run(world: int, work: Callable[..., None], *args: Any, seconds: float = 60) -> list[str]:
    """What each rank said at its end: nothing, its error, or the signal it died of."""
    return wait(start(world, work, *args), seconds)


def start(world: int, work: Callable[..., None], *args: Any) -> "list[tuple[Any, Any]]":
    port = free_port()
    jobs = []
    for rank in range(world):
        ours, theirs = _context.Pipe(duplex=False)
        process = _context.Process(target=_rank, args=(rank, world, port, theirs, work, args))
        process.start()
        theirs.close()
        jobs.append((process, ours))
    return jobs


def wait(jobs: "list[tuple[Any, Any]]", seconds: float = 60) -> list[str]:
    until, said = time.monotonic() + seconds, []
    for process, pipe in jobs:
        process.join(max(0.0, until - time.monotonic()))
        if process.exitcode is None:
            process.kill()
            process.join()
            said.append("hung")
        elif process.exitcode < 0:
            said.append(signal.Signals(-process.exitcode).name)
        else:
            said.append(pipe.recv())
        pipe.close()
    return said


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _rank(
    rank: int, world: int, port: int, pipe: Any, work: Callable[..., None], args: tuple[Any, ...]
) -> None:
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    torch.set_num_threads(1)
    try:
        work(*args)
    except BaseException as error:
        traceback.print_exc(file=sys.stderr)
        pipe.send(f"{type(error).__name__}: {error}")
    else:
        pipe.send("")
    finally:
        pipe.close()


def trained(config: dict[str, Any], out: Path, how: tuple[Any, ...], options: Any) -> None:
    """What most ranks do: train, from a source that may come to harm."""
    train(Source(*how), config, out=out, **options)


def harmed(config: dict[str, Any], out: Path, rank: int, number: int, what: int) -> None:
    """Rank ``rank`` sends itself a signal inside its ``number``-th write of tensors."""
    from lensbench import io

    write, count = io.write_arrays, 0

    def counted(path: Path, *args: Any) -> None:
        nonlocal count
        count += 1
        if count == number and os.environ["RANK"] == str(rank):
            os.kill(os.getpid(), what)
        write(path, *args)

    io.write_arrays = counted
    train(Source(), config, out=out)


def one_that_never_comes(out: Path) -> None:
    """Rank 1 ends before it has said a word."""
    if os.environ["RANK"] == "0":
        train(Source(), sweep(rank_timeout=1.0), out=out)


def kept_with_ties(out: Path) -> None:
    """Which of these rows each rank keeps, written to ``out``."""
    from lensbench.saes.distributed.environment import place
    from lensbench.saes.distributed.job import Job
    from lensbench.saes.distributed.latents import largest_of_rows

    rank = place().rank
    job = Job(place(), 20.0, 1)
    rows = [[5.0, 1.0, 4.0], [2.0, 2.0, 2.0], [0.0, -1.0, -2.0]]
    mine = torch.tensor(rows)[:, : 3 - rank]  # the ranks hold unequal numbers of latents
    kept = largest_of_rows(job, mine, 3)
    torch.save({"kept": kept, "values": mine}, out / f"{rank}.pt")
    job.leave(None)
