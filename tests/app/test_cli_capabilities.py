"""Commands for circuits, edits, latents, boards, later tokens: small, on the bundled models."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.app.cli_workspace import NAMES, SITE
from tests.app.cli_workspace import workspace as workspace
from tests.app.commands import answer, refused, run

SMALL = ("--n", 2)


def test_paths_rank_senders_and_leave_the_plain_runs_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    facts = answer(capsys, "circuit", "paths", "recall", *SMALL, "--layers", "0-1", "--top", 3)
    assert all(row["site"] for row in facts["rows"])
    sizes = [abs(row["effect"]) for row in facts["rows"]]
    assert sizes == sorted(sizes, reverse=True)
    assert "random directions" in facts["control"]


def test_circuits_of_edges_are_run_at_the_sizes_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    facts = answer(capsys, "circuit", "faithful", "recall", *SMALL, "--sizes", "3,30",
                   "--method", "eap", "--random", 1)  # fmt: skip
    assert {row["edges"] for row in facts["rows"]} == {3, 30}
    assert {row["circuit"] for row in facts["rows"]} >= {"attributed", "random"}


def test_circuits_of_latents_name_latents_and_the_error(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = workspace / "demo-run" / "run" / NAMES[0]
    facts = answer(capsys, "circuit", "latents", "recall", "--dictionary", name, *SMALL,
                   "--sizes", 5, "--random", 1, "--method", "atp", "--top", 100,
                   "--out", tmp_path / "found")  # fmt: skip
    named = [row["latent"] for row in facts["rows"]]
    assert "error" in named
    assert all(n == "error" or 0 <= n < 512 for n in named)
    assert {row["site"] for row in facts["rows"]} == {SITE}
    assert facts["circuits"]["rows"]
    for folder in ("found", "found/circuits"):
        assert (tmp_path / folder / "result.json").is_file()
    assert "holds 2 dictionaries" in refused(
        capsys, "circuit", "latents", "recall", "--dictionary", name.parent
    )


def test_a_graph_and_one_latents_parts(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = workspace / "demo-run" / "run" / NAMES[0]
    asked = ("--dictionary", name, "--prompt", "The capital of Peru is")
    graph = answer(capsys, "circuit", "graph", *asked, "--export", tmp_path / "g.json", "--top", 3)
    assert len(graph["rows"]) == 3
    assert json.loads((tmp_path / "g.json").read_text())["format"] == "lensbench.latent_graph"
    parts = answer(capsys, "circuit", "latent", 3, *asked, "--top", 4)
    assert len(parts["rows"]) == 4
    assert parts["summary"]["gap"] < 1e-3  # the parts add up
    assert "0..511" in refused(capsys, "circuit", "latent", 999, *asked)


def test_a_fact_is_edited_beside_random_keys(capsys: pytest.CaptureFixture[str]) -> None:
    facts = answer(capsys, "edit", "fact", "recall", *SMALL, "--layers", "1", "--steps", 2)
    assert {row["edit"] for row in facts["rows"]} >= {"random key"}
    assert "random_key_success" in facts["controls"]


def test_dictionaries_on_an_accelerated_model(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = workspace / "demo-run" / "run" / NAMES[0]
    prompts = workspace / "prompts.txt"
    facts = answer(capsys, "readability", "--prompts", prompts, "--skip", "5", "--exit", 4,
                   "--dictionary", name, "--random", 1)  # fmt: skip
    kept = {(r["acceleration"], r["readout"], r["measure"]): r["value"] for r in facts["rows"]}
    assert kept["skip 5", NAMES[0], "jaccard"] == 1  # block 5 lies behind the dictionary
    assert kept["skip 5", "model output", "kl"] > 0
    assert "--skip" in refused(capsys, "readability", "--prompts", prompts)


def test_later_tokens_and_the_prompts_own_bigrams(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = workspace / "demo-run" / "acts"
    facts = answer(capsys, "lens", "future", "--store", store, "--ahead", "0,1", "--layers", 3,
                   "--max-tokens", 100)  # fmt: skip
    assert {row["ahead"] for row in facts["rows"]} == {0, 1}
    assert {row["states"] for row in facts["rows"]} >= {"method", "bigram", "shuffled"}
    found = answer(capsys, "lens", "context", "--store", store,
                   "--prompts", workspace / "repeats.txt", "--at-least", 1)  # fmt: skip
    assert {row["kind"] for row in found["rows"]} >= {"prior", "context"}


def test_a_latent_is_found_shown_tried_and_steered_with(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole way from a list to a text, without a look into the source."""
    name = workspace / "demo-run" / "run" / NAMES[0]
    listed = answer(capsys, "latents", "ls", name, "--min-density", 0.001, "--top", 5)
    assert len(listed["latents"]) == 5
    assert all(row["density"] >= 0.001 for row in listed["latents"])
    latent = listed["latents"][0]["latent"]
    shown = answer(capsys, "latents", "show", name, latent)
    assert shown["contexts"]
    assert len(shown["raises"]) > 3
    tried = answer(capsys, "latents", "text", name, "--text", "The capital of Peru is", "--top", 3)
    strongest = tried["rows"][0]
    one = answer(capsys, "latents", "text", name, "--text", "The capital of Peru is",
                 "--latent", strongest["latent"])  # fmt: skip
    assert max(row["activation"] for row in one["rows"]) == pytest.approx(strongest["largest"])
    steered = answer(capsys, "latents", "steer", name, latent, "--prompt", "The capital of",
                     "--strengths", "0,2", "--new-tokens", 3)  # fmt: skip
    (text,) = steered["texts"]
    assert {"clean", "2", "2 random"} <= set(text)
    assert steered["kl"][0]["kl"] > 0
    doses = ("doses", "--prompt", "The capital of", "--dictionary", name, "--latent", latent)
    dosed = answer(capsys, *doses, "--at", "all", "--new-tokens", 1)
    assert dosed["unit"] == pytest.approx(steered["length"]), "one unit, whichever command"
    assert "Write --" in refused(capsys, "latents", "show", name, "-3")
    assert "name one as" in refused(capsys, "latents", "ls", name.parent)


