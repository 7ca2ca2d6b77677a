"""The report in a real browser: everything is drawn, in both modes, and nothing is asked for."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

pytestmark = pytest.mark.browser

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --hide-scrollbars "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--host-resolver-rules=MAP+*+~NOTFOUND --disable-dev-shm-usage "
    "--virtual-time-budget=15000 --window-size=1280,1600"
).split()


@pytest.fixture(scope="module")
def browser() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("no chromium on this machine (apt-get install chromium)")
    return found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from lensbench import plots
    from lensbench.app.report import Context, Figure, Latent, Report, Section, write_report

    frame = pd.DataFrame({"x": [1.0, 2.0, 3.0], "y": [0.5, 0.7, 0.6], "who": ["a", "b", "a"]})
    cells = pd.DataFrame({"pos": [0, 1], "layer": [0, 0], "p": [0.2, 0.9]})
    blocks = (
        Figure(plots.lines(frame, x="x", y="y", color="who", title="lines"), "lines"),
        Figure(plots.scatter(frame, x="x", y="y", front="max", log_x=True), "scatter"),
        Figure(plots.heatmap(cells, x="pos", y="layer", value="p", span=(0, 1)), "heat"),
        Figure(plots.histogram(frame, value="y", bins=3), "histogram"),
        Figure(plots.bars(frame, x="who", y="y"), "bars"),
        Figure(plots.empty_figure("nothing here"), "empty"),
        Latent("latent 1", "facts", (Context(("<b>x</b>", " y"), (1.0, 0.2), 0),)),
    )
    report = Report("A report", "for the browser", (Section("All", blocks),))
    return write_report(report, tmp_path_factory.mktemp("page") / "report.html")


def look(browser: str, page: Path, folder: Path, *more: str) -> tuple[str, list[str]]:
    """The page's final DOM, and every URL the page asked for (not the browser for itself)."""
    log = folder / "net.json"
    flags = [flag.replace("+", " ") for flag in FLAGS]
    command = [browser, *flags, f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}",
               *more, "--dump-dom", page.as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    text = log.read_text(errors="replace") if log.is_file() else ""
    return done.stdout, requests(text)


def requests(net_log: str) -> list[str]:
    """URLs that a page started to load (the browser's own have no origin); one event a line."""
    found: list[str] = []
    for line in net_log.splitlines():
        if '"initiator"' in line and line.startswith("{"):
            params = json.JSONDecoder().raw_decode(line)[0]["params"]
            if params["initiator"] != "not an origin" and params["url"].startswith("http"):
                found.append(params["url"])
    return found


def test_every_figure_is_drawn_and_nothing_is_asked_for(
    browser: str, page: Path, tmp_path: Path
) -> None:
    dom, asked = look(browser, page, tmp_path)
    assert dom.count('data-drawn="light"') == 6
    assert dom.count("main-svg") >= 6
    assert "<b>x</b>" not in dom
    assert asked == []
    assert 'data-title="Share' not in dom
    assert 'data-title="Reset' in dom, "the menu is there, without the upload button"


def test_dark_mode_draws_with_the_dark_template(browser: str, page: Path, tmp_path: Path) -> None:
    from lensbench.plots.theme import INK

    dom, _ = look(browser, page, tmp_path, "--blink-settings=preferredColorScheme=0")  # fmt: skip
    assert dom.count('data-drawn="dark"') == 6
    red, green, blue = (int(INK["dark"][i : i + 2], 16) for i in (1, 3, 5))
    assert f"rgb({red}, {green}, {blue})" in dom


def test_the_network_watch_sees_a_request_where_there_is_one(
    browser: str, page: Path, tmp_path: Path
) -> None:
    leaky = tmp_path / "leaky.html"
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    leaky.write_text(html.replace("</main>", '<img src="http://127.0.0.1:9/x.png"></main>'))
    _, asked = look(browser, leaky, tmp_path)
    assert any("127.0.0.1:9" in url for url in asked)


def test_the_policy_of_the_page_stops_a_request(browser: str, page: Path, tmp_path: Path) -> None:
    held = tmp_path / "held.html"
    held.write_text(
        page.read_text().replace("</main>", '<img src="http://127.0.0.1:9/x.png"></main>')
    )
    _, asked = look(browser, held, tmp_path)
    assert asked == []
