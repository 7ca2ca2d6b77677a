"""The rank-1 toy: with more factors clamped to the truth, the wait before the fall goes away.

Thresholds were fixed before the first run, around the figures known of it (updates to 50 % and 5 %
of the first loss: unclamped 27 and 28 after a plateau until 24, c clamped 5 and 6, b and c clamped
1 and 1), wide enough for a start that is not stated there. One of them did not hold in the first
run and is kept as found: at lr 1 the fall from 50 % to 5 % takes at most 3 updates with c clamped,
but unclamped in 2 of 5 seeds only. The optimum has curvature 3 there, more than 2 / lr, so gradient
descent oscillates around it. The same bound in time (lr * updates) is tested at lr 0.25.
"""

import numpy as np
import pytest
import torch

from lensbench.errors import ConfigError
from lensbench.interventions import rank_one_training
from lensbench.interventions.training.rank_one import CONTROL, tensor_loss


@pytest.fixture(scope="module")
def found():
    return rank_one_training()


def test_the_loss_is_that_of_the_tensors() -> None:
    rng = torch.Generator().manual_seed(1)
    factors, truth = torch.randn(2, 3, 5, generator=rng, dtype=torch.float64)
    made, true = (torch.einsum("i,j,k->ijk", *t) for t in (factors, truth))
    torch.testing.assert_close(tensor_loss(factors, truth), (made - true).square().sum() / 2)


def test_each_clamp_shortens_the_wait_and_two_remove_it(found) -> None:
    half, twentieth = found.steps_to(0.5), found.steps_to(0.05)
    free, one, two = (found.run(r) for r in ("unclamped", "clamp c", "clamp bc"))
    assert (half[two] == 1).all()
    assert (twentieth[two] == 1).all()
    assert 3 <= np.median(half[one]) <= 10
    assert 15 <= np.median(half[free]) <= 60
    assert np.median(half[free]) >= 3 * np.median(half[one])
    assert (half[free] > half[one]).all()
    assert (twentieth[one] - half[one] <= 3).all()  # a fall, not a slope
    assert ((twentieth[free] - half[free]) <= 3).sum() == 2  # see above: at lr 1 it overshoots


def test_unclamped_training_waits_on_a_plateau_first(found) -> None:
    share = found.series("loss") / found.series("loss")[..., :1]
    free = found.run("unclamped")
    until = (share[free] < 0.9).argmax(-1) - 1  # the last step with at least 90 % of the loss
    assert (until / found.steps_to(0.5)[free] >= 0.75).all()


def test_any_one_factor_will_do() -> None:
    half = rank_one_training(("a", "b", "c"), steps=100).steps_to(0.5)
    assert (np.median(half[1:4], axis=1) <= 10).all()


def test_a_clamp_to_something_else_teaches_nothing(found) -> None:
    assert np.isnan(found.steps_to(0.5)[found.run(CONTROL)]).all()
    assert found.controls.values["loss_left"] > 0.95


def test_with_a_smaller_step_all_arrive_in_the_same_order() -> None:
    slow = rank_one_training(lr=0.25)
    half = slow.steps_to(0.5)
    assert (slow.series("loss")[:3, :, -1] < 1e-6).all()
    assert (half[0] > half[1]).all()
    assert (half[1] > half[2]).all()
    assert (0.25 * (slow.steps_to(0.05) - half)[:2] <= 3).all()


def test_lr_1_is_too_much_for_the_curvature_of_the_optimum() -> None:
    truth = torch.zeros(3, 4, dtype=torch.float64)
    truth[:, 0] = 1.0
    curved = torch.autograd.functional.hessian(lambda f: tensor_loss(f, truth), truth)
    largest = torch.linalg.eigvalsh(curved.reshape(12, 12)).max()
    torch.testing.assert_close(largest, torch.tensor(3.0, dtype=torch.float64))


@pytest.mark.parametrize(
    ("clamps", "says"),
    [
        ("c", "list of sets"),
        (["d"], "factors a, b, c"),
        (["abc"], "one or two"),
        (["c", "c"], "twice"),
    ],
)
def test_factors_that_cannot_be_clamped_are_refused(clamps, says) -> None:
    with pytest.raises(ConfigError, match=says):
        rank_one_training(clamps)


def test_the_result_comes_back_from_disk_and_draws_every_run(found, tmp_path) -> None:
    from lensbench.results import load

    assert load(found.save(tmp_path)) == found
    assert [line.name for line in found.plot().data if line.name] == list(found.runs)
    assert len(found.to_frame()) == len(found.runs) * len(found.steps)
