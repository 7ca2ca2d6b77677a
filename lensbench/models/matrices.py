"""Vectors of neurons in the residual stream, and the table of tokens they are read through."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lensbench.errors import ConfigError, UnknownNameError
from lensbench.models.families import Family, blocks_of, part

if TYPE_CHECKING:
    from lensbench.models import Model

Side = Literal["down", "up", "gate"]
Table = Literal["raw", "rows", "centred"]
SIDES: tuple[Side, ...] = ("down", "up", "gate")
"""``down``: what a neuron writes; ``up`` and ``gate``: what it reads."""
TABLES: tuple[Table, ...] = ("raw", "rows", "centred")


@dataclass(frozen=True)
class Ends:
    """The unembedding as a table, and the gain of the norm before it."""

    table: Float[Tensor, "d_vocab d_model"]
    gain: Float[Tensor, " d_model"] | None
    centres: bool
    """The final norm takes the mean over dimensions away (LayerNorm)."""

    def of(self, kind: Table) -> Float[Tensor, "d_vocab d_model"]:
        """Rows as they are, of one length, or of one length about their mean row.

        Lengths are set to the mean length of the rows, so that probabilities stay comparable. To
        centre without that would change no probability: it moves all logits of a vector alike.
        """
        if kind == "raw":
            return self.table
        rows = self.table - self.table.mean(0) if kind == "centred" else self.table
        lengths = rows.norm(dim=-1, keepdim=True)
        return rows / lengths.clamp_min(torch.finfo(rows.dtype).tiny) * lengths.mean()

    def through(self, vectors: Float[Tensor, "neurons d_model"], *, norm: bool) -> Tensor:
        """The vectors as the final norm passes them on, but for what it divides by."""
        if not norm or self.gain is None:
            return vectors
        if self.centres:
            vectors = vectors - vectors.mean(-1, keepdim=True)
        return vectors * self.gain


def ends_of(model: "Model") -> Ends:
    """The unembedding of a transformers model.

    Raises:
        ConfigError: another back end, an encoder, or a head that is more than one matrix.
    """
    module = _module(model)
    model.require_next_token("reading neurons")
    architecture: Any = model.layout.architecture  # pyright: ignore[reportAttributeAccessIssue]
    head = getattr(module.get_output_embeddings(), "weight", None)
    if architecture.head or head is None or not head.is_floating_point():
        raise ConfigError(
            f"the head of {model.card.name!r} is no plain matrix (quantised, or of several "
            "modules), so its rows say nothing of single tokens"
        )
    table = head.detach().float()
    project = getattr(getattr(module.base_model, "decoder", None), "project_out", None)
    if project is not None:  # OPT's narrow embeddings
        table = table @ project.weight.detach().float()
    path = architecture.stacks[architecture.main].final_norm
    if path is None:
        return Ends(table, None, centres=False)
    norm = module.get_submodule(path)
    if isinstance(norm, nn.LayerNorm):
        weight: Any = norm.weight  # None without elementwise_affine
        gain = None if weight is None else weight.detach().float()
        return Ends(table, gain, centres=True)
    ones = torch.ones(model.card.d_model, device=table.device, dtype=head.dtype)
    return Ends(table, norm(ones).detach().float(), centres=False)  # rms of ones is 1


def vectors_of(model: "Model", side: Side, layer: int) -> Float[Tensor, "neurons d_model"] | None:
    """Rows of the neurons of a layer: what they read or write; None where it has no such matrix.

    Raises:
        UnknownNameError: no such side.
        ConfigError: another back end than the native one, or quantised weights.
    """
    if side not in SIDES:
        raise UnknownNameError("side of a neuron", side, known=SIDES)
    module = _module(model)
    architecture: Any = model.layout.architecture  # pyright: ignore[reportAttributeAccessIssue]
    family: Family = architecture.stacks[architecture.main]
    block = blocks_of(module, family)[layer]
    path = {"down": family.down, "up": family.up, "gate": family.gate}[side]
    if family.fused and side in ("up", "gate"):
        path = family.up
    found: Any = None if path is None else part(block, path)
    if found is None:
        return None
    weight = getattr(found, "weight", None)
    if weight is None or weight.ndim != 2 or not weight.is_floating_point():
        raise ConfigError(f"the MLP of layer {layer} of {model.card.name!r} is no plain matrix "
                          "(quantised?); open the model in its own precision")  # fmt: skip
    linear = isinstance(found, nn.Linear)  # [out, in]; GPT-2's Conv1D is turned round
    rows = weight if linear == (side != "down") else weight.T
    if family.fused and side != "down":  # gate first
        rows = rows.chunk(2)[1 if side == "up" else 0]
    return rows.detach().float()


def _module(model: "Model") -> Any:
    from lensbench.models.huggingface import NativeModel

    if not isinstance(model, NativeModel):
        raise ConfigError(
            f"reading neurons takes the weights of a transformers model; {model.card.name!r} is "
            f"reached through {model.card.backend}. Open its module with load_model"
        )
    return model.module
