"""How sure a layer is of its token: the scores that early exits are decided by.

All lie in [0, 1] and grow with certainty. ``softmax_max`` is the largest probability of the layer's
lens, ``softmax_diff`` the largest minus the second (the paper's softmax response), ``entropy``
``1 - H / ln V``, ``state`` the cosine between the states before and after the layer (0 at the first
exit, which has nothing to compare with). Schuster et al. 2022 (CALM).
"""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.errors import ConfigError, UnknownNameError

MeasureName = Literal["softmax_max", "softmax_diff", "entropy", "state", "oracle"]
MEASURES: tuple[str, ...] = get_args(MeasureName)

Classifier = Callable[[Float[Tensor, "rows d_model"], int], Float[Tensor, " rows"]]
"""Confidence of states after ``layer`` layers, such as a trained :class:`ExitClassifier`."""


def of_logits(name: str, logits: Float[Tensor, "... d_vocab"]) -> Float[Tensor, "..."]:
    """Confidence by the lens of a layer.

    Raises:
        UnknownNameError: a score that is not read off logits.
    """
    probs = logits.float().softmax(-1)
    if name == "softmax_max":
        return probs.amax(-1)
    if name == "softmax_diff":
        best = probs.topk(2, dim=-1).values
        return best[..., 0] - best[..., 1]
    if name == "entropy":
        entropy = -torch.special.xlogy(probs, probs).sum(-1)
        return 1 - entropy / torch.log(torch.tensor(float(logits.shape[-1])))
    known = ("softmax_max", "softmax_diff", "entropy")
    raise UnknownNameError("confidence read off logits", name, known=known)


def of_states(before: Tensor | None, after: Tensor) -> Tensor:
    """Saturation: the cosine of the states around a layer, 0 without one before."""
    if before is None:
        return torch.zeros(after.shape[:-1])
    return torch.cosine_similarity(before.double(), after.double(), dim=-1).float()


def threshold_at(threshold: float, decay: float | None, step: int, steps: int) -> float:
    """``0.9 t + 0.1 t exp(-decay step / steps)``: as the released CALM code lowers it; None: ``t``.

    (The paper's equation 5 is said to end in ``0.1 exp(...)``, without the threshold.)
    """
    if decay is None:
        return threshold
    shrink = float(torch.exp(torch.tensor(-decay * step / steps)))
    return 0.9 * threshold + 0.1 * threshold * shrink


def check_measure(measure: str | Classifier) -> str | Classifier:
    """A named score or a classifier.

    Raises:
        UnknownNameError: another name.
        ConfigError: neither a name nor something to call.
    """
    if isinstance(measure, str):
        if measure not in MEASURES:
            raise UnknownNameError("confidence", measure, known=MEASURES)
        return measure
    if not callable(measure):
        raise ConfigError(
            f"measure must be one of {', '.join(MEASURES)} or a fitted classifier, got {measure!r}"
        )
    return measure
