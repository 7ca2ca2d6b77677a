"""``lensbench steer``: from a task to doses, controls and texts; slips."""

import json
from typing import Any

import pytest

from lensbench import results


def run(*args: object) -> int:
    from lensbench.app.cli import main

    return main(["steer", *map(str, args)])


def answer(capsys: pytest.CaptureFixture[str], *args: object) -> dict[str, Any]:
    capsys.readouterr()
    code = run(*args, "--json")
    said = capsys.readouterr()
    assert code == 0, said.err
    return json.loads(said.out)


SMALL = ("--n", 24, "--random", 2, "--shuffled", 2, "--new-tokens", 4, "--strengths", "0,1")


def test_agreement_is_steered_on_wordings_that_the_direction_was_not_made_of(capsys, tmp_path):
    facts = answer(capsys, "agreement", *SMALL, "--out", tmp_path / "s")
    assert not set(facts["direction"]["made_of"]) & set(facts["tested_on"])
    doses = {(row["kind"], row["strength"]): row for row in facts["doses"]}
    assert doses["direction", 0.0]["effect"] == pytest.approx(facts["clean"])
    assert doses["direction", 1.0]["success"] > 0.8
    assert doses["random", 1.0]["success"] < 0.2
    assert {row["control"] for row in facts["matched"]} == {"random", "shuffled"}
    assert set(facts["texts"][0]) == {"prompt", "clean", "1"}
    kept = results.load(facts["saved"])
    assert kept.n == facts["prompts"]
    assert results.load(facts["direction"]["saved"]).site == "blocks.1.resid_post"
    assert run("agreement", *SMALL) == 0
    said = capsys.readouterr().out
    assert "at equal KL:" in said
    assert "clean:" in said


def test_negative_strengths_and_other_methods_are_taken(capsys):
    line = ("--method", "pca_center", "--strengths", "-0.5,0.5", "--at", "all")
    facts = answer(capsys, "agreement", *SMALL, "--new-tokens", 0, *line)
    own = [row["effect"] for row in facts["doses"] if row["kind"] == "direction"]
    assert own[0] < facts["clean"] < own[1]
    assert facts["texts"] == []
    assert "perplexity" not in facts["doses"][0]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (("recall",), "--towards"),
        (("agreement", "--towards", "walk"), "answers here: are, is"),
        (("agreement", "--method", "pca_centre"), "pca_center"),
        (("agreement", "--strengths", "a,b"), "must be numbers"),
        (("agreement", "--layer", "9"), "layers 0..5"),
        (("agreement", "--at", "subjekt"), "subject"),
        (("agreement", "--n", "4"), "8 are needed"),
        (("agreemnt",), "agreement"),
        (("agreement", "--site", "attn.z"), "one vector per token"),
    ],
)
def test_a_slip_is_named_and_gives_a_code(line, told, capsys):
    capsys.readouterr()
    assert run(*line) in (2, 3)
    said = capsys.readouterr()
    assert told in said.err
    assert "Traceback" not in said.err
