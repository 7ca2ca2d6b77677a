"""Whole journeys in a real browser: capture, train, latent, steer; and a capture that is killed.

Every step checks that what a reader needs is in sight, has a size, and lies on nothing else.
Pictures are kept in the folder that LENSBENCH_PICTURES names, for eyes.
"""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lensbench.app.workflows import detached, jobs
from tests.app.test_app_jobs import files, wait
from tests.browser.chrome import Chrome, find
from tests.browser.test_dashboard_browser import free_port, outside, serving

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        find() is None, reason="no chromium on this machine (apt-get install chromium)"
    ),
]
STATE = "document.querySelector('[data-testid=stProgress]')?.innerText ?? ''"
LAID_OUT = """((wanted) => {
  const faults = [];
  for (const where of wanted) {
    const one = document.querySelector(where);
    if (!one) { faults.push(where + ' is not there'); continue; }
    one.scrollIntoView({block: 'center'});
    const box = one.getBoundingClientRect();
    if (box.width < 8 || box.height < 8) faults.push(where + ' has no size');
    if (box.left < 0 || box.right > innerWidth + 1) faults.push(where + ' is cut at a side');
    const top = document.elementFromPoint(box.left + box.width / 2, box.top + box.height / 2);
    if (!top || !(one.contains(top) || top.contains(one))) faults.push(where + ' is covered');
  }
  return faults;
})"""
ASIDE = "document.documentElement.scrollWidth <= innerWidth + 1"


def laid_out(tab: Chrome, *keys: str) -> None:
    """Widgets by key: there, of some size, within the window, and not under something else."""
    tab.idle()
    wanted = json.dumps([key if key.startswith("[") else f".st-key-{key}" for key in keys])
    assert tab.js(f"{LAID_OUT}({wanted})") == [], tab.text()
    assert tab.js(ASIDE), "the page is wider than the window"


def picture(tab: Chrome, name: str, folder: Path) -> None:
    place = Path(os.environ.get("LENSBENCH_PICTURES", folder))
    place.mkdir(parents=True, exist_ok=True)
    tab.picture(place / f"{name}.png")
    tab.send("Emulation.clearDeviceMetricsOverride")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("journey")


@pytest.fixture(scope="module")
def served(root: Path) -> Iterator[str]:
    with serving(root, free_port()) as url:
        yield url


def test_from_an_empty_folder_to_a_steered_model(root: Path, served: str, tmp_path: Path) -> None:
    with Chrome(tmp_path / "profile") as tab:
        tab.open(f"{served}/capture")
        tab.type("documents", "300")
        tab.type("out", "acts")
        tab.idle()
        tab.says("Start the capture")
        laid_out(tab, "model", "documents", "profile", "sites", "out", "start",
                 "[data-testid=stMetric]")  # fmt: skip
        picture(tab, "capture-form", tmp_path)
        tab.click("Start the capture")
        tab.wait("location.search.includes('job=capture-acts')")
        tab.says("What next", timeout=90)
        assert tab.js(STATE).startswith("finished")
        laid_out(tab, "next-stores", "next-train", "next-lens", "next-token")
        picture(tab, "capture-done", tmp_path)

        tab.click("Train dictionaries on it")
        tab.wait("location.pathname.endsWith('/train') && location.search.includes('store=acts')")
        tab.says("Start training")
        tab.type("new-topk-d_sae", "64")
        tab.type("new-topk-k", "4, 8")
        tab.type("new-train-tokens", "100000")
        tab.type("new-name", "mine")
        tab.idle()
        laid_out(tab, "store", "role", "site", "architecture", "new-topk-d_sae", "start", "probe")
        picture(tab, "train-form", tmp_path)
        tab.click("Start training")
        tab.wait("location.search.includes('run=runs%2Fmine')")
        tab.wait("document.querySelectorAll('.js-plotly-plot .scatterlayer').length >= 2", 90)
        tab.settled(f"({STATE}).startsWith('finished: step 48 of 48')", 90)
        laid_out(tab, "curve", "curve2", "next-latent", "remove", "[data-testid=stPlotlyChart]")
        picture(tab, "run-done", tmp_path)

        name = next((root / "runs" / "mine").glob("topk-64-k8*")).name
        tab.open(f"{served}/latent?run=runs/mine&dictionary={name}&latent=3")
        tab.says("Steer with it")
        assert not tab.js("!!document.querySelector('[data-testid=stException]')"), tab.text()
        picture(tab, "latent", tmp_path)
        tab.click("Steer with it", "label")
        tab.says("random direction", timeout=90)
        tab.settled("document.querySelectorAll('.js-plotly-plot .scatterlayer').length >= 1", 90)
        laid_out(tab, "prompt", "strength", "where", "[data-testid=stPlotlyChart]")
        picture(tab, "steered", tmp_path)
        assert not tab.js("!!document.querySelector('[data-testid=stException]')"), tab.text()
        assert outside(tab.asked) == []


