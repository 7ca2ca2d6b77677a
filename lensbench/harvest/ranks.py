"""Several processes on one store: who is who, and waiting for each other (torchrun)."""

import os

import torch.distributed as dist


def place() -> tuple[int, int]:
    """Rank and number of ranks; ``(0, 1)`` outside torchrun."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def together() -> None:
    """Wait until every rank is here; nothing to do for a single one."""
    rank, world = place()
    if world == 1:
        return
    if not dist.is_initialized():
        dist.init_process_group("gloo", rank=rank, world_size=world)
    dist.barrier()
