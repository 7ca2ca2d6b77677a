"""Text by the name a user typed: a file, or generated documents of a world."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensbench.errors import ConfigError, MissingDataError, UnknownNameError

if TYPE_CHECKING:
    from lensbench.worlds.corpora import LabelledCorpus


def find_text(name: str) -> Any:
    """What ``lensbench.capture`` takes as text: a path, or a labelled corpus for ``atlas:N``.

    ``othello:N`` are games on the 6x6 board, ``words:N`` texts of 96 symbols, which have no split
    but ``train``.

    Raises:
        MissingDataError: no such file.
        ConfigError: a malformed name of a world's text.
    """
    from lensbench.worlds.corpora import WORLDS

    if name.partition(":")[0] in WORLDS and not Path(name).exists():
        return _generated(name)
    path = Path(name)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise MissingDataError(
            f"--text {name}: {what}; give a .txt or .jsonl file, atlas:N, othello:N or words:N"
        )
    return path


def _generated(name: str) -> "LabelledCorpus":
    from lensbench.worlds.atlas import SPLITS, Atlas
    from lensbench.worlds.othello import games
    from lensbench.worlds.othello.corpus import OthelloCorpus
    from lensbench.worlds.words import WordsCorpus

    world, *parts = name.split(":")
    count, split, seed = [*parts, *["2000", "train", "0"][len(parts) :]][:3]
    if len(parts) > 3 or not count.isdigit() or not int(count) or not seed.isdigit():
        raise ConfigError(f"--text {name}: write {world}:N, or {world}:N:SPLIT:SEED")
    splits: dict[str, tuple[str, ...]] = {"othello": games.SPLITS, "words": ("train",)}
    known = splits.get(world, SPLITS)
    if split not in known:
        raise UnknownNameError("split", split, known=known)
    if world == "words":
        return WordsCorpus.sample(int(count), int(seed))
    sample: Any = OthelloCorpus.sample if world == "othello" else Atlas(0).sample
    return sample(int(count), split, int(seed))
