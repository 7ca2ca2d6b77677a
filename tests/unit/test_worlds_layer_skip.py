"""The LayerSkip recipe: every formula by hand, the loss by hand, and what each must not be."""

from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lensbench.errors import ConfigError
from lensbench.worlds.atlas_task import packed_loss, tensors_of
from lensbench.worlds.batches import IGNORE, batch_at
from lensbench.worlds.early_recipe import EarlyTrainConfig
from lensbench.worlds.early_task import EarlyTask
from lensbench.worlds.layer_skip import (
    LayerSkip,
    dropout_probabilities,
    exit_scales,
    exit_weights,
    kept_layers,
    trained_exits,
)
from lensbench.worlds.layer_skip_loss import layer_skip_loss
from lensbench.worlds.task import parse_recipe

TINY = {"model": "atlas-early", "steps": 6, "n_layers": 3, "d_model": 16, "n_heads": 2,
        "d_mlp": 16, "rows": 4, "device": "cpu", "start": "",
        "layer_skip": {"rotation": 3}}  # fmt: skip


def test_dropout_grows_with_depth_and_over_the_run() -> None:
    """Three layers, three steps: exp(ln 2 / 2) - 1 is in the middle of both."""
    half = sqrt(2) - 1
    recipe = LayerSkip(p_max=0.2)
    for step, grown in enumerate((0.0, half, 1.0)):
        found = dropout_probabilities(recipe, 3, step, 3)
        np.testing.assert_allclose(found, 0.2 * grown * np.array([0.0, half, 1.0]), atol=1e-12)
    kept = dropout_probabilities(LayerSkip(p_max=0.2, from_scratch=False), 3, 0, 3)
    np.testing.assert_allclose(kept, [0.0, 0.2 * half, 0.2], atol=1e-12)
    # control: depth does not grow linearly
    assert abs(kept[1] - 0.1) > 0.01


@pytest.mark.parametrize("n_layers", [2, 6, 8, 24])
@pytest.mark.parametrize("e_scale", [0.0, 0.2, 1.0])
def test_exit_scales_are_the_sums_of_the_paper(n_layers: int, e_scale: float) -> None:
    last = n_layers - 1
    written_out = [
        e_scale * sum(range(layer + 1)) if layer < last else last + e_scale * sum(range(last))
        for layer in range(n_layers)
    ]
    found = exit_scales(LayerSkip(e_scale=e_scale), n_layers)
    np.testing.assert_allclose(found, written_out, atol=1e-12)
    assert found.argmax() == last


def test_weights_of_a_step_are_those_of_its_exits_and_sum_to_one() -> None:
    """Four layers, e_scale .2: e = 0, .2, .6, 3 + .2 (0 + 1 + 2) = 3.6."""
    recipe = LayerSkip(e_scale=0.2, rotation=2)
    np.testing.assert_allclose(exit_weights(recipe, 4, 0, 9), [0, 0, 0.6 / 4.2, 3.6 / 4.2])
    np.testing.assert_allclose(exit_weights(recipe, 4, 1, 9), [0, 0.2 / 3.8, 0, 3.6 / 3.8])
    for step in range(9):
        assert exit_weights(recipe, 4, step, 9).sum() == pytest.approx(1)


def test_the_rotation_trains_every_exit_once_per_turn_and_the_last_always() -> None:
    recipe = LayerSkip(rotation=3)
    on = np.array([trained_exits(recipe, 7, step, 30) for step in range(6)])
    assert on[0].tolist() == [True, False, False, True, False, False, True]
    assert on[1].tolist() == [False, True, False, False, True, False, True]
    assert (on[:3, :-1].sum(0) == 1).all()
    assert on[:, -1].all()
    assert np.array_equal(on[:3], on[3:])
    every = np.array([trained_exits(LayerSkip(rotation=1), 7, step, 30) for step in range(3)])
    assert every.all()  # control: nothing to rotate


