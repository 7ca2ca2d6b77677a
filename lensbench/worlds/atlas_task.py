"""Training on the atlas: packed documents through a Llama."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lensbench.worlds.atlas import Atlas
from lensbench.worlds.batches import IGNORE, Batch, batch_at
from lensbench.worlds.recipe import WorldTrainConfig


class AtlasTask:
    """The :class:`~lensbench.worlds.task.Task` of the atlas."""

    family = ""
    """The only family that speaks (empty: all of them)."""

    def __init__(self, config: WorldTrainConfig) -> None:
        self.config = config
        self.world = Atlas(config.world_seed, config.variant)
        self.speaks = " ".join((*self.world.vocab, *self.world.template_names))
        self._loss = torch.compile(packed_loss) if config.compile else packed_loss

    def new_model(self) -> Any:
        """A freshly initialised ``LlamaForCausalLM``."""
        return new_model(self.config, len(self.world.vocab))

    def loss(self, model: Any, step: int) -> Tensor:
        """Cross entropy of the next token of the same document."""
        config = self.config
        batch = batch_at(
            self.world,
            step,
            seed=config.seed,
            rows=config.rows,
            width=config.n_ctx,
            pool=config.pool(step),
            family=self.family,
        )
        return self._loss(model, *tensors_of(batch, next(model.parameters()).device))

    def scores(self, model: Any) -> dict[str, float]:
        """Accuracy per family."""
        from lensbench.worlds.scoring import accuracy_by_family

        return accuracy_by_family(self.world, model, n=100, seed=1)

    def save_tokenizer(self, folder: Path) -> Path:
        """The word-level tokenizer of the world."""
        return self.world.save_tokenizer(folder)

    def write_card(self, folder: Path) -> Path:
        """Figures of :mod:`lensbench.worlds.card`."""
        from lensbench.worlds.card import write_card

        return write_card(folder)


def new_model(config: WorldTrainConfig, d_vocab: int) -> Any:
    """A freshly initialised ``LlamaForCausalLM``."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(config.seed)
    # Plain attention: the fused CPU kernel took half of a step at these widths (measured).
    settings: dict[str, Any] = {**config.llama(d_vocab), "attn_implementation": "eager"}
    return LlamaForCausalLM(LlamaConfig(**settings))


def tensors_of(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens, targets, positions and mask (true where a query sees a key) of a batch."""
    arrays = (batch.tokens, batch.targets, batch.positions, batch.mask())
    tokens, targets, positions, mask = (torch.from_numpy(a).to(device) for a in arrays)
    # A padding query sees itself, so that no row of scores is empty.
    eye = torch.eye(mask.shape[-1], dtype=torch.bool, device=device)
    return tokens, targets, positions, mask | eye


def packed_loss(
    model: nn.Module, tokens: Tensor, targets: Tensor, positions: Tensor, mask: Tensor
) -> Tensor:
    """Mean cross entropy of the next token of the same document, nats."""
    additive = torch.zeros_like(mask, dtype=torch.bfloat16).masked_fill(~mask, -3e4)
    with torch.autocast(tokens.device.type, torch.bfloat16):
        out = model(
            input_ids=tokens, position_ids=positions, attention_mask=additive, use_cache=False
        )
    return nn.functional.cross_entropy(
        out.logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORE
    )
