"""Home: what is here, and what to do next."""

import shutil
from pathlib import Path

import pytest

from tests.app.driver import open_page, words

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_an_empty_folder_says_what_to_do_and_how_on_the_command_line(monkeypatch, tmp_path) -> None:
    page = open_page(monkeypatch, tmp_path)
    assert [m.value for m in page.metric][:2] == ["0", "0"]
    assert "no run and no activation store" in page.info[0].value
    assert f"lensbench demo --out {tmp_path}" in words(page)


def test_what_is_there_is_counted_and_listed(monkeypatch, small_root: Path) -> None:
    page = open_page(monkeypatch, small_root)
    assert not page.exception
    assert [m.value for m in page.metric][:2] == ["1", "1"]
    runs, stores, models = (table.value for table in page.dataframe)
    assert runs["run"].tolist() == ["runs/small"]
    assert runs["evaluated"].tolist() == [True]
    assert stores["store"].tolist() == ["acts"]
    assert "atlas-dense" in models["model"].tolist()
    assert f"lensbench report {small_root}/runs/small" in words(page)


def test_a_damaged_store_is_told_in_its_row(monkeypatch, small_root: Path, tmp_path: Path) -> None:
    shutil.copytree(small_root / "acts", tmp_path / "acts")
    (tmp_path / "acts" / "manifest.json").write_text("{")
    page = open_page(monkeypatch, tmp_path)
    assert not page.exception
    assert "manifest.json" in page.dataframe[0].value["state"].iloc[0]


def test_a_damaged_run_does_not_hide_the_others(monkeypatch, small_root: Path, tmp_path) -> None:
    for name in ("whole", "torn"):
        shutil.copytree(small_root / "runs" / "small", tmp_path / name)
    (tmp_path / "torn" / "status.json").write_text("{")
    page = open_page(monkeypatch, tmp_path)
    assert not page.exception
    assert not page.error
    runs = page.dataframe[0].value
    assert runs["run"].tolist() == ["whole", "torn"]
    assert runs["state"].tolist() == ["finished", "damaged"]


def test_times_sizes_and_the_next_command_are_for_people(monkeypatch, small_root: Path) -> None:
    page = open_page(monkeypatch, small_root)
    runs, stores, models = (table.value for table in page.dataframe)
    assert runs["started (UTC)"].str.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d").all()
    assert "MiB" in stores
    assert "MiB" in models
    assert "MB" not in models
    assert "--sites blocks.3.resid_post" in words(page)
    assert "localized" in page.dataframe[0].proto.columns


def test_a_run_that_was_gone_on_with_keeps_its_start(small_root: Path, tmp_path: Path) -> None:
    import json
    import os

    from lensbench.app.workflows.overview import run_frame

    run = Path(shutil.copytree(small_root / "runs" / "small", tmp_path / "run"))
    os.utime(run / "sweep.yaml", (1_700_000_000, 1_700_000_000))
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps(status | {"started": "2030-01-01T00:00:00Z"}))
    assert run_frame(tmp_path)["started (UTC)"].tolist() == ["2023-11-14 22:13"]


def test_every_bundled_model_says_its_sizes() -> None:
    from lensbench.app.workflows.overview import model_frame

    frame = model_frame().set_index("model")
    assert not frame.isna().any().any()
    assert frame.loc["othello", "family"] == "gpt2"