def test_the_gradual_curriculum_goes_down_from_the_last_layer_in_half_of_the_run() -> None:
    recipe = LayerSkip(curriculum="gradual")
    on = np.array([trained_exits(recipe, 4, step, 80) for step in range(80)])
    assert (np.diff(on.astype(int), axis=0) >= 0).all()  # no exit is left again
    assert [int(on[:, layer].argmax()) for layer in range(4)] == [30, 20, 10, 0]


def test_layers_are_kept_at_the_rates_asked_and_as_seed_and_step_say() -> None:
    recipe = LayerSkip(p_max=0.5, from_scratch=False)
    kept = kept_layers(recipe, 4, 20_000, 0, 10, seed=0)
    p = dropout_probabilities(recipe, 4, 0, 10)
    np.testing.assert_allclose(1 - kept.mean(1), p, atol=4 * 0.5 / sqrt(20_000))
    assert kept[0].all()
    # rows are dropped one by one, and layers apart from each other
    assert abs(np.corrcoef(kept[2], kept[3])[0, 1]) < 0.03
    again = kept_layers(recipe, 4, 20_000, 0, 10, seed=0)
    assert np.array_equal(kept, again)
    for step, seed in ((1, 0), (0, 1)):  # control
        assert not np.array_equal(kept, kept_layers(recipe, 4, 20_000, step, 10, seed=seed))


def asked(tmp_path: Path, **changes: Any) -> tuple[EarlyTask, Any, dict[str, Any]]:
    task = EarlyTask(parse_recipe({**TINY, "out": tmp_path, **changes}))
    model = task.new_model()
    with torch.no_grad():
        for p in model.parameters():  # norms of weight 1 would hide a missing one
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    batch = batch_at(task.world, 0, seed=0, rows=4, width=64)
    tokens, targets, positions, mask = tensors_of(batch, torch.device("cpu"))
    return task, model, {"tokens": tokens, "targets": targets, "positions": positions,
                         "mask": mask}  # fmt: skip


def test_with_all_weight_on_the_last_layer_it_is_the_plain_loss(tmp_path: Path) -> None:
    _, model, batch = asked(tmp_path)
    with torch.autocast("cpu", torch.bfloat16):
        ours = layer_skip_loss(
            model, **batch, weights=np.array([0.0, 0.0, 1.0]), kept=np.ones((3, 4), bool)
        )
    order = ("tokens", "targets", "positions", "mask")
    assert torch.allclose(ours, packed_loss(model, *(batch[k] for k in order)), rtol=1e-4)


def test_every_exit_goes_through_the_final_norm_and_counts_by_its_weight(tmp_path: Path) -> None:
    _, model, batch = asked(tmp_path)
    additive = torch.zeros(batch["mask"].shape).masked_fill(~batch["mask"], -3e4)
    states: list[torch.Tensor] = []
    hooks = [layer.register_forward_hook(lambda _m, _i, o: states.append(o))
             for layer in model.model.layers]  # fmt: skip
    with torch.no_grad():
        model(batch["tokens"], position_ids=batch["positions"], attention_mask=additive)
    for hook in hooks:
        hook.remove()
    assert len(states) == 3

    def cost(h: torch.Tensor) -> torch.Tensor:
        logits = model.lm_head(h).flatten(0, 1)
        return nn.functional.cross_entropy(logits, batch["targets"].flatten(), ignore_index=IGNORE)

    normed = torch.stack([cost(model.model.norm(h)) for h in states])
    weights = np.array([0.2, 0.3, 0.5])
    found = layer_skip_loss(model, **batch, weights=weights, kept=np.ones((3, 4), bool))
    torch.testing.assert_close(found, (normed * torch.tensor(weights)).sum().float())
    bare = torch.stack([cost(h) for h in states])  # control: without the final norm
    assert abs((bare * torch.tensor(weights)).sum() - found) > 1e-2


