"""The page Probe: fits that take long are jobs, labels to begin with can be fitted, blanks said."""

import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.app.conftest import SITE, STORE
from tests.app.driver import open_page, words

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
ASKED: dict[str, Any] = {"store": STORE, "labels": ["is_comma", "is_name"],
                         "method": "mean_difference"}  # fmt: skip


@pytest.fixture
def root(small_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose store counts as large, and jobs that run in this process, at once."""
    from lensbench.app.workflows import detached, probe_page, work

    folder = tmp_path / "root"
    shutil.copytree(small_root / STORE, folder / STORE)
    monkeypatch.setattr(probe_page, "AT_ONCE_ROWS", 10)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(detached, "start", lambda _, folder, **__: work.main(folder))
    return folder


def test_probes_of_a_large_store_are_a_job_whose_result_stays(
    monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    from lensbench.app.workflows import jobs, probe_page, probing

    page = open_page(monkeypatch, root, "probe", **ASKED)
    assert not page.exception
    assert not page.get("plotly_chart"), "nothing is fitted unasked"
    assert "2 probes and their controls, in a process of its own" in words(page)
    assert "lensbench probe linear" in words(page)
    page.button(key="start-probes").click().run()
    assert not page.exception
    assert len(page.get("plotly_chart")) == 2
    [job] = jobs.all_jobs(root, "probes")
    assert job.result["probes"] == 2
    monkeypatch.setattr(probe_page, "probe", None)  # nothing is fitted again
    again = open_page(monkeypatch, root, "probe", **ASKED)
    assert len(again.get("plotly_chart")) == 2, "F5"
    ask = probing.ProbeAsk(str(root / STORE), ("is_comma", "is_name"), sites=(SITE,),
                           methods=("mean_difference",), max_rows=probe_page.ROWS)  # fmt: skip
    found, ours = probe_page.found_for(root, ask), probing.probe(ask)
    assert found is not None
    np.testing.assert_array_equal(found.columns["score"], ours.columns["score"])
    other = open_page(monkeypatch, root, "probe", **{**ASKED, "method": "ridge"})
    assert "start-probes" in {b.key for b in other.button}, "another request is another fit"


def test_a_fit_that_fails_says_why_and_can_be_begun_again(
    monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    from lensbench.app.workflows import jobs

    page = open_page(monkeypatch, root, "probe", **{**ASKED, "labels": ["to_german"]})
    page.button(key="start-probes").click().run()
    assert not page.exception
    [job] = jobs.all_jobs(root)
    assert job.state == "failed"
    assert "fewer than 10 rows" in words(page)
    assert f"go-on-{job.name}" in {b.key for b in page.button}
    page.button(key=f"forget-{job.name}").click().run()
    assert "start-probes" in {b.key for b in page.button}
    assert jobs.all_jobs(root) == []


def test_a_request_is_the_same_after_a_way_through_a_job() -> None:
    from lensbench.app.workflows import jobs, probe_page, probing

    ask = probing.ProbeAsk("acts", ("a", "b"), sites=("x",), methods=("ridge", "pls"),
                           positions=("first",), seeds=2, max_rows=500, twin="t",
                           metric="accuracy")  # fmt: skip
    settings = probing.settings_of(ask, Path("out"))
    assert probe_page.ask_of(settings) == ask
    assert probe_page.ask_of(probing.settings_of(probing.ProbeAsk("s"))) == probing.ProbeAsk("s")
    line = jobs.command_of("probes", settings)
    assert "--method ridge --method pls" in line
    assert "--no-twin" not in line


def test_labels_to_begin_with_are_not_rare_among_the_rows_that_are_drawn(
    monkeypatch: pytest.MonkeyPatch, small_root: Path
) -> None:
    from lensbench.app.workflows import probe_page

    url = str(small_root / STORE)
    whole = probe_page._labels_in(url)
    monkeypatch.setattr(probe_page, "ROWS", 200)
    few = probe_page._labels_in(url)
    for name, rarer in whole.items():
        assert few[name] <= rarer * 0.2
    monkeypatch.setattr(probe_page, "COMMON", 20)
    assert all(few[name] >= 20 for name in probe_page.few_labels(few))


def test_a_label_without_a_control_is_said_to_be_blank(
    monkeypatch: pytest.MonkeyPatch, small_root: Path
) -> None:
    from lensbench.app.workflows import probe_page

    asked = {**ASKED, "labels": ["is comma", "is name"]}
    page = open_page(monkeypatch, small_root, "probe", **asked)
    assert "Blank" not in words(page)
    monkeypatch.setattr(probe_page, "blank", lambda *_: ["is_name"])
    page = open_page(monkeypatch, small_root, "probe", **asked)
    assert "Blank, as there is no such figure of them here: is name." in words(page).replace(
        "\\", ""
    )


def test_blank_labels_are_those_without_any_figure(small_root: Path) -> None:
    from dataclasses import replace

    from lensbench.app.workflows import probe_page, probing

    ask = probing.ProbeAsk(str(small_root / STORE), ("is_comma", "is_name"), sites=(SITE,),
                           methods=("mean_difference",))  # fmt: skip
    found = probing.probe(ask)
    assert probe_page.blank(found, "selectivity") == []
    gone = np.where(found.at[:, 1] == 1, np.nan, found.columns["selectivity"])
    less = replace(found, columns={**found.columns, "selectivity": gone})
    assert probe_page.blank(less, "selectivity") == ["is_name"]


def test_names_read_as_words_unless_two_would_be_one() -> None:
    from lensbench.app.workflows.probe_page import in_words

    assert in_words(["is_a", "is a", "x_y"]) == {"is_a": "is_a", "is a": "is a", "x_y": "x y"}
