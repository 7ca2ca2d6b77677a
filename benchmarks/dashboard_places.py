"""What the benchmark of the dashboard opens and clicks: pages by address, controls by script."""

from dataclasses import dataclass

from lensbench.app.page_list import PAGES as MENU

RUNS = " (runs the model)"
"""Ends the name of a click that no cache can answer; the limit is not for it."""
STRIP = (  # the tokens of a text, which live in a shadow root
    "[...document.querySelectorAll('*')].filter(e => e.shadowRoot)"
    ".flatMap(e => [...e.shadowRoot.querySelectorAll('.strip button')])"
)


@dataclass(frozen=True)
class Click:
    """What is opened, the control that is clicked there (JavaScript), and what then shows."""

    address: str
    control: str
    done: str
    key: str = ""
    """Pressed on the control, which is then a slider, instead of a click."""
    cell: bool = False
    """The control is a place on the screen, in a heat map, that the mouse clicks."""


def _slider(key: str, done: str, address: str) -> Click:
    control = f"document.querySelector('.st-key-{key} input, .st-key-{key} [tabindex]')"
    return Click(address, control, done, key="ArrowRight")


def _cell(chart: int, done: str, address: str) -> Click:
    """The cell of column 1 and row ``CELL`` of a heat map."""
    control = (
        f"(() => {{ const g = document.querySelectorAll('.js-plotly-plot')[{chart}];"
        " if (!g || !g.querySelector('.nsewdrag')) return null;"
        " g.scrollIntoView({block: 'center'}); const l = g._fullLayout;"
        " const r = g.getBoundingClientRect();"
        " return [r.x + l.xaxis._offset + l.xaxis.l2p(1),"
        " r.y + l.yaxis._offset + l.yaxis.l2p(CELL)]; })()"
    )
    return Click(address, control, done, cell=True)


def _tab(label: str, shows: str, address: str) -> Click:
    find = "[...document.querySelectorAll('[role=tab], label')]"
    return Click(
        address,
        f"{find}.find(e => e.innerText.trim() === {label!r})",
        f"document.body.textContent.includes({shows!r})",
    )


def button(key: str, shows: str, address: str) -> Click:
    """A click on the button of a key, after which the page says ``shows``."""
    return Click(
        address,
        f"document.querySelector('.st-key-{key} button')",
        f"document.body.textContent.includes({shows!r})",
    )


CLICKS = {
    "Stores, other tab": _tab("Shards", "Verify checksums", "stores?store={store}"),
    "Home, to a run's sweep": button("step-0", "What was varied", ""),
    "Latent, next latent": Click(
        "latent?run={run}&dictionary={name}&latent={i}",
        "document.querySelector('[data-testid=stNumberInputStepUp]')",
        "location.search.includes('latent={next}')",
    ),
    "Latent, star": Click(
        "latent?run={run}&dictionary={name}&latent={i}",
        "document.querySelector('[class*=\"st-key-note-\"][class*=starred] input')",
        "true",  # whatever it was before, the server has answered
    ),
    "Directions, geometry": _tab(
        "Geometry", "Most alike", "directions?run={run}&dictionary={name}"
    ),
    "Directions, open a latent": Click(
        "directions?run={run}&dictionary={name}&open={i}",
        "document.querySelector('[data-testid=stNumberInputStepUp]')",
        "location.search.includes('open={next}')",
    ),
    "Directions, next latent": Click(
        "directions?run={run}&dictionary={name}&show=Nearest+latents&latent={i}",
        "document.querySelector('.st-key-latent [data-testid=stNumberInputStepUp]')",
        "location.search.includes('latent={next}')",
    ),
    "Lens, other measure": _tab("Entropy", "Entropy, ", "lens?store={store}&row={row}"),
    "Lens, a cell": _cell(0, "location.search.includes('pos=1+')", "lens?store={store}&row={row}"),
    f"Patching, a cell{RUNS}": _cell(
        0,
        "document.body.textContent.includes('Block {cell}, ')",
        "patching?model={model}&task=agreement",
    ),
    "Acceleration, layers of the draft": _slider(
        "exit", "location.search.includes('exit=')", "acceleration?store={store}&draft={draft}"
    ),
    "Acceleration, threshold": _slider(
        "threshold",
        "location.search.includes('threshold=')",
        "acceleration?store={store}&draft={draft}",
    ),
    "Attention, other score": _tab(
        "Duplicate token",
        "Duplicate token score",
        "attention?from=Repeated+random+tokens&model={model}",
    ),
    "Token, next token": Click(
        "token?store={store}&row={row}",
        f"(() => {{ const all = {STRIP};"
        " const at = all.findIndex(b => b.getAttribute('aria-selected') === 'true');"
        " return at < 0 ? null : all[at + 1]; })()",
        "location.search.includes('row={after}')",
    ),
}
"""Each is done on a latent or a row that was not looked at before, where that matters."""

PAGES = {
    "Home": "",
    "Stores, list": "stores",
    "Stores, one store": "stores?store={store}",
    "Stores, rows": "stores?store={store}&part=Rows",
    "Runs, list": "runs",
    "Runs, curves": "runs?run={run}",
    "Train, form": "train?store={store}",
    "Compare, two dictionaries": (
        "compare?one={run}&other={run}&one-dictionary={name}&other-dictionary={second}"
    ),
    "Sweep": "sweep?run={run}",
    "Latent, table": "latent?run={run}&dictionary={name}",
    "Latent, dashboard": "latent?run={run}&dictionary={name}&latent=3",
    "Directions, map": "directions?run={run}&dictionary={name}",
    "Directions, nearest": ("directions?run={run}&dictionary={name}&show=Nearest+latents&latent=3"),
    "Directions, geometry": "directions?run={run}&dictionary={name}&show=Geometry",
    "Lens": "lens?store={store}&row=17",
    "Attention": "attention?from=Repeated+random+tokens&model={model}",
    "Token": "token?store={store}&row=17",
    "Probe": "probe?store={store}",
    "Hyperdimensional": "hyper?model={model}",
    "Geometry": "geometry?stores={store}",
    "Patching": "patching?model={model}&task=agreement",
    "Steering": "steering?model={model}",
    "Experts": "experts?model=atlas-moe&prompts=desk:12",
    "Acceleration": "acceleration?store={store}",
    **{f"{page.title}, nothing chosen": page.path for page in MENU[1:]},
}
"""Where a page runs a model, it has done so once before; lens and token are read from the store."""
LARGE = {
    "Home": "",
    "Stores, list": "stores",
    "Runs, list": "runs",
    "Runs, curves": "runs?run=runs/r002",
    "Capture": "capture",
    "Sweep, 200 to choose from": "sweep",
    "Sweep": "sweep?run=runs/r002",
    "Sweep, wide": "sweep?run=wide",
    "Compare": "compare?one=runs/r002&other=runs/r004",
    "Latent, wide table": "latent?run=wide&dictionary={name}",
    "Latent, wide dashboard": "latent?run=wide&dictionary={name}&latent=3",
    "Directions, wide map": "directions?run=wide&dictionary={name}",
    "Directions, wide nearest": (
        "directions?run=wide&dictionary={name}&show=Nearest+latents&latent=3"
    ),
    "Token": "token?store=stores/s003&row=5",
}
LARGE_CLICKS = {
    "Runs, to one": button("start-another", "Choose a store", "runs"),
    "Latent, next of 65,536": Click(
        "latent?run=wide&dictionary={name}&latent={i}",
        "document.querySelector('[data-testid=stNumberInputStepUp]')",
        "location.search.includes('latent={next}')",
    ),
}
