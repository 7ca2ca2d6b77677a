"""A reader's way through Token, Lens and Attention in a real browser: click, see, verify."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.app.tiny_root import Root, tiny_root
from tests.browser.chrome import Chrome, find
from tests.browser.test_dashboard_browser import free_port, outside, serving

__all__ = ["tiny_root"]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        find() is None, reason="no chromium on this machine (apt-get install chromium)"
    ),
]
STRIP = (  # the tokens live in a shadow root
    "[...document.querySelectorAll('*')].filter(e => e.shadowRoot)"
    ".flatMap(e => [...e.shadowRoot.querySelectorAll('.strip button')])"
)


@pytest.fixture(scope="module")
def served(tiny_root: Root) -> Iterator[str]:
    with serving(tiny_root.folder, free_port()) as url:
        yield url


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[Chrome]:
    with Chrome(tmp_path / "profile") as opened:
        yield opened


def strip(tab: Chrome, what: str) -> list[object]:
    return tab.js(f"{STRIP}.map(b => {what})")


def metric(tab: Chrome, label: str) -> str:
    """What a metric of the page says."""
    return tab.js(
        "[...document.querySelectorAll('[data-testid=stMetric]')].filter(m => m.querySelector("
        f"'[data-testid=stMetricLabel]').innerText.trim() === {json.dumps(label)}).map(m => "
        "m.querySelector('[data-testid=stMetricValue]').innerText.trim())[0]"
    )


def click_at(tab: Chrome, chart: int, x: float, y: float) -> None:
    """A mouse click on the point (x, y) of a plotly figure, in its own units."""
    tab.settled(f"document.querySelectorAll('.js-plotly-plot').length > {chart}")
    tab.settled(
        f"!!document.querySelectorAll('.js-plotly-plot')[{chart}].querySelector('.nsewdrag')"
    )
    where = tab.js(
        f"(() => {{ const g = document.querySelectorAll('.js-plotly-plot')[{chart}];"
        " g.scrollIntoView({block: 'center'}); const l = g._fullLayout;"
        " const r = g.getBoundingClientRect();"
        f" return [r.x + l.xaxis._offset + l.xaxis.l2p({x}),"
        f" r.y + l.yaxis._offset + l.yaxis.l2p({y})]; }})()"
    )
    spot = {"x": where[0], "y": where[1], "button": "left", "clickCount": 1}
    tab.send("Input.dispatchMouseEvent", type="mouseMoved", x=where[0], y=where[1])
    time.sleep(0.3)
    for kind in ("mousePressed", "mouseReleased"):
        tab.send("Input.dispatchMouseEvent", type=kind, **spot)


def test_a_token_is_opened_by_its_address_clicked_and_verified(served: str, tab: Chrome) -> None:
    tab.open(f"{served}/token?store=acts&row=17")
    tab.says("Lens trajectory")
    tab.settled(f"{STRIP}.length === 21")
    assert strip(tab, "b.textContent")[:9] == [
        "<s>", "a", "␣<", "b", ">", "bold", "</", "b", ">"
    ]  # fmt: skip
    assert strip(tab, "b.getAttribute('aria-selected')").index("true") == 4
    assert strip(tab, "b.disabled")[:2] == [True, False], "BOS was not stored"
    assert not tab.js("!!document.querySelector('[data-testid=stMain] b')"), "text stays text"
    began = time.monotonic()
    tab.js(f"{STRIP}[9].click()")
    tab.settled("location.search.includes('row=22')")
    tab.says("Prediction made at ␣dog (token 9)")
    assert time.monotonic() - began < 5, "on a busy machine, with a page that is drawn again"
    assert metric(tab, "Token") == "␣dog"
    assert metric(tab, "Followed by") == "␣&"
    tab.settled("document.querySelectorAll('.js-plotly-plot .scatterlayer').length >= 1")
    tab.says("2 dictionaries read this token")
    tab.js("document.querySelector('.st-key-verify-latent button').click()")
    tab.says("random latents of equal norm")
    tab.says("Control (nats)")  # drawn after the words
    assert float(metric(tab, "Measured (nats)")) >= 0
    assert float(metric(tab, "Control (nats)")) > 0
    assert outside(tab.asked) == []


def test_two_tabs_look_at_two_tokens_of_one_model(served: str, tab: Chrome, tmp_path: Path) -> None:
    with Chrome(tmp_path / "second") as other:
        tab.open(f"{served}/token?store=acts&row=17")
        other.open(f"{served}/token?store=acts&row=22")
        for one in (tab, other):
            one.settled("!!document.querySelector('.st-key-verify-lens button')")
            one.js("document.querySelector('.st-key-verify-lens button').click()")
        for one in (tab, other):
            one.says("The stored lens is what the model computes on this text.")
        assert (metric(tab, "Token"), metric(other, "Token")) == (">", "␣dog")


def test_a_cell_of_the_lens_is_clicked_and_its_link_opens_it_again(
    served: str, tab: Chrome
) -> None:
    tab.open(f"{served}/lens?store=acts&row=17")
    click_at(tab, 0, 10, 0)
    tab.says("Prediction made at ␣& (token 10)")
    tab.says("Best tokens after block 0")
    assert "pos=10" in tab.js("location.search")
    assert "layer=0" in tab.js("location.search")
    tab.open(tab.js("location.href"))
    tab.says("Prediction made at ␣& (token 10)")
    tab.says("Best tokens after block 0")


def test_a_head_is_chosen_by_its_thumbnail(served: str, tab: Chrome, tiny_root: Root) -> None:
    query = {"from": "My own text", "model": str(tiny_root.model), "text": "the cat sat on the mat"}
    tab.open(f"{served}/attention?{urlencode(query)}")
    click_at(tab, 0, 3, 2)
    tab.says("Head 2.3")
    assert "head=2.3" in tab.js("location.search")
    assert outside(tab.asked) == []
