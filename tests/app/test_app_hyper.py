"""The page Hyperdimensional: a study as a job, its decode table, what it says of errors."""

import signal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.app.driver import files_offered, open_page, words

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
ASKED = {"model": "atlas-dense", "task": "question", "split": "combination"}


def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs run in this process, at once, over few prompts and with one baseline."""
    from lensbench import probes
    from lensbench.app.workflows import detached, work
    from lensbench.probes.hd.encoder import EncoderConfig

    quick = EncoderConfig(kind="factored", hidden=(1.0,), max_epochs=4, lr=3e-3)
    study = partial(probes.hd_study, baselines=("shuffled labels",))
    less = {"n_train": 300, "n_test": 80, "dim": 512, "encoder": quick}
    monkeypatch.setattr(probes, "hd_study", lambda *a, **k: study(*a, **{**k, **less}))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(detached, "start", lambda _, folder, **__: work.main(folder))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the page's job has been done."""
    root = tmp_path_factory.mktemp("studied")
    with pytest.MonkeyPatch.context() as patch:
        small(patch)
        from lensbench.app.workflows import hyper, jobs

        ask = hyper.HDAsk(**ASKED, n_train=1500, n_test=200)
        out = hyper.folder_for(root, ask)
        name = jobs.start(root, "hd", out.name, hyper.settings_of(ask, out))
        assert jobs.look(root, name).state == "finished", jobs.look(root, name).message
    return root


@pytest.mark.usefixtures("here")
def test_the_study_is_a_job_whose_result_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from lensbench.app.workflows import jobs

    page = open_page(monkeypatch, tmp_path, "hyper", **ASKED)
    assert not page.exception
    assert "lensbench probe hd --model atlas-dense --task question" in words(page)
    page.button(key="start-hd").click().run()
    assert not page.exception
    assert "Decode table" in words(page)
    [job] = jobs.all_jobs(tmp_path, "hd")
    assert (job.done, job.total, job.unit) == (3, 3, "steps")
    again = open_page(monkeypatch, tmp_path, "hyper", **ASKED)
    assert "Decode table" in words(again), "F5"
    other = open_page(monkeypatch, tmp_path, "hyper", **{**ASKED, "task": "pattern"})
    assert "Decode table" not in words(other), "another request is another study"


