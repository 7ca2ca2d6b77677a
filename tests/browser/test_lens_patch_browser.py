"""A reader's way in a real browser: two texts, click, patch; then a head patched and verified."""

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.browser.chrome import Chrome, find
from tests.browser.test_dashboard_browser import free_port, outside, serving
from tests.browser.test_token_browser import click_at

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        find() is None, reason="no chromium on this machine (apt-get install chromium)"
    ),
]
FIRST = "List bag round , letter wooden , shoe clean ; recall letter"
SECOND = "List bag wooden , letter round , shoe clean ; recall letter"
BOXES = (
    "[...document.querySelectorAll('[data-testid=stPlotlyChart]')].map(c => {"
    " const r = c.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; })"
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("root"), free_port()) as url:
        yield url


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[Chrome]:
    with Chrome(tmp_path / "profile") as opened:
        yield opened


def boxes(tab: Chrome) -> list[list[float]]:
    return tab.js(BOXES)


def no_two_overlap(found: list[list[float]]) -> bool:
    return not any(
        a[0] < b[2] - 1 and b[0] < a[2] - 1 and a[1] < b[3] - 1 and b[1] < a[3] - 1
        for i, a in enumerate(found)
        for b in found[i + 1 :]
    )


def test_two_texts_are_compared_clicked_and_patched(served: str, tab: Chrome) -> None:
    query = {"view": "Two texts", "model": "atlas-dense", "text": FIRST, "text2": SECOND}
    tab.open(f"{served}/lens?{urlencode(query)}", timeout=120)
    tab.says("changes no logit, bit for bit")
    tab.settled("document.querySelectorAll('.js-plotly-plot').length === 5")
    found = boxes(tab)
    assert abs(found[0][1] - found[1][1]) < 2, "both texts stand side by side"
    assert found[0][2] <= found[1][0] + 1
    assert no_two_overlap(found)
    assert not tab.js(
        "document.querySelector('[data-testid=stMain]').scrollWidth >"
        " document.querySelector('[data-testid=stMain]').clientWidth + 1"
    )
    click_at(tab, 0, 12, 3)
    tab.settled("location.search.includes('src=12') && location.search.includes('src_layer=3')")
    tab.idle(120)
    click_at(tab, 1, 12, 3)
    tab.says("Ring: the patched cell (block 3, token 12)")
    tab.idle(120)
    shapes = tab.js(
        "JSON.stringify(document.querySelectorAll('.js-plotly-plot')[3].layout.shapes"
        ".filter(s => s.type === 'circle'))"
    )
    [ring] = json.loads(shapes)
    assert (ring["x0"] + ring["x1"], ring["y0"] + ring["y1"]) == pytest.approx((24, 6))
    tab.open(tab.js("location.href"), timeout=120)  # the link shows what its sender saw
    tab.says("Ring: the patched cell (block 3, token 12)")
    assert outside(tab.asked) == []


def test_a_head_is_clicked_and_verified_on_other_pairs(served: str, tab: Chrome) -> None:
    query = {"model": "atlas-dense", "task": "recall", "n": "8", "site": "Heads (all tokens)"}
    tab.open(f"{served}/patching?{urlencode(query)}", timeout=120)
    tab.says("Pair by pair")
    tab.settled("document.querySelectorAll('.js-plotly-plot').length === 2")
    found = boxes(tab)
    assert abs(found[0][1] - found[1][1]) < 2, "the baselines stand beside the map"
    assert no_two_overlap(found)
    click_at(tab, 0, 1, 1)
    tab.says("Block 1, head 1: effect")
    tab.idle(120)
    click_at(tab, 0, 3, 0)
    tab.says("Block 0, head 3: effect")
    tab.idle(120)
    tab.js("document.querySelector('.st-key-verify button').click()")
    tab.says("Stands out of 20 random steps", timeout=120)
    assert outside(tab.asked) == []


def test_a_pair_typed_into_the_table_is_part_of_the_address(served: str, tab: Chrome) -> None:
    pairs = [["A heavy coat , a empty boat ; recall the empty", "A heavy boat", "boat", "coat"]]
    query = {"model": "atlas-dense", "of": "My own pairs", "pairs": json.dumps(pairs)}
    tab.open(f"{served}/patching?{urlencode(query)}", timeout=120)
    tab.says("12 tokens against 4")
    tab.says("none of the pairs can be used")
    assert "pairs=" in tab.js("location.search")