def test_a_capture_that_is_killed_is_lost_and_goes_on_to_the_same_bytes(
    root: Path, served: str, tmp_path: Path
) -> None:
    from lensbench import capture
    from lensbench.app.workflows.models import open_model
    from lensbench.app.workflows.texts import find_text

    capture(open_model("atlas-dense"), find_text("atlas:700"), profile="resid",
            out=tmp_path / "whole")  # fmt: skip
    with Chrome(tmp_path / "profile") as tab, serving(root, free_port()) as other:
        tab.open(f"{other}/capture?documents=700&out=killed")
        tab.click("Start the capture")
        tab.wait("location.search.includes('job=capture-killed')")
        folder = root / "jobs" / "capture-killed"
        wait(lambda: any((root / "killed" / "parts").glob("b*.json")), "the first shard")
        os.kill(detached.job_of(folder)["pid"], signal.SIGKILL)
        wait(lambda: jobs.look(root, "capture-killed").state == "lost", "the loss to be seen", 20)
        tab.settled(f"({STATE}).startsWith('lost')", 30)
        tab.says("Go on")
        laid_out(tab, "go-on-capture-killed", "forget-capture-killed")
        picture(tab, "capture-lost", tmp_path)
    with Chrome(tmp_path / "other-profile") as tab:  # another tab, on a server of its own
        tab.open(f"{served}/capture?job=capture-killed")
        tab.click("Go on")
        tab.wait(f"({STATE}).startsWith('finished')", 90)
    assert files(root / "killed") == files(tmp_path / "whole")


def test_two_tabs_that_start_one_capture_the_second_is_refused_and_sees_it_grow(
    root: Path, served: str, tmp_path: Path
) -> None:
    with Chrome(tmp_path / "one") as first, Chrome(tmp_path / "two") as second:
        for tab in (first, second):
            tab.open(f"{served}/capture?documents=20000&out=twice")
            tab.says("Start the capture")
        first.click("Start the capture")
        first.wait("location.search.includes('job=capture-twice')")
        second.click("Start the capture")
        second.says("is going on already")
        laid_out(second, "[data-testid=stAlert]")
        picture(second, "capture-refused", tmp_path)
        wait(lambda: any((root / "twice" / "parts").glob("b*.json")), "the first shard")
        second.open(f"{served}/stores?store=twice", live=True)
        second.wait(f"({STATE}).startsWith('growing: ')", 180)
        before = second.js(STATE)
        second.wait(f"({STATE}) !== {json.dumps(before)}", 90)  # by itself
        picture(second, "store-grows", tmp_path)
        first.click("Stop")
        first.wait(f"({STATE}).startsWith('stopped')", 60)
        second.says("its capture ended after", 90)
        assert second.js(STATE) == ""


def test_the_page_does_not_jump_while_a_run_goes_on(
    root: Path, served: str, tmp_path: Path
) -> None:
    from lensbench.app.workflows import forms, launching

    if not (root / "acts").is_dir():
        pytest.skip("needs the store of the first journey")
    store, site = str(root / "acts"), "blocks.3.resid_post"
    wanted = forms.sweep_from(store, site, "topk", {"d_sae": 32, "k": "2,4"},
                              {"tokens": 40_000_000, "log_every": 2})  # fmt: skip
    run = launching.new_run(root, "long", wanted)
    try:
        with Chrome(tmp_path / "profile") as tab:
            tab.open(f"{served}/runs?run=runs/long", live=True)
            tab.wait("document.querySelectorAll('.js-plotly-plot .scatterlayer').length >= 2", 90)
            inner = "document.querySelector('[data-testid=stMain]')"
            tab.js(f"{inner}.scrollTop = 260, 1")
            before, steps = tab.js(f"{inner}.scrollTop"), tab.js(STATE)
            assert before > 0
            for _ in range(3):
                tab.wait(f"({STATE}) !== {json.dumps(steps)}", 30)
                steps = tab.js(STATE)
                time.sleep(0.3)
                assert tab.js(f"{inner}.scrollTop") == before
            assert steps.startswith("running")
            tab.click("Stop after a checkpoint")
            tab.wait(f"({STATE}).startsWith('stopped')", 60)
            laid_out(tab, "resume")
            picture(tab, "run-stopped", tmp_path)
    finally:
        detached.stop(run)
