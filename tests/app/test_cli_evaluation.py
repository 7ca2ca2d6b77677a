"""``lensbench eval sae``: what it counts and discloses, and that it loses no earlier result."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.app.commands import run
from tests.app.conftest import SITE

MODEL = ("--model", "atlas-dense")


def refused(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    capsys.readouterr()
    assert run(*args) == 2
    return capsys.readouterr().err


@pytest.fixture
def here(small_root: Path, tmp_path: Path) -> Path:
    """A copy of the folder: an evaluated run of two dictionaries and its store."""
    return Path(shutil.copytree(small_root, tmp_path / "root"))


def test_an_evaluation_is_not_replaced_by_accident(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = here / "runs" / "small"
    before = (folder / "evaluation" / "result.json").read_bytes()
    line = ("eval", "sae", folder, "--store", here / "acts", *MODEL, "--ce-sequences", 0)
    said = refused(capsys, *line)
    assert "--overwrite" in said
    assert "ce_recovered_zero" in said  # what is there
    assert str(folder / "evaluation") in said
    assert (folder / "evaluation" / "result.json").read_bytes() == before
    assert run(*line, "--overwrite") == 0
    assert (folder / "evaluation" / "result.json").read_bytes() != before


def test_the_sequences_of_the_cross_entropy_are_counted_and_named(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lensbench.results import load

    capsys.readouterr()
    folder = here / "runs" / "small"
    assert run("eval", "sae", folder, "--store", here / "acts", *MODEL, "--ce-sequences", 5,
               "--overwrite") == 0  # fmt: skip
    said = capsys.readouterr().out
    found: Any = load(folder / "evaluation")
    assert found.config["ce_sequences"] == 5
    assert f"CE on {found.n_scored:,} predicted tokens of 5 sequences" in said
    assert "scored on the text it was trained on" in said or "trained on" in said
    capsys.readouterr()
    assert run("eval", "sae", "--help") == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "Sequences" in told
    assert "--max-docs" not in told


def test_only_the_named_documents_are_evaluated(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lensbench.results import load

    line = ("eval", "sae", here / "runs/small", "--store", here / "acts", *MODEL,
            "--ce-sequences", 0, "--suite", "core", "--out", tmp_path / "some")  # fmt: skip
    assert "--documents must be the first and one after the last" in refused(
        capsys, *line, "--documents", "9"
    )
    assert run(*line, "--documents", "2:9") == 0
    found: Any = load(tmp_path / "some" / "evaluation")
    assert found.n_documents == 7
    assert tuple(found.config["documents"]) == (2, 9)


def test_a_dictionary_in_place_of_its_run_is_answered_with_the_run(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = json.loads((here / "runs/small/status.json").read_text())["dictionaries"]
    one = here / "runs" / "small" / next(iter(name))
    for line in (("eval", "sae", one, "--store", here / "acts", *MODEL), ("runs", "show", one)):
        assert run(*line) == 3
        said = capsys.readouterr().err
        assert f"one dictionary of the run {one.parent}" in said
    out = here / "latents"
    for path in (one, one / "result"):
        assert run("encode", path, "--store", here / "acts", "--out", out) == 0


def test_encoding_a_run_of_several_lists_them(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, "encode", here / "runs" / "small", "--store", here / "acts")
    assert "holds 2 dictionaries" in said
    assert f"{here}/runs/small/NAME; known: topk-64-k4" in said
    assert "''" not in said


def test_training_on_a_store_of_several_sites_asks_which(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lensbench import capture
    from lensbench.app.workflows.guidance import next_steps
    from lensbench.app.workflows.models import open_model
    from lensbench.worlds.atlas import Atlas

    model = open_model("atlas-dense", certify=False)
    sites = ["blocks.1.resid_post", SITE, "blocks.5.resid_post"]
    capture(model, Atlas(0).sample(30), sites=sites, out=tmp_path / "acts")
    line = ("train", "sae", "--store", tmp_path / "acts", "--d-sae", 64, "--k", 4, "--dry-run")
    said = refused(capsys, *line)
    assert "--sites" in said
    assert all(site in said for site in sites)
    assert run(*line, "--sites", SITE) == 0
    (step, *_) = next_steps(tmp_path, [], ["acts"])
    assert f"--sites {SITE}" in step.command


def test_the_suite_reads_labels_of_your_own_and_sets_controls_beside_each_number(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    own = {name: (rng.random(150) < 0.5).tolist() for name in ("formal", "long")}
    (here / "labels.json").write_text(json.dumps(own))
    line = ("eval", "sae", here / "runs/small", "--store", here / "acts", *MODEL, "--overwrite",
            "--ce-sequences", 0, "--labels", here / "labels.json")  # fmt: skip
    capsys.readouterr()
    assert run(*line, "--suite", "core,sparse_probing,scr,absorption") == 0
    said = capsys.readouterr().out
    assert "AUROC, k=1 [0 to 1], 95 % interval; n: labels" in said
    assert "freed of" in said  # which of the two labels, and by how much it is biased
    assert "shuffled_labels" in said
    assert "always_on" in said
    assert "left out: absorption:" in said
    assert run(*line, "--suite", "core,scr", "--json") == 0
    (measure,) = json.loads(capsys.readouterr().out)["measures"]
    assert measure["metric"] == "SCR, 20 latents"
    assert measure["unit"] == "share of the gap"
    for row in measure["rows"]:
        assert {"low", "high", "n", "random_latents", "random_dictionary"} <= set(row)
    own["formal"][0] = "yes"
    (here / "labels.json").write_text(json.dumps(own))
    assert "'formal' must be a list of true and false" in refused(capsys, *line)


def test_scr_asks_for_its_two_labels_and_a_slip_is_named(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ("eval", "sae", here / "runs/small", "--store", here / "acts", *MODEL, "--overwrite",
            "--ce-sequences", 0, "--suite", "scr")  # fmt: skip
    capsys.readouterr()
    assert run(*line) == 0
    assert "--scr-labels A,B" in capsys.readouterr().out
    assert "two different labels" in refused(capsys, *line, "--scr-labels", "is_answer")
    slip = refused(capsys, *line, "--scr-labels", "is_answer,seen_befor")
    assert "Did you mean 'seen_before'" in slip


def test_a_slip_in_labels_is_found_before_a_model_is_loaded_or_a_twin_is_trained(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    from lensbench.app.workflows import evaluation

    def never(*_: object, **__: object) -> None:
        raise AssertionError("dear work was begun before the labels were checked")

    monkeypatch.setattr(evaluation, "open_model", never)
    monkeypatch.setattr(evaluation, "trained_twin", never)
    rng = np.random.default_rng(0)
    own = {name: (rng.random(150) < 0.5).tolist() for name in ("formal", "long")}
    own |= {"always": [True] * 150, "again": own["formal"]}
    (here / "labels.json").write_text(json.dumps(own))
    line = ("eval", "sae", here / "runs/small", "--store", here / "acts", *MODEL, "--overwrite",
            "--twin", "--labels", here / "labels.json")  # fmt: skip
    scr = (*line, "--suite", "core,scr", "--scr-labels")
    assert "Did you mean 'formal'" in refused(capsys, *scr, "formel,long")
    assert "'always' is True on all" in refused(capsys, *scr, "formal,always")
    assert "2 of the four combinations" in refused(capsys, *scr, "formal,again")
    unasked = refused(capsys, *line, "--suite", "core,tpp", "--scr-labels", "formal,long")
    assert "--suite core,tpp,scr" in unasked
    capsys.readouterr()
    assert run(*scr, "formal,long")
    assert "dear work was begun" in capsys.readouterr().err  # what is right goes on
    own["formal"].pop()
    (here / "labels.json").write_text(json.dumps(own))
    capsys.readouterr()
    assert run(*line, "--suite", "tpp") == 3
    assert "label 'formal' has shape [149]" in capsys.readouterr().err


def test_our_numbers_stand_beside_those_of_sae_lens(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sae_lens")
    before = (here / "runs/small/evaluation/result.json").read_bytes()
    line = ("eval", "sae", here / "runs/small", "--store", here / "acts", *MODEL,
            "--ce-sequences", 4)  # fmt: skip
    assert "Did you mean 'sae_lens'" in refused(capsys, *line, "--against", "saelens")
    capsys.readouterr()
    assert run(*line, "--against", "sae_lens", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["largest"] < 1e-3
    assert [len(d["rows"]) for d in facts["dictionaries"]] == [14, 14]
    assert (here / "runs/small/evaluation/result.json").read_bytes() == before  # saves nothing
