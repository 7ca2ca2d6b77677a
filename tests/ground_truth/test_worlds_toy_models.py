"""Toy models take the published shapes: pentagon, digons, and no superposition without ReLU.

Five equally important features in two dimensions. From the literature: at sparsity .9 and above a
regular pentagon (every D_i = .400 within .01), sum D_i = 2. Two digons and one ignored feature win
at sparsity .7 (D = .5, .5, .5, .5, 0); at .8 they are still a local optimum, and the pentagon has
the lower loss. Without ReLU the first m features have a dimension each, and the others nothing.
"""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lensbench.errors import ConfigError, UnknownNameError
from lensbench.worlds import toy_models
from lensbench.worlds.toy_geometry import (
    ToyModels,
    dimensions_per_feature,
    feature_dimensionality,
    superposition,
)


@pytest.fixture(scope="module")
def trained() -> ToyModels:
    return toy_models.train(
        {"sparsity": (0.7, 0.9, 0.99), "copies": 3, "steps": 2500, "batch_size": 512, "lr": 2e-3}
    )


@pytest.mark.parametrize("sparsity", [0.9, 0.99])
def test_sparse_features_form_a_regular_pentagon(trained: ToyModels, sparsity: float) -> None:
    i = trained.best(sparsity)
    assert trained.dimensionality[i] == pytest.approx(np.full(5, 0.4), abs=0.01)
    angles = np.sort(np.arctan2(*trained.W[i]))
    assert np.diff(angles) == pytest.approx(np.full(4, 2 * np.pi / 5), abs=0.05)
    assert trained.dimensionality[i].sum() == pytest.approx(2.0, abs=1e-3)


def test_denser_features_form_two_digons_and_one_is_ignored(trained: ToyModels) -> None:
    found = np.sort(trained.dimensionality[trained.best(0.7)])
    assert found == pytest.approx(np.array([0, 0.5, 0.5, 0.5, 0.5]), abs=0.02)


@pytest.mark.parametrize("sparsity", [0.7, 0.9, 0.99])
def test_without_relu_there_is_no_superposition(trained: ToyModels, sparsity: float) -> None:
    """Equal importance: any plane is as good, so D_i varies, but the plane is a projection."""
    control = trained.best(sparsity, control=True)
    assert bool(trained.linear[control])
    assert not trained.linear[trained.best(sparsity)]
    values = np.linalg.svd(trained.W[control], compute_uv=False)
    assert values == pytest.approx(np.ones(2), abs=0.03)
    own = np.linalg.svd(trained.W[trained.best(sparsity)], compute_uv=False)
    assert own.min() > 1.2  # with ReLU the plane holds more than two features
    assert trained.loss[trained.best(sparsity)] < 0.8 * trained.loss[control]


def test_a_linear_model_represents_the_first_m_features_only() -> None:
    found = toy_models.train(
        {"sparsity": (0.5,), "importance": (0.7,), "copies": 1, "steps": 2500,
         "batch_size": 256, "lr": 3e-3, "linear": True}
    )  # fmt: skip
    assert found.dimensionality[0] == pytest.approx(np.array([1, 1, 0, 0, 0]), abs=0.02)


@pytest.mark.slow
def test_at_sparsity_point_eight_digons_are_a_local_optimum_above_the_pentagon() -> None:
    found = toy_models.train(
        {"sparsity": (0.8,), "copies": 8, "steps": 4000, "batch_size": 512, "lr": 2e-3}
    )
    sizes = np.sort(found.dimensionality[:8], axis=1)
    pentagons = np.abs(sizes - 0.4).max(1) < 0.02
    digons = np.abs(sizes - np.array([0, 0.5, 0.5, 0.5, 0.5])).max(1) < 0.02
    assert pentagons.any()
    assert digons.any()
    assert found.loss[:8][pentagons].max() < found.loss[:8][digons].min()


@settings(max_examples=60, deadline=None)
@given(
    m=st.integers(1, 5), n=st.integers(1, 9), seed=st.integers(0, 2**32), scale=st.floats(0.5, 9)
)
def test_dimensionalities_sum_to_at_most_the_rank(m: int, n: int, seed: int, scale: float) -> None:
    rng = torch.Generator().manual_seed(seed)
    W = scale * torch.randn(3, m, n, generator=rng, dtype=torch.float64)
    D = feature_dimensionality(W)
    assert D.shape == (3, n)
    assert float(D.min()) >= 0
    assert float(D.max()) <= 1 + 1e-9
    assert float(D.sum(-1).max()) <= min(m, n) + 1e-9
    there = D > 0
    torch.testing.assert_close(feature_dimensionality(3 * W)[there], D[there])  # no matter of scale


