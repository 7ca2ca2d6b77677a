"""Steps whose products are in bfloat16, against autograd in float32; what stays float32.

Tolerance: a factor is rounded by at most 2^-9 = 0.2 % of itself, a product of two by 0.4 %, and a
gradient goes through three in a row: 1.5 %, in the norm. Control: with factors rounded to float8
(2^-4) every comparison fails.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from lensbench.errors import ConfigError
from tests.parity import test_saes_autograd as written

TOLERANCE = 0.015
WAYS = [("topk", "dense"), ("topk", "stacked"), ("relu", "dense"), ("relu", "stacked")]


def _clear_tokens(group: Any, x: Tensor) -> Tensor:
    """Tokens of which rounding moves no latent across zero or into or out of the k largest.

    Which of two latents that are almost equal is selected says nothing of a gradient's accuracy.
    """
    centred, W_enc = x - group.b_dec[0], group.W_enc[0]
    pre, config = centred @ W_enc.t() + group.b_enc[0], group.configs[0]
    margin = 2.0**-7 * centred.norm(dim=1) * W_enc.norm(dim=1).max()  # twice the largest error
    clear = pre.abs().amin(1) > margin
    for k, among in ((getattr(config, "k", None), pre), (config.aux_k, pre[:, group.dead[0]])):
        if k is not None and among.shape[1] > k:
            best = among.topk(k + 1).values
            clear &= best[:, k - 1] - best[:, k] > 2 * margin
    assert int(clear.sum()) >= 12
    return x[clear]


def _off(ours: Any, leaves: dict[str, Tensor]) -> float:
    """Largest relative error of a parameter's gradient, in the norm."""
    parts = [(ours.of[n] - leaf.grad).norm() / leaf.grad.norm() for n, leaf in leaves.items()]  # pyright: ignore[reportOptionalMemberAccess]
    return float(torch.stack(parts).max())


@pytest.mark.parametrize("dead", [0, 12])
@pytest.mark.parametrize(("variant", "way"), WAYS)
def test_gradients_are_autograds_up_to_rounding(
    variant: str, way: str, dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensbench.saes.step.precision import products_in

    monkeypatch.setattr(written, "F", 32)
    group = written._group(variant, dead=dead)
    x = _clear_tokens(group, torch.cat([written._x(seed) for seed in range(20)]))
    leaves = written._leaves(group)
    written._plain(group, leaves, x).backward()
    exact = written._ours(group, way, x)
    assert _off(exact, leaves) < 1e-4
    with products_in("bf16"):
        ours = written._ours(group, way, x)
        assert 1e-4 < _off(ours, leaves) < TOLERANCE
        assert {value.dtype for value in ours.of.values()} == {torch.float32}

        eighth = torch.Tensor.bfloat16
        monkeypatch.setattr(
            torch.Tensor, "bfloat16", lambda t: eighth(t.to(torch.float8_e4m3fn).float())
        )
        copy = torch.Tensor.copy_
        monkeypatch.setattr(
            torch.Tensor,
            "copy_",
            lambda t, o: copy(t, o.to(torch.float8_e4m3fn).float() if t.dtype != o.dtype else o),
        )
        assert _off(written._ours(group, way, x), leaves) > TOLERANCE


@pytest.mark.parametrize("engine", ["dense", "stacked"])
@pytest.mark.parametrize("variant", ["topk", "batchtopk", "matryoshka", "gated", "jumprelu step"])
def test_parameters_and_moments_stay_float32(variant: str, engine: Any) -> None:
    from lensbench.saes.step.encode import Workspace
    from lensbench.saes.step.engines import Stepper
    from lensbench.saes.step.precision import in_bf16
    from lensbench.saes.step.rules.base import Now

    after = []
    for precision in ("float32", "bf16"):
        group = written._group(variant)
        stepper = Stepper(group, engine, Workspace(precision=precision))  # pyright: ignore[reportArgumentType]
        for seed in range(3):
            stepper.step(written._x(seed), [1e-4], Now(seed, 100))
        kept = {n: t for n, t in group.tensors(0).items() if t.is_floating_point()}
        assert {t.dtype for t in kept.values()} == {torch.float32}
        # An update below the spacing of bfloat16 numbers is not lost: weights are no bfloat16.
        assert not torch.equal(group.W_enc[0], group.W_enc[0].bfloat16().float())
        after.append(kept)
    assert not in_bf16()
    one, other = after
    assert not torch.equal(one["first.W_enc"], other["first.W_enc"])


def _train(precision: str, **train: Any) -> Any:
    from lensbench import saes

    rng = torch.Generator().manual_seed(7)
    atoms = torch.nn.functional.normalize(torch.randn(32, 16, generator=rng), dim=1)
    codes = torch.rand(200 * 64, 32, generator=rng)
    codes = codes * (torch.rand(codes.shape, generator=rng) < 0.06)
    sweep = {
        "train": {"tokens": len(codes), "batch_size": 64, "precision": precision} | train,
        "sweep": [{"architecture": "topk", "d_sae": 64, "k": 4, "lr": 3e-3}],
    }
    return saes.train((codes @ atoms).split(64), sweep, progress=False, device="cpu")[0]


def test_a_dictionary_learnt_in_bf16_explains_as_much() -> None:
    full, half = (_train(p, engine="dense") for p in ("float32", "bf16"))
    assert full.history["fvu"][-1] < 0.2
    assert half.history["fvu"][-1] == pytest.approx(full.history["fvu"][-1], abs=0.02)
    assert half.history["fvu"][-1] != full.history["fvu"][-1]


def test_the_choice_of_engines_says_why_and_what_does_not_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from lensbench.saes.step import engines
    from lensbench.saes.step.encode import Workspace

    group, fits = written._group("topk"), {"stacked": 0.25, "dense": 0.002, "screened": 1.0}

    def probe(stepper: Any, *data: Tensor | None) -> float:
        del data
        if stepper.engine not in fits:
            raise torch.OutOfMemoryError
        return fits[stepper.engine]

    monkeypatch.setattr(engines.Stepper, "probe", probe)
    engine, told = engines.choose(group, written._x(), Workspace())
    assert engine == "dense"
    assert "sparse after the encoder at d_sae / k = 256" in told
    del fits["dense"], fits["screened"]
    engine, told = engines.choose(group, written._x(), Workspace(precision="bf16"))
    assert engine == "stacked"
    assert told.startswith("stacked (dense does not fit, stacked 250.0 ms per step of 1)")
    assert told.endswith("dense after the encoder at d_sae / k = 256")
    del fits["stacked"]
    with pytest.raises(ConfigError, match="does not fit in the memory of cpu; lower train"):
        engines.choose(group, written._x(), Workspace())


def test_an_exact_screen_of_rounded_products_is_refused() -> None:
    with pytest.raises(ConfigError, match="screened is exact in float32; with precision: bf16"):
        _train("bf16", engine="screened")
    with pytest.raises(ConfigError, match="precision"):
        _train("fp16")
