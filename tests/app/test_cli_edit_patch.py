"""``edit patch``: a patch of a line of neurons as an edit of the weights, and back."""

from pathlib import Path

import pytest

from tests.app.commands import answer, refused, run

LINE = ("edit", "patch", "agreement", "--layer", 0, "--n", 3)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("edit") / "as-edit"
    assert run(*LINE, "--random", 19, "--out", out, "--html", out.parent / "x.html") == 0
    return out


def test_a_patch_does_what_its_edit_does(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lensbench import interventions, load_model, prompts
    from lensbench.io import read_arrays
    from lensbench.results import load

    facts = answer(capsys, *LINE, "--line", made / "line.safetensors", "--random", 19)
    effect = {row["patched"]: row["effect"] for row in facts["rows"]}
    assert effect["subspace"] > 0.1  # control: there is something to compare
    assert facts["edit"]["effect"] == pytest.approx(effect["subspace"], abs=1e-3)
    assert facts["verdict"] in ("confirmed", "suspect illusion")
    assert len(facts["edit"]["random_edits"]) == 19
    assert "edits of random lines" in facts["edit"]["verdict"]
    model = load_model("atlas-dense")
    pairs = prompts.agreement(model, n=3)
    line = read_arrays(made / "line.safetensors")["directions"][0]
    edit = interventions.edit_of_patch(model, pairs, 0, line, position="subject")
    saved = load(made / "edit")
    assert isinstance(saved, interventions.RankOneEdit)
    assert saved.summary() == pytest.approx(edit.summary(), rel=1e-4)
    assert "Rank-1 edit" in (made.parent / "x.html").read_text(encoding="utf-8")


def test_an_edit_is_made_a_patch_again(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lensbench import interventions, load_model, prompts
    from lensbench.results import load

    facts = answer(capsys, *LINE, "--edit", made / "edit", "--random", 0)
    effect = {row["patched"]: row["effect"] for row in facts["rows"]}
    model = load_model("atlas-dense")
    pairs = prompts.agreement(model, n=3)
    edit = load(made / "edit")
    assert isinstance(edit, interventions.RankOneEdit)
    line = interventions.patch_of_edit(model, edit, pairs, position="subject")
    tested = interventions.subspace_patch(model, pairs, edit.site, line, position="subject")
    assert effect["subspace"] == pytest.approx(tested.effect[1], abs=1e-5)
    assert "random_edits" not in facts["edit"]


def test_slips_are_named(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line, edit = made / "line.safetensors", made / "edit"
    assert "one of --line" in refused(capsys, *LINE, "--line", line, "--edit", edit)
    assert "not a rank-1 edit" in refused(capsys, *LINE, "--edit", made)
    assert "'denoise'" in refused(capsys, *LINE, "--direction", "denois")
    assert "0..5" in refused(capsys, "edit", "patch", "agreement", "--layer", 9)
    assert "must hold one direction" in refused(
        capsys, *LINE, "--line", edit / "arrays.safetensors"
    )
    other = ("edit", "patch", "agreement", "--layer", 1, "--n", 3)
    assert "not in layer 1" in refused(capsys, *other, "--edit", edit)