def test_dimensionality_of_known_arrangements() -> None:
    def ring(n: int) -> torch.Tensor:
        angle = 2 * torch.pi * torch.arange(n, dtype=torch.float64) / n
        return torch.stack([angle.cos(), angle.sin()])

    for n, expected in ((3, 2 / 3), (4, 1 / 2), (5, 2 / 5), (8, 1 / 4)):
        D = feature_dimensionality(ring(n))
        torch.testing.assert_close(D, torch.full((n,), expected, dtype=torch.float64))
    assert feature_dimensionality(torch.eye(3)).tolist() == [1, 1, 1]
    assert superposition(torch.eye(3)).tolist() == [0, 0, 0]
    assert superposition(torch.tensor([[1.0, -1.0]])).tolist() == [1, 1]
    faint = torch.tensor([[1.0, 1e-4], [0.0, 0.0]])
    assert feature_dimensionality(faint).tolist() == pytest.approx([1, 0])
    assert float(dimensions_per_feature(ring(5))) == pytest.approx(2 / 5)


def test_instances_do_not_see_each_other() -> None:
    """Trained beside others, an instance ends where its own loss leads: same start, same rows."""
    torch.manual_seed(0)
    W, b = torch.randn(3, 2, 5), torch.zeros(3, 5)
    x = torch.rand(3, 64, 5)
    importance, linear = torch.ones(3, 5), torch.tensor([False, True, False])
    together = W.clone().requires_grad_()
    toy_models._error(together, b, x, importance, linear).mean(1).sum().backward()
    for i in range(3):
        alone, part = W[i : i + 1].clone().requires_grad_(), slice(i, i + 1)
        toy_models._error(alone, b[part], x[part], importance[part], linear[part]).mean().backward()
        assert alone.grad is not None
        assert together.grad is not None
        torch.testing.assert_close(together.grad[part], alone.grad)


def test_features_are_uniform_with_the_density_asked_for() -> None:
    rng = torch.Generator().manual_seed(0)
    x = toy_models._features((2, 40_000, 5), torch.tensor([1.0, 0.1]), rng)
    assert float((x[0] > 0).float().mean()) == pytest.approx(1.0, abs=1e-4)
    assert float((x[1] > 0).float().mean()) == pytest.approx(0.1, abs=0.005)
    assert float(x[1][x[1] > 0].mean()) == pytest.approx(0.5, abs=0.01)
    assert 0.99 < float(x.max()) < 1


def test_saved_models_come_back_equal_and_draw(trained: ToyModels, tmp_path: Any) -> None:
    from lensbench.results import load

    assert load(trained.save(tmp_path)) == trained
    frame = trained.to_frame()
    assert len(frame) == 12 * 5
    assert frame["role"].value_counts().to_dict() == {"copy": 30, "best": 15, "linear control": 15}
    ticks = trained.plot().layout.yaxis.ticktext
    assert "0.4 pentagon" in ticks
    assert len(trained.plot("arrows").data) == 5
    assert trained.plot("weights").data
    assert trained.plot("weights", sparsity=0.9).data
    with pytest.raises(UnknownNameError, match=r"no sparsity named '0\.95'"):
        trained.plot("arrows", sparsity=0.95)
    assert trained.controls.values["linear/dimensions_per_feature"] == pytest.approx(1.0, abs=0.03)
    assert trained.summary()["dimensions_per_feature@0.99"] < 0.5


@pytest.mark.illtyped
def test_an_unknown_plot_is_named(trained: ToyModels) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'arrows'"):
        trained.plot("arrow")  # pyright: ignore[reportArgumentType]


def test_same_seed_same_models() -> None:
    short = {"sparsity": (0.9,), "copies": 2, "steps": 20, "batch_size": 16}
    first, again = toy_models.train(short), toy_models.train(short)
    assert np.array_equal(first.W, again.W)
    assert not np.array_equal(first.W, toy_models.train(short | {"seed": 1}).W)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"sparsity": (0.5, 1.0)}, "at 1 no feature is ever on"),
        ({"sparsity": (0.5, 0.5)}, "raise copies"),
        ({"importance": (1.0, 0.9)}, "2 numbers for 4 sparsities"),
        ({"importance": (0.0,)}, "importance must lie in"),
        ({"n_feature": 5}, "Did you mean 'n_features'"),
    ],
)
def test_impossible_settings_are_refused(bad: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        toy_models.train(bad)
