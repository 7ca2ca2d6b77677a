"""The LayerSkip training recipe: which layers are dropped, and which exits are trained, per step.

1. Layer l of a sample is skipped with p_{l,t} = S(t) D(l) p_max, D(l) = exp(l ln 2 / (L - 1)) - 1
   (0 at the first layer, 1 at the last); S(t) = exp(t ln 2 / (T - 1)) - 1 from scratch, else 1.
2. The curriculum C(t, l) says which exits are trained at step t: every R-th layer, one further at
   each step (rotational), or from the last layer down, one more every T / (2 L) steps (gradual).
3. loss = sum_l w(t, l) CE(lm_head(norm(h_l)), next token), w = C(t, l) e(l) / sum_i C(t, i) e(i),
   e(l) = e_scale sum_{i <= l} i below the last layer and L - 1 + e_scale sum_{i <= L - 2} i there.
   Final norm and unembedding are the one exit that all layers share.

Layers count from 0 here, as in the formulas: layer l is exit layer l + 1. So e(0) = 0, and an exit
after one layer is never trained. The formulas; the loss over a model is in ``layer_skip_loss``.
Source: Elhoushi et al. 2024, LayerSkip (equations of dropout, loss and curricula).
"""

from __future__ import annotations

from math import log
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from pydantic import Field

from lensbench.config import Config
from lensbench.errors import ConfigError


class LayerSkip(Config):
    """Settings of the recipe; the defaults are those of the words world."""

    p_max: float = Field(default=0.1, ge=0, lt=1)
    """Probability that a sample skips the last layer, once ``S`` has reached 1."""
    e_scale: float = Field(default=1.0, ge=0)
    """Weight of early exits beside the last layer; 0 trains no other exit."""
    curriculum: Literal["rotational", "gradual"] = "rotational"
    rotation: int = Field(default=4, ge=1)
    """R: every R-th exit is trained at a step (rotational curriculum)."""
    from_scratch: bool = True
    """Let dropout grow from 0 over the run (S); off: S = 1, as for a model trained before."""


def dropout_probabilities(
    recipe: LayerSkip, n_layers: int, step: int, steps: int
) -> Float[np.ndarray, " layers"]:
    """p_{l,t} of every layer at ``step`` (from 0): S(t) D(l) p_max, in [0, p_max].

    Raises:
        ConfigError: fewer than two layers, or a step outside 0..steps - 1.
    """
    _check(n_layers, step, steps)
    depth = np.exp(np.arange(n_layers) * log(2) / (n_layers - 1)) - 1
    # A run of one step is at its end.
    done = step / (steps - 1) if steps > 1 else 1.0
    grown = np.exp(done * log(2)) - 1 if recipe.from_scratch else 1.0
    return grown * depth * recipe.p_max


def exit_scales(recipe: LayerSkip, n_layers: int) -> Float[np.ndarray, " layers"]:
    """e(l) of every layer, before the curriculum and before they are made to sum to 1."""
    _check(n_layers, 0, 1)
    scales = recipe.e_scale * np.cumsum(np.arange(n_layers, dtype=float))
    scales[-1] = n_layers - 1 + scales[-2]
    return scales


def trained_exits(
    recipe: LayerSkip, n_layers: int, step: int, steps: int
) -> Bool[np.ndarray, " layers"]:
    """C(t, l): the exits of ``step`` (from 0); the last layer is always among them.

    Rotational: layers l with (l - t) mod R = 0. Gradual: the last 1 + floor(2 L t / T) layers.
    """
    _check(n_layers, step, steps)
    layers = np.arange(n_layers)
    if recipe.curriculum == "rotational":
        on = (layers - step) % recipe.rotation == 0
    else:
        on = layers >= n_layers - 1 - (2 * n_layers * step) // steps
    on[-1] = True
    return on


def exit_weights(
    recipe: LayerSkip, n_layers: int, step: int, steps: int
) -> Float[np.ndarray, " layers"]:
    """w(t, l): weight of every layer's loss at ``step``; they sum to 1."""
    weights = exit_scales(recipe, n_layers) * trained_exits(recipe, n_layers, step, steps)
    return weights / weights.sum()


def kept_layers(
    recipe: LayerSkip, n_layers: int, rows: int, step: int, steps: int, *, seed: int
) -> Bool[np.ndarray, "layers rows"]:
    """Which rows of a batch run each layer: a function of seed and step, so runs resume exactly."""
    p = dropout_probabilities(recipe, n_layers, step, steps)
    rng = np.random.default_rng((seed, step, _DROPOUT))
    return rng.random((n_layers, rows)) >= p[:, None]


_DROPOUT = 0x5C1B  # keeps these draws apart from all others of a seed


def _check(n_layers: int, step: int, steps: int) -> None:
    if n_layers < 2:
        raise ConfigError(f"early exits need at least two layers, got {n_layers}")
    if not 0 <= step < steps:
        raise ConfigError(f"step {step} lies outside 0..{steps - 1}")
