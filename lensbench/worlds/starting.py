"""Models that do not start from random weights but from those of a model of the atlas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lensbench.errors import ConfigError, MismatchError, UnknownNameError
from lensbench.worlds.recipe import TrainConfig

SIZES = {
    "n_layers": "num_hidden_layers",
    "d_model": "hidden_size",
    "n_heads": "num_attention_heads",
    "d_mlp": "intermediate_size",
}


def start_of(name: str, config: TrainConfig, d_vocab: int) -> Any:
    """The model of ``name`` in fp32, to train on.

    Raises:
        UnknownNameError: no such bundled model or folder.
        MismatchError: a model of other words.
        ConfigError: sizes that are not its own.
    """
    from lensbench.worlds.card import load_module

    torch.manual_seed(config.seed)
    model = load_module(folder_of(name))
    model.set_attn_implementation("eager")  # faster at these widths, as in training
    if model.config.vocab_size != d_vocab:
        raise MismatchError(
            f"{name!r} knows {model.config.vocab_size} words and the atlas has {d_vocab}; start "
            "from a model of the atlas, such as atlas-dense"
        )
    for ours, theirs in SIZES.items():
        if ours not in type(config).model_fields:
            continue
        size, given = getattr(model.config, theirs), getattr(config, ours)
        untouched = type(config).model_fields[ours].default
        if given not in (size, untouched):
            raise ConfigError(
                f"{ours}={given}, but {name!r} has {size}: fine-tuning keeps the sizes; leave "
                f"{ours} out"
            )
    return model.train()


def folder_of(name: str) -> Path:
    """Folder of a bundled model, or the folder itself.

    Raises:
        UnknownNameError: neither.
    """
    from lensbench.models.disk import bundled_models

    known = bundled_models()
    found = known.get(name, Path(name))
    if not (found / "config.json").is_file():
        raise UnknownNameError("model to start from", name, known=tuple(known))
    return found
