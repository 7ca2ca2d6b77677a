"""Tiny models of the words language, trained once per session for the tests that need one.

``words_model(factory)`` gives the folder of a LayerSkip model, ``plain=True`` that of one trained
on its last layer alone; both load with ``lensbench.load_model``. Training takes tens of seconds
each, so a test that asks for one is ``slow``.
"""

from pathlib import Path

import pytest

from lensbench.worlds.task import parse_recipe
from lensbench.worlds.training import train_world
from lensbench.worlds.words import Words

TINY = {"model": "words", "steps": 600, "adam_lr": 4e-3, "n_layers": 4, "d_model": 48, "n_heads": 4,
        "d_mlp": 128, "evaluate_every": 0, "card": False, "device": "cpu"}  # fmt: skip
_trained: dict[bool, Path] = {}


def words_world() -> Words:
    """The language those models speak."""
    return Words(0)


def words_model(factory: pytest.TempPathFactory, *, plain: bool = False) -> Path:
    """Folder of a model of 4 layers and d_model 48, in the hub's format."""
    if plain not in _trained:
        out = factory.mktemp("words") / ("plain" if plain else "layerskip")
        _trained[plain] = train_world(parse_recipe({**TINY, "out": out, "plain": plain}))
    return _trained[plain]
