"""``lensbench lens sites | parts | document | ahead | basis | compare | answers | soft``."""

from pathlib import Path
from typing import Any

import pytest

from tests.app.cli_workspace import workspace as workspace
from tests.app.commands import answer, refused

PROMPT = "The capital of Peru is"
MODEL = ("--model", "atlas-dense", "--prompt", PROMPT)


@pytest.fixture(scope="module")
def model() -> Any:
    from lensbench import load_model

    return load_model("atlas-dense")


def test_sites_are_read_as_the_library_reads_them(
    model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lensbench import probes, results

    facts = answer(capsys, "lens", "sites", *MODEL, "--site", "attn_out", "--norm", "held",
                   "--at", 4, "--out", tmp_path / "s")  # fmt: skip
    made = probes.site_lens(model, model.tokens(PROMPT), ["attn_out"], norm="held")
    frame = made.to_frame()
    mine = frame.loc[frame["pos"] == 4]
    assert [r["place"] for r in facts["rows"]] == mine["place"].tolist()
    assert [r["top_prob"] for r in facts["rows"]] == pytest.approx(mine["top_prob"].tolist())
    assert facts["token"] == made.tokens[4]
    assert results.load(tmp_path / "s").top_prob.shape == made.top_prob.shape  # all tokens
    assert "Did you mean 'own'" in refused(capsys, "lens", "sites", *MODEL, "--norm", "onw")
    assert "tokens -6..5" in refused(capsys, "lens", "sites", *MODEL, "--at", 6)
    assert "attn_out" in refused(capsys, "lens", "sites", *MODEL, "--site", "atn_out")


def test_parts_sum_to_the_model_and_come_surest_first(
    model: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from lensbench import probes

    facts = answer(capsys, "lens", "parts", *MODEL, "--top", 4)
    made = probes.component_lens(model, model.tokens(PROMPT))
    sure = [row["top_prob"] for row in facts["rows"]]
    assert sure == sorted(sure, reverse=True)
    assert sure[0] == pytest.approx(float(made.top_prob[:, -1, 0].max()))
    assert facts["gap"] == pytest.approx(made.gap, abs=1e-6)
    assert facts["gap"] < 1e-4


def test_a_stored_document_is_read_without_the_model(
    model: Any, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lensbench import open_store, probes

    store = workspace / "demo-run" / "acts"
    facts = answer(capsys, "lens", "document", "--store", store, "--document", 2,
                   "--max-tokens", 4)  # fmt: skip
    made = probes.lens_grid(open_store(store), model, 2, max_positions=4).to_frame()
    assert [r["target_prob"] for r in facts["rows"]] == pytest.approx(made["target_prob"].tolist())
    assert "fewer than two" in refused(
        capsys, "lens", "document", "--store", store, "--document", 99999
    )


def test_later_tokens_and_their_bare_context(
    model: Any, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lensbench import open_store, probes

    store = workspace / "demo-run" / "acts"
    line = ("lens", "ahead", "--store", store, "--prompt", PROMPT, "--layers", 3)
    facts = answer(capsys, *line)
    lens = probes.fit_future_lens(open_store(store), model, ahead=[0, 1], layers=[3])
    made = probes.future_grid(model, lens, PROMPT, steps=2, layers=[3])
    assert facts["summary"] == pytest.approx(made.summary())
    assert "mean_prob_without" in facts["rows"][0]
    assert "count on from 0" in refused(capsys, *line, "--ahead", "1,3")


def test_a_basis_of_directions_beside_random_ones(
    model: Any, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    from lensbench import open_store, probes

    store = workspace / "demo-run" / "acts"
    line = ("lens", "basis", "--store", store, "--layer", 3, "--max-tokens", 40)
    facts = answer(capsys, *line, "--k", 1, "--check")
    states = torch.from_numpy(open_store(store).rows("blocks.3.resid_post", slice(0, 40))).float()
    made = probes.causal_basis(probes.TunedLens.identity(model), states, 3, 1)
    assert facts["summary"] == pytest.approx(made.summary(), rel=1e-4)
    assert facts["summary"]["largest_nats"] > 10 * facts["summary"]["random_mean_nats"]
    checked = {(r["kind"], r["prediction"]): r["kl"] for r in facts["checked"]["rows"]}
    assert checked["basis", "model"] > checked["random", "model"]
    assert "k in 1..128" in refused(capsys, *line, "--k", 200)
    assert "blocks.9.resid_post" in refused(capsys, *line[:5], 9)


def test_given_answers_are_scored_under_a_rule(
    model: Any, workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lensbench import probes

    line = ("lens", "answers", "--model", "atlas-dense", "--questions")
    facts = answer(capsys, *line, workspace / "questions.jsonl", "--depths", "low")
    asked = ["The capital of Peru is", "The capital of Italy is"]
    made = probes.score_answers(probes.DoLa(model, "low"), asked, [[" Lima", " Rome"]] * 2,
                                [[True, False], [False, True]])  # fmt: skip
    assert facts["summary"] == pytest.approx(made.summary())
    assert {row["way"] for row in facts["rows"]} >= {"model", "rule", "shuffled"}
    assert "Did you mean 'dola'" in refused(capsys, *line, workspace / "questions.jsonl",
                                            "--rule", "doal")  # fmt: skip
    bad = tmp_path / "q.jsonl"
    bad.write_text('{"prompt": "x", "answers": [" a"]}\n')
    assert "line 1" in refused(capsys, *line, bad)


@pytest.mark.slow
def test_soft_prompts_are_scored_beside_bigrams(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = answer(capsys, "lens", "soft", "--store", workspace / "demo-run" / "acts", "--layers",
                   3, "--length", 2, "--contexts", 32, "--out", tmp_path / "soft")  # fmt: skip
    assert {row["states"] for row in facts["rows"]} >= {"method", "bigram", "shuffled"}
    assert (tmp_path / "soft" / "scores" / "result.json").is_file()
    assert facts["saved"] == str(tmp_path / "soft")


@pytest.mark.slow
def test_a_tuned_lens_is_held_beside_the_logit_lens(
    model: Any, workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lensbench import open_store, probes

    store, lens = workspace / "demo-run" / "acts", tmp_path / "lens"
    answer(capsys, "lens", "tune", "--store", store, "--out", lens, "--set", "steps=3", "--set",
           "tokens_per_step=256")  # fmt: skip
    facts = answer(capsys, "lens", "compare", "--store", store, "--tuned", lens, "--max-tokens", 99)
    made = probes.compare_lenses(open_store(store), model, probes.load_tuned_lens(lens, model),
                                 max_tokens=99)  # fmt: skip
    assert facts["summary"] == pytest.approx(made.summary(), nan_ok=True)


def test_a_lens_that_is_none_is_refused(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ("lens", "compare", "--store", workspace / "demo-run" / "acts", "--tuned")
    assert str(tmp_path) in refused(capsys, *line, tmp_path)
