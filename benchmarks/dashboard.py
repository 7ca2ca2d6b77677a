"""How long the dashboard's pages take in a real browser, over the output of ``lensbench demo``.

``python -m benchmarks.dashboard DEMO`` (needs chromium). First paint: from the address to the end
of the page's script with everything on it drawn, on a server that has shown the page before. Click:
from the use of one control that needs no model run to the same.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import Page, Spread
from tests.browser.chrome import Chrome
from tests.browser.test_dashboard_browser import free_port, serving

REPEATS = 7
PAINT, CLICK = 2.0, 0.5
"""Seconds that a first paint and a click may take."""
CLICKS = {
    "Stores, other tab": ("stores?store={store}", "Shards", "Verify checksums"),
    "Runs, other tab": ("runs?run={run}", "Compare two", "Choose two runs"),
    "Runs, form": ("runs?run={run}", "Start a run", "Name of the run"),
    "Latent, next latent": ("latent?run={run}&dictionary={name}&latent=3", "", "of latent 4"),
}
"""What is opened, the tab that is clicked there (or else the field's plus), and what appears."""


def main() -> None:
    """Measure, and write the dated page."""
    root = Path(sys.argv[1]).resolve()
    names = _names(root)
    page = Page("dashboard", "Dashboard: first paint and clicks", ("streamlit", "plotly"))
    page.text(
        f"Wall-clock seconds in headless Chromium, median and quartiles of {REPEATS} after one "
        "warm-up, over the output of `lensbench demo`. First paint: from the address to the end of "
        "the page's script with everything drawn. Click: a control that needs no model run."
    )
    with (
        tempfile.TemporaryDirectory() as profile,
        serving(root, free_port()) as url,
        Chrome(Path(profile)) as tab,
    ):
        pages = {title: address.format(**names) for title, address in PAGES.items()}
        painted = {t: _times(lambda a=a: tab.open(f"{url}/{a}")) for t, a in pages.items()}
        clicked = {t: _click(tab, url, *c, names=names) for t, c in CLICKS.items()}
    for what, found, most in (("First paint", painted, PAINT), ("Click", clicked, CLICK)):
        page.heading(what)
        rows = [[title, Spread.of(times).show()] for title, times in found.items()]
        page.table([["page", "wall s, median (quartiles)"], *rows])
        worst = max(found, key=lambda title: Spread.of(found[title]).median)
        page.claim(f"slowest: {worst}, s", Spread.of(found[worst]).median, most)
        page.text("")
    page.write()


PAGES = {
    "Home": "",
    "Stores, list": "stores",
    "Stores, one store": "stores?store={store}",
    "Stores, rows": "stores?store={store}&part=Rows",
    "Runs, list": "runs",
    "Runs, curves": "runs?run={run}",
    "Runs, form": "runs?do=Start+a+run",
    "Sweep": "sweep?run={run}",
    "Latent, table": "latent?run={run}&dictionary={name}",
    "Latent, dashboard": "latent?run={run}&dictionary={name}&latent=3",
}


def _names(root: Path) -> dict[str, str]:
    run = next(path.parent for path in sorted(root.glob("**/run/status.json")))
    store = next(path.parent for path in sorted(root.glob("**/acts/manifest.json")))
    return {
        "run": run.relative_to(root).as_posix(),
        "store": store.relative_to(root).as_posix(),
        "name": next(run.glob("topk-512-k16*")).name,
    }


def _times(work: Callable[[], None]) -> list[float]:
    work()
    found: list[float] = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return found


def _click(
    tab: Chrome, url: str, address: str, label: str, appears: str, *, names: dict[str, str]
) -> list[float]:
    """Open anew each time (unmeasured), then click once."""
    found: list[float] = []
    for i in range(REPEATS + 1):
        tab.open(f"{url}/{address.format(**names)}")
        time.sleep(1.0)  # whatever still settles
        began = time.perf_counter()
        if label:
            tab.click(label, "[role=tab]")
        else:  # the contexts of a latent that was looked at before are kept
            tab.js("document.querySelector('[data-testid=stNumberInputStepUp]').click()")
        tab.wait(f"document.body.textContent.includes({appears!r})")
        tab.idle()
        if i:
            found.append(time.perf_counter() - began)
    return found


if __name__ == "__main__":
    main()
