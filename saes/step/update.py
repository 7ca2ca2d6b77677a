"""From gradients to new parameters: projection, clip, Adam, unit norm, counters.

1. Decoder gradient: the component along each decoder row is removed, because it would only change
   a length that step 4 resets. It is known from the codes (``sum acts * d loss / d acts``).
2. Clip: the gradient of one dictionary is scaled to norm ``clip`` if it is longer.
3. Adam (Kingma and Ba 2015), fused; the scale of step 2 is applied inside the kernel.
4. Decoder rows are scaled back to unit length.
5. Counters: tokens since each latent fired; what the architecture keeps (a threshold, the weight
   of a penalty); sums for the log.

A gradient or loss that is not finite changes nothing, and nothing changes after it: the dictionary
keeps its last good parameters. (An update that itself overflows, from a finite gradient and an
enormous learning rate, is seen one step later: then they are gone.)
"""

import torch
from torch import Tensor

from lensbench.saes.step.group import Group
from lensbench.saes.step.rules.base import Done, Gradients, Now
from lensbench.saes.step.whole import ALONE, Whole

BETAS = (0.9, 0.999)
EPS = 6.25e-10
"""As in Gao et al. 2024, appendix A; gradients of rare latents are small."""


def apply(
    group: Group,
    i: int,
    gradients: Gradients,
    lr: float | Tensor,
    n_tokens: int,
    now: Now,
    whole: Whole = ALONE,
) -> None:
    """Update dictionary ``i`` of ``group``; waits for nothing."""
    config, own = group.configs[i], group.own(i)
    W_dec = own["W_dec"]
    gradients.of["W_dec"].addcmul_(W_dec, gradients.along[:, None], value=-1)
    tensors = [gradients.of[name] for name in group.params]
    flat = {name: gradients.of[name].reshape(-1) for name in group.params}
    norm = whole.norm({name: torch.dot(g, g) for name, g in flat.items()})
    # Kept on the device: the host learns of it at the next log line, and leaves the dictionary.
    diverged = own["diverged"].logical_or_(~torch.isfinite(norm + gradients.loss))
    bad = diverged.to(norm.dtype)
    shrink = torch.ones_like(norm) if config.clip is None else (norm / config.clip).clamp(min=1.0)
    own["steps"] += 1 - bad
    torch._fused_adam_(  # pyright: ignore[reportPrivateImportUsage] - has no public name
        [own[name] for name in group.params],
        tensors,
        [group.first[name][i] for name in group.params],
        [group.second[name][i] for name in group.params],
        [],
        [own["steps"]] * len(tensors),
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
    fired = gradients.fired
    own["since_fired"].add_(n_tokens).masked_fill_(fired > 0, 0)
    l0 = whole.firings(fired.sum()) / n_tokens
    group.rule.after(Done(config, own, gradients, now, l0, ~diverged))
    own["sums"] += torch.stack([gradients.loss, gradients.sse, l0, norm])
