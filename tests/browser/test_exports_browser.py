"""Files of a figure in a real browser: each arrives and is what it says; none asks the network."""

import csv
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

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
KEY = "lens-map"
NAME = "lens-top_prob"
PICTURES = """
(() => {
  const all = [];
  const look = (root) => { for (const e of root.querySelectorAll('*')) {
    if (e.matches('button[aria-label^="Download the figure as"]')) all.push(e);
    if (e.shadowRoot) look(e.shadowRoot);
  } };
  look(document);
  return all;
})()
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = make_root(tmp_path_factory.mktemp("exports"), run=False)
    with serving(root.folder, free_port()) as url:
        yield url


@pytest.fixture(scope="module", params=[False, True], ids=["light", "dark"])
def saved(served: str, request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Every file of one figure, as it arrived, and what the browser asked for."""
    into = tmp_path_factory.mktemp("saved")
    with Chrome(into / "profile", dark=request.param) as tab:
        tab.open(f"{served}/lens?store=acts&row=30")
        files = into / "files"
        tab.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(files))
        tab.js(f"document.querySelector('.st-key-{KEY}-take button').click()")
        tab.wait(f"{PICTURES}.length === 2")
        for kind in ("csv", "json", "notebook", "html"):
            tab.js(f"document.querySelector('.st-key-{KEY}-{kind} button').click()")
            arrived(files, {"notebook": "ipynb"}.get(kind, kind))
        for at, kind in enumerate(("svg", "png")):
            tab.js(f"{PICTURES}[{at}].click()")
            arrived(files, kind)
        layout = tab.js(f"document.querySelector('.st-key-{KEY} .js-plotly-plot').layout")
        yield files, list(tab.asked), layout, request.param


def arrived(folder: Path, ending: str) -> Path:
    """The file, once the browser has written all of it."""
    path = folder / f"{NAME}.{ending}"
    for _ in range(600):
        if path.is_file() and not list(folder.glob("*.crdownload")):
            return path
        time.sleep(0.05)
    raise AssertionError(f"{path.name} did not arrive; there are {sorted(folder.glob('*'))}")


def test_every_file_arrives_and_nothing_is_asked_of_the_network(saved: Any) -> None:
    files, asked, _, _ = saved
    endings = {"csv", "json", "ipynb", "html", "svg", "png"}
    assert {path.name for path in files.iterdir()} == {f"{NAME}.{end}" for end in endings}
    assert outside(asked) == []


def test_svg_and_png_are_pictures_on_the_ground_of_their_mode(saved: Any) -> None:
    files, _, layout, dark = saved
    tree = ElementTree.fromstring((files / f"{NAME}.svg").read_text())
    assert tree.tag == "{http://www.w3.org/2000/svg}svg"
    words = "".join(tree.itertext())
    assert "Logit lens" in words
    assert "after block" in words
    ground = tree.find("{http://www.w3.org/2000/svg}rect").get("style")
    assert ("rgb(20, 24, 29)" if dark else "rgb(255, 255, 255)") in ground
    png = (files / f"{NAME}.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert png[-8:-4] == b"IEND"
    width, height = (int.from_bytes(png[i : i + 4]) for i in (16, 20))
    assert width > height > 400
    assert layout.get("paper_bgcolor") != "#14181d", "the figure on the page is as it was"


def test_rows_and_notebook_are_of_this_figure(saved: Any) -> None:
    files, *_ = saved
    rows = json.loads((files / f"{NAME}.json").read_text())["rows"]
    with (files / f"{NAME}.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(rows)
    assert list(table[0]) == list(rows[0])
    book = json.loads((files / f"{NAME}.ipynb").read_text())
    assert "/lens?store=acts&row=30" in "".join(book["cells"][0]["source"])


def test_a_saved_page_draws_offline_and_offers_no_upload(saved: Any, tmp_path: Path) -> None:
    files, _, _, dark = saved
    with Chrome(tmp_path / "profile") as tab:
        tab.send("Network.emulateNetworkConditions", offline=True, latency=0,
                 downloadThroughput=-1, uploadThroughput=-1)  # fmt: skip
        tab.send("Page.navigate", url=(files / f"{NAME}.html").as_uri())
        tab.wait("!!document.querySelector('.heatmaplayer image')")
        tab.wait("document.body.innerText.includes('Colours have one range for every text of "
                 "this model.')")  # fmt: skip
        buttons = tab.js("[...document.querySelectorAll('.modebar-btn')].map(b => "
                         "(b.dataset.title || b.dataset.name || '').toLowerCase())")  # fmt: skip
        assert buttons
        assert not [b for b in buttons if "share" in b or "cloud" in b or "upload" in b]
        assert not tab.js("!!document.querySelector('.modebar-btn.plotlyjsicon')")
        ground = tab.js("getComputedStyle(document.body).backgroundColor")
        assert ground == ("rgb(20, 24, 29)" if dark else "rgb(255, 255, 255)")
        time.sleep(1)
        tab.js("1")  # what was asked for meanwhile is noted
        fetched = [url for url in tab.asked if not url.startswith(("file:", "data:", "blob:"))]
        assert fetched == []
