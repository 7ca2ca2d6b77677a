"""Text by the name a user typed: a file, or generated documents of a world."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensbench.errors import ConfigError, MissingDataError, UnknownNameError

if TYPE_CHECKING:
    from lensbench.worlds.atlas import Corpus


def find_text(name: str) -> Any:
    """What ``lensbench.capture`` takes as text: a path, or a labelled corpus for ``atlas:N``.

    Raises:
        MissingDataError: no such file.
        ConfigError: a malformed ``atlas:`` name.
    """
    if name.partition(":")[0] == "atlas" and not Path(name).exists():
        return _generated(name)
    path = Path(name)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise MissingDataError(f"--text {name}: {what}; give a .txt or .jsonl file, or atlas:N")
    return path


def _generated(name: str) -> "Corpus":
    from lensbench.worlds.atlas import SPLITS, Atlas

    parts = name.split(":")[1:]
    count, split, seed = [*parts, *["2000", "train", "0"][len(parts) :]][:3]
    if len(parts) > 3 or not count.isdigit() or not int(count) or not seed.isdigit():
        raise ConfigError(f"--text {name}: write atlas:N, or atlas:N:SPLIT:SEED")
    if split not in SPLITS:
        raise UnknownNameError("split", split, known=SPLITS)
    return Atlas(0).sample(int(count), split, int(seed))
