"""Slips in the arguments of patching and of subspaces get an error of lensbench's own."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import lensbench
from lensbench import interventions, prompts
from lensbench.app.workflows.patching import numbers
from lensbench.app.workflows.steering import SteerAsk, python_of
from lensbench.errors import ConfigError
from lensbench.interventions.metrics import Ends, rank
from lensbench.interventions.places import places
from lensbench.models import Model
from lensbench.plan import Zero, edit
from lensbench.prompts import PromptPairs, from_ids

CLEAN = [[1, 2, 3, 4, 5], [1, 2, 4, 4, 6], [1, 3, 3, 5, 5], [1, 7, 3, 4, 5]]
CORRUPTED = [[1, 2, 9, 4, 5], [1, 2, 9, 4, 6], [1, 3, 9, 5, 5], [1, 7, 9, 4, 5]]


@pytest.fixture(scope="module")
def model() -> Model:
    return lensbench.load_model("atlas-dense")


@pytest.fixture(scope="module")
def pairs(model: Model) -> PromptPairs:
    roles = {"nowhere": [-1] * 4, "late": [-1, -1, 2, 2]}
    return from_ids(CLEAN, CORRUPTED, [7, 8, 9, 10], [11, 12, 13, 14], roles=roles, model=model)


@pytest.mark.parametrize(
    "wrong",
    [{"layers": 2}, {"positions": 3}, {"heads": 1}, {"heads": None}, {"dims": 3},
     {"sites": None}, {"sites": 3}, {"sites": [3]}],
    ids=str,
)  # fmt: skip
def test_a_bare_value_where_a_list_is_meant_is_refused_by_name(
    model: Model, pairs: PromptPairs, wrong: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        places(model, pairs, **{"sites": "attn.z", **wrong})


def test_a_place_named_twice_is_one_place(model: Model, pairs: PromptPairs) -> None:
    found = places(model, pairs, "attn.z", layers=[1, 1], positions=[2, 2, "end"], heads=[0, 0])
    assert [str(p) for p in found] == ["blocks.1.attn.z @2 head 0", "blocks.1.attn.z @end head 0"]


@pytest.mark.parametrize("how", ["mean", "solo", "resample", "zero"])
@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"batch_size": "4"}, {"seed": -1}], ids=str)
def test_every_ablation_refuses_a_batch_or_seed_that_is_none(
    model: Model, pairs: PromptPairs, how: Any, wrong: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        interventions.ablation_sweep(model, pairs, "resid_pre", how=how, layers=[1], **wrong)


def test_a_sweep_refuses_a_negative_seed(model: Model, pairs: PromptPairs) -> None:
    with pytest.raises(ConfigError, match="seed"):
        interventions.patch_sweep(model, pairs, layers=[1], positions=["end"], seed=-1)


@pytest.mark.parametrize("how", ["mean", "resample"])
def test_patterns_of_prompts_of_other_lengths_are_not_exchanged(model: Model, how: Any) -> None:
    """Their keys are other tokens: a row of a pattern cannot be averaged, nor moved over."""
    mixed = prompts.recall(model, n=6, seed=0)
    assert len({len(row) for row in mixed.clean_ids}) > 1
    where: dict[str, Any] = {"layers": [1], "heads": [0], "positions": ["end"]}
    with pytest.raises(ConfigError, match=r"13 to 16 tokens"):
        interventions.ablation_sweep(model, mixed, "attn.pattern", how=how, **where)
    zeroed = interventions.ablation_sweep(model, mixed, "attn.pattern", how="zero", **where)
    assert np.isfinite(zeroed.effect).all()


@pytest.mark.parametrize("metric", [lambda _: 1.0, lambda e: e.logits[:, 0].numpy()])
def test_a_metric_that_gives_no_tensor_is_refused(
    model: Model, pairs: PromptPairs, metric: Callable[[Ends], Any]
) -> None:
    with pytest.raises(ConfigError, match="must give one number per prompt"):
        interventions.patch_sweep(model, pairs, layers=[1], positions=["end"], metric=metric)


def test_a_rank_among_nan_is_nan() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], [0.0, torch.nan, 2.0], [torch.nan, 1.0, 2.0]])
    found = rank(Ends(logits, torch.tensor([1, 1, 1]), torch.tensor([0, 0, 0])))
    assert found[0] == 2
    assert found[1:].isnan().all()


@pytest.mark.parametrize("same", [False, True], ids=["no prompt has it", "runs do not differ"])
def test_a_place_without_an_effect_is_nan_in_the_table_and_the_control(
    model: Model, pairs: PromptPairs, *, same: bool
) -> None:
    given = from_ids(CLEAN, CLEAN, [7] * 4, [8] * 4, model=model) if same else pairs
    found = interventions.patch_sweep(
        model, given, layers=[1], positions=["end" if same else "nowhere"]
    )
    frame = found.to_frame()
    assert frame.loc[frame["kind"] == "patch", ["effect", "low", "high"]].isna().all(axis=None)
    assert np.isnan(found.controls.values["random_patch_farthest"])
    assert np.isnan(found.summary()["random"])


def test_the_top_of_fewer_than_no_places_is_refused(model: Model, pairs: PromptPairs) -> None:
    found = interventions.patch_sweep(model, pairs, layers=[1], positions=["end"], random_patches=0)
    with pytest.raises(ConfigError, match="k must be a whole number"):
        found.top(-1)


def test_a_range_of_no_numbers_does_not_mean_all() -> None:
    assert numbers("0,3-5", "layers") == [0, 3, 4, 5]
    with pytest.raises(ConfigError, match="write 3-5"):
        numbers("5-3", "layers")


def test_a_direction_of_two_tokens_is_refused() -> None:
    with pytest.raises(ConfigError, match="one token"):
        python_of(SteerAsk("agreement", source="subject,end"))


@pytest.mark.parametrize("other", [None, edit("blocks.1.mlp_out", Zero()).edits[0]])
def test_a_plan_adds_up_with_plans_only(other: Any) -> None:
    with pytest.raises(ConfigError, match="plan must be a Plan"):
        edit("blocks.1.mlp_out", Zero()) + other


@pytest.mark.parametrize("answer", [7, [1.5, 2, 3, 4], ["a"] * 4, [-1, 2, 3, 4]], ids=str)
def test_answers_that_are_no_ids_are_refused(answer: Any) -> None:
    with pytest.raises(ConfigError, match="answer must be a list of token ids"):
        from_ids(CLEAN, CORRUPTED, answer, [11, 12, 13, 14])


@pytest.mark.illtyped
@pytest.mark.parametrize("given", [None, "atlas-dense", torch.nn.Linear(2, 2)], ids=repr)
def test_what_is_no_model_is_refused_as_such(pairs: PromptPairs, given: Any) -> None:
    site = "blocks.1.resid_post"
    asks: list[Callable[[], Any]] = [
        lambda: interventions.patch_sweep(given, pairs),
        lambda: interventions.ablation_sweep(given, pairs),
        lambda: interventions.subspace_patch(given, pairs, site, torch.ones(128)),
        lambda: interventions.attribute(given, pairs),
        lambda: interventions.attribute_edges(given, pairs),
        lambda: interventions.fact_edit(given, pairs, 1),
        lambda: interventions.edit_study(given, pairs),
        lambda: interventions.next_map(given, "blocks.1.mlp.post"),
        lambda: interventions.contrast_states(given, pairs, site),
        lambda: interventions.dose_curve(given, [], pairs),
        lambda: interventions.entity_separation(given, pairs, site),
        lambda: interventions.latent_effects(given, pairs, []),
        lambda: prompts.score(given, pairs),
    ]
    for ask in asks:
        with pytest.raises(ConfigError, match=r"must be what lensbench\.load_model"):
            ask()


@pytest.mark.illtyped
def test_the_patched_site_of_a_study_of_edits_is_a_name(model: Model, pairs: PromptPairs) -> None:
    with pytest.raises(ConfigError, match=r"mlp_out.*got 3"):
        interventions.edit_study(model, pairs, patched=3)  # type: ignore[arg-type]
