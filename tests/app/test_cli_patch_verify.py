"""``lensbench patch --verify``: the strongest place again, on pairs that the sweep has not seen."""

import json

import pytest

from lensbench import interventions, prompts
from lensbench.app.cli import main
from lensbench.app.workflows.models import open_model

LINE = ["patch", "recall", "--sites", "attn.z", "--positions", "together", "--layers", "0",
        "--n", "6"]  # fmt: skip


def test_the_numbers_are_those_of_python_on_other_pairs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*LINE, "--verify", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["verified"]
    model = open_model("atlas-dense")
    first = prompts.recall(model, n=6, seed=0)
    result = interventions.patch_sweep(
        model, first, ["attn.z"], layers=[0], positions="together", random_patches=20
    )
    seen = set(first.clean_ids)
    more = prompts.recall(model, n=12, seed=1)
    fresh = [i for i, ids in enumerate(more.clean_ids) if ids not in seen][:6]
    check = result.verify(model, more.select(fresh))
    assert told["verdict"] == check.verdict
    assert told["effect"] == pytest.approx(check.summary()["effect"], abs=1e-6)
    assert told["effect"] != pytest.approx(result.effect[result.strongest], abs=1e-6)  # control
    assert told["random steps"] == 20


def test_the_verdict_stands_under_the_table_and_only_when_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*LINE, "--verify"]) == 0
    assert "verified: block 0, head" in capsys.readouterr().out
    assert main(LINE) == 0
    assert "verified" not in capsys.readouterr().out


def test_pairs_of_a_file_have_no_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*LINE, "--pairs", "mine.json", "--verify"]) == 2
    assert "no held-out ones" in capsys.readouterr().err
