"""What users get wrong in text, settings, models and worlds: a clear message, the right code."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest


def run(*args: str) -> int:
    from lensbench.app.cli import main

    return main(list(args))


def test_generated_documents_have_labels() -> None:
    from lensbench.app.workflows.texts import find_text

    corpus = find_text("atlas:5:heldout:3")
    assert corpus.n_docs == 5
    assert (corpus.spec["split"], corpus.spec["seed"]) == ("heldout", 3)
    assert corpus.labels


def test_text_that_is_not_there_or_misnamed(tmp_path: Path) -> None:
    from lensbench.app.workflows.texts import find_text
    from lensbench.errors import ConfigError, MissingDataError, UnknownNameError

    with pytest.raises(MissingDataError, match="does not exist"):
        find_text(str(tmp_path / "no.txt"))
    with pytest.raises(MissingDataError, match="is a folder"):
        find_text(str(tmp_path))
    for name in ("atlas:many", "atlas:0", "atlas:5:train:x", "atlas:5:train:0:0"):
        with pytest.raises(ConfigError, match="write atlas:N"):
            find_text(name)
    with pytest.raises(UnknownNameError, match="Did you mean 'heldout'"):
        find_text("atlas:5:heldotu")


def test_settings_are_read_as_numbers_lists_and_sections() -> None:
    from lensbench.app.workflows.settings import assignments, merged

    tree = assignments(["train.batch=2048", "sweep.lr=1e-3,3e-4", "name=topk", "train.bf16=true"])
    assert tree == {
        "train": {"batch": 2048, "bf16": True},
        "sweep": {"lr": [1e-3, 3e-4]},
        "name": "topk",
    }
    assert merged({"train": {"batch": 1, "tokens": 5}}, tree)["train"] == {
        "batch": 2048, "tokens": 5, "bf16": True,
    }  # fmt: skip


@pytest.mark.parametrize("item", ["train.batch", "=3", "a..b=1"])
def test_a_malformed_setting_is_named(item: str) -> None:
    from lensbench.app.workflows.settings import assignments
    from lensbench.errors import ConfigError

    with pytest.raises(ConfigError, match="needs key=value"):
        assignments([item])


def test_a_misspelt_bundled_model_is_offered_without_asking_the_hub(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(name: str, **_: object) -> None:
        raise AssertionError(f"the hub was asked for {name}")

    monkeypatch.setattr("lensbench.models.load_model", asked)
    assert run("doctor", "--model", "atlas-dens") == 3
    assert "Did you mean 'atlas-dense'?" in capsys.readouterr().err


def test_a_model_that_is_nowhere_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensbench.errors import UnknownNameError

    def missing(name: str, **_: object) -> None:
        raise UnknownNameError("model", name, known=["atlas-dense"])

    monkeypatch.setattr("lensbench.models.load_model", missing)
    assert run("doctor", "--model", "gpt7") == 3
    assert "no model named 'gpt7'" in capsys.readouterr().err


def test_a_model_folder_that_is_not_there_never_asks_the_hub(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run("doctor", "--model", str(tmp_path / "nothing")) == 3
    assert "no folder" in capsys.readouterr().err


def test_a_folder_that_is_no_model_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run("doctor", "--model", str(tmp_path)) == 3
    said = capsys.readouterr().err
    assert str(tmp_path) in said
    assert "Traceback" not in said


def test_world_sample_writes_documents_and_refuses_unknown_names(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "w.jsonl"
    assert run("world", "sample", "--out", str(out), "--docs", "7", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["documents"] == len(out.read_text().splitlines()) == 7
    assert run("world", "sample", "--out", str(out), "--split", "trian") == 2
    assert "Did you mean 'train'?" in capsys.readouterr().err
    assert run("world", "sample", "--out", str(out), "--family", "fact") == 2
    assert "Did you mean 'facts'?" in capsys.readouterr().err


def test_world_sample_overwrites_only_on_request(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "w.jsonl"
    out.write_text("mine\n")
    line = ("world", "sample", "--out", str(out), "--docs", "3")
    assert run(*line) == 2
    said = capsys.readouterr().err
    assert f"{out} exists already" in said
    assert "--overwrite" in said
    assert out.read_text() == "mine\n"
    assert run(*line, "--overwrite") == 0
    assert len(out.read_text().splitlines()) == 3
    assert run("world", "sample", "--out", str(tmp_path), "--docs", "3", "--overwrite") == 2
    assert "is a folder" in capsys.readouterr().err


def test_an_unwritable_folder_is_a_data_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("not a folder")
    assert run("world", "sample", "--out", str(blocker / "w.jsonl"), "--docs", "3") == 3
    assert "cannot write" in capsys.readouterr().err


def test_world_train_refuses_an_unknown_key_with_the_nearest(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("stepz: 3\n")
    assert run("world", "train", "-c", str(recipe)) == 2
    assert "Did you mean 'steps'?" in capsys.readouterr().err
    recipe.write_text("a: [1\n")
    assert run("world", "train", "-c", str(recipe)) == 2
    assert "line 2" in capsys.readouterr().err
    assert run("world", "train", "-c", str(tmp_path / "no.yaml")) == 3


TINY = ["steps=4", "n_layers=1", "d_model=16", "n_heads=2", "d_mlp=16", "rows=2", "threads=1",
        "evaluate_every=0", "card=false", "device=cpu"]  # fmt: skip


def test_world_train_detached_goes_on_by_itself_and_is_not_started_twice(tmp_path: Path) -> None:
    out = tmp_path / "model"
    long = ["steps=100000" if s == "steps=4" else s for s in TINY]
    settings = [part for s in long for part in ("--set", s)]

    def start(name: str = "atlas-dense") -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "lensbench", "world", "train", name, "--detach", "--json",
                "--out", str(out), *settings]  # fmt: skip
        return subprocess.run(line, capture_output=True, text=True, check=False)

    wrong = start("atlas-denze")
    assert wrong.returncode == 2
    assert "Did you mean 'atlas-dense'?" in wrong.stderr
    assert not out.exists()

    job = json.loads(start().stdout)
    log = Path(job["log"])
    try:
        wait_for(lambda: "step 50/" in log.read_text())
        again = start()
        assert again.returncode == 3
        assert "still running" in again.stderr
    finally:
        os.kill(job["pid"], signal.SIGTERM)
    wait_for(lambda: "stopped after step" in log.read_text())
    assert (out / "state" / "state.safetensors").is_file()
    wait_for(lambda: start().returncode == 0)  # once the first has ended, the second may start
    wait_for(lambda: "add --resume" in log.read_text())


def wait_for(true: Callable[[], bool], seconds: float = 90) -> None:
    """Poll until ``true()``."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)


def test_a_section_set_to_a_number_and_a_store_named_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lensbench.app.workflows.sweeps import TrainRequest, read_sweep

    assert run("train", "sae", "--store", str(tmp_path), "--set", "train=5") == 2
    assert "it is no single value" in capsys.readouterr().err
    recipe = tmp_path / "s.yaml"
    recipe.write_text("source: {store: acts}\nsweep: [{architecture: topk, d_sae: 32, k: 3}]\n")
    monkeypatch.chdir(tmp_path)
    assert read_sweep(TrainRequest(config=recipe)).source.store == str(tmp_path / "acts")


def test_mistakes_in_a_recipe_and_a_count_are_no_bugs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ("world", "train", "--out", str(tmp_path / "m"), "--steps", "4")
    assert run(*line, "--set", "d_model=33") == 2
    assert "even multiple of n_heads" in capsys.readouterr().err