def test_special_probes_of_a_bundled_model(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = answer(capsys, "probe", "numbers", "--n", 100, "--components", "1", "--flips", 4)
    assert {row["components"] for row in numbers["rows"]} == {1}
    assert numbers["flips"]["rows"]
    trees = answer(capsys, "probe", "trees", "--model", "atlas-dense", "--site", "embed",
                   "--text", workspace / "trees.jsonl", "--epochs", 2)  # fmt: skip
    assert {row["source"] for row in trees["rows"]} >= {"probe", "random_map"}
    spans = answer(capsys, "probe", "spans", "--model", "atlas-dense", "--site", "embed",
                   "--text", workspace / "spans.jsonl", "--head", "linear")  # fmt: skip
    assert spans["rows"][0]["head"] == "linear"
    (workspace / "half.jsonl").write_text('{"words": ["a"]}\n')
    said = refused(capsys, "probe", "trees", "--model", "atlas-dense", "--text",
                   workspace / "half.jsonl")  # fmt: skip
    assert "line 1" in said
    assert '"heads"' in said


def test_a_subspace_is_searched_and_can_be_patched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "subspace"
    line = ("circuit", "align", "recall", "--site", SITE, "--n", 8, "--steps", 2, "--out", out)
    assert run(*line) == 0
    assert f"--subspace {out}" in capsys.readouterr().out
    facts = answer(capsys, "patch", "recall", "--sites", SITE, *SMALL, "--subspace", out,
                   "--positions", "end", "--random-patches", 1)  # fmt: skip
    assert facts["subspace"]


def test_a_dictionary_of_others_is_evaluated(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = workspace / "demo-run" / "run" / NAMES[0]
    shared = tmp_path / "theirs"
    assert run("runs", "export", ours, "--format", "sparsify", "--out", shared) == 0
    facts = answer(capsys, "eval", "sae", shared, "--store", workspace / "demo-run" / "acts",
                   "--model", "atlas-dense", "--suite", "core", "--ce-sequences", 2,
                   "--out", tmp_path / "scores")  # fmt: skip
    assert facts["dictionaries"][0]["name"] == "theirs"
    assert facts["dictionaries"][0]["l0"] == pytest.approx(16, abs=0.5)
    assert (tmp_path / "scores" / "evaluation" / "result.json").is_file()
    assert facts["disclosure"] == "scored on the text it was trained on"  # kept with the weights


def test_doctor_tells_machine_parts_and_what_to_mend(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensbench.app.workflows import doctor

    monkeypatch.setattr(doctor, "_answers", lambda _: pytest.fail("the hub was asked"))
    monkeypatch.setitem(doctor.PARTS, "no-such-package", "something")
    facts = answer(capsys, "doctor", "--no-hub")
    assert facts["devices"][0]["device"] == "cpu"
    assert facts["hub"]["reachable"] is None
    absent = {row["package"] for row in facts["parts"] if row["version"] is None}
    assert "no-such-package" in absent
    assert facts["folder"]["free_bytes"] > 0
    assert run("doctor", "--no-hub") == 0
    text = capsys.readouterr().out
    for said in ("hub reachable", "to mend", "bundled models", "this folder"):
        assert said in text
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # control: offline by a setting, nobody is asked
    assert answer(capsys, "doctor")["hub"]["offline_settings"] == ["HF_HUB_OFFLINE"]


def test_what_doctor_finds_wrong_is_told() -> None:
    from lensbench.app.workflows.doctor import problems

    fine: dict[str, Any] = {
        "folder": {"path": ".", "writable": True, "free_bytes": 2**40},
        "machine": {"memory_free_bytes": 2**40, "cuda_driver": None},
        "parts": [], "devices": [{"device": "cpu"}],
    }  # fmt: skip
    assert problems(fine) == []
    full = {**fine, "folder": {"path": "x", "writable": False, "free_bytes": 1}}
    assert len(problems(full)) == 2
    gpu = {**fine, "machine": {"memory_free_bytes": 1, "cuda_driver": "NVRM version"}}
    assert len(problems(gpu)) == 2
