"""Hand-written steps against plain autograd: gradients, the auxiliary loss, five whole updates.

Control: with the target of the auxiliary loss not detached, or with the decoder's gradient left
unprojected, the same comparison fails.
"""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.saes_plain import plain_loss

D, F, B = 24, 1024, 48
VARIANTS: dict[str, dict[str, Any]] = {
    "topk": {"k": 4},
    "batchtopk": {"k": 4},
    "matryoshka": {"k": 4, "prefixes": (0.125, 0.5)},
    "relu": {"l1_coefficient": 0.7, "aux_coefficient": 0.05},
    "tied": {"l1_coefficient": 0.7, "aux_coefficient": 0.05},
    "p_anneal": {"l1_coefficient": 0.7, "aux_coefficient": 0.05},
    "jumprelu step": {"l0_coefficient": 0.3, "aux_coefficient": 0.05},
    "jumprelu quadratic": {"l0_coefficient": 20.0, "target_l0": 5.0, "aux_coefficient": 0.05},
    "jumprelu tanh": {"l0_coefficient": 0.3, "pre_act_coefficient": 0.1},
    "gated": {"l1_coefficient": 0.7},
}
SELECTED = ("topk", "batchtopk", "matryoshka")
CASES = [
    *((kind, way) for kind in VARIANTS for way in ("dense", "stacked")),
    *((kind, "screened") for kind in SELECTED),
]
EXPONENT = 0.5
"""Of p_anneal."""


def _config(variant: str, **changes: Any) -> Any:
    from lensbench.saes.architectures import ARCHITECTURES

    kind, _, penalty = variant.partition(" ")
    own = VARIANTS[variant] | ({"penalty": penalty, "bandwidth": 0.5} if penalty else {})
    if variant not in SELECTED:
        own = own | {"penalty_warmup": 0.0}
    return ARCHITECTURES[kind](name=kind, d_sae=F, **({"lr": 1e-3, "aux_k": 5} | own | changes))


def _group(variant: str, *, n: int = 1, dead: int = 0, **changes: Any) -> Any:
    from lensbench.saes.step.rules.base import Now
    from lensbench.saes.step.start import new_group

    torch.manual_seed(0)
    group = new_group([_config(variant, seed=s, **changes) for s in range(n)], "s", _x(), 1.0)
    with torch.no_grad():
        group.b_enc.normal_(0, 0.1)
        group.b_dec.normal_(0, 0.3)
        if "W_enc" in group.params:
            group.W_enc.copy_(group.W_dec + torch.randn_like(group.W_enc) * 0.05)
        if variant not in SELECTED:
            group.b_enc.sub_(2.0)  # few latents fire, so that the sparse way is taken
        if variant == "gated":
            group.params["r_mag"].normal_(0.3, 0.2)
            group.params["b_mag"].normal_(-0.5, 0.5)
        if "threshold" in group.params:
            group.params["threshold"].uniform_(0.05 / D**0.5, 0.6 / D**0.5)
        if variant == "p_anneal":
            group.state["exponent"].fill_(EXPONENT)
    group.dead[:, :dead] = True
    group.refresh_lists()
    for i, config in enumerate(group.configs):
        group.rule.before(config, group.own(i), Now(0, 10**6))
    return group


def _x(seed: int = 1) -> Tensor:
    return torch.randn(B, D, generator=torch.Generator().manual_seed(seed))


def _ours(group: Any, way: str, x: Tensor) -> Any:
    from lensbench.saes.step.looped import Looped
    from lensbench.saes.step.rules.base import Now
    from lensbench.saes.step.stacked import stacked_gradients

    if way == "stacked":
        return stacked_gradients(group, x, Now(0, 10**6))[0]
    found = Looped(screened=way == "screened").one(group, 0, x, Now(0, 10**6))
    assert found is not None
    return found


def _plain(group: Any, params: dict[str, Tensor], x: Tensor, *, detach: bool = True) -> Tensor:
    config = group.configs[0]
    exponent = EXPONENT if config.architecture == "p_anneal" else 1.0
    return plain_loss(params, config, x, group.dead[0], exponent=exponent, detach=detach)


def _leaves(group: Any) -> dict[str, Tensor]:
    return {name: p[0].clone().requires_grad_() for name, p in group.params.items()}


def _worst(ours: Any, plain: dict[str, Tensor]) -> float:
    worst = 0.0
    for name, leaf in plain.items():
        assert leaf.grad is not None
        off = float((ours.of[name] - leaf.grad).abs().max() / leaf.grad.abs().max())
        worst = max(worst, off)
    return worst


