"""Results as files that open anywhere: a page of HTML, SVG, PNG, a table as CSV.

A page is a report page (:mod:`lensbench.app.report`): plotly's script inside, nothing fetched. SVG
and PNG are drawn by a Chromium on this machine, which plotly's own exporter would need as well.
"""

import base64
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from lensbench import io
from lensbench.app.workflows.answers import Kept
from lensbench.errors import BackendUnavailableError, ConfigError
from lensbench.results import Result
from lensbench.words import spelled

if TYPE_CHECKING:
    import plotly.graph_objects as go

KINDS = ("html", "svg", "png", "csv")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
WIDTH, SCALE, ROWS = 960, 2, 200
"""Pixels of a picture, pixels of a PNG to one of those, rows of the table on a page."""
_FLAGS = (
    "--headless=new --disable-gpu --no-first-run --disable-background-networking --disable-sync "
    "--disable-component-update --disable-extensions --disable-dev-shm-usage "
    "--host-resolver-rules=MAP+*+~NOTFOUND --virtual-time-budget=60000 --dump-dom"
).split()
_SHEET = """<!doctype html><meta charset="utf-8"><script>{script}</script><div id="f"></div><script>
const figure = {figure};
Plotly.newPlot('f', figure.data, figure.layout)
  .then(drawn => Plotly.toImage(drawn, {asked}))
  .then(url => {{ document.body.textContent = url; }});
</script>"""


def browser() -> str | None:
    """Path of a Chromium or Chrome, or None."""
    which: Callable[[str], str | None] = shutil.which
    return next((path for name in BROWSERS if (path := which(name))), None)


def check_wanted(wanted: Mapping[str, Path]) -> None:
    """Say before any work is done what could not be written after it.

    Raises:
        ConfigError: a name that ends as another kind of file does, or that is a folder's.
        BackendUnavailableError: SVG or PNG without a browser.
    """
    for kind, path in wanted.items():
        ending = path.suffix[1:].lower()
        if ending in KINDS and ending != kind:
            raise ConfigError(f"--{kind} {path} ends as another kind of file: --{ending} {path}")
        if path.is_dir():
            raise ConfigError(f"--{kind} names a file, and {path} is a folder")
    if {"svg", "png"} & set(wanted) and browser() is None:
        raise BackendUnavailableError(
            "--svg and --png are drawn by Chromium or Chrome, and none is on this machine; "
            "--html needs none"
        )


def draw_results(kept: Sequence[Kept], wanted: Mapping[str, Path], said: str) -> list[str]:
    """Write every asked for kind of file of ``kept``; the paths that were written.

    ``said`` is the command, for the page's title. Of several results ``--html`` holds all on one
    page; of the others each has a file of its own: ``x.svg``, ``x-2.svg``.

    Raises:
        ConfigError: nothing was measured that has a picture.
        DataError: a file cannot be written.
    """
    drawable = [one for one in kept if type(one.result).plot is not Result.plot]
    if not drawable and set(wanted) - {"csv"}:
        raise ConfigError(f"`{said}` measured nothing that has a picture; leave out --html and so")
    drawing = drawable if set(wanted) - {"csv"} else []
    figures = [one.result.plot(**one.view) for one in drawing]
    written: list[str] = []
    for kind, path in wanted.items():
        if kind == "html":
            io.write_text(path, page([one.result for one in drawable], figures, said))
            written.append(str(path))
        elif kind == "csv":
            frames = [one.result.to_frame() for one in kept]
            written += _each(path, [frame.to_csv(index=False).encode() for frame in frames])
        else:
            written += _each(path, [picture(figure, kind) for figure in figures])
    return written


