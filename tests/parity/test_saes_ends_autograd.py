"""Transcoders and crosscoders: steps against plain autograd, as test_saes_autograd does for SAEs.

Control: without the skip connection's gradient, or with the price of an L1 crosscoder's latents
left out, the same comparison fails.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.saes_plain import plain_loss

IN, OUT, F, B = 24, 18, 256, 48
VARIANTS: dict[str, dict[str, Any]] = {
    "topk": {"k": 4},
    "batchtopk": {"k": 4},
    "matryoshka": {"k": 4, "prefixes": (0.125, 0.5)},
    "relu": {"l1_coefficient": 0.7, "aux_coefficient": 0.05},
    "p_anneal": {"l1_coefficient": 0.7, "aux_coefficient": 0.05},
    "jumprelu": {"l0_coefficient": 0.3, "aux_coefficient": 0.05, "bandwidth": 0.5},
    "gated": {"l1_coefficient": 0.7},
}
SELECTED = ("topk", "batchtopk", "matryoshka")
ROLES: dict[str, dict[str, Any]] = {
    "transcoder": {"site": "a", "target": "b"},
    "skip": {"site": "a", "target": "b", "skip_connection": True},
    "crosscoder": {"sites": ("a", "b"), "unequal_widths": True},
}
CASES = [
    (role, kind, way)
    for role in ROLES
    for kind in VARIANTS
    for way in ("dense", "stacked")
    if not (role == "crosscoder" and kind in ("p_anneal", "gated"))
]


def _data() -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(1)
    return {"a": torch.randn(B, IN, generator=rng), "b": torch.randn(B, OUT, generator=rng) + 0.5}


def _group(role: str, kind: str, *, n: int = 1, dead: int = 0) -> Any:
    from lensbench.saes.architectures import ARCHITECTURES
    from lensbench.saes.ends import Ends
    from lensbench.saes.step.rules.base import Now
    from lensbench.saes.training.groups import started

    torch.manual_seed(0)
    own = VARIANTS[kind] | ({} if kind in SELECTED else {"penalty_warmup": 0.0})
    configs = [
        ARCHITECTURES[kind](
            name=kind, d_sae=F, lr=1e-3, seed=s, **({"aux_k": 5} | own | ROLES[role])
        )
        for s in range(n)
    ]
    group = started(configs, Ends.of(configs[0]), _data(), {"a": 1.3, "b": 0.7})
    group.W_enc.normal_(0, 0.2)
    group.b_enc.normal_(0, 0.1)
    group.b_dec.normal_(0, 0.3)
    if kind not in SELECTED:
        group.b_enc.sub_(2.6)  # few latents fire, so that the sparse way is taken
    for name in ("W_skip", "r_mag", "b_mag"):
        if name in group.params:
            group.params[name].normal_(0.1, 0.2)
    if "threshold" in group.params:
        group.params["threshold"].uniform_(0.05 / IN**0.5, 0.6 / IN**0.5)
    if kind == "p_anneal":
        group.state["exponent"].fill_(0.5)
    group.dead[:, :dead] = True
    group.refresh_lists()
    for i, config in enumerate(configs):
        group.rule.before(config, group.own(i), Now(0, 10**6))
    return group


def _ours(group: Any, way: str) -> Any:
    from lensbench.saes.step.looped import Looped
    from lensbench.saes.step.rules.base import Now
    from lensbench.saes.step.stacked import stacked_gradients

    batch = _data()
    x, y = group.seen(group.ends.x(batch), group.ends.y(batch))
    if way == "stacked":
        return stacked_gradients(group, x, Now(0, 10**6), y=y)[0]
    found = Looped(screened=False).one(group, 0, x, Now(0, 10**6), y)
    assert found is not None
    return found


def _plain(group: Any, widths: tuple[int, ...]) -> dict[str, Tensor]:
    leaves = {name: p[0].clone().requires_grad_() for name, p in group.params.items()}
    batch = _data()
    x, y = group.seen(group.ends.x(batch), group.ends.y(batch))
    centre = None if y is None else group.state["centre"][0]
    loss = plain_loss(
        leaves, group.configs[0], x, group.dead[0], exponent=0.5, y=y, centre=centre, widths=widths
    )
    loss.backward()
    return leaves | {"loss": loss.detach()}


@pytest.mark.parametrize("dead", [0, 20])
@pytest.mark.parametrize(("role", "kind", "way"), CASES)
def test_gradients_equal_autograd(role: str, kind: str, way: str, dead: int) -> None:
    group = _group(role, kind, dead=dead)
    ours, plain = _ours(group, way), _plain(group, group.widths)
    assert float(ours.loss) == pytest.approx(float(plain.pop("loss")), rel=1e-5)
    assert set(ours.of) == set(plain)
    for name, leaf in plain.items():
        assert leaf.grad is not None
        assert ours.of[name].shape == leaf.shape
        off = float((ours.of[name] - leaf.grad).abs().max() / leaf.grad.abs().max())
        assert off < 3e-5, name
    along = (ours.of["W_dec"] * group.W_dec[0]).sum(1)
    torch.testing.assert_close(ours.along, along, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", ["dense", "stacked"])
def test_the_price_of_a_crosscoders_latents_matters(way: str) -> None:
    group = _group("crosscoder", "relu")
    control = _plain(group, ())
    found = _ours(group, way).of["W_dec"]
    assert control["W_dec"].grad is not None
    assert float((found - control["W_dec"].grad).abs().max()) > 1e-3


@pytest.mark.parametrize("kind", list(VARIANTS))
@pytest.mark.parametrize("role", list(ROLES))
def test_what_is_exported_does_in_units_of_the_source_what_was_trained(
    role: str, kind: str
) -> None:
    from lensbench.saes.step.export import export
    from lensbench.saes.step.rules.base import Now, Step

    if role == "crosscoder" and kind in ("p_anneal", "gated"):
        pytest.skip("refused")
    group, batch = _group(role, kind), _data()
    x, y = group.seen(group.ends.x(batch), group.ends.y(batch))
    own = group.own(slice(0, 1))
    read, target = group.problem(own, x, y)
    pre = read @ own["W_enc"].transpose(1, 2) + own["b_enc"]
    layout = group.rule.dense(group.configs, pre)
    sides = (group.centred, group.widths)
    flow = group.rule.flow(Step(group.configs[0], layout, read, target, own, Now(), *sides))
    if "cut" in group.state:  # just below the smallest that was kept, as after many steps
        group.state["cut"][0] = flow.state["smallest"][0] * 0.99999
    goal = x if y is None else y
    wanted = (flow.error[0] + goal) / group.out_scale

    coder: Any = export(group, 0, {})
    torch.testing.assert_close(coder(group.ends.x(batch)), wanted, rtol=1e-4, atol=1e-4)
    scale = group.out_scale if role != "crosscoder" else 1.0
    torch.testing.assert_close(
        coder.encode(group.ends.x(batch)), flow.acts[0] / scale, rtol=1e-4, atol=1e-4
    )
    assert 0 < float((flow.acts[0] > 0).float().mean()) < 0.5
    assert coder.role == group.configs[0].role
    norms = coder.W_dec.norm(dim=1) if role != "crosscoder" else coder.decoder_norms().norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(F), rtol=1e-4, atol=1e-4)
    if role == "skip":
        given = group.ends.x(batch)
        torch.testing.assert_close(coder.decode(coder.encode(given)) + coder.skip(given), wanted)
