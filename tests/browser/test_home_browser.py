"""From an empty folder to a first picture in one click, and two runs side by side."""

import shutil
from pathlib import Path

import pytest

from tests.app.conftest import small_root  # noqa: F401 - a fixture
from tests.browser.chrome import Chrome, find
from tests.browser.test_dashboard_browser import free_port, outside, serving

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        find() is None, reason="no chromium on this machine (apt-get install chromium)"
    ),
]
ERRORS = "document.querySelectorAll('[data-testid=stException], [data-testid=stAlert]').length"


def test_one_click_from_an_empty_folder_to_a_first_picture(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    with serving(folder, free_port()) as url, Chrome(tmp_path / "profile") as tab:
        tab.open(url)
        tab.says("What people do here first")
        tab.click("See a first picture")
        tab.settled("location.pathname.endsWith('/lens')")
        tab.settled("document.querySelectorAll('.heatmaplayer image').length >= 1", timeout=120)
        tab.idle()
        assert tab.js(ERRORS) == 0
        tab.open(tab.js("location.href"))  # the address alone shows the same picture
        tab.settled("document.querySelectorAll('.heatmaplayer image').length >= 1", timeout=120)
        assert outside(tab.asked) == []
    assert list(folder.iterdir()) == [], "looking writes nothing"


def test_two_runs_are_chosen_and_compared(small_root: Path, tmp_path: Path) -> None:  # noqa: F811
    root = tmp_path / "root"
    for name in ("one", "other"):
        shutil.copytree(small_root / "runs" / "small", root / name)
    sweep = root / "other" / "sweep.yaml"
    sweep.write_text(sweep.read_text().replace("tokens: 4096", "tokens: 8192"))
    with serving(root, free_port()) as url, Chrome(tmp_path / "profile") as tab:
        tab.open(url)
        tab.click("Compare two runs")
        tab.settled("location.search.includes('one=') && location.search.includes('other=')")
        tab.says("Settings that differ")
        tab.says("a difference of two numbers is one of the dictionaries")
        tab.settled("document.querySelectorAll('.js-plotly-plot .scatterlayer').length >= 2")
        tab.idle()
        order = "[...document.querySelectorAll('h2')].map(e => e.innerText.trim())"
        assert tab.js(order)[:3] == ["Settings that differ", "What they reach", "Training"]
        wide = "document.documentElement.scrollWidth <= window.innerWidth"
        assert tab.js(wide), "nothing sticks out of the page"
        name = next((root / "one").glob("topk-64-k4*")).name
        query = f"one=one&other=other&one-dictionary={name}&other-dictionary={name}"
        tab.open(f"{url}/compare?{query}")
        tab.says("MMCS")
        assert outside(tab.asked) == []
