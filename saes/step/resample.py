"""Dead latents put where the loss is: resampling (Bricken et al. 2023, "Towards Monosemanticity").

At the steps asked for, each dead latent takes the direction of a token of the batch, drawn with
probability proportional to the square of its loss. Its encoder row points along what is read of
that token, a fifth as long as those of living latents on average; its decoder row along the same,
or, of a transcoder, along what is missing of what is to be written. Biases are set to 0, thresholds
to the median of the living, moments of Adam to 0. The draw depends on the dictionary's seed and the
step alone, so a resumed run makes the same one.
"""

import numpy as np
import torch
from torch import Tensor

from lensbench.saes.architectures import DictionaryConfig
from lensbench.saes.step.group import Group
from lensbench.saes.step.rules.base import Now, Step

SHORTER = 0.2
"""Length of a new encoder row, in those of living ones."""


def resample_steps(config: DictionaryConfig, steps: int) -> set[int]:
    """Steps before which dead latents are resampled."""
    return {max(1, round(share * steps)) for share in config.resample_at or ()}


def resample(group: Group, i: int, x: Tensor, y: Tensor | None, now: Now) -> None:
    """Resample the dead latents of dictionary ``i``, in place; ``x``, ``y`` as a step sees them."""
    dead = group.dead[i].nonzero()[:, 0]
    if not len(dead):
        return
    read, error = _error(group, i, x, y, now)
    cost = error.square().sum(1).double().cpu().numpy() ** 2
    if not np.isfinite(cost).all() or cost.sum() == 0:
        return  # it is about to be found diverged, or there is nothing to learn
    rng = np.random.default_rng([group.configs[i].seed, now.step])
    drawn = rng.choice(len(cost), len(dead), replace=len(dead) > len(cost), p=cost / cost.sum())
    tokens = torch.from_numpy(drawn).to(x.device)
    inward = _unit(read[tokens])
    _put(group, i, dead, inward, inward if y is None else _unit(-error[tokens]))


def _error(group: Group, i: int, x: Tensor, y: Tensor | None, now: Now) -> tuple[Tensor, Tensor]:
    """What is encoded, and the error of the reconstruction, ``[tokens, d]``."""
    own = group.own(slice(i, i + 1))
    read, target = group.problem(own, x, y)
    pre = torch.baddbmm(own["b_enc"][:, None], read, own["W_enc"].transpose(1, 2))
    layout = group.rule.dense([group.configs[i]], pre)
    step = Step(group.configs[i], layout, read, target, own, now, group.centred, group.widths)
    return read[0], group.rule.flow(step).error[0]


def _put(group: Group, i: int, dead: Tensor, inward: Tensor, outward: Tensor) -> None:
    own = group.own(i)
    living = ~group.dead[i]
    length = float(own["W_enc"][living].norm(dim=1).mean()) if bool(living.any()) else 1.0
    new = {"W_dec": outward, "W_enc": inward * (SHORTER * length)}
    for name in group.params:
        if name in ("b_dec", "W_skip"):
            continue
        value = new.get(name)
        if value is None:
            value = own[name].new_zeros(len(dead))
            if name == "threshold" and bool(living.any()):
                value += own[name][living].median()
        own[name][dead] = value
        group.first[name][i][dead] = 0.0
        group.second[name][i][dead] = 0.0
    own["since_fired"][dead] = 0
    own["dead"][dead] = False
    group.refresh_lists()


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
