"""From states to logits, as the module does it: norm, projection, head, bias, scale and cap."""

import copy
from typing import Any

import torch
from torch import Tensor

from lensbench.models.families import Architecture
from lensbench.models.ranges.plain import plain_twin


class Unembedding:
    """The end of a network, callable on any state of the residual stream."""

    def __init__(self, module: Any, architecture: Architecture) -> None:
        family = architecture.stacks[architecture.main]
        path = family.final_norm
        self._norm = None if path is None else module.get_submodule(path)
        heads = [module.get_submodule(path) for path in architecture.head]
        self._heads: list[Any] = heads or [module.get_output_embeddings()]
        decoder = getattr(module.base_model, "decoder", None)
        self._project: Any = getattr(decoder, "project_out", None)  # OPT's narrow embeddings
        scaled = getattr(module.config, "scale_decoder_outputs", False)  # T5 with tied embeddings
        self._scale = float(module.config.hidden_size) ** -0.5 if scaled else None
        self._bias: Tensor | None = getattr(module, "final_logits_bias", None)
        self._cap: float | None = getattr(module.config, "final_logit_softcapping", None)

    def plain(self) -> "Unembedding":
        """The same without the hooks that stand on its modules."""
        twin = copy.copy(self)
        twin._norm = None if self._norm is None else plain_twin(self._norm)
        twin._heads = [plain_twin(head) for head in self._heads]
        return twin

    def normed(self, hidden: Tensor) -> Tensor:
        """Logits of states that the final norm has already seen."""
        if self._scale is not None:
            hidden = hidden * self._scale
        weight: Any = getattr(self._heads[0], "weight", None)
        if weight is not None and weight.is_floating_point():  # a stream kept in float32 (Mamba)
            hidden = hidden.to(weight.dtype)
        for head in self._heads:
            hidden = head(hidden)
        if self._bias is not None:
            hidden = hidden + self._bias.to(hidden.device)
        return hidden if self._cap is None else torch.tanh(hidden / self._cap) * self._cap

    def __call__(self, resid: Tensor, *, norm: bool = True) -> Tensor:
        """Logits of states of the residual stream; ``norm=False`` leaves the final norm out."""
        hidden = resid if self._norm is None or not norm else self._norm(resid)
        return self.normed(hidden if self._project is None else self._project(hidden))
