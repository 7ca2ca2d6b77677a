"""From a group to values in the units of the source: scales and centres are folded in.

A group sees ``x' = s_in x - centre`` and ``y' = s_out y``. Latents are given in units of what is
written, so that decoder rows keep unit length; of a crosscoder, whose sites have scales of their
own, in the units of training.
"""

from itertools import accumulate
from typing import Any

from torch import Tensor

from lensbench.saes.coder import SparseCoder
from lensbench.saes.crosscoder import Crosscoder
from lensbench.saes.sae import SAE
from lensbench.saes.step.group import Group
from lensbench.saes.transcoder import Transcoder


def export(group: Group, i: int, metadata: dict[str, Any]) -> SparseCoder:
    """Dictionary ``i`` of ``group`` as a value on the CPU."""
    config = group.configs[i]
    own = {n: v.detach().to("cpu", copy=True) for n, v in group.own(i).items()}
    found: dict[str, Any] = {n: own[n] for n in ("W_enc", "b_enc", "W_dec", "b_dec")}
    found |= group.rule.export(config, own)
    found["W_enc"] = found["W_enc"].t().contiguous()
    ends = group.ends
    facts: dict[str, Any] = {"site": ends.key, "training_architecture": config.kind()}
    if not ends.same:
        facts |= {"site": "+".join(ends.reads), "target": "+".join(ends.writes)}
    rest: dict[str, Any] = {"config": config.to_dict(), "metadata": facts | metadata}
    if len(ends.writes) > 1:
        return Crosscoder(**_crosscoder(found, group), **rest)
    assert isinstance(group.scale, float)
    assert isinstance(group.out_scale, float)
    if ends.same:
        return SAE(**_divided(found, group.scale), **rest)
    _fold(found, own, group.scale)
    for name in found.keys() & {"W_enc", "W_skip"}:
        found[name] = found[name] / group.out_scale
    return Transcoder(**_divided(found, group.out_scale), **rest)


def _divided(found: dict[str, Any], scale: float) -> dict[str, Any]:
    """Latents and what is written, smaller by ``scale``; decoder rows stay."""
    for name in ("b_enc", "b_dec", "threshold"):
        if name in found:
            found[name] = found[name] / scale
    return found


def _fold(found: dict[str, Any], own: dict[str, Tensor], scale: float) -> None:
    """Take the centre and the scale of what a transcoder reads into its weights."""
    found["b_enc"] = found["b_enc"] - own["centre"] @ found["W_enc"]
    found["W_enc"] = found["W_enc"] * scale
    if "W_skip" in own:
        skip = own["W_skip"].t().contiguous()
        found["b_dec"] = found["b_dec"] - own["centre"] @ skip
        found["W_skip"] = skip * scale


def _crosscoder(found: dict[str, Any], group: Group) -> dict[str, Any]:
    """Scales per dimension into both weights; the encoder reads what was not centred."""
    assert isinstance(group.scale, Tensor)
    scale = group.scale.cpu()
    found["b_enc"] = found["b_enc"] - found["b_dec"] @ found["W_enc"]
    found["W_enc"] = found["W_enc"] * scale[:, None]
    found["W_dec"], found["b_dec"] = found["W_dec"] / scale, found["b_dec"] / scale
    starts = [0, *accumulate(group.widths)][:-1]
    scales = tuple(float(scale[start]) for start in starts)
    return found | {"sites": group.ends.writes, "widths": group.widths, "scales": scales}
