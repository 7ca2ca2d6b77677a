"""How long the dashboard's pages take in a real browser: a demo, and a folder of a year's work.

``python -m benchmarks.dashboard DEMO [LARGE [REPEATS]]`` (needs chromium). DEMO holds the output of
``lensbench demo``; LARGE is what ``python -m tests.app.large_root LARGE`` makes (200 runs, 50
stores, a dictionary of 65,536 latents). First paint: from the address to the end of the page's
script with everything on it drawn, on a server that has shown the page before. Click: from the use
of one control that needs no model run to the same. Beside the wall clock stands what the server
computed (its CPU time), which other work on the machine does not change.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from benchmarks.dashboard_places import CLICKS, LARGE, LARGE_CLICKS, PAGES, RUNS, Click, button
from benchmarks.harness import Page, Spread
from lensbench.app.cli.page import command
from tests.browser.chrome import Chrome
from tests.browser.test_dashboard_browser import free_port

REPEATS = 7
PAINT, CLICK = 2.0, 0.5
"""Seconds that a first paint and a click may take."""
PATIENCE = 300.0
"""Seconds after which a page is given up."""


def main() -> None:
    """Measure, and write the dated page."""
    global REPEATS
    demo, *more = sys.argv[1:]
    REPEATS = int(more[1]) if len(more) > 1 else REPEATS
    page = Page("dashboard", "Dashboard: first paint and clicks", ("streamlit", "plotly"))
    page.text(
        f"Seconds in headless Chromium, median and quartiles of {REPEATS} after one warm-up. First "
        "paint: from the address to the end of the page's script with everything drawn. Click: a "
        "control that needs no model run. Server CPU: processor time that the server spent on it, "
        "which other work on the machine does not change."
    )
    page.heading("The first picture")
    _first_picture(page)
    root = Path(demo).resolve()
    _folder(page, "The output of `lensbench demo`", root, PAGES, CLICKS, _names(root))
    if more:
        root = Path(more[0]).resolve()
        title = "A folder of 200 runs and 50 stores, and a dictionary of 65,536 latents"
        _folder(page, title, root, LARGE, LARGE_CLICKS, _large_names(root))
    page.write()


def _first_picture(page: Page) -> None:
    """From a click on Home of an empty folder to the drawn lens, on a server just started."""
    with tempfile.TemporaryDirectory() as empty, _opened(Path(empty)) as (server, url, tab):
        tab.open(url, timeout=PATIENCE)
        done = "document.querySelectorAll('.js-plotly-plot').length >= 2"
        click = button("step-0", "", "")
        wall, cpu = _measured(server, lambda: _use(tab, click, [], done))
    page.text(
        f"From an empty folder, one click, a server that had run no model yet (torch, transformers "
        f"and the model are opened on the way): {wall:.1f} s, of which {cpu:.1f} s server CPU "
        "(once)."
    )


def _folder(
    page: Page, title: str, root: Path, pages: dict[str, str], clicks: dict[str, Click],
    names: dict[str, str],
) -> None:  # fmt: skip
    with _opened(root) as (server, url, tab):
        places = {told: f"{url}/{address.format(**names)}" for told, address in pages.items()}
        painted = {
            told: _times(server, lambda at=at: tab.open(at, timeout=PATIENCE))
            for told, at in places.items()
        }
        clicked = {told: _click(server, tab, url, c, names) for told, c in clicks.items()}
    for what, found, most in (("First paint", painted, PAINT), ("Click", clicked, CLICK)):
        page.heading(f"{title}: {what.lower()}")
        rows = [[told, Spread.of(wall).show(), Spread.of(cpu).show()]
                for told, (wall, cpu) in found.items()]  # fmt: skip
        page.table([["page", "wall s, median (quartiles)", "server CPU s"], *rows])
        held = [told for told in found if not told.endswith(RUNS)]
        worst = max(held, key=lambda told: Spread.of(found[told][0]).median)
        page.claim(f"slowest: {worst}, s", Spread.of(found[worst][0]).median, most)
        page.text("")


@contextmanager
def _opened(root: Path) -> Generator[tuple[int, str, Chrome]]:
    """A server over ``root`` (its process id and address) and a browser."""
    port = free_port()
    quiet = dict.fromkeys(("stdout", "stderr"), subprocess.DEVNULL)
    with (
        tempfile.TemporaryDirectory() as profile,
        subprocess.Popen(command(root, port), start_new_session=True, **quiet) as server,
    ):
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(1200):
                with suppress(OSError):
                    urllib.request.urlopen(f"{url}/_stcore/health", timeout=5).close()
                    break
                time.sleep(0.05)
            with Chrome(Path(profile), quiet=0) as tab:
                yield server.pid, url, tab
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(timeout=20)


def _measured(server: int, work: Callable[[], None]) -> tuple[float, float]:
    """Wall-clock seconds of ``work``, and the CPU seconds of the server meanwhile."""
    before, began = _cpu(server), time.perf_counter()
    work()
    return time.perf_counter() - began, _cpu(server) - before


def _cpu(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _names(root: Path) -> dict[str, str]:
    run = next(path.parent for path in sorted(root.glob("**/run/status.json")))
    store = next(path.parent for path in sorted(root.glob("**/acts/manifest.json")))
    return {
        "run": run.relative_to(root).as_posix(),
        "store": store.relative_to(root).as_posix(),
        "name": next(run.glob("topk-512-k16*")).name,
        "second": next(run.glob("topk-1024-k32*")).name,
        "model": "atlas-dense",
    }


def _large_names(root: Path) -> dict[str, str]:
    status = json.loads((root / "wide" / "status.json").read_text())
    return {"name": next(iter(status["dictionaries"]))}


def _times(server: int, work: Callable[[], None]) -> tuple[list[float], list[float]]:
    """Wall and CPU seconds of every repeat, after one that is not counted."""
    work()
    found = [_measured(server, work) for _ in range(REPEATS)]
    return [wall for wall, _ in found], [cpu for _, cpu in found]


def _use(tab: Chrome, click: Click, where: list[float], done: str) -> None:
    if click.cell:
        for kind in ("mousePressed", "mouseReleased"):
            tab.send("Input.dispatchMouseEvent", type=kind, x=where[0], y=where[1], button="left",
                     clickCount=1)  # fmt: skip
    elif click.key:
        for kind in ("keyDown", "keyUp"):
            tab.send("Input.dispatchKeyEvent", type=kind, key=click.key, code=click.key,
                     windowsVirtualKeyCode=39)  # fmt: skip
    else:
        tab.js(f"({click.control}).click()")
    tab.settled(done, PATIENCE)


def _aim(tab: Chrome, click: Click) -> list[float]:
    """Whatever comes before the click itself: the mouse is there, the slider has the focus."""
    if click.key:
        tab.js(f"({click.control}).focus()")
    if not click.cell:
        return []
    where = tab.js(click.control)
    tab.send("Input.dispatchMouseEvent", type="mouseMoved", x=where[0], y=where[1])
    time.sleep(0.3)
    return where


def _click(
    server: int, tab: Chrome, url: str, click: Click, names: dict[str, str]
) -> tuple[list[float], list[float]]:
    """Open anew each time (unmeasured), then click once."""
    found: list[tuple[float, float]] = []
    for i in range(REPEATS + 1):
        row = 40 * i + 17  # another text or another latent each time: none is kept from before
        places = {**names, "i": str(10 * i), "next": str(10 * i + 1)}
        places |= {"row": str(row), "after": str(row + 1), "cell": str(1 + i % 5)}
        places |= {"draft": str(1 + i % 12)}
        one = replace(click, control=click.control.replace("CELL", places["cell"]))
        tab.open(f"{url}/{one.address.format(**places)}", timeout=PATIENCE)
        time.sleep(1.0)  # whatever still settles
        tab.settled(f"!!({one.control})", PATIENCE)
        where, done = _aim(tab, one), one.done.format(**places)
        took = _measured(server, lambda o=one, w=where, d=done: _use(tab, o, w, d))
        if i:
            found.append(took)
    return [wall for wall, _ in found], [cpu for _, cpu in found]


if __name__ == "__main__":
    main()
