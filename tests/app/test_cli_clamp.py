"""``clamp`` and ``edit directions``: numbers of the calls behind them, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from tests.app.commands import answer, refused

TEXT = "The capital of Peru is"


def dense() -> Any:
    from lensbench import load_model

    return load_model("atlas-dense")


def test_neurons_are_clamped_together_beside_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lensbench.interventions import neuron_clamps

    line = ("clamp", "neuron", "--neuron", "2.17", "--neuron", "3.5-", "--token", " Lima")
    facts = answer(capsys, *line, "--prompt", TEXT, "--values=-5,5", "--at", "post",
                   "--out", tmp_path / "c")  # fmt: skip
    found = neuron_clamps(dense(), [TEXT], [(2, 17, 1), (3, 5, -1)], token=" Lima",
                          values=(-5.0, 5.0), at=["post"])  # fmt: skip
    assert [r["value"] for r in facts["rows"]] == pytest.approx(found.to_frame()["value"].tolist())
    assert {row["kind"] for row in facts["rows"]} == {"clean", "clamp", "other neuron"}
    assert facts["neurons"] == [[2, 17, 1], [3, 5, -1]]
    assert (tmp_path / "c" / "result.json").is_file()
    assert "LAYER.NUMBER" in refused(capsys, "clamp", "neuron", "--neuron", "2", "--token", "x",
                                     "--prompt", TEXT)  # fmt: skip
    assert "--prompt TEXT" in refused(capsys, *line)
    assert "0..383" in refused(capsys, "clamp", "neuron", "--neuron", "2.384", "--token", " Lima",
                               "--prompt", TEXT)  # fmt: skip


def test_a_model_learns_with_heads_clamped(capsys: pytest.CaptureFixture[str]) -> None:
    from lensbench import interventions

    data = interventions.Exemplars()
    facts = answer(capsys, "clamp", "training", "--clamp", "match@1.0", "--control",
                   "match@1.0=0.5", "--steps", 6, "--evaluate-every", 6, "--held-out", 16,
                   "--no-heads-alone", "--seeds", 3, "--heads", 2, "--width", 16)  # fmt: skip
    found = interventions.train_clamped(
        lambda seed: interventions.attention_only(data.d_vocab, n_heads=2, d_model=16, seed=seed),
        data, {"match@1.0": interventions.ClampMatch(1, 0)},
        controls={"match@1.0=0.5": interventions.ClampMatch(1, 0, 0.5)},
        steps=6, evaluate_every=6, held_out=16, heads_alone=False, seeds=[3],
    )  # fmt: skip
    known = {k: v for k, v in found.summary().items() if v == v}
    assert {k: facts["summary"][k] for k in known} == pytest.approx(known)
    assert {row["step"] for row in facts["rows"]} == {6}
    assert "match@1.0=0.5/relative_loss" in facts["controls"]


@pytest.mark.parametrize(
    ("clamp", "said"),
    [
        ("mtch@1.0", "Did you mean 'match'?"),
        ("match", "KIND@LAYER.HEAD"),
        ("match@2.0", "layers 0..1"),
        ("copy@1.0=2", "takes no value"),
        ("match@1.0=half", "is a number"),
        ("match@1.0=2", "0..1"),
    ],
)
def test_a_slip_in_a_clamp_is_named(
    clamp: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(capsys, "clamp", "training", "--clamp", clamp)


def test_the_toy_learns_sooner_with_factors_clamped(capsys: pytest.CaptureFixture[str]) -> None:
    from lensbench.interventions import rank_one_training

    facts = answer(capsys, "clamp", "toy", "--factors", "c", "--steps", 50, "--seeds", "0,1")
    found = rank_one_training(["c"], steps=50, seeds=(0, 1))
    known = {k: v for k, v in found.summary().items() if v == v}
    assert {k: facts["summary"][k] for k in known} == pytest.approx(known)
    assert facts["summary"]["clamp c/loss"] < facts["summary"]["unclamped/loss"]
    assert "a, b, c" in refused(capsys, "clamp", "toy", "--factors", "d")


def test_weights_lose_a_direction_beside_random_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The direction that a task's answers differ in costs the task more than random ones."""
    from lensbench import interventions, load_model, prompts

    model = dense()
    pairs = prompts.recall(model, n=8, seed=0)
    contrast = interventions.contrast_states(model, pairs, "blocks.5.resid_post")
    direction = contrast.mean_difference()
    direction.save(tmp_path / "direction")
    out = tmp_path / "changed"
    facts = answer(capsys, "edit", "directions", "recall", "--n", 8, "--random", 2,
                   "--direction", tmp_path / "direction", "--out", out)  # fmt: skip
    changed = interventions.orthogonalised(model, direction)
    by_name = {row["weights"]: row["logit_diff"] for row in facts["rows"]}
    assert by_name["as they are"] == pytest.approx(prompts.score(model, pairs).clean.mean())
    assert by_name["without"] == pytest.approx(prompts.score(changed, pairs).clean.mean(), abs=1e-4)
    assert {"without random 0", "without random 1"} < set(by_name)
    assert len(facts["controls"]) == 2
    reopened = load_model(str(out))  # the folder is a model like any other
    scored = prompts.score(reopened, prompts.recall(reopened, n=8, seed=0)).clean.mean()
    assert by_name["without"] == pytest.approx(scored, abs=1e-4)
    assert "new folder" in refused(capsys, "edit", "directions", "--n", 8, "--direction",
                                   tmp_path / "direction", "--out", out)  # fmt: skip
    assert "--direction FOLDER" in refused(capsys, "edit", "directions", "--n", 8)
    assert "--dictionary and --latents" in refused(capsys, "edit", "directions", "--latents", "3")
