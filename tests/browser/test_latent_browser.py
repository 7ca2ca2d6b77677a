"""A reader's way through Latents in a real browser: find, read, steer; nothing far below."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.browser.chrome import Chrome, find
from tests.browser.test_dashboard_browser import free_port, outside, serving

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        find() is None, reason="no chromium on this machine (apt-get install chromium)"
    ),
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    from lensbench import saes
    from tests.app.tiny_root import make_root

    root = make_root(tmp_path_factory.mktemp("latents"))
    name = saes.open_runs(root.folder / "run")[0].name
    with serving(root.folder, free_port()) as url:
        yield url, name


def test_a_latent_is_found_read_and_steered_with(served: tuple[str, str], tmp_path: Path) -> None:
    url, name = served
    with Chrome(tmp_path / "profile") as tab:
        query = {"run": "run", "dictionary": name, "by": "Largest activation"}
        tab.open(f"{url}/latent?{urlencode(query)}")
        tab.says("64 of 64 latents")
        top = "document.querySelector('[data-testid=stDataFrame]').getBoundingClientRect().top"
        assert tab.js(top) < 500, "the table is at the top"
        table = "document.querySelector('[data-testid=stDataFrame]').getBoundingClientRect()"
        x, y = tab.js(f"(() => {{ const r = {table}; return [r.left + 15, r.top + 52]; }})()")
        for kind in ("mousePressed", "mouseReleased"):
            tab.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        tab.settled("location.search.includes('latent=')")
        tab.says("Where it fires")
        tab.says("largest activation")
        reading = (
            "[...document.querySelectorAll('.st-key-part')][0].getBoundingClientRect().top"
            " + (document.querySelector('[data-testid=stMain]').scrollTop || 0)"
        )
        assert tab.js(reading) < 1000, "reading begins on the first screen"
        tab.settled("document.querySelectorAll('.lb-line a').length > 0")
        title = tab.js("document.querySelector('.lb-line .t').title")
        assert "of document" in title
        tab.js(
            "[...document.querySelectorAll('.st-key-part label')]"
            ".find(l => l.innerText.includes('Steer with it')).click()"
        )
        tab.says("Steered tokens")
        tab.says("Added: a vector of length")
        assert "part=Steer" in tab.js("location.search")
        tab.open(tab.js("location.href"))
        tab.says("Added: a vector of length")
        wide = "document.documentElement.scrollWidth <= window.innerWidth"
        assert tab.js(wide), "nothing runs off the side"
        assert outside(tab.asked) == []