def test_a_job_that_goes_on_or_failed_is_shown_with_its_state(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from lensbench import io
    from lensbench.app.workflows import detached, jobs

    monkeypatch.setattr(detached, "start", lambda *_, **__: None)
    page = open_page(monkeypatch, tmp_path, "hyper", **ASKED)
    page.button(key="start-hd").click().run()
    assert not page.exception
    [job] = jobs.all_jobs(tmp_path)
    assert f"stop-{job.name}" in {b.key for b in page.button}
    assert "start-hd" not in {b.key for b in page.button}, "nobody starts it twice"
    path = tmp_path / "jobs" / job.name / "status.json"
    io.write_json(path, {**io.read_json(path), "state": "failed", "message": "no such model"})
    page.run()
    assert "no such model" in words(page)
    assert f"go-on-{job.name}" in {b.key for b in page.button}


def test_the_decode_table_by_concept_has_chance_control_and_interval(
    monkeypatch: pytest.MonkeyPatch, studied: Path
) -> None:
    from lensbench.app.workflows import hyper
    from lensbench.stats import wilson

    files = files_offered(monkeypatch)
    page = open_page(monkeypatch, studied, "hyper", **ASKED)
    assert not page.exception
    assert not page.error
    shown = page.dataframe[0].value
    ask = hyper.HDAsk(**ASKED, n_train=1500, n_test=200)
    found = hyper.saved(studied, ask)
    assert found is not None
    table = found.by_concept()
    assert list(shown["concept"]) == list(table["concept"])
    for column in ("n", "accuracy", "low", "high", "chance", "control", "elsewhere", "margin"):
        np.testing.assert_allclose(shown[column], table[column])
    row = table.iloc[0]
    span = wilson(round(row["accuracy"] * row["n"]), int(row["n"]))
    assert (row["low"], row["high"]) == (span.low, span.high)
    said = words(page)
    assert "Wilson" in said
    assert f"one of {found.n_concepts} concepts" in said
    assert "codes of other prompts" in said
    assert f"n = {int(found.right.sum())}" in said
    for k in (1, 3, 5):  # each score has its own
        assert f"{k / found.n_concepts:.4f} of probing@{k}" in said.replace("\\", "")
    lines = files["hyper-decode-concepts.csv"].splitlines()
    assert len(lines) == len(table) + 1


def test_the_decode_table_by_prompt_is_what_was_read_and_can_be_narrowed(
    monkeypatch: pytest.MonkeyPatch, studied: Path
) -> None:
    files = files_offered(monkeypatch)
    page = open_page(monkeypatch, studied, "hyper", rows="By prompt", **ASKED)
    assert not page.exception
    whole = page.dataframe[0].value
    assert {"query", "decoded", "true", "similarity", "margin", "runner_up"} <= set(whole)
    assert set(whole["right"]) == {True, False}
    sizes = {}
    for which in ("Read right", "Read wrong", "Nothing read"):
        page.selectbox(key="which").set_value(which).run()
        assert not page.exception
        table = page.dataframe[0].value
        assert (table["right"] == (which == "Read right")).all()
        assert ((table["decoded"] == "nothing") == (which == "Nothing read")).all()
        assert len(files["hyper-decode-prompts.csv"].splitlines()) == len(table) + 1, "as shown"
        sizes[which] = len(table)
    assert sum(sizes.values()) == len(whole)
    assert all(sizes.values())


@pytest.mark.usefixtures("here")
def test_the_code_of_the_decode_table_makes_it(studied: Path) -> None:
    from lensbench.app.workflows import hyper

    ask = hyper.HDAsk(**ASKED, n_train=1500, n_test=200)
    found = hyper.saved(studied, ask)
    assert found is not None
    *lines, last = hyper.decode_code(ask, concepts=True).splitlines()
    space: dict[str, Any] = {}
    exec("\n".join([*lines, f"table = {last}"]), space)
    assert space["table"].equals(found.by_concept())


@pytest.mark.parametrize(
    ("low", "said"), [(-0.07, "above 0: none."), (0.02, "above 0: 1 - support.")]
)
def test_the_page_says_whether_errors_are_told_better_than_by_the_model(
    studied: Path, monkeypatch: pytest.MonkeyPatch, low: float, said: str
) -> None:
    from lensbench.app.workflows import hyper

    rows = [{"score": "1 - max probability", "auroc": 0.7, "gain": 0.0, "gain_low": 0.0},
            {"score": "1 - support", "auroc": 0.8, "gain": 0.1, "gain_low": low}]  # fmt: skip
    monkeypatch.setattr(hyper, "failures", lambda _: (rows, ""))
    page = open_page(monkeypatch, studied, "hyper", **ASKED)
    assert not page.exception
    assert said in words(page)


def test_a_study_that_is_damaged_is_said(studied: Path, monkeypatch: pytest.MonkeyPatch,
                                         tmp_path: Path) -> None:  # fmt: skip
    import shutil

    shutil.copytree(studied, tmp_path / "root")
    [file] = (tmp_path / "root").glob("hyper/*/arrays.safetensors")
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    page = open_page(monkeypatch, tmp_path / "root", "hyper", **ASKED)
    assert not page.exception
    assert "altered" in page.error[0].value


def test_the_page_takes_the_bundled_model_at_a_click(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = open_page(monkeypatch, tmp_path, "hyper")
    page.button(key="bundled").click().run()
    assert not page.exception
    assert page.selectbox(key="model").value == "atlas-dense"
    page.toggle(key="after").set_value(True).run()
    assert "--after" in words(page)
    page.selectbox(key="size").set_value(6000).run()
    assert "--n-train 6000" in words(page)


@pytest.mark.usefixtures("here")
def test_a_finished_study_is_removed_from_its_page_and_run_again(
    monkeypatch: pytest.MonkeyPatch, studied: Path, tmp_path: Path
) -> None:
    import json
    import shutil

    from lensbench.app.workflows import jobs

    shutil.copytree(studied, tmp_path / "root")
    root = tmp_path / "root"
    [file] = (root / "jobs").glob("*/request.json")
    told = json.loads(file.read_text())
    told["settings"]["out"] = told["settings"]["out"].replace(str(studied), str(root))
    file.write_text(json.dumps(told))
    page = open_page(monkeypatch, root, "hyper", **ASKED)
    assert "Decode table" in words(page)
    page.button(key="remove-hd").click().run()
    assert not page.exception
    assert list((root / "hyper").iterdir()) == []
    assert jobs.all_jobs(root) == []
    page.button(key="start-hd").click().run()
    assert "Decode table" in words(page)
    [before] = (root / "hyper").glob("*/result.json")
    first = before.stat().st_mtime_ns
    page.button(key="run-again-hd").click().run()
    assert not page.exception
    assert before.stat().st_mtime_ns > first
    assert "Decode table" in words(page)
