"""``lensbench heads``: the library's own numbers, controls and slips in words."""

from pathlib import Path

import numpy as np
import pytest

from tests.app.commands import answer, refused, run


def test_head_scores_are_ranked_beside_both_controls(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lensbench import load_model, probes, results

    facts = answer(capsys, "heads", "scores", "--rows", 3, "--length", 6, "--seed", 1, "--top", 5,
                   "--out", tmp_path / "h")  # fmt: skip
    made = probes.head_scores(load_model("atlas-dense"), rows=3, length=6, seed=1)
    assert facts["summary"] == pytest.approx(made.summary())
    told = [row["score"] for row in facts["rows"]]
    assert told == pytest.approx(np.sort(made.scores.ravel())[::-1][:5].tolist())
    assert facts["of"] == made.scores.size
    assert all({"shuffled", "twin", "n"} <= set(row) for row in facts["rows"])
    assert results.load(tmp_path / "h").kind == "HeadScores"


def test_composition_lists_what_exceeds_gaussian_heads(capsys: pytest.CaptureFixture[str]) -> None:
    from lensbench import load_model, probes

    facts = answer(capsys, "heads", "composition", "--random", 20, "--top", 3)
    made = probes.composition_scores(load_model("atlas-dense"), n_random=20)
    assert facts["summary"] == pytest.approx(made.summary())
    frame = made.to_frame()
    assert facts["rows"][0]["excess"] == pytest.approx(float(frame["excess"].abs().max()))


def test_a_circuit_of_weights_is_the_product_of_its_parts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from lensbench import load_model, probes

    model = load_model("atlas-dense")
    lima = int(model.tokenizer("Lima", add_special_tokens=False)["input_ids"][0])
    for kind, read in (("ov", probes.full_ov_circuit), ("qk", probes.full_qk_circuit)):
        facts = answer(capsys, "heads", "circuit", 1, 2, "--kind", kind, "--token", "Lima")
        whole = read(model, 1, 2).AB.detach()
        (row,) = facts["rows"]
        assert row["own"] == pytest.approx(float(whole[lima, lima]), abs=1e-4)
        assert row["largest"] == pytest.approx(float(whole[lima].max()), abs=1e-4)
        assert row["smallest"] == pytest.approx(float(whole[lima].min()), abs=1e-4)
        copied = float((whole.argmax(1).numpy() == np.arange(len(whole))).mean())
        assert facts["summary"]["copying"] == pytest.approx(copied)
        assert facts["summary"]["n"] == len(whole)
        assert "dealt" in facts["control"]
    assert "Did you mean 'ov'" in refused(capsys, "heads", "circuit", 1, 2, "--kind", "ovv")
    assert "heads 0..3" in refused(capsys, "heads", "circuit", 1, 9)
    assert "no token for" in refused(capsys, "heads", "circuit", 1, 2, "--token", "xyzzy")


def test_shares_of_an_answer_sum_to_its_logit_and_are_verified(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lensbench import load_model, probes, prompts

    facts = answer(capsys, "heads", "logits", "recall", "--n", 3, "--verify", "--top", 100,
                   "--out", tmp_path / "a")  # fmt: skip
    model = load_model("atlas-dense")
    pairs = prompts.TASKS["recall"](model, n=3, seed=0)
    made = probes.direct_logit_attribution(model, pairs.clean, pairs.answer, pairs.foil)
    assert facts["summary"] == pytest.approx(made.summary(), rel=1e-4)
    assert sum(row["share"] for row in facts["rows"]) == pytest.approx(
        facts["summary"]["logit_diff"], rel=1e-3
    )
    assert facts["verified"]["summary"]["error_held"] < 1e-2
    assert (tmp_path / "a" / "verified" / "result.json").is_file()
    assert run("heads", "logits", "recall", "--n", 2) == 0
    assert "random_pair" in capsys.readouterr().out
    assert "Did you mean 'recall'" in refused(capsys, "heads", "logits", "recal")
