"""Multi-TopK: two losses of one dictionary, against autograd; control: without the second."""

from typing import Any

import pytest
import torch
from torch import Tensor

D, F, B, K, SHARE = 24, 256, 48, 4, 0.125


def _config(seed: int = 0, **changes: Any) -> Any:
    from lensbench.saes.architectures import TopKConfig

    own = {"name": f"a{seed}", "d_sae": F, "k": K, "lr": 1e-3, "multi_topk": SHARE, "seed": seed}
    return TopKConfig(**(own | changes))


def _x() -> Tensor:
    return torch.randn(B, D, generator=torch.Generator().manual_seed(1))


def _group(configs: list[Any]) -> Any:
    from lensbench.saes.step.start import new_group

    group = new_group(configs, "s", _x(), 1.0)
    rng = torch.Generator().manual_seed(2)
    for name, size in (("b_enc", 0.1), ("b_dec", 0.3)):
        shape = group.params[name].shape
        group.params[name].copy_(torch.randn(shape, generator=rng) * size)
    group.W_enc.add_(torch.randn(group.W_enc.shape, generator=rng) * 0.05)
    return group


def _autograd(group: Any, i: int, share: float) -> dict[str, Tensor]:
    p = {n: v[i].clone().requires_grad_() for n, v in group.params.items()}
    pre = (_x() - p["b_dec"]) @ p["W_enc"].t() + p["b_enc"]
    loss: Any = 0.0
    for k, weight in ((K, 1.0), (4 * K, share)):
        values, indices = pre.topk(k, dim=1)
        acts = torch.zeros_like(pre).scatter(1, indices, values.relu())
        error = acts @ p["W_dec"] + p["b_dec"] - _x()
        loss = loss + weight * error.square().sum(1).mean()
    loss.backward()
    return p | {"loss": loss.detach()}


def _ours(group: Any, way: str, i: int) -> Any:
    from lensbench.saes.step.looped import Looped
    from lensbench.saes.step.rules.base import Now
    from lensbench.saes.step.stacked import stacked_gradients

    if way == "stacked":
        return stacked_gradients(group, _x(), Now())[i]
    return Looped(screened=way == "screened").one(group, i, _x(), Now())


def _off(ours: Any, leaves: dict[str, Tensor]) -> float:
    worst = 0.0
    for name, leaf in leaves.items():
        assert leaf.grad is not None
        worst = max(worst, float((ours.of[name] - leaf.grad).abs().max() / leaf.grad.abs().max()))
    return worst


@pytest.mark.parametrize("way", ["dense", "screened", "stacked"])
def test_gradients_equal_autograd(way: str) -> None:
    group = _group([_config(0), _config(1)])
    for i in range(2):
        ours = _ours(group, way, i)
        leaves = _autograd(group, i, SHARE)
        assert float(ours.loss) == pytest.approx(float(leaves.pop("loss")), rel=1e-5)
        assert _off(ours, leaves) < 3e-5
        along = (ours.of["W_dec"] * group.W_dec[i]).sum(1)
        torch.testing.assert_close(ours.along, along, rtol=1e-4, atol=1e-5)
        assert float(ours.fired.sum()) == pytest.approx(K * B, abs=K)  # L0 is that of k
        control = _autograd(group, i, 0.0)
        control.pop("loss")
        assert _off(ours, control) > 1e-2


def test_it_keeps_k_when_it_is_saved() -> None:
    from lensbench.saes.step.export import export

    sae: Any = export(_group([_config()]), 0, {})
    assert int((sae.encode(_x()) > 0).sum(1).max()) <= K


def test_other_numbers_of_latents_reconstruct_too() -> None:
    """Gao et al. 2024, "Multi-TopK": what is lost with more latents than trained for."""
    from dataclasses import replace

    from lensbench import saes

    rng = torch.Generator().manual_seed(0)
    atoms = torch.randn(64, D, generator=rng)
    atoms /= atoms.norm(dim=1, keepdim=True)

    def batch() -> Tensor:
        fires = torch.rand(256, 64, generator=rng) < 0.12
        return (fires * (0.5 + torch.rand(256, 64, generator=rng))) @ atoms

    data = [batch() for _ in range(400)]
    entries = [{"architecture": "topk", "d_sae": 96, "k": 4, "lr": 3e-3, "multi_topk": [0, SHARE]}]
    train = {"tokens": 400 * 256, "batch_size": 256}
    runs = saes.train(data, {"train": train, "sweep": entries}, device="cpu", progress=False)
    x = batch()

    def fvu(run: Any, k: int) -> float:
        wide = replace(run.sae, k=k)
        return float((wide(x) - x).square().sum() / (x - x.mean(0)).square().sum())

    plain, multi = runs
    assert fvu(multi, 16) < 0.8 * fvu(plain, 16)
    assert fvu(multi, 4) < 1.3 * fvu(plain, 4)


def test_groups_are_of_one_k() -> None:
    from lensbench.saes.ends import Ends
    from lensbench.saes.step.group import group_key

    ends = Ends(("s",), ("s",))
    keys = {group_key(ends, _config(k=k)) for k in (4, 8)}
    assert len(keys) == 2
    assert group_key(ends, _config(multi_topk=0.0, k=4)) == group_key(
        ends, _config(multi_topk=0, k=8)
    )
