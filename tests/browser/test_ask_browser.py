"""A reader's way in a real browser: a cell of the Lens map, asked in another prompt, clicked."""

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


def test_a_cell_of_the_lens_is_asked_and_clicked(tmp_path: Path) -> None:
    query = {"from": "My own text", "model": "atlas-dense", "text": "The capital of Peru is",
             "pos": "4 Peru", "layer": "2"}  # fmt: skip
    with (
        serving(tmp_path, free_port()) as url,
        Chrome(tmp_path / "profile") as tab,
    ):
        tab.open(f"{url}/lens?{urlencode(query)}", timeout=120)
        tab.says("Best tokens after block 2")
        tab.idle(120)
        tab.click("Ask this state")
        tab.says("from block 2 in block 3")
        tab.idle(120)
        assert tab.js("location.pathname") == "/ask"
        for part in ("pos=4", "layer=2", "target=I+think", "model=atlas-dense", "text=The+capital"):
            tab.settled(f"location.search.includes('{part}')")
        click_at(tab, 0, 4, 1)
        tab.says("from block 1 in block 4")
        tab.settled("location.search.includes('into=4') && location.search.includes('layer=1')")
        assert outside(tab.asked) == []
