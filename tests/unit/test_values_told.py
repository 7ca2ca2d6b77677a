"""Values that hold arrays say in one line what they are: no dump of numbers in a notebook."""

from typing import Any

import numpy as np
import pytest

from tests.docs.example_world import ExampleWorld

OURS = ("documents", "rows", "desk", "entities", "data", "pairs", "memory", "tokenised", "contrast")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> ExampleWorld:
    return ExampleWorld(tmp_path_factory.mktemp("told"))


def value(world: ExampleWorld, name: str) -> Any:
    if name == "tokenised":
        return world["model"].tokens("Alice lives in Lima .")
    if name == "contrast":
        return world["interventions"].contrast_states(
            world["model"], world["pairs"], "blocks.1.resid_post"
        )
    return world[name]


@pytest.mark.parametrize("name", OURS)
def test_a_value_is_told_in_a_line(world: ExampleWorld, name: str) -> None:
    told = repr(value(world, name))
    assert len(told) < 200, told[:300]
    assert "\n" not in told
    assert "array(" not in told


def test_labelled_rows_show_a_table_of_their_labels(world: ExampleWorld) -> None:
    data = world["data"]
    frame = data.to_frame()
    is_name = data.label("is_name").values
    assert frame["n"].tolist() == [len(data)]
    assert frame["classes"][0] == f"False {(is_name == 0).sum():,}, True {(is_name == 1).sum():,}"
    page = data._repr_html_()
    assert "is_name" in page
    assert f"{len(data):,} rows" in page


def test_a_number_to_predict_has_no_classes() -> None:
    from lensbench.probes import ProbeData

    data = ProbeData.from_arrays(
        {"blocks.0.resid_post": np.random.default_rng(0).normal(size=(40, 4))},
        {"size": np.r_[np.linspace(0, 1, 39), np.nan]},
    )
    assert data.to_frame()[["classes", "n"]].values.tolist() == [["", 39]]


def test_one_of_a_thing_is_not_several() -> None:
    from lensbench.words import in_words

    assert (
        in_words("n = 1 prompts of 11 pairs, 2.1 tokens") == "n = 1 prompt of 11 pairs, 2.1 tokens"
    )


def test_a_lens_over_layers_is_a_row_per_layer() -> None:
    from lensbench.probes.lenses.logit import METRICS, LensTrajectory

    grid = np.linspace(0.1, 1, 2 * len(METRICS)).reshape(-1, 2)
    found = LensTrajectory(layers=(0, 1), mean=grid, low=grid - 0.05, high=grid + 0.05,
                           shuffled=grid / 2, n_tokens=4, n_docs=2)  # fmt: skip
    page = found._repr_html_()
    assert page.count("<tr>") == 3
    assert "4 tokens of 2 documents" in page
    assert "agreement shuffled" in page
    assert page.count(" to ") >= 4
