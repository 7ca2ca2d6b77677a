"""Expert sliders in a real browser: from an empty page to a suppressed expert in three clicks."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from lensbench.app.workflows import expert_page
from lensbench.app.workflows.expert_page import ExpertAsk
from tests.browser.chrome import Chrome, find
from tests.browser.test_dashboard_browser import free_port, outside, serving

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        find() is None, reason="no chromium on this machine (apt-get install chromium)"
    ),
]


def test_an_expert_is_suppressed_in_three_clicks(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    with (
        serving(tmp_path / "root", free_port()) as url,
        Chrome(tmp_path / "profile") as tab,
    ):
        tab.open(f"{url}/experts?prompts=desk:24")
        tab.click("Use the bundled atlas-moe")  # 1
        tab.says("Every slider is at 0", timeout=120)
        tab.settled("document.querySelectorAll('[data-testid=stSlider]').length === 3")
        tab.idle()
        tab.click("Suppress all of these")  # 2
        tab.says("3 of 3 sliders are moved", timeout=60)
        tab.says("steered")
        tops = tab.js("[...document.querySelectorAll('[data-testid=stSlider]')]"
                      ".map(s => Math.round(s.getBoundingClientRect().top))")  # fmt: skip
        assert len(set(tops)) == 1, "sliders stand side by side"
        assert tab.js("document.documentElement.scrollWidth <= window.innerWidth")
        tab.click("Back to neutral")
        tab.says("Every slider is at 0", timeout=60)
        behave(tab, "English")
        named = "[...document.querySelectorAll('[data-testid=stSlider]')].map(s => s.innerText)"
        best = expert_page.ranked(ExpertAsk("atlas-moe", "desk:24", "cannot say")).top(3)
        tab.wait(f"{named}.every((s, i) => s.startsWith({names(best)}[i]))", 60)
        chips = "document.querySelector('.st-key-experts').innerText"
        assert all(f"{a}:{b}" in tab.js(chips) for a, b in best), "not those of the server alone"
        first = expert_page.first_prompt(ExpertAsk("atlas-moe", "desk:24", "cannot say"))
        assert tab.js("document.querySelector('.st-key-prompt input').value") == first
        tab.open(f"{url}/experts?model=atlas-moe&prompts=desk:24&part=Routing+of+a+text")
        tab.says("n = ", timeout=60)
        tab.settled("!!document.querySelector('.heatmaplayer image')")
        assert not tab.js("!!document.querySelector('[data-testid=stException]')"), tab.text()
        assert outside(tab.asked) == []


def names(experts: Sequence[tuple[int, int]]) -> list[str]:
    return [f"Layer {a}, expert {b}" for a, b in experts]


def behave(tab: Chrome, text: str) -> None:
    """Choose the behaviour whose words hold ``text``."""
    tab.js("document.querySelector('.st-key-desk input').focus()")
    tab.send("Input.insertText", text=text)
    tab.wait("document.querySelectorAll('[role=option]').length === 1")
    for kind in ("keyDown", "keyUp"):
        tab.send("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter",
                 windowsVirtualKeyCode=13)  # fmt: skip
    tab.idle()
