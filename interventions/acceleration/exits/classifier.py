"""A trained exit: a linear classifier of "this layer's token is already the full model's".

Schuster et al. 2022 (CALM's meta classifier): labels 1[argmax_l = argmax_L], classes weighted to
equal mass. Read off states that were captured; the model is not run.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lensbench import io
from lensbench.errors import ConfigError, DamagedDataError, MismatchError
from lensbench.interventions.acceleration.readouts.logistic import fit_logistic


@dataclass(frozen=True, eq=False)
class ExitClassifier:
    """Confidence ``sigmoid(w_l h + b_l)`` of states after ``l`` layers; one row per exit.

    Layers for which one class never occurred have no classifier: their confidence is the share of
    agreement that was seen (0 or 1).
    """

    exits: tuple[int, ...]
    weight: Float[Tensor, "exits d_model"]
    bias: Float[Tensor, " exits"]
    model: str = ""
    """Fingerprint of the model whose states these were."""

    def __call__(self, h: Float[Tensor, "rows d_model"], layer: int) -> Float[Tensor, " rows"]:
        """Confidence of states after ``layer`` layers.

        Raises:
            MismatchError: states of another width, or a layer that was not fitted.
        """
        if layer not in self.exits:
            raise MismatchError(f"no exit was fitted after {layer} layers, only {self.exits}")
        if h.shape[-1] != self.weight.shape[1]:
            raise MismatchError(
                f"states have width {h.shape[-1]}, the classifier {self.weight.shape[1]}; it is of "
                "another model"
            )
        row = self.exits.index(layer)
        return torch.sigmoid(h.float() @ self.weight[row].to(h.device) + float(self.bias[row]))

    def save(self, path: Path | str) -> Path:
        """Write ``exit_classifier.safetensors`` and ``exit_classifier.json`` into a folder."""
        folder = Path(path)
        arrays = {"weight": self.weight.numpy(), "bias": self.bias.numpy()}
        io.write_arrays(folder / "exit_classifier.safetensors", arrays)
        digest = io.sha256_file(folder / "exit_classifier.safetensors")
        told = {"exits": list(self.exits), "model": self.model, "sha256": digest}
        io.write_json(folder / "exit_classifier.json", told)
        return folder

    @classmethod
    def load(cls, path: Path | str) -> "ExitClassifier":
        """What :meth:`save` wrote.

        Raises:
            MissingDataError: no classifier there.
            DamagedDataError: its weights are not those that were written.
        """
        folder = Path(path)
        told = io.read_json(folder / "exit_classifier.json")
        file = folder / "exit_classifier.safetensors"
        arrays = io.read_arrays(file)
        if io.sha256_file(file) != told["sha256"]:
            raise DamagedDataError(f"{file} was altered after it was written (sha256 differs)")
        weight, bias = torch.from_numpy(arrays["weight"]), torch.from_numpy(arrays["bias"])
        return cls(tuple(told["exits"]), weight, bias, told["model"])


def fit_exit_classifier(
    states: Float[Tensor, "exits tokens d_model"],
    agrees: Bool[Tensor, "exits tokens"],
    exits: tuple[int, ...] | None = None,
    *,
    penalty: float = 1e-2,
    model: str = "",
) -> ExitClassifier:
    """Fit one balanced logistic regression per exit to states and whether their token is final.

    Args:
        states: streams after each exit's layers, one row per token of the full model's own text.
        agrees: ``argmax_l == argmax_L`` for the same tokens.
        exits: numbers of layers, one per row of ``states``; 1, 2, ... by default.
        penalty: weight of ``|w|^2 / 2`` beside the mean loss, on states of unit variance.
        model: fingerprint to be kept with the weights.

    Raises:
        ConfigError: shapes that do not fit, states that are not finite, or fewer than two tokens.

    Example:
        >>> states = torch.randn(2, 40, 16)  # of two exits
        >>> agrees = states[..., 0] > 0
        >>> classifier = acceleration.fit_exit_classifier(states, agrees)
    """
    if states.ndim != 3 or agrees.shape != states.shape[:2] or states.shape[1] < 2:
        raise ConfigError(
            f"states must be [exits, tokens, d_model] with at least 2 tokens and agrees [exits, "
            f"tokens], got {list(states.shape)} and {list(agrees.shape)}"
        )
    if not bool(torch.isfinite(states).all()):
        raise ConfigError("states hold values that are not finite (NaN or infinity)")
    exits = tuple(range(1, len(states) + 1)) if exits is None else tuple(exits)
    if len(exits) != len(states):
        raise ConfigError(f"{len(states)} rows of states, but {len(exits)} exits")
    rows = [_fit(x, y, penalty) for x, y in zip(states, agrees, strict=True)]
    weight = torch.stack([w for w, _ in rows])
    return ExitClassifier(exits, weight, torch.tensor([b for _, b in rows]), model)


def _fit(x: Tensor, y: Tensor, penalty: float) -> tuple[Tensor, float]:
    found = fit_logistic(x.double().numpy(), y.double().numpy(), balanced=True, penalty=penalty)
    return torch.from_numpy(found.weight).float(), found.bias