def test_a_row_that_skips_a_layer_is_run_as_if_the_layer_were_not_there(tmp_path: Path) -> None:
    _, model, batch = asked(tmp_path)
    kept = np.array([[True] * 4, [True, False, True, False], [True] * 4])

    def loss(rows: list[int], kept: np.ndarray) -> torch.Tensor:
        some = {name: x[rows] for name, x in batch.items()}
        weights = np.eye(len(kept))[-1]
        return layer_skip_loss(model, **some, weights=weights, kept=kept)

    counts = (batch["targets"] != IGNORE).sum(1)
    whole, layers = loss([0, 1, 2, 3], kept), model.model.layers
    kept_rows = loss([0, 2], np.ones((3, 2), bool))
    model.model.layers = nn.ModuleList([layers[0], layers[2]])
    skipping = loss([1, 3], np.ones((2, 2), bool))
    model.model.layers = layers
    mean = (kept_rows * counts[[0, 2]].sum() + skipping * counts[[1, 3]].sum()) / counts.sum()
    torch.testing.assert_close(whole, mean)
    # control: dropping a layer is no small thing here
    assert abs(whole - loss([0, 1, 2, 3], np.ones((3, 4), bool))) > 1e-3


def test_a_layer_that_no_row_keeps_gets_no_gradient(tmp_path: Path) -> None:
    _, model, batch = asked(tmp_path)
    kept = np.array([[True] * 4, [False] * 4, [True] * 4])
    layer_skip_loss(model, **batch, weights=np.array([0.0, 0.0, 1.0]), kept=kept).backward()
    assert all(p.grad is None for p in model.model.layers[1].parameters())
    assert all(p.grad is not None for p in model.model.layers[2].parameters())


def test_the_step_decides_the_loss_of_the_recipe(tmp_path: Path) -> None:
    task, model, _ = asked(tmp_path)
    a, b = (float(task.loss(model, 0).detach()) for _ in range(2))
    assert a == b
    # At step 0 a rotation of 3 trains exits 0 (of weight 0) and 2, a rotation of 1 exit 1 as well.
    other = EarlyTask(task.config.model_copy(update={"layer_skip": LayerSkip(rotation=1)}))
    assert float(other.loss(model, 0).detach()) != a  # control: the recipe matters


def test_a_run_of_another_length_is_another_run_where_dropout_grows() -> None:
    grows = EarlyTrainConfig(steps=1000, start="", layer_skip=LayerSkip())
    assert not grows.is_flat(50)
    same = EarlyTrainConfig(steps=1000)
    assert same.is_flat(50)
    assert not same.is_flat(900)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"layer_skip": {"p_max": 1.5}}, "layer_skip.p_max"),
        ({"layer_skip": {"rotate": 2}}, "rotation"),
        ({"n_layers": 1}, "n_layers"),
        ({"start": "atlas-dense"}, "exactly where start is empty"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_by_name(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_recipe({**TINY, **settings})


def test_steps_outside_the_run_and_compilation_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"step 6 lies outside 0\.\.5"):
        trained_exits(LayerSkip(), 4, 6, 6)
    with pytest.raises(ConfigError, match="at least two layers, got 1"):
        exit_scales(LayerSkip(), 1)
    with pytest.raises(ConfigError, match="leave compile out"):
        EarlyTask(parse_recipe({**TINY, "out": tmp_path, "compile": True}))
    assert dropout_probabilities(LayerSkip(), 2, 0, 1)[1] == pytest.approx(0.1)


def test_it_starts_from_atlas_dense_and_keeps_its_sizes(tmp_path: Path) -> None:
    import lensbench

    settings = {"model": "atlas-early", "out": tmp_path, "device": "cpu"}
    task = EarlyTask(parse_recipe(settings))
    dense = lensbench.load_model("atlas-dense", certify=False)
    for name, p in task.new_model().named_parameters():
        assert torch.equal(p, dense.module.get_parameter(name))
    fresh = EarlyTask(parse_recipe({**settings, "start": "", "layer_skip": {"rotation": 3}}))
    assert task.speaks != fresh.speaks  # other weights to start from are another run
    with pytest.raises(ConfigError, match="n_layers=4, but 'atlas-dense' has 6"):
        EarlyTask(parse_recipe({**settings, "n_layers": 4}))
    with pytest.raises(ConfigError, match="d_mlp=64, but 'atlas-dense' has 384"):
        EarlyTask(parse_recipe({**settings, "d_mlp": 64}))
