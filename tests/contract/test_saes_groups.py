"""Dictionaries that step together keep their own settings, whatever a group may mix.

Two dictionaries of one seed differ in one setting alone. Trained in one sweep they equal the same
two trained apart; the control is that the two differ from each other, so that a setting taken from
the neighbour would show.
"""

from typing import Any

import pytest
import torch

from tests.contract.test_saes_architectures import BATCH, F, _batches

STEPS = 60
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "k": ({"architecture": "topk"}, {"k": 3}, {"k": 6}),
    "auxiliary loss": (
        {"architecture": "topk", "k": 3, "dead_after": 64},
        {"aux_coefficient": 1.0},
        {"aux_coefficient": 1e-4},
    ),
    "auxiliary width": (
        {"architecture": "topk", "k": 3, "dead_after": 64, "aux_coefficient": 1.0},
        {"aux_k": 1},
        {"aux_k": 12},
    ),
    "rate of the threshold": (
        {"architecture": "batchtopk", "k": 4},
        {"threshold_rate": 0.01},
        {"threshold_rate": 1.0},
    ),
    "prefixes": (
        {"architecture": "matryoshka", "k": 4},
        {"prefixes": [0.25]},
        {"prefixes": [0.125, 0.5]},
    ),
    "warm-up of the penalty": (
        {"architecture": "relu", "l1_coefficient": 1.0},
        {"penalty_warmup": 0.0},
        {"penalty_warmup": 1.0},
    ),
    "target": ({"architecture": "gated"}, {"target_l0": 3.0}, {"target_l0": 12.0}),
    "fall of the aim": (
        {"architecture": "relu", "target_l0": 3.0},
        {"steer_over": 0.1},
        {"steer_over": 1.0},
    ),
    "schedule of p": (
        {"architecture": "p_anneal", "l1_coefficient": 1.0},
        {"anneal_end": 0.3},
        {"anneal_end": 0.9},
    ),
    "bandwidth": (
        {"architecture": "jumprelu", "l0_coefficient": 0.5},
        {"bandwidth": 0.1},
        {"bandwidth": 1.0},
    ),
    "first threshold": (
        {"architecture": "jumprelu", "l0_coefficient": 0.5},
        {"initial_threshold": 0.1},
        {"initial_threshold": 1.0},
    ),
    "aim of the quadratic": (
        {"architecture": "jumprelu", "penalty": "quadratic", "initial_threshold": 0.2},
        {"target_l0": 2.0},
        {"target_l0": 30.0},
    ),
    "steepness of tanh": (
        {"architecture": "jumprelu", "penalty": "tanh", "l0_coefficient": 0.5},
        {"tanh_scale": 4.0},
        {"tanh_scale": 0.25},
    ),
    "loss of dead pre-activations": (
        {"architecture": "jumprelu", "penalty": "tanh", "l0_coefficient": 2.0, "dead_after": 64,
         "initial_threshold": 2.0, "aux_coefficient": 0.0},
        {"pre_act_coefficient": 0.0},
        {"pre_act_coefficient": 0.5},
    ),
}  # fmt: skip


def _train(entries: list[dict[str, Any]], engine: str) -> list[Any]:
    from lensbench import saes

    train = {"tokens": STEPS * BATCH, "batch_size": BATCH, "engine": engine, "log_every": 10}
    sweep = {"train": train, "sweep": [{"d_sae": F, "lr": 3e-3} | e for e in entries]}
    return saes.train(_batches(STEPS), sweep, device="cpu", progress=False)


def _off(a: Any, b: Any) -> float:
    """Mean difference of the decoders and of the thresholds."""
    names = [n for n in ("W_dec", "threshold") if n in a.weights]
    return max(float(abs(a.weights[n] - b.weights[n]).mean()) for n in names)


@pytest.mark.parametrize("engine", ["dense", "stacked"])
@pytest.mark.parametrize("case", list(CASES))
def test_a_setting_of_one_is_not_that_of_its_neighbour(case: str, engine: str) -> None:
    shared, one, other = CASES[case]
    entries = [shared | one | {"name": "one"}, shared | other | {"name": "other"}]
    together = _train(entries, engine)
    alone = [_train([entry], engine)[0] for entry in entries]
    for a, b in zip(together, alone, strict=True):
        assert _off(a, b) < 1e-4
        assert a.history["l0"] == pytest.approx(b.history["l0"], rel=2e-2)
    assert _off(*alone) > 1e-3  # control


def test_nothing_is_steered_after_a_step_that_was_not_finite() -> None:
    from lensbench.saes.architectures import BatchTopKConfig, JumpReLUConfig
    from lensbench.saes.step.rules.base import Done, Now
    from lensbench.saes.step.stacked import stacked_gradients
    from lensbench.saes.step.start import new_group

    x = _batches(1)[0]
    for config, kept in (
        (JumpReLUConfig(name="a", d_sae=F, target_l0=3), ("weight", "l0_mean")),
        (BatchTopKConfig(name="b", d_sae=F, k=3), ("cut",)),
    ):
        group = new_group([config], "s", x, 1.0)
        own = group.own(0)
        own["steps"] += 1
        (found,) = stacked_gradients(group, x, Now(5, 10))
        for updated in (False, True):
            before = {name: own[name].clone() for name in kept}
            done = Done(config, own, found, Now(5, 10), torch.tensor(9.0), torch.tensor(updated))
            group.rule.after(done)
            for name in kept:
                same = torch.equal(own[name].nan_to_num(-1.0), before[name].nan_to_num(-1.0))
                assert same == (not updated), name


def test_thresholds_do_not_fall_below_zero() -> None:
    from lensbench.saes.architectures import JumpReLUConfig
    from lensbench.saes.step.engines import Stepper
    from lensbench.saes.step.rules.base import Now
    from lensbench.saes.step.start import new_group

    x = _batches(1)[0]
    group = new_group([JumpReLUConfig(name="a", d_sae=F, l0_coefficient=0.0)], "s", x, 1.0)
    group.params["threshold"].fill_(-1.0)
    Stepper(group, "dense").step(x, [1e-3], Now(0, 10))
    assert float(group.params["threshold"].min()) == 0.0
