"""Whether a sweep fits, said before anything is written."""

import shutil
from pathlib import Path
from typing import Any

import torch

from lensbench.errors import BudgetError
from lensbench.saes.configs import SweepConfig
from lensbench.saes.ends import Ends, all_sites
from lensbench.saes.training.downstream import downstream_of
from lensbench.saes.training.forecast import MemoryPlan, plan_memory, size
from lensbench.saes.training.groups import check_widths
from lensbench.saes.training.resident import free_bytes, planned


def required(
    sweep: SweepConfig,
    source: Any,
    ends: list[Ends],
    device: torch.device,
    out: Path | None,
    portion: float = 1.0,
) -> str:
    """Refuse a sweep that the device or the disk cannot hold; else what :func:`planned` says.

    ``portion`` is that of each dictionary which this process holds.
    A source that does not say its widths is not judged.

    Raises:
        BudgetError: says what is needed, what there is, and what would lower it.
        MismatchError: a crosscoder of sites of different widths that does not allow them.
        ConfigError: see :func:`planned` and :func:`downstream_of`.
    """
    downstream_of(source, sweep.expand(), ends)
    held = planned(source, sweep, device)
    if not callable(getattr(source, "width", None)):
        return held
    sites = all_sites(ends)
    widths = {site: source.width(site) for site in sites}
    for config, one in zip(sweep.expand(), ends, strict=True):
        check_widths([config], one, widths)
    plan = plan_memory(sweep, widths, sites[0])
    free = free_bytes(device)
    needed = int(portion * plan.memory_bytes)
    if free is not None and needed > free:
        raise BudgetError(
            f"{_told(plan)} need {size(needed)} of memory, and {device} has "
            f"{size(free)} free; train fewer at a time (--array i/n), lower d_sae or train.batch, "
            "divide them over devices (torchrun, train.parallel), or use a larger device"
        )
    if out is None:
        return held
    left = shutil.disk_usage(_existing(out)).free + _own_bytes(out)
    if plan.disk_bytes > left:
        raise BudgetError(
            f"{_told(plan)} write up to {size(plan.disk_bytes)}, and {out} has {size(left)} left; "
            "keep fewer checkpoints (train.keep: 1), train fewer, or choose another folder"
        )
    return held


def _told(plan: MemoryPlan) -> str:
    many = "dictionary" if plan.dictionaries == 1 else "dictionaries"
    return f"{plan.dictionaries:,} {many} ({plan.parameters:,} parameters)"


def _own_bytes(out: Path) -> int:
    """What a run that goes on has written there already: it is counted among its needs."""
    return sum(file.stat().st_size for file in out.rglob("*.safetensors")) if out.is_dir() else 0


def _existing(path: Path) -> Path:
    """The nearest folder above that exists already."""
    path = path.resolve()
    return next(p for p in (path, *path.parents) if p.exists())
