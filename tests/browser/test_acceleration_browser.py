"""The page Acceleration in a real browser: figures are drawn, and a live run joins them."""

from pathlib import Path

import pytest

from tests.app.tiny_root import make_root
from tests.browser.chrome import Chrome, find
from tests.browser.test_dashboard_browser import free_port, outside, serving

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        find() is None, reason="no chromium on this machine (apt-get install chromium)"
    ),
]


def test_predictions_are_drawn_and_a_live_run_stands_beside_them(tmp_path: Path) -> None:
    import lensbench
    from lensbench.interventions import acceleration

    made = make_root(tmp_path / "root", profile="resid", run=False)
    model = lensbench.load_model(made.model)
    acceleration.capture_own(model, ["the cat", "a plain dog saw"], made.folder / "own", 8)
    with serving(made.folder, free_port()) as url, Chrome(tmp_path / "profile") as tab:
        tab.open(f"{url}/acceleration?store=own&exit=2&threshold=0.1")
        tab.says("wrote itself")
        tab.says("FLOPs, share of plain decoding")
        tab.settled("document.querySelectorAll('.js-plotly-plot .main-svg').length >= 4")
        assert tab.js("location.search.includes('exit=2')")
        tab.says("Keep this agreement")
        wide = "document.documentElement.scrollWidth <= window.innerWidth"
        assert tab.js(wide), "nothing hangs over the right edge"
        number = "document.querySelector('[data-testid=stMetricValue]').innerText"
        before = tab.js(number)
        tab.js("document.querySelector('.st-key-exit input, .st-key-exit [tabindex]').focus()")
        for kind in ("keyDown", "keyUp"):
            tab.send("Input.dispatchKeyEvent", type=kind, key="ArrowLeft", code="ArrowLeft",
                     windowsVirtualKeyCode=37)  # fmt: skip
        tab.settled("!location.search.includes('exit=2')")  # 1, the default, is left out
        # The browser writes the address some 0.1 s before the server begins: idle until then.
        tab.settled(f"{number} !== {before!r}")
        tab.idle()
        after = tab.js(number)
        table = acceleration.lens_table(lensbench.open_store(made.folder / "own"), model)
        told = [acceleration.rates(acceleration.sim_fixed(table, e, 4)).acceptance for e in (2, 1)]
        assert [before, after] == [f"{100 * share:.0f} %" for share in told]
        assert before != after
        tab.click("Run the model and measure")
        tab.says("Live measurement", timeout=60)
        tab.open(f"{url}/acceleration?store=own&threshold=0.1")  # F5: it goes on
        tab.says("did what was predicted", timeout=240)
        tab.idle(120)
        tab.settled("document.querySelectorAll('.js-plotly-plot .heatmaplayer').length >= 3")
        tab.open(f"{url}/acceleration?store=acts")
        tab.says("a guess, not a prediction")
        assert not tab.js("!!document.querySelector('[data-testid=stException]')"), tab.text()
        assert outside(tab.asked) == []
