"""A planted dictionary is found by every architecture, and is not found with sparsity off.

The match of a planted direction is its largest cosine with a decoder row; it counts as recovered
above 0.9. Thresholds: mean match above 0.9 and more than three quarters recovered (a Matryoshka:
0.7 and a half); with sparsity off, fewer than a tenth.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.saes_worlds import BATCH, LATENTS, batches, planted

STEPS = 500


def match(run: Any, truth: Tensor) -> Tensor:
    return (run.sae.W_dec @ truth.t()).max(0).values


def recovered(run: Any, truth: Tensor) -> float:
    return float((match(run, truth) > 0.9).float().mean())


def _train(*entries: dict[str, Any], steps: int = STEPS) -> Any:
    from lensbench import saes

    train = {"tokens": steps * BATCH, "batch_size": BATCH, "engine": "dense", "log_every": 100}
    shared = {"d_sae": LATENTS, "lr": 1e-2}
    sweep = {"train": train, "sweep": [shared | e for e in entries]}
    return saes.train(batches(planted(), steps), sweep, device="cpu", progress=False)


SPARSE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "topk": ({"k": 3}, {"k": LATENTS}),
    "batchtopk": ({"k": 3}, {"k": LATENTS}),
    "matryoshka": ({"k": 3}, {"k": LATENTS}),
    "relu": ({"l1_coefficient": 1.0}, {"l1_coefficient": 0.0}),
    "tied": ({"target_l0": 3}, {"l1_coefficient": 0.0}),
    "p_anneal": ({"target_l0": 3}, {"l1_coefficient": 0.0}),
    "jumprelu": ({"target_l0": 3}, {"l0_coefficient": 0.0, "initial_threshold": 0.0}),
    "jumprelu tanh": ({"target_l0": 3}, {"l0_coefficient": 0.0, "initial_threshold": 0.0}),
    "jumprelu quadratic": ({"target_l0": 3}, {"l0_coefficient": 1e-9, "initial_threshold": 0.0}),
    "gated": ({"target_l0": 3}, {"l1_coefficient": 0.0}),
}


@pytest.mark.parametrize("variant", list(SPARSE))
def test_planted_dictionary_is_recovered_and_not_without_sparsity(variant: str) -> None:
    kind, _, penalty = variant.partition(" ")
    base = {"architecture": kind} | ({"penalty": penalty} if penalty else {})
    found, control = _train(*(base | change for change in SPARSE[variant]))
    # Latents of a Matryoshka that come first stand for several directions.
    enough, most = (0.7, 0.5) if kind == "matryoshka" else (0.9, 0.75)
    assert float(match(found, planted()).mean()) > enough
    assert recovered(found, planted()) > most
    assert recovered(control, planted()) < 0.1
    assert recovered(found, planted(seed=9)) == 0.0  # another truth is not found


SILENCED = 96


def _silenced(coefficient: float, push: float) -> tuple[float, float]:
    """Share of silenced latents that fire again, and of the planted directions recovered."""
    from lensbench.saes.architectures import TopKConfig
    from lensbench.saes.step.engines import Stepper
    from lensbench.saes.step.rules.base import Now
    from lensbench.saes.step.start import new_group, scale_of

    x = next(batches(planted(), 1))
    config = TopKConfig(name="a", d_sae=LATENTS, k=3, aux_coefficient=coefficient)
    group = new_group([config], "s", x, scale_of(x))
    group.b_enc[:, :SILENCED] -= push
    stepper = Stepper(group, "dense")
    for step, batch in enumerate(batches(planted(), STEPS)):
        if step % 10 == 0:
            group.refresh_dead([10 * BATCH])
        stepper.step(batch, [1e-2], Now(step, STEPS))
    alive = float((group.state["since_fired"][0, :SILENCED] < 10 * BATCH).float().mean())
    found = float(((group.W_dec[0] @ planted().t()).max(0).values > 0.9).float().mean())
    return alive, found


def test_the_auxiliary_loss_revives_silenced_latents() -> None:
    """96 of 128 latents start below the k-th largest; 64 directions need more than the other 32."""
    alive_on, found_on = _silenced(1 / 32, push=1.0)
    alive_off, found_off = _silenced(0.0, push=1.0)
    assert found_on > 0.9
    assert found_off < 0.6
    assert alive_on > 3 * alive_off


def test_inference_threshold_of_batch_top_k_keeps_k_on_average() -> None:
    (run,) = _train({"architecture": "batchtopk", "k": 3})
    x = torch.cat(list(batches(planted(), 4)))
    l0 = float((run.sae.encode(x) > 0).sum(1).float().mean())
    assert l0 == pytest.approx(3.0, rel=0.2)
    assert run.sae.activation == "threshold"


def test_a_short_run_ends_with_a_threshold_that_keeps_k(monkeypatch: pytest.MonkeyPatch) -> None:
    from lensbench import saes
    from lensbench.saes.step.rules import fixed_k

    steps = 100

    def kept() -> float:
        """Latents per token at the end of a stream that shrinks, as a cut does in training."""
        shrink = (max(1.0, 3 - 2.5 * i / steps) for i in range(steps))
        stream = (f * x for f, x in zip(shrink, batches(planted(), steps), strict=True))
        train = {"tokens": steps * BATCH, "batch_size": BATCH, "engine": "dense"}
        entry = {"architecture": "batchtopk", "k": 3, "d_sae": LATENTS, "lr": 1e-2}
        sweep = {"train": train, "sweep": [entry]}
        sae = saes.train(stream, sweep, device="cpu", progress=False)[0].sae
        return float((sae.encode(torch.cat(list(batches(planted(), 8)))) > 0).sum(1).float().mean())

    assert kept() == pytest.approx(3.0, rel=0.05)
    monkeypatch.setattr(fixed_k, "WINDOWS", 0)  # control: a window of a hundred steps lags behind
    assert kept() < 2.7


def test_scale_is_folded_into_what_is_saved() -> None:
    from lensbench import saes

    def run(factor: float) -> Any:
        stream = (factor * x for x in batches(planted(), 100))
        train = {"tokens": 100 * BATCH, "batch_size": BATCH, "engine": "dense"}
        entry = {"architecture": "topk", "k": 3, "d_sae": LATENTS, "lr": 3e-3}
        sweep = {"train": train, "sweep": [entry]}
        return saes.train(stream, sweep, device="cpu", progress=False)[0].sae

    small, large = run(1.0), run(1000.0)
    x = next(batches(planted(), 1))
    torch.testing.assert_close(large(1000 * x) / 1000, small(x), rtol=1e-2, atol=1e-2)
    assert float((large(x) - small(x)).abs().max()) > 0.1  # control: not at the wrong scale
