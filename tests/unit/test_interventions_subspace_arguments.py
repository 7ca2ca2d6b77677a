"""Slips in the arguments of subspaces get an error of lensbench's own; odd but sound ones work."""

from typing import Any

import numpy as np
import pytest
import torch

import lensbench
from lensbench import interventions
from lensbench.errors import LensbenchError
from lensbench.models import Model
from lensbench.prompts import PromptPairs, from_ids

CLEAN = [[1, 2, 3, 4, 5], [1, 2, 4, 4, 6], [1, 3, 3, 5, 5], [1, 7, 3, 4, 5]]
CORRUPTED = [[1, 2, 9, 4, 5], [1, 2, 9, 4, 6], [1, 3, 9, 5, 5], [1, 7, 9, 4, 5]]
SITE = "blocks.2.resid_pre"
LINE = torch.eye(128)[0]


@pytest.fixture(scope="module")
def model() -> Model:
    return lensbench.load_model("atlas-dense")


def pairs_of(model: Model, corrupted: list[list[int]]) -> PromptPairs:
    roles = {"late": [-1, -1, 2, 2]}
    return from_ids(CLEAN, corrupted, [7, 8, 9, 10], [11, 12, 13, 14], roles=roles, model=model)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"directions": "x"}, "directions must be an array of numbers"),
        ({"directions": None}, "directions must be an array of numbers"),
        ({"directions": [[1.0], [1.0, 2.0]]}, "directions must be an array of numbers"),
        ({"directions": LINE * torch.nan}, "directions hold NaN"),
        ({"reads": torch.full((128, 4), torch.nan)}, "reads hold NaN"),
        ({"reads": np.zeros((128, 0))}, r"reads must be \[128, m\]"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1"),
        ({"head": 1}, "has no heads"),
        ({"site": "blocks.2.attn.z"}, r"such as blocks\.3\.attn\.z"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_subspace_patch_says_what_is_wrong(
    model: Model, wrong: dict[str, Any], said: str
) -> None:
    given: dict[str, Any] = {"site": SITE, "directions": LINE, **wrong}
    with pytest.raises(LensbenchError, match=said):
        interventions.subspace_patch(model, pairs_of(model, CORRUPTED), **given)


@pytest.mark.parametrize(
    "wrong",
    [{"batch_size": 0}, {"batch_size": -1}, {"lr": -1.0}, {"lr": float("nan")}, {"held_out": "a"}],
    ids=str,
)
def test_alignment_says_what_is_wrong(model: Model, wrong: dict[str, Any]) -> None:
    with pytest.raises(LensbenchError, match=next(iter(wrong))):
        interventions.align_subspace(model, pairs_of(model, CORRUPTED), SITE, steps=2, **wrong)


def test_directions_of_any_type_are_the_same_subspace(model: Model) -> None:
    pairs = pairs_of(model, CORRUPTED)
    one, *others = (
        interventions.subspace_patch(model, pairs, SITE, line).values
        for line in (LINE.numpy(), LINE.bfloat16(), LINE.clone().requires_grad_())
    )
    for other in others:
        np.testing.assert_array_equal(one, other)


def test_a_group_of_prompts_without_the_role_is_passed_over(model: Model) -> None:
    pairs = pairs_of(model, CORRUPTED)
    whole, parts = (
        interventions.subspace_patch(model, pairs, SITE, LINE, position="late", batch_size=size)
        for size in (64, 2)
    )
    assert parts.values.shape == whole.values.shape == (6, 2)
    np.testing.assert_allclose(parts.values, whole.values, atol=1e-4)


def test_runs_that_do_not_differ_have_a_table_without_effects(model: Model) -> None:
    found = interventions.subspace_patch(model, pairs_of(model, CLEAN), SITE, LINE)
    frame = found.to_frame()
    assert found.verdict == "no contrast"
    assert frame["effect"].isna().all()
    assert frame["value"].notna().all()
