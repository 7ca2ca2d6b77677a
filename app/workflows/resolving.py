"""What a sweep comes to before anything is opened: files, environment and ``--set`` resolved."""

from pathlib import Path
from typing import Any

import yaml

from lensbench.app.workflows.sweeps import TrainRequest, read_sweep


def resolved(files: tuple[Path, ...], assign: tuple[str, ...]) -> dict[str, Any]:
    """The configuration with every default, its grids expanded, and the same as YAML.

    Sites are not looked up, so patterns stay, and an entry may have none yet.

    Raises:
        ConfigError: every fault with its key and the nearest known one.
    """
    sweep = read_sweep(TrainRequest(config=files, assign=assign))
    tree = sweep.to_dict() | {"sweep": [one.to_dict() for one in sweep.expand()]}
    head = f"# {len(tree['sweep'])} dictionaries, {sweep.train.steps:,} steps each\n"
    return {"config": tree, "yaml": head + yaml.safe_dump(tree, sort_keys=False)}
