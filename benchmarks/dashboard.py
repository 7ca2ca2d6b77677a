"""How long the dashboard's pages take in a real browser, over the output of ``lensbench demo``.

``python -m benchmarks.dashboard DEMO`` (needs chromium). First paint: from the address to the end
of the page's script with everything on it drawn, on a server that has shown the page before. Click:
from the use of one control that needs no model run to the same.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import Page, Spread
from tests.browser.chrome import Chrome
from tests.browser.test_dashboard_browser import free_port, serving

REPEATS = 7
PAINT, CLICK = 2.0, 0.5
"""Seconds that a first paint and a click may take."""
STRIP = (  # the tokens of a text, which live in a shadow root
    "[...document.querySelectorAll('*')].filter(e => e.shadowRoot)"
    ".flatMap(e => [...e.shadowRoot.querySelectorAll('.strip button')])"
)


@dataclass(frozen=True)
class Click:
    """What is opened, the JavaScript that uses one control there, and what shows that it worked."""

    address: str
    use: str
    done: str


def _tab(label: str, shows: str, address: str) -> Click:
    find = "[...document.querySelectorAll('[role=tab], label')]"
    return Click(
        address,
        f"{find}.find(e => e.innerText.trim() === {label!r}).click()",
        f"document.body.textContent.includes({shows!r})",
    )


CLICKS = {
    "Stores, other tab": _tab("Shards", "Verify checksums", "stores?store={store}"),
    "Runs, other tab": _tab("Compare two", "Choose two runs", "runs?run={run}"),
    "Runs, form": _tab("Start a run", "Name of the run", "runs?run={run}"),
    "Latent, next latent": Click(
        "latent?run={run}&dictionary={name}&latent={i}",
        "document.querySelector('[data-testid=stNumberInputStepUp]').click()",
        "document.body.textContent.includes('of latent {next}')",
    ),
    "Latent, star": Click(
        "latent?run={run}&dictionary={name}&latent={i}",
        "document.querySelector('[class*=\"st-key-note-\"][class*=starred] input').click()",
        "document.body.textContent.includes('Saved in')",
    ),
    "Directions, geometry": _tab(
        "Geometry", "Most alike", "directions?run={run}&dictionary={name}"
    ),
    "Directions, open a latent": Click(
        "directions?run={run}&dictionary={name}&open={i}",
        "document.querySelector('[data-testid=stNumberInputStepUp]').click()",
        "document.body.textContent.includes('of latent {next}')",
    ),
    "Directions, next latent": Click(
        "directions?run={run}&dictionary={name}&show=Nearest+latents&latent={i}",
        "document.querySelector('.st-key-latent [data-testid=stNumberInputStepUp]').click()",
        "document.body.textContent.includes('nearest to latent {next}')",
    ),
    "Lens, other measure": _tab("Entropy", "Entropy, ", "lens?store={store}&row={row}"),
    "Attention, other score": _tab(
        "Duplicate token",
        "Duplicate token score",
        "attention?from=Repeated+random+tokens&model={model}",
    ),
    "Token, next token": Click(
        "token?store={store}&row={row}",
        f"(() => {{ const all = {STRIP};"
        " const at = all.findIndex(b => b.getAttribute('aria-selected') === 'true');"
        " all[at + 1].click(); })()",
        "location.search.includes('row={after}')",
    ),
}
"""Each is done on a latent or a row that was not looked at before, where that matters."""


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
        clicked = {t: _click(tab, url, c, names) for t, c in CLICKS.items()}
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
    "Directions, map": "directions?run={run}&dictionary={name}",
    "Directions, nearest": ("directions?run={run}&dictionary={name}&show=Nearest+latents&latent=3"),
    "Directions, geometry": "directions?run={run}&dictionary={name}&show=Geometry",
    "Lens": "lens?store={store}&row=17",
    "Attention": "attention?from=Repeated+random+tokens&model={model}",
    "Token": "token?store={store}&row=17",
}
"""Attention has run its model once before; the lens and the token are read from the store."""


def _names(root: Path) -> dict[str, str]:
    run = next(path.parent for path in sorted(root.glob("**/run/status.json")))
    store = next(path.parent for path in sorted(root.glob("**/acts/manifest.json")))
    return {
        "run": run.relative_to(root).as_posix(),
        "store": store.relative_to(root).as_posix(),
        "name": next(run.glob("topk-512-k16*")).name,
        "model": "atlas-dense",
    }


def _times(work: Callable[[], None]) -> list[float]:
    work()
    found: list[float] = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return found


def _click(tab: Chrome, url: str, click: Click, names: dict[str, str]) -> list[float]:
    """Open anew each time (unmeasured), then click once."""
    found: list[float] = []
    for i in range(REPEATS + 1):
        row = 40 * i + 17  # another text or another latent each time: none is kept from before
        places = {**names, "i": str(10 * i), "next": str(10 * i + 1)}
        places |= {"row": str(row), "after": str(row + 1)}
        tab.open(f"{url}/{click.address.format(**places)}")
        time.sleep(1.0)  # whatever still settles
        began = time.perf_counter()
        tab.js(click.use)
        tab.wait(click.done.format(**places))
        tab.idle()
        if i:
            found.append(time.perf_counter() - began)
    return found


if __name__ == "__main__":
    main()
