"""The final norm with its denominator held: what is added to the stream, as a share of the logits.

A contribution has no scale of its own. With the denominator s of the *full* last state the norm is
linear, so that shares add up: over all that enters the stream, with :meth:`HeldNorm.constant`, they
are the model's logits, before a cap.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.errors import ConfigError
from lensbench.models.matrices import ends_of

if TYPE_CHECKING:
    from lensbench.models import Model


@dataclass(frozen=True, eq=False)
class HeldNorm:
    """The final norm with its denominator held at that of the full state, and the unembedding."""

    scale: Float[Tensor, "tokens 1"]
    gain: Float[Tensor, " d_model"]
    shift: Float[Tensor, " d_model"]
    centres: bool
    W_U: Float[Tensor, "d_model d_vocab"]
    b_U: Float[Tensor, " d_vocab"]

    def logits(
        self, term: Float[Tensor, "tokens d_model"], part: slice
    ) -> Float[Tensor, "columns d_vocab"]:
        """Share of the logits that ``term`` has at some columns."""
        x = term[part].float()
        if self.centres:
            x = x - x.mean(-1, keepdim=True)
        return (x * self.gain / self.scale[part]) @ self.W_U

    def constant(self) -> Float[Tensor, " d_vocab"]:
        """What no component brings: the norm's bias and that of the unembedding."""
        return self.shift @ self.W_U + self.b_U


def held_norm(model: "Model", scale: Float[Tensor, "tokens 1"]) -> HeldNorm:
    """The final norm of a native model, held at ``scale`` (its site ``ln_final.scale``).

    Raises:
        ConfigError: another back end, or a head that is more than one matrix.
    """
    if model.card.backend != "native":
        raise ConfigError(
            f"the norm is held with the weights of a transformers model; {model.card.name!r} is "
            f"reached through {model.card.backend}. Use norm='own', or load_model"
        )
    ends, module = ends_of(model), getattr(model, "module", None)
    table, d = ends.table, model.card.d_model
    gain = torch.ones(d, device=table.device) if ends.gain is None else ends.gain
    architecture: Any = model.layout.architecture  # pyright: ignore[reportAttributeAccessIssue] - native
    path = architecture.stacks[architecture.main].final_norm
    norm: Any = None if path is None else module.get_submodule(path)  # pyright: ignore[reportOptionalMemberAccess] - native
    shift = getattr(norm, "bias", None)
    bias = getattr(module.get_output_embeddings(), "bias", None)  # pyright: ignore[reportOptionalMemberAccess]
    return HeldNorm(
        scale=scale.to(table.device).float(),
        gain=gain,
        shift=torch.zeros_like(gain) if shift is None else shift.detach().float(),
        centres=ends.centres,
        W_U=table.T,
        b_U=table.new_zeros(len(table)) if bias is None else bias.detach().float(),
    )
