"""The whole store in the memory of the device, where it fits: nothing is read while training."""

from pathlib import Path
from typing import Any

import torch

from lensbench.errors import BudgetError, ConfigError
from lensbench.saes.configs import SweepConfig
from lensbench.saes.training.forecast import plan_memory, size
from lensbench.store.source import StoreSource

_SPARE = 0.9
"""Share of the free memory that may be taken: allocators need some room."""
_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def planned(source: Any, sweep: SweepConfig, device: torch.device) -> str:
    """Whether ``source`` is to be held on ``device`` (``train.in_memory``): a line that says so.

    ``auto`` holds it on a GPU only, where rows and dictionaries take at most nine tenths of what is
    free there; a CPU reads through the page cache anyhow. Empty where rows are streamed. Batches
    are the same either way, bit for bit.

    Raises:
        ConfigError: ``in_memory: true`` for something other than a store.
        BudgetError: ``in_memory: true`` and it does not fit; says the sizes.
    """
    wanted = sweep.train.in_memory
    if not isinstance(source, StoreSource):
        if wanted is True:
            raise ConfigError(
                f"train.in_memory holds the rows of a store, not of a {type(source).__name__}; "
                "capture into a store, or leave it out"
            )
        return ""
    if wanted is False or (wanted == "auto" and device.type != "cuda"):
        return ""
    widths = {site: source.width(site) for site in source.sites}
    sweeps = plan_memory(sweep, widths, source.sites[0]).memory_bytes
    free = free_bytes(device)
    if free is None or source.nbytes + sweeps > _SPARE * free:
        if wanted is True:
            raise BudgetError(_refusal(source, sweeps, free, device))
        return ""
    return f"all {source.n_rows:,} rows of the store ({size(source.nbytes)}) are held on {device}"


def _refusal(source: StoreSource, sweeps: int, free: int | None, device: torch.device) -> str:
    have = "an amount nobody tells" if free is None else f"{size(free)} (of it {_SPARE:.0%} usable)"
    return (
        f"train.in_memory: the {source.n_rows:,} rows take {size(source.nbytes)} and the sweep "
        f"{size(sweeps)}, but {device} has {have} free. Leave in_memory out to stream the store, "
        "train fewer sites or dictionaries, or use a larger device"
    )


def free_bytes(device: torch.device) -> int | None:
    """Memory that may still be taken on ``device``; None where it is not known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu" or not _MEMINFO.is_file():
        return None
    found = [line.split() for line in _MEMINFO.read_text().splitlines()]
    machine = [int(words[1]) * 1024 for words in found if words[0] == "MemAvailable:"]
    return min([*machine, *_group_free()], default=None)


def _group_free() -> list[int]:
    """What is left to the control group of this process, where it has a limit."""
    limit, used = (_CGROUP / name for name in ("memory.max", "memory.current"))
    if not (limit.is_file() and used.is_file()) or limit.read_text().strip() == "max":
        return []
    return [int(limit.read_text()) - int(used.read_text())]
