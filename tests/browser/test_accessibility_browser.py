"""Every page, empty and filled, light and dark, looked at by axe-core: no finding but minor ones.

axe-core is JavaScript inside the development dependency ``axe-playwright-python``; its file is put
into the page as it is, and playwright is neither imported nor run.
"""

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from lensbench.app.page_list import PAGES
from tests.browser.chrome import Chrome, find
from tests.browser.filled import addresses, filled_root, small_root, tiny_root
from tests.browser.test_dashboard_browser import free_port, outside, serving

__all__ = ["filled_root", "small_root", "tiny_root"]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        find() is None, reason="no chromium on this machine (apt-get install chromium)"
    ),
]
STREAMLIT = {
    ("list", "[data-testid=stSidebarNavItems]"): "the menu's sections are div inside ul; the "
    "markup is Streamlit's (1.67), no setting changes it, and a style cannot",
    ("listitem", "[data-testid=stSidebarNavItems] li"): "the same div, seen from its entries",
}
"""Findings that lie in Streamlit, each with the narrowest selector, and why they stay."""
RUN = (
    "axe.run(document, {resultTypes: ['violations'], elementRef: true}).then(found => found"
    ".violations.filter(v => v.impact !== 'minor').flatMap(v => v.nodes.map("
    "n => ({rule: v.id, at: n.target.flat().join(' '), html: n.html.slice(0, 200),"
    " why: [...n.any, ...n.all, ...n.none].map(c => c.message).join('; ').slice(0, 300),"
    f" known: {json.dumps(list(STREAMLIT))}.findIndex(k => k[0] === v.id && n.element"
    " && n.element.matches(k[1]))}))))"
)


def axe() -> str:
    spec = find_spec("axe_playwright_python")
    assert spec is not None, "pip install -e .[dev]"
    assert spec.origin is not None
    return (Path(spec.origin).parent / "axe.min.js").read_text("utf-8")


def findings(tab: Chrome) -> list[dict[str, Any]]:
    """What axe-core finds moderate, serious or critical on the page as it is."""
    if not tab.js("!!window.axe"):
        tab.js(f"{axe()}; 0")
    return tab.js(RUN)


def in_mode(tab: Chrome, mode: str) -> None:
    """The reader's machine turns dark or light while the page is open."""
    tab.send("Emulation.setEmulatedMedia",
             features=[{"name": "prefers-color-scheme", "value": mode}])  # fmt: skip
    tab.wait("(() => { const c = getComputedStyle(document.querySelector('[data-testid=stApp]'))"
             ".backgroundColor.match(/\\d+/g).map(Number); return (Math.max(...c.slice(0, 3)) < 80)"
             f" === {json.dumps(mode == 'dark')}; }})()")  # fmt: skip
    tab.idle()


@pytest.fixture(scope="module")
def served(filled_root: Path) -> Iterator[str]:
    with serving(filled_root, free_port()) as url:
        yield url


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with Chrome(tmp_path_factory.mktemp("chrome") / "profile") as opened:
        yield opened


def test_no_page_has_a_finding(filled_root: Path, served: str, tab: Chrome) -> None:
    where, bad, met = addresses(filled_root), [], set[int]()
    assert set(where) == {page.path for page in PAGES}, "a new page needs an address"
    for path, address in where.items():
        tab.open(served + address)
        for mode in ("light", "dark"):
            in_mode(tab, mode)
            found = findings(tab)
            met |= {f["known"] for f in found}
            bad += [(path, mode, f) for f in found if f["known"] < 0]
    assert bad == [], json.dumps(bad, indent=1)
    assert outside(tab.asked) == [], "nobody off this machine was asked, by any filled page"
    assert met >= set(range(len(STREAMLIT))), "an exception that is no longer needed"


@pytest.mark.parametrize("mode", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_no_empty_page_has_a_finding(tmp_path: Path, tab: Chrome, mode: str) -> None:
    (tmp_path / "root").mkdir()
    bad: list[Any] = []
    with serving(tmp_path / "root", free_port()) as url:
        for page in PAGES:
            tab.open(f"{url}/{'' if page.path == 'home' else page.path}")
            in_mode(tab, mode)
            bad += [(page.path, f) for f in findings(tab) if f["known"] < 0]
    assert bad == [], json.dumps(bad, indent=1)


def test_axe_sees_what_it_should(served: str, tab: Chrome) -> None:
    tab.open(served)
    tab.js("document.querySelector('h1').insertAdjacentHTML('afterend',"
           "'<input id=nameless><p style=\"color:#bbb;background:#fff\">pale</p>"
           "<img src=\"data:,\">'), 0")  # fmt: skip
    assert {"label", "color-contrast", "image-alt"} <= {f["rule"] for f in findings(tab)}
