"""Text by the name a user typed: a file, or generated documents of a world."""

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensbench.errors import ConfigError, MissingDataError, UnknownNameError

if TYPE_CHECKING:
    from lensbench.harvest import Text
    from lensbench.worlds.corpora import LabelledCorpus

WORLDS = ("atlas", "othello", "words", "desk", "translate")
"""Worlds whose documents are made on the spot: ``atlas:N``, or ``atlas:N:SPLIT:SEED``."""


def splits_of(world: str) -> tuple[str, ...]:
    """What the documents of a world are divided into, the usual part first."""
    from lensbench.worlds import desk, translate
    from lensbench.worlds.atlas import SPLITS
    from lensbench.worlds.othello import games

    known: dict[str, tuple[str, ...]] = {
        "othello": games.SPLITS,
        "words": ("train",),
        "desk": desk.SPLITS,
        "translate": translate.SPLITS,
    }
    found = known.get(world, SPLITS)
    return ("train", *(split for split in found if split != "train"))


def find_text(name: str) -> Any:
    """What ``lensbench.capture`` takes as text: a path, or documents of a world.

    ``atlas:N`` are labelled sentences, ``othello:N`` games on the 6x6 board, ``words:N`` texts of
    96 symbols, which have no split but ``train``; ``desk:N`` (questions, answered or refused) and
    ``translate:N`` (sentences to translate) are texts without labels.

    Raises:
        MissingDataError: no such file.
        ConfigError: a malformed name of a world's text.
    """
    if name.partition(":")[0] in WORLDS and not Path(name).exists():
        return _generated(name)
    path = Path(name)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise MissingDataError(
            f"--text {name}: {what}; give a .txt or .jsonl file, or documents of a world: "
            f"{', '.join(f'{world}:N' for world in WORLDS)}"
        )
    return path


def _generated(name: str) -> "LabelledCorpus | Text":
    from lensbench.worlds.atlas import Atlas
    from lensbench.worlds.othello.corpus import OthelloCorpus
    from lensbench.worlds.words import WordsCorpus

    world, *parts = name.split(":")
    count, split, seed = [*parts, *["2000", "train", "0"][len(parts) :]][:3]
    if len(parts) > 3 or not count.isdigit() or not int(count) or not seed.isdigit():
        raise ConfigError(f"--text {name}: write {world}:N, or {world}:N:SPLIT:SEED")
    if split not in splits_of(world):
        raise UnknownNameError("split", split, known=splits_of(world))
    if world == "words":
        return WordsCorpus.sample(int(count), int(seed))
    if world in ("desk", "translate"):
        return _plain(world, int(count), split, int(seed))
    sample: Any = OthelloCorpus.sample if world == "othello" else Atlas(0).sample
    return sample(int(count), split, int(seed))


def _plain(world: str, n: int, split: Any, seed: int) -> "Text":
    """Documents without labels, as text; padded, because they share no context."""
    from lensbench import io
    from lensbench.harvest import Text
    from lensbench.worlds.desk import Desk
    from lensbench.worlds.translate import Translations

    if world == "desk":  # spoken documents end with [EOS], which is no word of theirs
        said = (" ".join(words[:-1]) for _, words in Desk(0).documents(split, seed))
    else:
        said = (" ".join(pair.source) for pair in Translations(0).stream(split, seed))
    documents = list(islice(said, n))
    entry = {"kind": world, "name": f"{world}:{n}:{split}:{seed}",
             "fingerprint": io.fingerprint(documents)}  # fmt: skip
    return Text(entry, lambda: iter(documents), layout="pad")
