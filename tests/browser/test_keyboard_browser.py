"""The dashboard without a mouse: Tab reaches every control, and what has focus can be seen."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.app.tiny_root import Root, tiny_root
from tests.browser.chrome import Chrome, find
from tests.browser.test_dashboard_browser import free_port, serving
from tests.browser.test_token_browser import STRIP, metric

__all__ = ["tiny_root"]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        find() is None, reason="no chromium on this machine (apt-get install chromium)"
    ),
]
KEYS = {"Tab": 9, "Enter": 13, "ArrowRight": 39, "ArrowDown": 40}
FOCUS = (
    "(() => { let e = document.activeElement; while (e && e.shadowRoot && e.shadowRoot"
    ".activeElement) e = e.shadowRoot.activeElement; return e; })()"
)
NAMED = f"(({FOCUS}).closest('[class*=st-key-]') || {{className: ''}}).className"


@pytest.fixture(scope="module")
def served(tiny_root: Root) -> Iterator[str]:
    with serving(tiny_root.folder, free_port()) as url:
        yield url


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[Chrome]:
    with Chrome(tmp_path / "profile") as opened:
        yield opened


def press(tab: Chrome, key: str) -> None:
    text = {"text": "\r"} if key == "Enter" else {}
    for kind in ("keyDown", "keyUp"):
        tab.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, **text,
                 windowsVirtualKeyCode=KEYS[key])  # fmt: skip


def walk_to(tab: Chrome, condition: str, steps: int = 120) -> list[str]:
    """Tab until ``condition`` holds of what has focus; gives the keys of controls on the way."""
    passed: list[str] = []
    for _ in range(steps):
        press(tab, "Tab")
        passed.append(tab.js(NAMED))
        if tab.js(condition):
            return passed
    raise AssertionError(f"not reached by {steps} steps: {condition}; passed {passed}")


def test_a_token_is_chosen_in_the_strip_by_keyboard(served: str, tab: Chrome) -> None:
    tab.open(f"{served}/token?store=acts&row=17")
    tab.settled(f"{STRIP}.length === 21")
    passed = walk_to(tab, f"!!({FOCUS}).closest('.strip')")
    for key in ("st-key-store", "st-key-row", "st-key-document"):
        assert any(key in name for name in passed), key
    ring = tab.js(
        f"getComputedStyle({FOCUS}).outlineStyle + getComputedStyle({FOCUS}).outlineWidth"
    )
    assert ring == "solid2px", "what has focus can be seen"
    before = tab.js(f"({FOCUS}).title")
    press(tab, "ArrowRight")
    assert tab.js(f"({FOCUS}).title") != before
    wanted = tab.js(f"({FOCUS}).textContent")
    press(tab, "Enter")
    tab.settled("!location.search.includes('row=17')")
    tab.idle()
    assert metric(tab, "Token") == wanted


def test_a_cell_of_the_lens_is_chosen_beside_the_map_by_keyboard(served: str, tab: Chrome) -> None:
    tab.open(f"{served}/lens?store=acts&row=17")
    tab.settled("!!document.querySelector('.st-key-layer input')")
    passed = walk_to(tab, "!!document.activeElement.closest('.st-key-layer')")
    assert any("st-key-pos" in name for name in passed)
    before = tab.js("location.search")
    press(tab, "ArrowDown")
    press(tab, "ArrowDown")
    press(tab, "Enter")
    tab.settled("location.search.includes('layer=')")
    assert tab.js("location.search") != before
