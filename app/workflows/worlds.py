"""Sampling a world's text and training its model."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lensbench.app.workflows.settings import assignments, merged
from lensbench.config import load_mapping
from lensbench.errors import ConfigError, UnknownNameError


def sample_world(
    out: Path,
    *,
    n_docs: int,
    split: str,
    seed: int,
    world: str = "atlas",
    overwrite: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Write ``n_docs`` documents of a world as JSON lines.

    ``options`` are ``world_seed``, ``variant`` and ``family`` of the atlas, ``size`` of othello,
    ``world_seed`` of words.

    Raises:
        UnknownNameError: an unknown world, split, variant or family.
        ConfigError: ``out`` exists and ``overwrite`` is off, or is a folder; an option of another
            world.
    """
    from lensbench.worlds.corpora import WORLDS

    _one_of("world", world, WORLDS)
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        if name not in _OPTIONS[world]:
            flag = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{flag} is no option of {world}; it has: {_flags(world)}")
    sampler = {"othello": _games, "words": _spellings}.get(world, _sentences)
    sample, write = sampler(n_docs, split, seed, **given)
    if out.is_dir():
        raise ConfigError(f"--out {out} is a folder; name a file in it, such as {out / 'w.jsonl'}")
    if out.exists() and not overwrite:
        raise ConfigError(f"{out} exists already; choose another --out, or add --overwrite")
    corpus = sample()
    write(corpus, out)
    return {
        "file": str(out),
        "documents": corpus.n_docs,
        "tokens": len(corpus.tokens),
        "split": split,
        "vocabulary": len(corpus.vocab),
    }


_OPTIONS = {
    "atlas": ("world_seed", "variant", "family"),
    "othello": ("size",),
    "words": ("world_seed",),
}


def _flags(world: str) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in _OPTIONS[world])


def _sentences(
    n_docs: int,
    split: str,
    seed: int,
    *,
    world_seed: int = 0,
    variant: str = "english",
    family: str = "",
) -> tuple[Callable[[], Any], Callable[..., Path]]:
    """What samples the atlas and what writes it, once the names are known to be right."""
    from lensbench.worlds.atlas import SPLITS, Atlas, write_jsonl

    _one_of("split", split, SPLITS)
    _one_of("variant", variant, ("english", "equal"))
    world: Any = Atlas(world_seed, variant)  # pyright: ignore[reportArgumentType] - checked above
    if family:
        _one_of("family", family, world.families)
    return lambda: world.sample(n_docs, split, seed, family=family), write_jsonl


def _games(
    n_docs: int, split: str, seed: int, *, size: int = 6
) -> tuple[Callable[[], Any], Callable[..., Path]]:
    """The same of Othello; the size is checked where games are made."""
    from lensbench.worlds.othello.corpus import OthelloCorpus, write_jsonl
    from lensbench.worlds.othello.games import SPLITS

    _one_of("split", split, SPLITS)
    games: Any = OthelloCorpus
    return lambda: games.sample(n_docs, split, seed, size=size), write_jsonl


def _spellings(
    n_docs: int, split: str, seed: int, *, world_seed: int = 0
) -> tuple[Callable[[], Any], Callable[..., Path]]:
    """The same of words, which hold nothing out: every text is of the one split."""
    from lensbench.worlds.words.corpus import WordsCorpus, write_jsonl

    _one_of("split", split, ("train",))
    return lambda: WordsCorpus.sample(n_docs, seed, world_seed=world_seed), write_jsonl


def train_world_model(
    config: Path | None,
    given: Mapping[str, Any],
    assign: Sequence[str],
    *,
    detach: bool = False,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Train a world's model from a recipe file, flags and ``--set`` (later ones win).

    ``detach`` starts it as a process of its own and returns at once.
    """
    from lensbench.worlds.recipe import MODELS
    from lensbench.worlds.task import parse_recipe

    base = load_mapping(config) if config is not None else {}
    settings = merged(merged(base, given), assignments(assign))
    if "model" in settings:
        _one_of("model of a world", str(settings["model"]), MODELS)
    recipe = parse_recipe(settings)
    if detach:
        return _detached(recipe)
    from lensbench.worlds.training import train_world

    folder = train_world(recipe, progress)
    return {"model": str(folder), "steps": recipe.steps, "seeds": recipe.seeds}


def _detached(recipe: Any) -> dict[str, Any]:
    from lensbench import io
    from lensbench.app.workflows import detached

    path = recipe.out / "job-recipe.json"  # JSON is YAML: the child reads it with --config
    io.write_text(path, recipe.model_dump_json(indent=2))
    return detached.start(["world", "train", "--config", str(path)], recipe.out)


def _one_of(kind: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise UnknownNameError(kind, name, known=known)
