"""What is measured of a model at a checkpoint: loss, accuracy, and what each head does."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from lensbench.interventions.training.clamps import ClampLike, plan_of
from lensbench.interventions.training.preserving import preserve_patterns
from lensbench.interventions.training.sequences import Sequences
from lensbench.models.base import Model
from lensbench.plan import Add, Plan, Zero, edit
from lensbench.worlds.batches import IGNORE

UNITS = {
    "loss": "nats", "accuracy": "share", "free loss": "nats", "free accuracy": "share",
    "strength": "attention", "previous token": "attention", "only head": "share",
    "without head": "share",
}  # fmt: skip


def inputs_of(model: Any, sequences: Sequences) -> Plan:
    """The plan that adds the noise of a batch to its one-hot tokens: ``embed + noise W_E``.

    Gradients reach the embedding through it.
    """
    if sequences.noise is None:
        return Plan()
    embedding = model.module.get_input_embeddings().weight
    return edit("embed", Add(sequences.noise.to(embedding) @ embedding))


def asked(
    logits: Float[Tensor, "n pos d_vocab"], sequences: Sequences
) -> tuple[Float[Tensor, "asked d_vocab"], Tensor]:
    """Logits and targets of the tokens that are asked something."""
    targets = sequences.targets.to(logits.device)
    return logits[targets != IGNORE], targets[targets != IGNORE]


def loss_of(model: Any, sequences: Sequences, clamp: ClampLike) -> Float[Tensor, ""]:
    """Mean cross-entropy of a batch under a clamp, nats; gradients reach the weights."""
    plan = inputs_of(model, sequences) + plan_of(clamp, sequences)
    logits = model.run(sequences.tokens, plan, grad=True).logits
    return F.cross_entropy(*asked(logits, sequences))


@dataclass(frozen=True)
class Measures:
    """The series of a training, in a fixed order, measured on held-out sequences.

    ``loss`` and ``accuracy`` are under the clamp of the run, ``free`` ones without it. Of each
    head: ``strength`` = attention of the last token to the right position minus that to the wrong,
    and ``previous token`` = mean attention of tokens to the one before. With ``heads_alone`` the
    accuracy with the other heads of its layer zeroed (``only head``) and with itself zeroed
    (``without head``), patterns of later layers kept.
    """

    held_out: Sequences
    n_layers: int
    n_heads: int
    heads_alone: bool

    def columns(self) -> tuple[tuple[str, ...], list[int], list[int]]:
        """Measure, layer and head of every series."""
        rows = [(m, -1, -1) for m in ("loss", "accuracy", "free loss", "free accuracy")]
        rows += [(m, layer, head) for m in self._of_heads() for layer, head in self._heads()]
        return tuple(m for m, *_ in rows), [r[1] for r in rows], [r[2] for r in rows]

    def _of_heads(self) -> list[str]:
        located = self.held_out.right is not None and self.held_out.wrong is not None
        found = ["strength"] if located else []
        return [*found, "previous token", *(["only head", "without head"] * self.heads_alone)]

    def _heads(self) -> Iterator[tuple[int, int]]:
        return ((layer, head) for layer in range(self.n_layers) for head in range(self.n_heads))

    @torch.no_grad()
    def __call__(self, model: Any, clamp: ClampLike) -> list[float]:
        """Every series at this moment."""
        tokens, inputs = self.held_out.tokens, inputs_of(model, self.held_out)
        patterns = [f"blocks.{layer}.attn.pattern" for layer in range(self.n_layers)]
        under = inputs + plan_of(clamp, self.held_out)
        clamped = model.run(tokens, under, capture=patterns)
        free = model.run(tokens, inputs)
        found = [*self._scored(clamped.logits), *self._scored(free.logits)]
        seen = [clamped.acts[p] for p in patterns]
        if "strength" in self._of_heads():
            found += [value for pattern in seen for value in self._strengths(pattern)]
        found += [value for pattern in seen for value in _previous(pattern)]
        if self.heads_alone:
            found += [self._alone(model, under, *at, keep=True) for at in self._heads()]
            found += [self._alone(model, under, *at, keep=False) for at in self._heads()]
        return found

    def _scored(self, logits: Tensor) -> tuple[float, float]:
        given, wanted = asked(logits, self.held_out)
        right = (given.argmax(-1) == wanted).double().mean()
        return F.cross_entropy(given, wanted).item(), right.item()

    def _strengths(self, pattern: Float[Tensor, "n head query key"]) -> list[float]:
        right, wrong = self.held_out.right, self.held_out.wrong
        assert right is not None  # _of_heads saw to it
        assert wrong is not None
        rows = torch.arange(len(pattern), device=pattern.device)
        last = pattern[:, :, -1]
        gap = last[rows, :, right.to(rows.device)] - last[rows, :, wrong.to(rows.device)]
        return gap.double().mean(0).tolist()

    def _alone(self, model: Model, under: Plan, layer: int, head: int, *, keep: bool) -> float:
        """Accuracy with all other heads of the layer zeroed (``keep``), or with this one zeroed."""
        heads = [h for h in range(self.n_heads) if (h == head) != keep]
        if not heads:
            return self._scored(model.run(self.held_out.tokens, under).logits)[1]  # pyright: ignore[reportArgumentType] - logits are made
        ablation = edit(f"blocks.{layer}.attn.z", Zero(), heads=heads)
        plan = preserve_patterns(model, self.held_out.tokens, ablation, under=under)
        logits = model.run(self.held_out.tokens, plan).logits
        assert logits is not None  # all of them, by default
        return self._scored(logits)[1]


def _previous(pattern: Float[Tensor, "n head query key"]) -> list[float]:
    """Mean attention to the token before, over all tokens that have one."""
    return pattern.diagonal(offset=-1, dim1=-2, dim2=-1).double().mean((0, 2)).tolist()
