"""``lensbench world toys | atoms``, ``eval isolation`` and ``show``."""

from pathlib import Path

import pytest

from tests.app.cli_workspace import NAMES
from tests.app.cli_workspace import workspace as workspace
from tests.app.commands import answer, refused, run
from tests.app.test_cli_pictures import figures_of


def test_toy_models_beside_linear_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lensbench import results
    from lensbench.worlds.toy_models import train

    line = ("world", "toys", "--steps", 30, "--sparsity", "0,0.9", "--set", "copies=2")
    facts = answer(capsys, *line, "--seed", 5, "--out", tmp_path / "t")
    made = train({"steps": 30, "sparsity": [0.0, 0.9], "copies": 2, "seed": 5})
    assert facts["summary"] == pytest.approx(made.summary())
    assert facts["controls"] == pytest.approx(dict(made.controls.values))
    assert {row["role"] for row in facts["rows"]} == {"best", "linear control"}
    assert facts["of"] == made.W.shape[0] * made.W.shape[2]
    assert results.load(tmp_path / "t").kind == "ToyModels"
    assert "Did you mean 'copies'" in refused(capsys, "world", "toys", "--set", "copys=3")
    assert "[0, 1)" in refused(capsys, "world", "toys", "--sparsity", "1")


def test_atoms_that_a_dictionary_found_beside_random_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lensbench import saes
    from lensbench.worlds.recovery import recovery
    from lensbench.worlds.superposition import SuperpositionWorld

    line = ("world", "atoms", "--d-model", 16, "--atoms", 20, "--l0", 2, "--d-sae", 24, "--steps",
            20)  # fmt: skip
    facts = answer(capsys, *line, "--lr", 0.01, "--keep", tmp_path / "run", "--set", "noise=0.01")
    world = SuperpositionWorld({"d_model": 16, "n_atoms": 20, "l0": 2.0, "noise": 0.01})
    made = recovery(saes.open_runs(tmp_path / "run")[0], world, n=4096)
    assert facts["summary"] == pytest.approx(made.summary(), rel=1e-5)
    assert facts["controls"] == pytest.approx(dict(made.controls.values), rel=1e-5)
    assert "is there already" in refused(capsys, *line, "--keep", tmp_path / "run")
    assert "Did you mean 'l0'" in refused(capsys, *line, "--set", "l1=2")
    assert "Did you mean 'topk'" in refused(capsys, *line, "--architecture", "tpok")


def test_an_attribute_is_exchanged_beside_its_controls(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lensbench import load_model, saes

    name = workspace / "demo-run" / "run" / NAMES[0]
    facts = answer(capsys, "eval", "isolation", name, "--k", 4, "--n-pairs", 10)
    run_ = next(r for r in saes.open_runs(name.parent) if r.name == name.name)
    made = saes.attribute_isolation(run_, load_model("atlas-dense"), saes.atlas_attributes(),
                                    ks=(4,), n_pairs=10)  # fmt: skip
    assert facts["summary"] == pytest.approx(made.summary())
    assert {row["method"] for row in facts["rows"]} >= {"latents", "random_latents", "whole_site"}
    assert "countries, people" in refused(capsys, "eval", "isolation", name, "--entities", "cities")


def test_a_saved_result_is_shown_and_drawn_as_it_was_asked(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lensbench import results

    folder, page = tmp_path / "lens", tmp_path / "e.html"
    assert run("lens", "text", "--model", "atlas-dense", "--prompt", "The capital of Peru is",
               "--out", folder) == 0  # fmt: skip
    facts = answer(capsys, "show", folder, "--view", "metric=entropy", "--html", page, "--by",
                   "entropy", "--top", 3)  # fmt: skip
    saved = results.load(folder)
    assert facts["summary"] == pytest.approx(saved.summary())
    assert facts["kind"] == "TokenLens"
    largest = saved.to_frame()["entropy"].sort_values(ascending=False).head(3)
    assert [row["entropy"] for row in facts["rows"]] == pytest.approx(largest.tolist())
    (drawn,) = figures_of(page)
    expected = saved.plot(metric="entropy")
    assert drawn["layout"]["title"]["text"] == expected.layout.title.text
    assert drawn["layout"]["title"]["text"] != saved.plot().layout.title.text  # control
    for given, said in (
        (("--view", "metrc=entropy"), "Did you mean 'metric'"),
        (("--view", "metric"), "key=value"),
        (("--view", "metric=entrpy", "--html", page), "Did you mean 'entropy'"),
        (("--by", "entrpy"), "Did you mean 'entropy'"),
    ):
        assert said in refused(capsys, "show", folder, *given)
    assert "evaluation" in refused(capsys, "show", workspace / "demo-run" / "run")
