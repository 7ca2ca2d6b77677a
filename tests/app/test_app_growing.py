"""A store that is being written says how far it is, looks again by itself, and settles."""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lensbench.app.workflows import detached, jobs
from lensbench.app.workflows.growing import growth_of
from tests.app.driver import open_page, words
from tests.store_builder import SITE, build

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
SIZES = (8, 8, 8)


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    """Two shards of a store whose capture has not ended."""
    values = np.random.default_rng(0).normal(size=(24, 4)).astype(np.float32)
    build(tmp_path / "acts", {SITE: values}, SIZES[:2], done=False)
    return tmp_path


@pytest.fixture
def job(unfinished: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The job of a page that writes it, 24 tokens in all."""
    monkeypatch.setattr(detached, "start", lambda _args, folder, **_: (folder / "log.txt").touch())
    settings = {"model": "atlas-dense", "text": "atlas:9", "out": str(unfinished / "acts")}
    return jobs.start(unfinished, "capture", "acts", settings, expects=24)


def aged(folder: Path) -> None:
    for path in (folder / "parts").glob("*.json"):
        os.utime(path, (time.time() - 3600,) * 2)


def state(root: Path, name: str, to: str) -> None:
    path = root / "jobs" / name / "status.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "state": to}))


@pytest.mark.usefixtures("job")
def test_a_store_that_grows_says_how_many_shards_of_how_many(
    monkeypatch: Any, unfinished: Path
) -> None:
    page = open_page(monkeypatch, unfinished, "stores", store="acts")
    assert not page.exception
    told = page.get("progress")[0].proto.text
    assert told == "growing: 2 of about 3 shards, 16 of 24 tokens"
    assert growth_of(unfinished, unfinished / "acts").share == pytest.approx(16 / 24)


def test_one_that_another_shell_writes_grows_without_a_whole(unfinished: Path) -> None:
    growth = growth_of(unfinished, unfinished / "acts")
    assert (growth.live, growth.told) == (True, "growing: 2 shards so far")


@pytest.mark.parametrize("how", ["the job ended", "nobody wrote for an hour"])
def test_one_that_nobody_writes_is_not_said_to_grow(
    monkeypatch: Any, unfinished: Path, how: str, request: pytest.FixtureRequest
) -> None:
    if how == "the job ended":
        state(unfinished, request.getfixturevalue("job"), "stopped")
    else:
        aged(unfinished / "acts")
    page = open_page(monkeypatch, unfinished, "stores", store="acts")
    assert not page.exception
    assert "ended after 2 shards; the same capture goes on there" in words(page)
    assert "growing" not in words(page)


def test_the_page_looks_again_until_the_store_is_complete(
    monkeypatch: Any, unfinished: Path, job: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    import streamlit as st

    asked: list[Any] = []
    real = st.fragment
    monkeypatch.setattr(st, "fragment", lambda f, run_every=None: asked.append(
        (f.__module__.rpartition(".")[2], run_every)) or real(f))  # fmt: skip
    page = open_page(monkeypatch, unfinished, "stores", store="acts")
    assert ("store_growth", 2.0) in asked
    whole = tmp_path_factory.mktemp("whole") / "acts"
    values = np.random.default_rng(0).normal(size=(24, 4)).astype(np.float32)
    build(whole, {SITE: values}, SIZES)
    shutil.rmtree(unfinished / "acts")
    shutil.copytree(whole, unfinished / "acts")
    state(unfinished, job, "finished")
    asked.clear()
    page.run()
    assert not page.exception
    assert ("store_growth", None) in asked
    assert {m.label: m.value for m in page.metric}["shards"] == "3"
    assert "growing" not in words(page)
