"""How a dictionary starts: scale of the activations, decoder, encoder, bias.

- ``scale``: activations are multiplied by ``sqrt(d_model) / median |x|`` of the first batch, so
  that learning rates, penalties and the gradient clip mean the same at every site. The median is
  used because a few tokens (often the first of a text) can be a hundred times longer than others.
- ``W_dec``: rows drawn from a normal distribution with the dictionary's own seed, unit length.
- ``W_enc``: the transpose of the decoder (Gao et al. 2024, appendix A.1), times the factor with
  which the first batch is reconstructed best. Without it many latents that fire together overshoot,
  and training spends its first steps on shrinking the encoder.
- ``b_dec``: geometric median of the first batch (Bricken et al. 2023); ``b_enc``: zero.
- Of a transcoder, ``b_dec`` is that of what is written; that of what is read is taken away before
  the encoder, stays as it is, and is folded into ``b_enc`` at the end. ``W_skip``: zero.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.errors import NonFiniteError
from lensbench.saes.architectures import DictionaryConfig
from lensbench.saes.ends import Ends
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
    ends: Ends | str,
    x: Float[Tensor, "tokens d_in"],
    scale: float | Tensor,
    y: Float[Tensor, "tokens d_out"] | None = None,
    out_scale: float | Tensor | None = None,
    widths: tuple[int, ...] = (),
) -> Group:
    """A group ready for its first step.

    Args:
        configs: its dictionaries.
        ends: what they read and write; a site that is both.
        x: what is read in the first batch, in the units of the source.
        scale: see :class:`Group`.
        y: what is to be written, where that is not ``x``.
        out_scale: see :class:`Group`.
        widths: see :class:`Group`.
    """
    ends = Ends((ends,), (ends,)) if isinstance(ends, str) else ends
    out_scale = scale if out_scale is None else out_scale
    x = x * scale
    target = x if y is None else y * out_scale
    rule, start = rule_of(configs[0]), geometric_median(target)
    read_centre = start if y is None else geometric_median(x)
    x, target = x[:FACTOR_ROWS] - read_centre, target[:FACTOR_ROWS] - start
    weights = [_first_weights(c, x, None if y is None else target) for c in configs]
    params = {
        "W_enc": torch.stack([encoder for encoder, _ in weights]),
        "b_enc": torch.zeros(len(configs), configs[0].d_sae, device=x.device),
        "W_dec": torch.stack([decoder for _, decoder in weights]),
        "b_dec": start.repeat(len(configs), 1),
    }
    own = [rule.start(config, target.shape[1]) for config in configs]
    more = {name: torch.stack([o[name] for o in own]).to(x.device) for name in own[0]}
    params = {name: (params | more)[name] for name in rule.parameters}
    state = {name: value for name, value in more.items() if name not in params}
    if y is not None:
        state["centre"] = read_centre.repeat(len(configs), 1)
    if configs[0].objective != "reconstruction":
        state["unit"] = x.new_zeros(len(configs))  # measured on the first batch
    if configs[0].skip_connection:
        params["W_skip"] = x.new_zeros(len(configs), target.shape[1], x.shape[1])
    group = Group(
        configs=configs,
        ends=ends,
        scale=scale,
        out_scale=out_scale,
        widths=widths,
        params=params,
        state=state,
    )
    for i, config in enumerate(configs):
        mine = group.own(i)
        rule.calibrate(config, mine, x @ mine["W_enc"].t())
    return group


def _first_weights(
    config: DictionaryConfig, x: Float[Tensor, "tokens d_in"], target: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Encoder and decoder of one dictionary, ``[d_sae, d]`` each.

    The decoder is drawn, and the encoder is its transpose. Of a transcoder, which has no transpose,
    the encoder is drawn, and decoder rows are what goes with each latent: ``acts^T @ y``.
    """
    drawn = _unit_rows(config.seed, config.d_sae, x.shape[1]).to(x.device)
    decoder = drawn
    if target is not None:
        acts = rule_of(config).first_acts(config, x @ drawn.t())
        rows = acts.t() @ target
        norms = rows.norm(dim=1, keepdim=True)
        spare = _unit_rows(config.seed + 1, config.d_sae, target.shape[1]).to(x.device)
        decoder = torch.where(norms > 0, rows / norms.clamp(min=1e-12), spare)
    target = x if target is None else target
    return drawn * encoder_factor(config, x, drawn, decoder, target), decoder


def encoder_factor(
    config: DictionaryConfig,
    x: Float[Tensor, "tokens d_in"],
    encoder: Float[Tensor, "d_sae d_in"],
    decoder: Float[Tensor, "d_sae d_out"],
    target: Float[Tensor, "tokens d_out"],
) -> float:
    """``<target, y> / <y, y>``, ``y`` what is written with this encoder; 1 where y is 0."""
    y = rule_of(config).first_acts(config, x @ encoder.t()) @ decoder
    length = float((y * y).sum())
    return float((target * y).sum()) / length if length > 0 else 1.0


def _unit_rows(seed: int, d_sae: int, d: int) -> Float[Tensor, "d_sae d"]:
    rng = torch.Generator().manual_seed(seed)
    rows = torch.randn(d_sae, d, generator=rng)
    return rows / rows.norm(dim=1, keepdim=True)
