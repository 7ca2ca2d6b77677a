"""CUDA graphs without CUDA: when a step is recorded, replayed, recorded anew, or given up.

The recorder here keeps the Python call; what a device records is tested in tests/gpu.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch

D, F, B, STEPS = 8, 32, 16, 12
Action = Callable[[], None]


class Recorder:
    """Counts what was recorded and replayed."""

    def __init__(self, fail_at: int = 10**9) -> None:
        self.made, self.replayed, self.fail_at = 0, 0, fail_at

    def __call__(self, action: Action) -> Action:
        self.made += 1
        if self.made >= self.fail_at:
            raise RuntimeError("operation not permitted when stream is capturing\nmore lines")

        def replay() -> None:
            self.replayed += 1
            action()

        return replay


def _run(recorder: Recorder | None, *, kind: str = "topk", dead_at: tuple[int, ...] = ()) -> Any:
    from lensbench.saes.architectures import ARCHITECTURES
    from lensbench.saes.step.engines import Stepper
    from lensbench.saes.step.gpu.graphs import Graphs
    from lensbench.saes.step.rules.base import Now
    from lensbench.saes.step.start import new_group

    def batch(seed: int) -> torch.Tensor:
        return torch.randn(B, D, generator=torch.Generator().manual_seed(seed))

    configs: list[Any] = [
        ARCHITECTURES[kind](name=f"d{i}", d_sae=F, k=3, lr=1e-2, seed=i) for i in range(2)
    ]
    group, said = new_group(configs, "s", batch(0), 1.5), list[str]()
    stepper = Stepper(group, "dense")
    if recorder is not None:
        stepper.graphs = Graphs(said.append, recorder)
    for step in range(STEPS):
        if step in dead_at:
            group.dead[0, : step + 1] = True
            group.refresh_lists()
        rates = [
            2**-7 * (STEPS - step),
            2**-10 * (step + 1),
        ]  # as exact in float32; stale would show
        stepper.step(batch(step), rates, Now(step, STEPS))
    return group, said


@pytest.mark.parametrize("kind", ["topk", "batchtopk"])
@pytest.mark.parametrize("dead_at", [(), (5,), (5, 9)])
def test_replayed_steps_are_the_steps(kind: str, dead_at: tuple[int, ...]) -> None:
    recorder = Recorder()
    eager, _ = _run(None, kind=kind, dead_at=dead_at)
    graphed, said = _run(recorder, kind=kind, dead_at=dead_at)
    for i in range(2):
        for name, value in eager.tensors(i).items():
            assert torch.equal(value, graphed.tensors(i)[name]), name
    assert said == []
    # Two dictionaries, one recording each; the first is recorded again for every list of dead.
    assert recorder.made == 2 + len(dead_at)
    assert recorder.replayed == 2 * (STEPS - 3) - len(dead_at)


def test_what_cannot_be_recorded_runs_as_before_and_says_why_once() -> None:
    recorder = Recorder(fail_at=2)
    (eager, _), (graphed, said) = (_run(r) for r in (None, recorder))
    assert torch.equal(eager.W_dec, graphed.W_dec)
    assert said == [
        "steps are launched one by one, without CUDA graphs: "
        "operation not permitted when stream is capturing"
    ]
    assert recorder.made == 2


def test_an_action_whose_inputs_are_elsewhere_is_recorded_again() -> None:
    """Control: equal tensors at two addresses are two inputs; equal numbers are one."""
    from lensbench.saes.step.gpu.graphs import Graphs

    recorder, done = Recorder(), list[int]()
    graphs = Graphs(lambda _: None, recorder)
    one, other = torch.ones(3), torch.ones(3)
    for depends in [(one, 4)] * 5 + [(other, 4)] * 3 + [(other, 2 * 2)] + [(other, 5)] * 2:
        graphs.run("a", depends, lambda: done.append(1))
    assert recorder.made == 3
    assert recorder.replayed == 2 + 3 + 1
    assert len(done) == 11
