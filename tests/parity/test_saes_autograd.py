"""Hand-written steps against plain autograd: gradients, the auxiliary loss, five whole updates.

Control: with the target of the auxiliary loss not detached, or with the decoder's gradient left
unprojected, the same comparison fails.
"""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

D, F, B = 24, 1024, 48
PARAMETERS = ("W_enc", "b_enc", "W_dec", "b_dec")
CASES = [
    ("topk", "dense"),
    ("topk", "screened"),
    ("topk", "stacked"),
    ("batchtopk", "dense"),
    ("batchtopk", "screened"),
    ("batchtopk", "stacked"),
    ("relu", "dense"),
    ("relu", "stacked"),
]


def _config(kind: str, **changes: Any) -> Any:
    from lensbench.saes.configs import ARCHITECTURES

    own = {"lr": 1e-3} | (
        {"l1_coefficient": 0.7, "aux_coefficient": 0.05} if kind == "relu" else {"k": 4}
    )
    return ARCHITECTURES[kind](name=kind, d_sae=F, aux_k=5, **(own | changes))


def _group(kind: str, *, n: int = 1, dead: int = 0, **changes: Any) -> Any:
    from lensbench.saes.step.start import new_group

    torch.manual_seed(0)
    group = new_group([_config(kind, seed=s, **changes) for s in range(n)], "s", _x(), 1.0)
    with torch.no_grad():
        group.W_enc.copy_(group.W_dec)
        group.b_enc.normal_(0, 0.1)
        group.b_dec.normal_(0, 0.3)
        group.W_enc.add_(torch.randn_like(group.W_enc) * 0.05)
        if kind == "relu":
            group.b_enc.sub_(2.0)  # few latents fire, so that the sparse way is taken
    group.dead[:, :dead] = True
    group.refresh_lists()
    return group


def _x(seed: int = 1) -> Tensor:
    return torch.randn(B, D, generator=torch.Generator().manual_seed(seed))


def _ours(group: Any, way: str, x: Tensor, l1: float) -> Any:
    from lensbench.saes.step.looped import Looped
    from lensbench.saes.step.stacked import stacked_gradients

    if way == "stacked":
        return stacked_gradients(group, x, [l1] * group.n)[0]
    found = Looped(screened=way == "screened").one(group, 0, x, l1)
    assert found is not None
    return found


def _plain_loss(
    params: dict[str, Tensor], config: Any, x: Tensor, dead: Tensor, l1: float, *, detach: bool
) -> Tensor:
    pre = (x - params["b_dec"]) @ params["W_enc"].t() + params["b_enc"]
    if config.architecture == "topk":
        values, indices = pre.topk(config.k, dim=1)
        acts = torch.zeros_like(pre).scatter(1, indices, values.relu())
    elif config.architecture == "batchtopk":
        flat = pre.relu().reshape(-1)
        values, indices = flat.topk(config.k * len(x))
        acts = torch.zeros_like(flat).scatter(0, indices, values).view_as(pre)
    else:
        acts = pre.relu()
    error = acts @ params["W_dec"] + params["b_dec"] - x
    loss = error.square().sum(1).mean() + l1 * acts.sum(1).mean()
    if dead.any():
        masked = pre.masked_fill(~dead, -torch.inf)
        values, indices = masked.topk(config.aux_k, dim=1)
        aux = torch.zeros_like(pre).scatter(1, indices, values.relu())
        target = -(error.detach() if detach else error)
        loss = (
            loss + config.aux_coefficient * (aux @ params["W_dec"] - target).square().sum(1).mean()
        )
    return loss


def _leaves(group: Any) -> dict[str, Tensor]:
    return {p: getattr(group, p)[0].clone().requires_grad_() for p in PARAMETERS}


def _worst(ours: Any, plain: dict[str, Tensor]) -> float:
    worst = 0.0
    for name, got in zip(PARAMETERS, ours.tensors(), strict=True):
        want = plain[name].grad
        assert want is not None
        worst = max(worst, float((got - want).abs().max() / want.abs().max()))
    return worst


