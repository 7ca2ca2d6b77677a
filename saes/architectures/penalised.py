"""Architectures that pay for firing: ReLU (free, tied, annealed), JumpReLU, Gated."""

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from lensbench.saes.architectures.base import DictionaryConfig

DEFAULT_L0 = 32.0
"""Target of a penalised architecture that was given neither a target nor a weight."""


class Penalised(DictionaryConfig):
    """Architectures whose L0 follows from the weight of a penalty.

    Either the weight is given and L0 is what comes of it, or L0 is (``target_l0``) and the weight
    is steered: see :func:`lensbench.saes.step.rules.penalised.steer`. Weights are in units where
    activations have mean square norm d_model.
    """

    target_l0: float | None = Field(None, gt=0)
    """Latents per token to steer towards; left out where no weight is given: 32, or a quarter of
    d_sae if that is less."""
    penalty_warmup: float = Field(0.05, ge=0, le=1)
    """Share of the run over which a fixed penalty grows from zero."""
    steer_over: float = Field(0.4, ge=0, le=1)
    """Share of the run over which the L0 that is steered to falls, by equal factors, from that of
    the first batch to ``target_l0``: a penalty that cuts latents off at once leaves most dead."""
    aux_coefficient: float = Field(0.0, ge=0)
    """Weight of the auxiliary loss that revives dead latents; off for these architectures."""

    @model_validator(mode="after")
    def _one_of_two(self) -> "Penalised":
        if self.fixed_weight is not None and self.target_l0 is not None:
            raise ValueError("give a coefficient (fixed) or target_l0 (steered), not both")
        if self.target_l0 is not None and self.target_l0 > self.d_sae:
            raise ValueError(f"target_l0 must be at most d_sae={self.d_sae}, got {self.target_l0}")
        return self

    @property
    def fixed_weight(self) -> float | None:
        """Weight of the penalty, where one is given."""
        return None

    @property
    def aim(self) -> float:
        """L0 that is steered to; without meaning where the weight is fixed."""
        return self.target_l0 or min(DEFAULT_L0, self.d_sae / 4)

    @property
    def steered(self) -> bool:
        """Whether the weight follows L0."""
        return self.fixed_weight is None

    def sparsity(self) -> str:
        """The sparsity setting in a few characters."""
        name = "l0" if self.kind() == "jumprelu" else "l1"
        weight = self.fixed_weight
        return f"L0={self.aim:g}" if weight is None else f"{name}={weight:g}"


class L1Penalised(Penalised):
    """Architectures that pay for the size of their activations."""

    l1_coefficient: float | None = Field(None, ge=0, allow_inf_nan=False)
    """Fixed weight of the penalty."""

    @property
    def fixed_weight(self) -> float | None:
        """Weight of the penalty, where one is given."""
        return self.l1_coefficient


class ReLUConfig(L1Penalised):
    """ReLU latents with an L1 penalty (Bricken et al. 2023; Anthropic, April 2024 update).

    Sparsity: ``l1_coefficient * sum(acts)``; of a crosscoder, with ``W_dec^m`` the part of the
    decoder that writes site m, ``l1_coefficient * sum(acts * sum_m |W_dec^m|)`` (Lindsey et al.
    2024, "Sparse crosscoders").
    """

    architecture: Literal["relu"] = "relu"


class TiedConfig(L1Penalised):
    """ReLU latents, L1 penalty and ``W_enc = W_dec^T`` (Cunningham et al. 2023, arXiv:2309.08600).

    Sparsity: ``l1_coefficient * sum(acts)``. The paper takes the mean over dimensions where this
    takes the sum: its alpha, on activations scaled like ours, is ``l1_coefficient / d_model``.
    """

    roles: ClassVar[tuple[str, ...]] = ("sae",)
    architecture: Literal["tied"] = "tied"


