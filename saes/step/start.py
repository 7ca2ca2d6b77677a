"""How a dictionary starts: scale of the activations, decoder, encoder, bias.

- ``scale``: activations are multiplied by ``sqrt(d_model) / median |x|`` of the first batch, so
  that learning rates, penalties and the gradient clip mean the same at every site. The median is
  used because a few tokens (often the first of a text) can be a hundred times longer than others.
- ``W_dec``: rows drawn from a normal distribution with the dictionary's own seed, unit length.
- ``W_enc``: the transpose of the decoder (Gao et al. 2024, appendix A.1), times the factor with
  which the first batch is reconstructed best. Without it many latents that fire together overshoot,
  and training spends its first steps on shrinking the encoder.
- ``b_dec``: geometric median of the first batch (Bricken et al. 2023); ``b_enc``: zero.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.errors import NonFiniteError
from lensbench.saes.architectures import DictionaryConfig
from lensbench.saes.step.group import Group
from lensbench.saes.step.rules import rule_of

MEDIAN_ROWS, MEDIAN_STEPS = 4096, 30
FACTOR_ROWS = 512


def scale_of(x: Float[Tensor, "tokens d_model"]) -> float:
    """``sqrt(d_model) / median |x|``; 1 where the median is zero.

    Raises:
        NonFiniteError: NaN or infinity in ``x``.
    """
    norm = float(x.norm(dim=1).median())
    if not math.isfinite(norm):
        raise NonFiniteError("the first batch of activations contains NaN or infinity")
    return math.sqrt(x.shape[1]) / norm if norm > 0 else 1.0


def geometric_median(x: Float[Tensor, "tokens d_model"]) -> Float[Tensor, " d_model"]:
    """Point of least summed distance to the rows of ``x``, by Weiszfeld's iteration.

    Source: Weiszfeld 1937; at most 4096 rows and 30 steps are used.
    """
    x = x[:MEDIAN_ROWS].double()
    centre = x.mean(0)
    for _ in range(MEDIAN_STEPS):
        weight = 1 / (x - centre).norm(dim=1).clamp(min=1e-12)
        new = weight @ x / weight.sum()
        if float((new - centre).norm()) <= 1e-7 * float(centre.norm()):
            return new.float()
        centre = new
    return centre.float()


def new_group(
    configs: list[DictionaryConfig],
    site: str,
    first_batch: Float[Tensor, "tokens d_model"],
    scale: float,
) -> Group:
    """A group ready for its first step; ``first_batch`` is in the units of the source."""
    d_model, device = first_batch.shape[1], first_batch.device
    decoders = torch.stack([_decoder(c.seed, c.d_sae, d_model) for c in configs]).to(device)
    x = first_batch * scale
    centre = geometric_median(x)
    encoders = [
        decoder * encoder_factor(config, x[:FACTOR_ROWS] - centre, decoder)
        for config, decoder in zip(configs, decoders, strict=True)
    ]
    rule = rule_of(configs[0])
    params = {
        "W_enc": torch.stack(encoders),
        "b_enc": torch.zeros(decoders.shape[:2], device=device),
        "W_dec": decoders,
        "b_dec": centre.repeat(len(configs), 1),
    }
    own = [rule.start(config, d_model) for config in configs]
    more = {name: torch.stack([o[name] for o in own]).to(device) for name in own[0]}
    params = {name: (params | more)[name] for name in rule.parameters}
    state = {name: value for name, value in more.items() if name not in params}
    group = Group(configs=configs, site=site, scale=scale, params=params, state=state)
    for i, config in enumerate(configs):
        own = group.own(i)
        rule.calibrate(config, own, (x[:FACTOR_ROWS] - centre) @ own["W_enc"].t())
    return group


def encoder_factor(
    config: DictionaryConfig, x: Float[Tensor, "tokens d_model"], decoder: Tensor
) -> float:
    """``<x, y> / <y, y>``, ``y`` the reconstruction with ``W_enc = W_dec^T``; 1 where y is 0."""
    acts = rule_of(config).first_acts(config, x @ decoder.t())
    y = acts @ decoder
    length = float((y * y).sum())
    return float((x * y).sum()) / length if length > 0 else 1.0


def _decoder(seed: int, d_sae: int, d_model: int) -> Float[Tensor, "d_sae d_model"]:
    rng = torch.Generator().manual_seed(seed)
    rows = torch.randn(d_sae, d_model, generator=rng)
    return rows / rows.norm(dim=1, keepdim=True)