@pytest.mark.parametrize("dead", [0, 3, 20])
@pytest.mark.parametrize(("kind", "way"), CASES)
def test_gradients_equal_autograd(kind: str, way: str, dead: int) -> None:
    group = _group(kind, dead=dead)
    l1 = 0.7 if kind == "relu" else 0.0
    plain = _leaves(group)
    loss = _plain_loss(plain, group.configs[0], _x(), group.dead[0], l1, detach=True)
    loss.backward()
    ours = _ours(group, way, _x(), l1)
    assert float(ours.loss) == pytest.approx(float(loss.detach()), rel=1e-5)
    assert _worst(ours, plain) < 2e-5  # float32, sums in another order

    along = (ours.W_dec * group.W_dec[0]).sum(1)
    torch.testing.assert_close(ours.along, along, rtol=1e-4, atol=1e-5)
    if dead and way == "dense":
        control = _leaves(group)
        _plain_loss(control, group.configs[0], _x(), group.dead[0], l1, detach=False).backward()
        assert _worst(ours, control) > 1e-3


@pytest.mark.parametrize("way", ["dense", "stacked"])
def test_auxiliary_gradient_reaches_the_encoder_of_dead_latents(way: str) -> None:
    dead = 20
    on, off = _group("topk", dead=dead), _group("topk", dead=0)
    for group in (on, off):  # the dead latents cannot win a place among the k
        group.b_enc[:, :dead] = -1.0
    with_aux, without = (_ours(g, way, _x(), 0.0) for g in (on, off))
    assert float(without.W_enc[:dead].norm()) == 0.0
    assert float(with_aux.W_enc[:dead].norm()) > 1e-3


def _plain_training(group: Any, batches: list[Tensor], l1: float, *, project: bool) -> Any:
    plain = _leaves(group)
    adam = torch.optim.Adam(plain.values(), lr=1e-3, eps=6.25e-10)
    for x in batches:
        adam.zero_grad()
        none = torch.zeros(F, dtype=torch.bool)
        _plain_loss(plain, group.configs[0], x, none, l1, detach=True).backward()
        W_dec = plain["W_dec"]
        assert W_dec.grad is not None
        if project:
            W_dec.grad -= (W_dec.grad * W_dec).sum(1, keepdim=True).detach() * W_dec.detach()
        torch.nn.utils.clip_grad_norm_(plain.values(), 1.0)
        adam.step()
        with torch.no_grad():
            W_dec.div_(W_dec.norm(dim=1, keepdim=True))
    return plain


@pytest.mark.parametrize(("kind", "way"), CASES)
def test_five_updates_equal_autograd_with_adam_clip_and_projection(kind: str, way: str) -> None:
    from lensbench.saes.step import update

    group = _group(kind)
    l1, batches = (0.7 if kind == "relu" else 0.0), [_x(seed) for seed in range(5)]
    plain = _plain_training(group, batches, l1, project=True)
    control = _plain_training(group, batches, l1, project=False)
    before = {p: getattr(group, p)[0].clone() for p in PARAMETERS}
    for x in batches:
        update.apply(group, 0, _ours(group, way, x, l1), lr=1e-3, n_tokens=B)
    for name in PARAMETERS:
        got, want = getattr(group, name)[0], plain[name].detach()
        moved = float((want - before[name]).abs().max())
        assert moved > 1e-3
        assert float((got - want).abs().max()) < 1e-2 * moved
        assert float((got - want).abs().mean()) < 1e-6
    off = (group.W_dec[0] - control["W_dec"].detach()).abs().mean()
    assert float(off) > 1e-5  # without projection the weights are others


def test_a_stacked_step_equals_separate_steps() -> None:
    from lensbench.saes.step import update
    from lensbench.saes.step.stacked import stacked_gradients
    from lensbench.saes.step.start import new_group

    configs = [
        _config("topk", k=k, seed=s, lr=lr, clip=c)
        for k, s, lr, c in [(4, 0, 1e-3, 1.0), (7, 1, 3e-4, 0.1), (4, 2, 1e-2, None)]
    ]
    together = new_group(configs, "s", _x(), 1.0)
    alone = [new_group([c], "s", _x(), 1.0) for c in configs]
    for seed in range(5):
        x = _x(seed)
        for i, grads in enumerate(stacked_gradients(together, x, [0.0] * 3)):
            update.apply(together, i, grads, configs[i].learning_rate, B)
        for group in alone:
            (grads,) = stacked_gradients(group, x, [0.0])
            update.apply(group, 0, grads, group.configs[0].learning_rate, B)
    for i, group in enumerate(alone):
        for name in PARAMETERS:
            torch.testing.assert_close(
                getattr(together, name)[i], getattr(group, name)[0], rtol=0, atol=1e-6
            )
    assert not math.isclose(float(together.W_enc[0, 0, 0]), float(together.W_enc[1, 0, 0]))
