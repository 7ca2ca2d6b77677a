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
    assert "kl: KL(clean ‖ steered) [nats]" in said
    assert "at equal kl:" in said
    assert "clean:" in said


def test_negative_strengths_and_other_methods_are_taken(capsys):
    line = ("--method", "pca_center", "--strengths", "-0.5,0.5", "--at", "all")
    facts = answer(capsys, "agreement", *SMALL, "--new-tokens", 0, *line)
    own = [row["effect"] for row in facts["doses"] if row["kind"] == "direction"]
    assert own[0] < facts["clean"] < own[1]
    assert facts["texts"] == []
    assert "perplexity" not in facts["doses"][0]


def test_two_prompts_are_added_where_align_says_and_have_no_labels(capsys):
    import numpy as np

    import lensbench
    from lensbench import prompts
    from lensbench.interventions import activation_addition, dose_curve, towards

    pair = ("--plus", "The queens", "--minus", "The queen")
    front, back = (answer(capsys, "agreement", *SMALL, *pair, "--align", where)
                   for where in ("front", "back"))  # fmt: skip
    assert (front["at"], back["at"]) == ("the first tokens", "the last tokens")
    assert front["direction"]["method"] == "activation_addition"
    assert front["direction"]["made_of"] == ["The queens", "The queen"]
    assert {row["kind"] for row in front["doses"]} == {"direction", "random"}
    assert "no labels" in front["controls_not_defined"][0]
    assert front["texts"][0]["clean"] == back["texts"][0]["clean"]
    assert any(a["1"] != b["1"] for a, b in zip(front["texts"], back["texts"], strict=True))
    model = lensbench.load_model("atlas-dense", certify=False)
    pairs = towards(prompts.agreement(model, n=24, seed=0), ["are", "were", "seem"])
    tested = pairs.select(np.isin(pairs.wordings, front["tested_on"]))
    d = activation_addition(model, "The queens", "The queen", "blocks.1.resid_post")
    for facts, align in ((front, "front"), (back, "back")):
        found = dose_curve(model, d, tested, [1.0], random=0, new_tokens=0, align=align)
        row = next(r for r in facts["doses"] if r["kind"] == "direction" and r["strength"] == 1)
        assert row["effect"] == pytest.approx(float(found.effect.mean()), abs=1e-3)
    assert run("agreement", *SMALL, *pair) == 0
    said = capsys.readouterr().out
    assert "two prompts ('The queens' less 'The queen')" in said
    assert "no labels: shuffled-label control not defined" in said


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
        (("agreement", "--plus", "The queens"), "--plus and --minus"),
        (("agreement", "--align", "back"), "--align is of ActAdd"),
        (("agreement", "--align", "centre"), "middle"),
        (("agreement", "--plus", "a", "--minus", "b", "--at", "all"), "leave out --at"),
        (("agreement", "--plus", "a", "--minus", "b", "--method", "pca_diff"), "leave out"),
        (("agreement", "--site", "attn.z"), "one vector per token"),
    ],
)
def test_a_slip_is_named_and_gives_a_code(line, told, capsys):
    capsys.readouterr()
    assert run(*line) in (2, 3)
    said = capsys.readouterr()
    assert told in said.err
    assert "Traceback" not in said.err