class PAnnealConfig(L1Penalised):
    """ReLU latents with a penalty that goes from L1 to Lp.

    Sparsity: ``l1_coefficient * sum(acts^p)``. In ``updates`` equal steps p falls from 1 to
    ``p_end``; at each the weight is multiplied by ``mean(sum acts^p_old) / mean(sum acts^p_new)``
    over the last ten batches, so that the penalty stays what it was (Karvonen et al. 2024,
    arXiv:2408.00113).
    """

    roles: ClassVar[tuple[str, ...]] = ("sae", "transcoder")
    architecture: Literal["p_anneal"] = "p_anneal"
    p_end: float = Field(0.2, gt=0, le=1)
    """Exponent at the end."""
    anneal_start: float = Field(0.1, ge=0, le=1)
    """Share of the run before the first update."""
    anneal_end: float = Field(0.9, gt=0, le=1)
    """Share of the run after which the exponent is ``p_end``."""
    updates: int = Field(10, ge=1)
    """Number of times the exponent falls."""

    @model_validator(mode="after")
    def _in_order(self) -> "PAnnealConfig":
        if self.anneal_start >= self.anneal_end:
            raise ValueError(
                f"anneal_start must be below anneal_end, got {self.anneal_start:g} and "
                f"{self.anneal_end:g}"
            )
        return self

    def form(self) -> tuple[Any, ...]:
        """What dictionaries that are stepped together must share, beside site and width."""
        return (self.kind(), self.p_end, self.anneal_start, self.anneal_end, self.updates)


class JumpReLUConfig(Penalised):
    """``acts = pre * (pre > threshold)`` with learnt thresholds.

    Source: Rajamanoharan et al. 2024b, arXiv:2407.14435. Sparsity by ``penalty``: ``step``:
    ``l0_coefficient * L0``; ``quadratic``:
    ``l0_coefficient * (L0 / target_l0 - 1)^2``, its weight neither steered nor warmed up (ibid.);
    ``tanh``: ``l0_coefficient * sum tanh(tanh_scale * acts)`` (Anthropic, January 2025 update).
    The derivative of a step at the threshold is that of a rectangle of width ``bandwidth``; with
    ``tanh`` it reaches the pre-activations too, as in that update, and dead latents get its
    pre-activation loss ``pre_act_coefficient * sum relu(threshold - pre)``.
    The threshold itself is the parameter, not its logarithm, and is kept at 0 or above.
    """

    architecture: Literal["jumprelu"] = "jumprelu"
    penalty: Literal["step", "quadratic", "tanh"] = "step"
    """What is paid for a latent that fires."""
    l0_coefficient: float | None = Field(None, ge=0, allow_inf_nan=False)
    """Fixed weight of the penalty; of ``quadratic``, left out: d_model / 64."""
    bandwidth: float = Field(0.8, gt=0)
    """Width of the rectangle, in units of the scaled pre-activations. A narrow one leaves most
    thresholds where they began; 0.8 was chosen on atlas-dense (SAELens' 0.05 is
    0.5 in these units at its start, where decoder rows have norm 0.1)."""
    initial_threshold: float | None = Field(None, ge=0)
    """Threshold of every latent at the start, in the same units; left out: the one that lets
    four times ``target_l0`` latents per token of the first batch through (four times 32)."""
    aux_coefficient: float = Field(1 / 32, ge=0)
    """Weight of the auxiliary loss that revives dead latents."""
    tanh_scale: float = Field(4.0, gt=0)
    """Steepness of the tanh penalty."""
    pre_act_coefficient: float = Field(3e-6, ge=0)
    """Weight of the pre-activation loss of dead latents (``tanh`` only)."""

    def form(self) -> tuple[Any, ...]:
        """What dictionaries that are stepped together must share, beside site and width."""
        return (self.kind(), self.penalty, self.bandwidth, self.tanh_scale)

    def sparsity(self) -> str:
        """The sparsity setting in a few characters."""
        setting = super().sparsity()
        return setting if self.penalty == "step" else f"{self.penalty}-{setting}"

    @property
    def fixed_weight(self) -> float | None:
        """Weight of the penalty, where one is given."""
        return None if self.penalty == "quadratic" else self.l0_coefficient

    @property
    def steered(self) -> bool:
        """Whether the weight follows L0; the quadratic penalty has its target in itself."""
        return self.penalty != "quadratic" and self.l0_coefficient is None


class GatedConfig(L1Penalised):
    """One encoder decides twice: which latents fire, and how strongly.

    Source: Rajamanoharan et al. 2024a, arXiv:2404.16014. With
    ``u = (x - b_dec) @ W_enc``, ``gate = u + b_enc`` and ``mag = exp(r_mag) * u + b_mag``:
    ``acts = (gate > 0) * relu(mag)``. Sparsity: ``l1_coefficient * sum relu(gate)``; and
    ``|relu(gate) @ W_dec + b_dec - x|^2`` is added, with ``W_dec`` and that ``b_dec`` held fixed.
    """

    roles: ClassVar[tuple[str, ...]] = ("sae", "transcoder")
    end_to_end: ClassVar[bool] = False
    architecture: Literal["gated"] = "gated"
