"""The dashboard without a mouse: Tab reaches every control, what has focus is seen, keys act."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lensbench.app.page_list import PAGES
from tests.browser.chrome import Chrome, find
from tests.browser.filled import TINY, addresses, filled_root, small_root, tiny_root
from tests.browser.keyboard import FOCUS, press, walk_all, walk_to
from tests.browser.test_dashboard_browser import free_port, serving
from tests.browser.test_token_browser import STRIP, metric

__all__ = ["filled_root", "small_root", "tiny_root"]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        find() is None, reason="no chromium on this machine (apt-get install chromium)"
    ),
]


@pytest.fixture(scope="module")
def served(filled_root: Path) -> Iterator[str]:
    with serving(filled_root, free_port()) as url:
        yield url


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with Chrome(tmp_path_factory.mktemp("chrome") / "profile") as opened:
        yield opened


@pytest.mark.parametrize("path", [page.path for page in PAGES])
def test_tab_reaches_every_control_of_a_page_and_shows_where_it_is(
    filled_root: Path, served: str, tab: Chrome, path: str
) -> None:
    tab.open(served + addresses(filled_root)[path], timeout=120)
    told = walk_all(tab)
    assert told["n"] > 25, "the menu alone has as many"
    assert told["left"] == [], "never reached: behind a trap, or not made for a keyboard"
    assert told["unseen"] == [], "looks the same with and without focus"


def test_the_walk_sees_a_control_without_keys_a_trap_and_a_hidden_focus(
    served: str, tab: Chrome
) -> None:
    tab.open(served)
    add = "document.querySelector('h1').insertAdjacentHTML('afterend', {}), 0"
    tab.js(add.format("'<button id=mute tabindex=-1>mouse only</button>'"))
    assert [one for one in walk_all(tab)["left"] if "mute" in one]
    tab.open(served)
    tab.js(add.format("'<input id=trap>'"))
    tab.js("document.querySelector('#trap').onkeydown = e => e.preventDefault(), 0")
    assert walk_all(tab)["left"], "nothing after the trap is reached"
    tab.open(served)
    tab.js(
        "document.head.insertAdjacentHTML('beforeend', '<style>button:focus, button:focus *"
        " {outline: none !important; box-shadow: none !important; border-color: inherit"
        " !important; background: inherit !important; color: inherit !important}</style>'), 0"
    )
    tab.js(add.format("'<button id=dim style=\\'all: unset\\'>dim</button>'"))
    assert [one for one in walk_all(tab)["unseen"] if "dim" in one]


def test_keys_open_choose_and_close(served: str, tab: Chrome) -> None:
    tab.open(f"{served}/stores?store=acts&part=Shards")
    walk_to(tab, f"({FOCUS}).role === 'tab'")
    press(tab, "ArrowRight")
    press(tab, "Enter")
    tab.settled("location.search.includes('part=Rows')")
    walk_to(tab, f"!!({FOCUS}).closest('.st-key-remove')")
    press(tab, "Enter")
    tab.says("would be gone for good")
    press(tab, "Escape")
    tab.settled("!document.body.innerText.includes('would be gone for good')")
    tab.open(f"{served}/runs?run=runs/small")
    walk_to(tab, f"({FOCUS}).tagName === 'SUMMARY'")
    before = tab.js(f"({FOCUS}).parentElement.open")
    press(tab, " ")
    tab.settled(f"({FOCUS}).parentElement.open !== {str(before).lower()}")


def test_a_token_is_chosen_in_the_strip_by_keyboard(served: str, tab: Chrome) -> None:
    tab.open(f"{served}/token?store={TINY}&row=17")
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
    assert metric(tab, "Token") == wanted
    assert tab.js(f"({FOCUS}).textContent") == wanted, "the focus stays where it was"
    press(tab, "End")
    assert tab.js(f"({FOCUS}) === {STRIP}.at(-1)")
    press(tab, "Tab")
    assert not tab.js(f"!!({FOCUS}).closest('.strip')"), "one stop of Tab, however long the text"


def test_a_cell_of_the_lens_is_chosen_beside_the_map_by_keyboard(served: str, tab: Chrome) -> None:
    tab.open(f"{served}/lens?store={TINY}&row=17")
    tab.settled("!!document.querySelector('.st-key-layer input')")
    passed = walk_to(tab, "!!document.activeElement.closest('.st-key-layer')")
    assert any("st-key-pos" in name for name in passed)
    before = tab.js("location.search")
    press(tab, "ArrowDown")
    press(tab, "ArrowDown")
    press(tab, "Enter")
    tab.settled("location.search.includes('layer=')")
    assert tab.js("location.search") != before