@pytest.mark.parametrize("dead", [0, 3, 20])
@pytest.mark.parametrize(("variant", "way"), CASES)
def test_gradients_equal_autograd(variant: str, way: str, dead: int) -> None:
    group = _group(variant, dead=max(dead, 5) if dead and variant not in SELECTED else dead)
    plain = _leaves(group)
    loss = _plain(group, plain, _x())
    loss.backward()
    ours = _ours(group, way, _x())
    assert float(ours.loss) == pytest.approx(float(loss.detach()), rel=1e-5)
    assert _worst(ours, plain) < 3e-5  # float32, sums in another order

    along = (ours.of["W_dec"] * group.W_dec[0]).sum(1)
    torch.testing.assert_close(ours.along, along, rtol=1e-4, atol=1e-5)
    if dead and way == "dense" and group.configs[0].aux_coefficient:
        control = _leaves(group)
        _plain(group, control, _x(), detach=False).backward()
        assert _worst(ours, control) > 1e-3


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v not in SELECTED])
def test_every_entry_that_a_list_leaves_out_is_without_gradient(variant: str) -> None:
    """Control: with a penalty twice as large, or without it, the same comparison fails."""
    group, leaves = _group(variant), None
    ours = _ours(group, "dense", _x())
    for factor in (0.0, 2.0):
        leaves = _leaves(group)
        name = "l0_coefficient" if "jumprelu" in variant else "l1_coefficient"
        weight = getattr(group.configs[0], name) * factor
        other = group.configs[0].model_copy(update={name: weight})
        exponent = EXPONENT if variant == "p_anneal" else 1.0
        plain_loss(leaves, other, _x(), group.dead[0], exponent=exponent).backward()
        assert _worst(ours, leaves) > 1e-3


@pytest.mark.parametrize("way", ["dense", "stacked"])
def test_auxiliary_gradient_reaches_the_encoder_of_dead_latents(way: str) -> None:
    dead = 20
    on, off = _group("topk", dead=dead), _group("topk", dead=0)
    for group in (on, off):  # the dead latents cannot win a place among the k
        group.b_enc[:, :dead] = -1.0
    with_aux, without = (_ours(g, way, _x()) for g in (on, off))
    assert float(without.of["W_enc"][:dead].norm()) == 0.0
    assert float(with_aux.of["W_enc"][:dead].norm()) > 1e-3


def _plain_training(group: Any, batches: list[Tensor], *, project: bool) -> Any:
    plain = _leaves(group)
    adam = torch.optim.Adam(plain.values(), lr=1e-3, eps=6.25e-10)
    for x in batches:
        adam.zero_grad()
        _plain(group, plain, x).backward()
        W_dec = plain["W_dec"]
        assert W_dec.grad is not None
        if project:
            W_dec.grad -= (W_dec.grad * W_dec).sum(1, keepdim=True).detach() * W_dec.detach()
        torch.nn.utils.clip_grad_norm_(plain.values(), 1.0)
        adam.step()
        with torch.no_grad():
            W_dec.div_(W_dec.norm(dim=1, keepdim=True))
            if "threshold" in plain:
                plain["threshold"].clamp_(min=0)
    return plain


@pytest.mark.parametrize(("variant", "way"), CASES)
def test_five_updates_equal_autograd_with_adam_clip_and_projection(variant: str, way: str) -> None:
    from lensbench.saes.step import update
    from lensbench.saes.step.rules.base import Now

    group = _group(variant)
    batches = [_x(seed) for seed in range(5)]
    plain = _plain_training(group, batches, project=True)
    control = _plain_training(group, batches, project=False)
    before = _leaves(group)
    for x in batches:
        update.apply(group, 0, _ours(group, way, x), 1e-3, B, Now(0, 10**6))
    for name, value in plain.items():
        got, want = group.params[name][0], value.detach()
        moved = float((want - before[name]).detach().abs().max())
        assert moved > 1e-3
        assert float((got - want).abs().mean()) < 2e-6
        # Adam makes a whole step of a gradient that is zero up to rounding.
        assert float(((got - want).abs() > 1e-2 * moved).float().mean()) < 1e-4
    off = (group.W_dec[0] - control["W_dec"].detach()).abs().mean()
    assert float(off) > 1e-5  # without projection the weights are others


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_a_stacked_step_equals_separate_steps(variant: str) -> None:
    from lensbench.saes.step import update
    from lensbench.saes.step.rules.base import Now
    from lensbench.saes.step.stacked import stacked_gradients
    from lensbench.saes.step.start import new_group

    changes = [
        {"k": k, "seed": s, "lr": lr, "clip": c}
        for k, s, lr, c in [(4, 0, 1e-3, 1.0), (7, 1, 3e-4, 0.1), (4, 2, 1e-2, None)]
    ]
    if variant not in SELECTED:
        for j, change in enumerate(changes):
            del change["k"]
            name = "l0_coefficient" if "jumprelu" in variant else "l1_coefficient"
            change[name] = VARIANTS[variant][name] * (j + 1)
    configs = [_config(variant, **change) for change in changes]
    now = Now(0, 100)
    together = new_group(configs, "s", _x(), 1.0)
    alone = [new_group([c], "s", _x(), 1.0) for c in configs]
    for seed in range(5):
        x = _x(seed)
        for group in (together, *alone):
            for i, config in enumerate(group.configs):
                group.rule.before(config, group.own(i), now)
        for i, grads in enumerate(stacked_gradients(together, x, now)):
            update.apply(together, i, grads, configs[i].learning_rate, B, now)
        for group in alone:
            (grads,) = stacked_gradients(group, x, now)
            update.apply(group, 0, grads, group.configs[0].learning_rate, B, now)
    for i, group in enumerate(alone):
        for name, value in together.params.items():
            off = (value[i] - group.params[name][0]).abs()
            assert float(off.mean()) < 1e-6
            assert float((off > 1e-5).float().mean()) < 1e-3  # see above, on Adam
    assert not math.isclose(float(together.W_enc[0, 0, 0]), float(together.W_enc[1, 0, 0]))
