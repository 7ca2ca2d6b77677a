"""The report page: self-contained, inert, complete."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

EVIL = "<script>alert('x')</script><img src=https://evil.example/a.png>"


class Page(HTMLParser):
    """Tags and attributes of a page, and the text of its scripts by id."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self._script = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        self._script = (found.get("id") or "code") if tag == "script" else ""

    def handle_endtag(self, tag: str) -> None:
        self._script = "" if tag == "script" else self._script

    def handle_data(self, data: str) -> None:
        if self._script:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data


@pytest.fixture
def html() -> str:
    from lensbench import plots
    from lensbench.app.report import (
        Context,
        Figure,
        Latent,
        Pair,
        Report,
        Section,
        Table,
        Text,
    )

    frame = pd.DataFrame({"x": [1.0, 2.0], "y": [0.5, float("nan")], "who": [EVIL, "b"]})
    frame[EVIL] = 1
    figure = plots.scatter(frame, x="x", y="y", color="who", text="who", title="t")
    contexts = (Context((EVIL, " b"), (0.2, 2.0), 1), Context(("c", "d"), (1.0, 0.0), 0))
    blocks = (
        Text(EVIL),
        Table(frame, caption=EVIL),
        Pair((Figure(figure, EVIL), Figure(figure))),
        Latent(EVIL, EVIL, contexts),
    )
    return Report(EVIL, EVIL, (Section(EVIL, blocks, lead=EVIL),), cards=((EVIL, EVIL),)).html()


def test_nothing_is_loaded_from_the_network(html: str) -> None:
    loads = [
        (tag, name, value)
        for tag, attributes in Page(html).tags
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "data", "action", "poster")
    ]
    assert loads, "the navigation links and the icon are there"
    assert all(v and v.startswith(("#", "data:")) for _, _, v in loads), loads
    style = html[html.index("<style>") : html.index("</style>")]
    assert "@import" not in style
    assert "url(" not in style


def test_the_browser_is_told_to_refuse_the_network(html: str) -> None:
    policy = next(
        a["content"] for _, a in Page(html).tags
        if a.get("http-equiv") == "Content-Security-Policy"
    )  # fmt: skip
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "http" not in policy


def test_text_from_models_is_inert_everywhere(html: str) -> None:
    tags = Page(html).tags
    assert "<img" not in html
    assert not [a for t, a in tags if t == "img"]
    assert html.count("<script>") == 2, "plotly and our few lines"
    assert "alert('x')</script>" not in html


ODD = "a\u202eb\x07c\x00d\u200be\x85f\x1bg"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_control_characters_are_shown_and_never_raw(tmp_path: Path) -> None:
    from lensbench import plots
    from lensbench.app.report import (
        Cards,
        Context,
        Figure,
        Latent,
        Report,
        Section,
        Table,
        Text,
        write_report,
    )

    frame = pd.DataFrame({ODD: [1.0], "y": [0.5], "who": [ODD]})
    figure = plots.scatter(frame, x=ODD, y="y", color="who", text="who", title="t")
    figure.update_layout(title={"text": ODD}, meta={ODD: [ODD]})
    blocks = (
        Text(ODD), Text("half \ud83d"), Text(f"{ODD}\n{ODD}", code=True), Table(frame, caption=ODD),
        Figure(figure, ODD), Latent(ODD, ODD, (Context((ODD, " b"), (0.2, 2.0), 1),)),
        Cards(((ODD, ODD),)),
    )  # fmt: skip
    report = Report(ODD, ODD, (Section(ODD, blocks, lead=ODD),), cards=((ODD, ODD),))
    page = write_report(report, tmp_path / "r.html").read_text(encoding="utf-8")
    ours = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)  # plotly's own code
    assert not [c for c in ours if not c.isprintable() and c != "\n"]
    shown = "a[U+202E]b␇c␀d[U+200B]e[U+0085]f␛g"
    assert f"<title>{shown}</title>" in ours
    assert f"<pre>{shown}\n{shown}</pre>" in ours  # lines stay lines
    assert "half [U+D83D]" in ours
    assert ours.count(shown) > 20
    drawn = json.loads(Page(page).scripts["figure-1-data"])
    assert drawn["layout"]["title"]["text"] == shown
    assert ODD not in str(drawn)
    assert "a\u202e" not in json.dumps(drawn, ensure_ascii=False)


def test_json_in_the_page_cannot_end_its_script() -> None:
    from lensbench.app.report import _json_tag

    tag = _json_tag("a", json.dumps({"name": "</script><b>&"}))
    inside = tag.removeprefix('<script type="application/json" id="a">').removesuffix("</script>")
    assert "<" not in inside
    assert json.loads(inside) == {"name": "</script><b>&"}


def test_plotly_is_there_once_and_figures_carry_their_data(html: str) -> None:
    page = Page(html)
    assert html.count("plotly.js v") == 1
    data = json.loads(page.scripts["figure-1-data"])
    assert data["layout"]["title"]["text"] == "t"
    assert "template" not in data["layout"], "the page puts in the reader's mode"
    assert set(json.loads(page.scripts["templates"])) == {"light", "dark"}
    assert json.loads(page.scripts["config"])["showSendToCloud"] is False
    divs = [a["id"] for _, a in page.tags if a.get("class") == "plot"]
    assert divs == ["figure-1", "figure-2"]


def test_missing_numbers_are_called_absent(html: str) -> None:
    assert ">absent</td>" in html


def test_contexts_share_one_scale(html: str) -> None:
    strengths = re.findall(r"background:rgba\(213,94,0,([\d.]+)\)", html)
    assert strengths == ["0.075", "0.750", "0.375"]


def test_a_page_without_figures_has_no_plotly() -> None:
    from lensbench.app.report import Report, Section, Text

    assert len(Report("t", "l", (Section("s", (Text("x"),)),)).html()) < 12_000


def test_writing_to_a_bad_place_leaves_nothing(tmp_path: Path) -> None:
    from lensbench.app.report import Report, write_report
    from lensbench.errors import DataError

    blocker = tmp_path / "file"
    blocker.write_text("x")
    report: Any = Report("t", "l", ())
    with pytest.raises(DataError, match="cannot write"):
        write_report(report, blocker / "report.html")
    assert write_report(report, tmp_path / "a" / "report.html").is_file()


@pytest.mark.parametrize(("low", "says"), [(0.2, "bars: 95 % bootstrap over 1,234 documents"),
                         (float("nan"), "bars: no interval: 1,234 documents say")])  # fmt: skip
def test_a_front_without_intervals_says_so_and_still_has_an_axis(low: float, says: str) -> None:
    from lensbench.app.workflows.fronts import front_figure

    frame = pd.DataFrame(
        {"name": ["a", "mean"], "architecture": ["topk", "control"], "l0": [4.0, 0.0],
         "fvu": [0.3, 1.0], "low": [low, float("nan")], "high": [2 * low, float("nan")], "n": 1234}
    )  # fmt: skip
    frame.attrs["units"] = {"l0": "latents per token", "fvu": "share of variance", "n": "documents"}
    drawn = front_figure(frame, "fvu")
    assert says in drawn.to_json()
    bottom, top = drawn.layout.yaxis.range
    assert bottom < 0.3 < top
