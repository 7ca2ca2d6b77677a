"""Training on the atlas by the LayerSkip recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lensbench.errors import ConfigError
from lensbench.models.weights import fingerprint
from lensbench.worlds.atlas_task import AtlasTask, tensors_of
from lensbench.worlds.batches import batch_at
from lensbench.worlds.early_recipe import EarlyTrainConfig
from lensbench.worlds.layer_skip import exit_weights, kept_layers
from lensbench.worlds.layer_skip_loss import layer_skip_loss
from lensbench.worlds.starting import start_of


class EarlyTask(AtlasTask):
    """The :class:`~lensbench.worlds.task.Task` of atlas-early."""

    config: EarlyTrainConfig

    def __init__(self, config: EarlyTrainConfig) -> None:
        if config.compile:
            raise ConfigError(
                "atlas-early runs other layers at every step, which torch.compile would compile "
                "anew each time; leave compile out"
            )
        super().__init__(config)
        if config.start:  # other weights to start from are another run
            self.speaks += " " + fingerprint(self.new_model())

    def new_model(self) -> Any:
        """The model it starts from; freshly initialised where it starts from none."""
        config = self.config
        d_vocab = len(self.world.vocab)
        return start_of(config.start, config, d_vocab) if config.start else super().new_model()

    def loss(self, model: Any, step: int) -> Tensor:
        """The weighted losses of the exits of ``step``."""
        config = self.config
        batch = batch_at(
            self.world, step, seed=config.seed, rows=config.rows, width=config.n_ctx,
            pool=config.pool(step),
        )  # fmt: skip
        device = next(model.parameters()).device
        tokens, targets, positions, mask = tensors_of(batch, device)
        sizes = (config.layer_skip, config.n_layers)
        with torch.autocast(device.type, torch.bfloat16):
            return layer_skip_loss(
                model, tokens, targets,
                weights=exit_weights(*sizes, step, config.steps),
                kept=kept_layers(*sizes, config.rows, step, config.steps, seed=config.seed),
                positions=positions, mask=mask,
            )  # fmt: skip

    def write_card(self, folder: Path) -> Path:
        """Figures of :mod:`lensbench.worlds.early_card`."""
        from lensbench.worlds.early_card import write_card

        return write_card(folder)
