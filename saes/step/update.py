"""From gradients to new parameters: projection, clip, Adam, unit norm, counters.

1. Decoder gradient: the component along each decoder row is removed, because it would only change
   a length that step 4 resets. It is known from the codes (``sum acts * d loss / d acts``).
2. Clip: the gradient of one dictionary is scaled to norm ``clip`` if it is longer.
3. Adam (Kingma and Ba 2015), fused; the scale of step 2 is applied inside the kernel.
4. Decoder rows are scaled back to unit length.
5. Counters: tokens since each latent fired; BatchTopK's threshold; sums for the log.

A gradient that is not finite changes nothing, and nothing changes after it: the dictionary keeps
its last good parameters.
"""

import torch
from torch import Tensor

from lensbench.saes.configs import BatchTopKConfig
from lensbench.saes.step.group import Group
from lensbench.saes.step.looped import Gradients

BETAS = (0.9, 0.999)
EPS = 6.25e-10
"""As in Gao et al. 2024, appendix A; gradients of rare latents are small."""
WINDOWS = 20
"""BatchTopK's threshold averages over about the last 1/20 of the steps so far."""


def apply(group: Group, i: int, gradients: Gradients, lr: float, n_tokens: int) -> None:
    """Update dictionary ``i`` of ``group``; waits for nothing."""
    config = group.configs[i]
    W_dec = group.W_dec[i]
    gradients.W_dec.addcmul_(W_dec, gradients.along[:, None], value=-1)
    tensors = gradients.tensors()
    norm = torch.stack([torch.dot(g.reshape(-1), g.reshape(-1)) for g in tensors]).sum().sqrt()
    # Kept on the device: the host learns of it at the next log line, and leaves the dictionary.
    diverged = group.diverged[i].logical_or_(~torch.isfinite(norm + gradients.loss))
    bad = diverged.to(norm.dtype)
    shrink = torch.ones_like(norm) if config.clip is None else (norm / config.clip).clamp(min=1.0)
    first, second = group.moments(i)
    torch._fused_adam_(  # pyright: ignore[reportPrivateImportUsage] - has no public name
        group.parameters(i),
        tensors,
        first,
        second,
        [],
        _steps(group, i, bad),
        lr=lr,
        beta1=BETAS[0],
        beta2=BETAS[1],
        weight_decay=0.0,
        eps=EPS,
        amsgrad=False,
        maximize=False,
        grad_scale=shrink,
        found_inf=bad,
    )
    # Dividing by a norm of almost 1 would still move the last bits of one that diverged.
    W_dec.div_(W_dec.norm(dim=1, keepdim=True).masked_fill_(diverged, 1.0))
    _count(group, i, gradients, norm, n_tokens)


def _steps(group: Group, i: int, bad: Tensor) -> list[Tensor]:
    step = group.steps[i]
    step += 1 - bad
    return [step] * 4


def _count(group: Group, i: int, gradients: Gradients, norm: Tensor, n_tokens: int) -> None:
    fired = gradients.fired
    group.since_fired[i].add_(n_tokens).masked_fill_(fired > 0, 0)
    config = group.configs[i]
    if isinstance(config, BatchTopKConfig):
        old, new = group.threshold[i], gradients.smallest
        # A window of fixed length would lag behind a short run, whose cut is still falling.
        rate = (WINDOWS / group.steps[i]).clamp(min=config.threshold_rate, max=1.0)
        moved = torch.where(old.isnan(), new, old + rate * (new - old))
        group.threshold[i] = torch.where(new.isfinite() & ~group.diverged[i], moved, old)
    group.sums[i] += torch.stack([gradients.loss, gradients.sse, fired.sum() / n_tokens, norm])
