"""Which process of a job this is, from the variables that ``torchrun`` sets (no torch needed)."""

import os
from dataclasses import dataclass

from lensbench.errors import ConfigError


@dataclass(frozen=True)
class Place:
    """A process among those that were started together."""

    rank: int = 0
    """Its number, from 0, over all machines."""
    world: int = 1
    """How many there are."""
    local_rank: int = 0
    """Its number on its own machine: which GPU it takes."""
    attempt: str = "0"
    """How often ``torchrun`` has started the job again."""
    agent_store: bool = False
    """Whether ``torchrun`` itself keeps the store through which processes meet."""

    @staticmethod
    def per_machine() -> int:
        """Processes of the job on this machine."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")))


def place() -> Place:
    """Where this process stands; rank 0 of 1 where nothing was said.

    Raises:
        ConfigError: variables that contradict one another.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return Place()
    try:
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        local = int(os.environ.get("LOCAL_RANK", rank))
    except ValueError as error:
        raise ConfigError(f"RANK, WORLD_SIZE and LOCAL_RANK must be numbers: {error}") from None
    if not 0 <= rank < world:
        raise ConfigError(
            f"RANK is {rank} and WORLD_SIZE {world}; ranks are 0 to WORLD_SIZE - 1 (torchrun sets "
            "them; unset both to train in one process)"
        )
    if world > 1 and (
        missing := [n for n in ("MASTER_ADDR", "MASTER_PORT") if n not in os.environ]
    ):
        raise ConfigError(
            f"WORLD_SIZE is {world}, but {' and '.join(missing)} not set; start with torchrun, or "
            "say where rank 0 can be reached"
        )
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return Place(rank, world, local, os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), agent)
