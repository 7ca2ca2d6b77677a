"""A narrow window: no tool stands on a title, and figures side by side come one below the other."""

from pathlib import Path

import pytest

from tests.app.tiny_root import make_root
from tests.browser.chrome import Chrome, find
from tests.browser.test_dashboard_browser import free_port, serving

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        find() is None, reason="no chromium on this machine (apt-get install chromium)"
    ),
]
BOXES = (
    "[...document.querySelectorAll('.js-plotly-plot')].map(p => ['.g-gtitle', '.modebar', ''].map("
    "s => { const r = (s ? p.querySelector(s) : p).getBoundingClientRect();"
    " return [r.left, r.top, r.right, r.bottom]; }))"
)


def test_titles_of_figures_can_be_read_in_a_narrow_window(tmp_path: Path) -> None:
    made = make_root(tmp_path / "root", profile="resid", run=False)
    with serving(made.folder, free_port()) as url, Chrome(tmp_path / "profile") as tab:
        for width in (800, 1360):
            tab.send("Emulation.setDeviceMetricsOverride", width=width, height=1000,
                     deviceScaleFactor=1, mobile=False)  # fmt: skip
            tab.open(f"{url}/acceleration?store=acts", timeout=120)
            tab.wait("document.querySelectorAll('.js-plotly-plot .main-svg').length >= 4")
            tab.idle(120)
            for title, tools, whole in tab.js(BOXES):
                assert title[3] <= tools[1], "the tools stand below the title"
                assert title[2] <= whole[2] + 1, f"the title is cut at {width} pixels"
            first, second = (whole for *_, whole in tab.js(BOXES)[:2])
            below = second[1] >= first[3]
            assert below == (width == 800)
            assert tab.js("document.documentElement.scrollWidth <= window.innerWidth")
