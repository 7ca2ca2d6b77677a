"""The pages Steering and Experts: the library's numbers, what is missing said in words."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.app.driver import open_page, words
from tests.app.tiny_root import values

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def drawn(page: Any, at: int = 0) -> dict[str, Any]:
    return json.loads(page.get("plotly_chart")[at].proto.spec)


@pytest.mark.parametrize("name", ["steering", "experts"])
def test_a_page_asks_for_a_model_first(name: str, monkeypatch, tmp_path: Path) -> None:
    page = open_page(monkeypatch, tmp_path, name)
    assert not page.exception
    assert "Choose a m" in words(page)


def test_a_dense_model_has_no_experts(monkeypatch, tmp_path: Path) -> None:
    page = open_page(monkeypatch, tmp_path, "experts", model="atlas-dense")
    assert not page.exception
    assert any("has no experts" in e.value for e in page.error)


def test_the_ranking_is_that_of_the_library(monkeypatch, tmp_path: Path) -> None:
    import lensbench
    from lensbench.app.workflows.expert_prompts import find_prompts
    from lensbench.interventions import experts

    page = open_page(monkeypatch, tmp_path, "experts", model="atlas-moe", prompts="desk:24",
                     part="Rank and study")  # fmt: skip
    assert not page.exception
    named = find_prompts("desk:24")
    model = lensbench.load_model("atlas-moe", certify=False)
    made = experts.ftri(experts.routing(model, named.texts), named.labels)
    frame = made.to_frame()
    frame = frame.take(np.flatnonzero(frame["class"] == made.target))
    grid = frame.pivot(index="layer", columns="expert", values="differential").to_numpy()
    seen = np.asarray(values(drawn(page)["data"][0]["z"]), dtype=float).reshape(grid.shape)
    assert seen == pytest.approx(grid, abs=1e-5)
    assert "largest with permuted labels" in words(page)
    assert any("lensbench experts rank" in c.value for c in page.code)


@pytest.mark.slow
def test_the_dose_curve_is_drawn(monkeypatch, tmp_path: Path) -> None:
    page = open_page(
        monkeypatch,
        tmp_path,
        "steering",
        model="atlas-dense",
        direction="A prompt task",
        doses="true",
    )
    assert not page.exception
    assert len(drawn(page, 1)["data"]) >= 3
    assert "shuffled" in json.dumps(drawn(page, 1))
