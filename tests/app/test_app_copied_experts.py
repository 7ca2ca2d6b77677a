"""Copied code of the page Experts for every kind of prompts and every place of the sliders."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lensbench.app.workflows.expert_code import plan_lines, rank_code, top_code
from lensbench.app.workflows.expert_page import ExpertAsk, ranked, top
from lensbench.app.workflows.expert_steering import Weights, plan_of
from tests.app.drawn import different, run_code


@pytest.mark.parametrize(
    ("prompts", "says"),
    [("desk:24", "cannot say"), ("a.txt", "cannot say"), ("a.jsonl", ""), ("a.jsonl", "sans")],
)
def test_a_ranking_is_made_again(tmp_path: Path, prompts: str, says: str) -> None:
    from lensbench.worlds.desk import Desk

    asked: Any = Desk(0).prompts(24, "heldout", seed=0, of="questions")
    rows = [{"text": t, "label": str(c)} for t, c in zip(asked.texts, asked.classes, strict=True)]
    (tmp_path / "a.txt").write_text("\n".join(asked.texts), encoding="utf-8")
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    where = prompts if prompts.startswith("desk") else str(tmp_path / prompts)
    ask = ExpertAsk("atlas-moe", where, says)
    made, code = ranked(ask), rank_code(ask, ranked(ask))
    assert "lensbench.app" not in code + top_code(ask, made)
    assert not different(made.plot(), run_code(code))
    pd.testing.assert_frame_equal(run_code(top_code(ask, made)), top(made))


@pytest.mark.parametrize(
    "weights",
    [((1, 2, -1.0), (1, 3, 0.5), (2, 2, 1.0)), ((1, 2, 0.0),), ((0, 1, 1.0), (0, 2, -0.25))],
)
def test_sliders_are_made_again(weights: Weights) -> None:
    used = "from lensbench import Plan\nfrom lensbench.interventions import experts\n"
    assert run_code(used + "\n".join([*plan_lines(weights), "plan"])) == plan_of(weights)