def page(results: Sequence[Result], figures: "Sequence[go.Figure]", said: str) -> str:
    """One self-contained page: each figure with its numbers, controls and where it comes from."""
    from lensbench.app.report import Figure, Report, Section, Table, Text

    parts: list[Any] = []
    for result, figure in zip(results, figures, strict=True):
        frame = result.to_frame()
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", result.kind)
        scores = str(result.controls) if result.controls else ""
        told = " · ".join(part for part in (result.controls.note, scores) if part)
        cut = f"The first {ROWS} of {len(frame):,} rows; all: --csv. " if len(frame) > ROWS else ""
        units = "; ".join(f"{k}: {v}" for k, v in dict(frame.attrs.get("units", {})).items())
        parts.append(Section(name, (
            Figure(figure, _title(figure) or name), Text(f"Control: {told or result.controls}"),
            Table(frame.head(ROWS), f"{cut}{units}"), Text(_origin(result)),
        )))  # fmt: skip
    numbers = results[0].summary()
    cards = tuple((f"{value:.4g}", spelled(key)) for key, value in numbers.items())[:8]
    return Report(said, "", tuple(parts), cards).html()


def picture(figure: "go.Figure", kind: str) -> bytes:
    """A figure as SVG or PNG on white, :data:`WIDTH` pixels wide.

    Raises:
        BackendUnavailableError: no browser, or it did not draw.
    """
    from plotly.graph_objects import Figure
    from plotly.offline import get_plotlyjs

    found = browser()
    if found is None:
        raise BackendUnavailableError("no Chromium or Chrome on this machine draws pictures")
    copy = Figure(figure)
    layout: Any = copy.layout
    height = layout.height or 400
    copy.update_layout(paper_bgcolor="white", width=WIDTH, height=height)
    asked = {"format": kind, "width": WIDTH, "height": height}
    asked |= {"scale": SCALE} if kind == "png" else {}
    drawn = str(copy.to_json()).replace("<", "\\u003c")
    sheet = _SHEET.format(script=get_plotlyjs(), figure=drawn, asked=json.dumps(asked))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figure.html"
        path.write_text(sheet, encoding="utf-8")
        root = ["--no-sandbox"] if os.geteuid() == 0 else []  # it refuses to run as root otherwise
        flags = [flag.replace("+", " ") for flag in _FLAGS]
        done = subprocess.run(
            [found, *flags, *root, f"--user-data-dir={folder}/profile", path.as_uri()],
            capture_output=True, text=True, timeout=180, check=False,
        )  # fmt: skip
    url = re.search(r"<body[^>]*>(data:image/[^<]*)</body>", done.stdout)
    if url is None:
        raise BackendUnavailableError(
            f"{found} drew no picture (exit code {done.returncode}); --html needs no browser"
        )
    return _decoded(url.group(1))


def _decoded(url: str) -> bytes:
    head, _, body = url.partition(",")
    return base64.b64decode(body) if head.endswith("base64") else unquote(body).encode()


def _each(path: Path, bodies: Sequence[bytes]) -> list[str]:
    """Write ``x.svg``, ``x-2.svg`` and so on."""
    names = [path if i == 1 else path.with_stem(f"{path.stem}-{i}")
             for i in range(1, len(bodies) + 1)]  # fmt: skip
    for name, body in zip(names, bodies, strict=True):
        with io.atomic_path(name) as temp:
            temp.write_bytes(body)
    return [str(name) for name in names]


def _title(figure: "go.Figure") -> str:
    """Title and subtitle as one line of text: a caption, and what a screen reader says."""
    title: Any = figure.layout.title  # pyright: ignore[reportAttributeAccessIssue]
    parts = [title.text, title.subtitle.text]
    return " · ".join(re.sub(r"<[^>]*>", " ", str(part)) for part in parts if part)


def _origin(result: Result) -> str:
    """Model, store, seed, versions, time: all that tells how a number was made."""
    made = result.provenance
    told = {
        "model": " ".join(str(v) for k in ("name", "fingerprint") if (v := made.model.get(k))),
        "store": made.store, "seed": "" if made.seed is None else made.seed, "device": made.device,
        "lensbench": made.versions.get("lensbench", ""), "commit": made.git, "made": made.when,
    }  # fmt: skip
    return " · ".join(f"{key} {value}" for key, value in told.items() if value != "")
