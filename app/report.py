"""A report: one HTML file that holds everything it shows and asks the network for nothing.

Blocks know how to become HTML; :func:`write_report` puts them on one page with plotly's script,
once. Which blocks a page has is decided elsewhere (``app.workflows``). All text is escaped here,
and control characters in it become visible marks.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from lensbench import io
from lensbench.app.report_style import POLICY, SCRIPT, STYLE
from lensbench.plots import CONFIG, template, token_strip
from lensbench.plots.tables import safe, shown


@runtime_checkable
class Block(Protocol):
    """Anything that can be put on the page."""

    def html(self, figures: list[go.Figure]) -> str:
        """Markup of the block; a figure is appended to ``figures`` and drawn by its index."""
        ...


@dataclass(frozen=True)
class Text:
    """A paragraph; ``code=True`` keeps line breaks (commands)."""

    text: str
    code: bool = False

    def html(self, figures: list[go.Figure]) -> str:  # noqa: ARG002 - the protocol's signature
        """See :class:`Block`."""
        inner = "\n".join(safe(line) for line in self.text.split("\n"))
        return f"<pre>{inner}</pre>" if self.code else f"<p>{inner}</p>"


@dataclass(frozen=True)
class Cards:
    """A row of headline numbers: ``(value, what it is)``."""

    items: tuple[tuple[str, str], ...]

    def html(self, figures: list[go.Figure]) -> str:  # noqa: ARG002 - the protocol's signature
        """See :class:`Block`."""
        cards = "".join(
            f'<div class="card"><b>{safe(value)}</b><span>{safe(what)}</span></div>'
            for value, what in self.items
        )
        return f'<div class="cards">{cards}</div>'


@dataclass(frozen=True)
class Table:
    """A frame as a table; floats with ``digits`` significant digits."""

    frame: pd.DataFrame
    caption: str = ""
    digits: int = 4

    def html(self, figures: list[go.Figure]) -> str:  # noqa: ARG002 - the protocol's signature
        """See :class:`Block`."""
        numeric = {c for c in self.frame.columns if pd.api.types.is_numeric_dtype(self.frame[c])}
        head = "".join(
            f"<th{_num(c in numeric)}>{safe(str(c).replace('_', ' '))}</th>"
            for c in self.frame.columns
        )
        rows = "".join(
            "<tr>"
            + "".join(
                f"<td{_num(c in numeric)}>{safe(cell(row[c], self.digits))}</td>"
                for c in self.frame.columns
            )
            + "</tr>"
            for row in self.frame.to_dict("records")
        )
        caption = f"<caption>{safe(self.caption)}</caption>" if self.caption else ""
        return (
            f'<div class="wide"><table>{caption}<thead><tr>{head}</tr></thead>'
            f"<tbody>{rows}</tbody></table></div>"
        )


@dataclass(frozen=True)
class Figure:
    """A plotly figure, with what it shows in words (read by screen readers too)."""

    figure: go.Figure
    caption: str = ""

    def html(self, figures: list[go.Figure]) -> str:
        """See :class:`Block`."""
        figures.append(self.figure)
        layout: Any = self.figure.layout
        height = layout.height or 400
        caption = f"<figcaption>{safe(self.caption)}</figcaption>" if self.caption else ""
        label = f' role="img" aria-label="{safe(self.caption)}"'
        return (
            f'<figure><div class="plot" id="figure-{len(figures)}"{label} '
            f'style="height:{height:.0f}px"></div>{caption}</figure>'
        )


@dataclass(frozen=True)
class Pair:
    """Blocks side by side where the window is wide enough."""

    blocks: tuple[Block, ...]

    def html(self, figures: list[go.Figure]) -> str:
        """See :class:`Block`."""
        return f'<div class="pair">{"".join(b.html(figures) for b in self.blocks)}</div>'


@dataclass(frozen=True)
class Context:
    """One text in which a latent fired: tokens, its value at each, and the strongest token."""

    tokens: tuple[str, ...]
    values: tuple[float, ...]
    focus: int


@dataclass(frozen=True)
class Latent:
    """One dictionary latent: a heading, facts, and the contexts where it fires most."""

    heading: str
    facts: str
    contexts: tuple[Context, ...]

    def html(self, figures: list[go.Figure]) -> str:  # noqa: ARG002 - the protocol's signature
        """See :class:`Block`; all contexts share one scale."""
        largest = max((max(c.values) for c in self.contexts), default=0.0)
        items = "".join(
            f'<li><span class="v">{c.values[c.focus]:.3g}</span>'
            f"{token_strip(c.tokens, c.values, largest=largest, focus=c.focus)}</li>"
            for c in self.contexts
        )
        return (
            f'<div class="latent"><h3>{safe(self.heading)}</h3>'
            f'<div class="facts">{safe(self.facts)}</div><ol>{items}</ol></div>'
        )


@dataclass(frozen=True)
class Section:
    """A headed part of the page."""

    title: str
    blocks: tuple[Block, ...]
    lead: str = ""


@dataclass(frozen=True)
class Report:
    """A page: title, one line under it, headline cards and sections."""

    title: str
    lead: str
    sections: tuple[Section, ...]
    cards: tuple[tuple[str, str], ...] = field(default=())

    def html(self) -> str:
        """The whole page, as one self-contained document."""
        figures: list[go.Figure] = []
        body = "".join(_section(i, s, figures) for i, s in enumerate(self.sections, start=1))
        links = "".join(
            f'<a href="#s{i}">{safe(s.title)}</a>' for i, s in enumerate(self.sections, start=1)
        )
        nav = f"<nav><div>{links}</div></nav>" if len(self.sections) > 1 else ""
        cards = Cards(self.cards).html(figures) if self.cards else ""
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            f'<link rel="icon" href="data:,"><title>{safe(self.title)}</title>'
            f"<style>{STYLE}</style></head><body>"
            f'<header><h1>{safe(self.title)}</h1><p class="muted">{safe(self.lead)}</p>{cards}'
            f"</header>{nav}<main>{body}</main>{_scripts(figures)}"
            "</body></html>"
        )


def write_report(report: Report, path: Path) -> Path:
    """Write the page atomically; return where it is."""
    io.write_text(path, report.html())
    return path


def cell(value: Any, digits: int = 4) -> str:
    """A table cell as text: ``absent`` for missing numbers, never an empty cell."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return "absent" if value != value else f"{value:.{digits}g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _section(index: int, section: Section, figures: list[go.Figure]) -> str:
    lead = f'<p class="muted">{safe(section.lead)}</p>' if section.lead else ""
    inner = "".join(block.html(figures) for block in section.blocks)
    return f'<section><h2 id="s{index}">{safe(section.title)}</h2>{lead}{inner}</section>'


def _scripts(figures: Sequence[go.Figure]) -> str:
    if not figures:
        return ""
    data = [_json_tag(f"figure-{i}-data", _bare(f)) for i, f in enumerate(figures, start=1)]
    looks = {mode: _look(mode) for mode in ("light", "dark")}
    return (
        _json_tag("templates", json.dumps(looks))
        + _json_tag("config", json.dumps(CONFIG))
        + "".join(data)
        + f"<script>{get_plotlyjs()}</script><script>{SCRIPT}</script>"
    )


def _look(mode: Any) -> Any:
    """A template as plain values; in a figure, because to_json takes its ``data`` for traces."""
    return json.loads(_to_json(go.Figure(layout_template=template(mode))))["layout"]["template"]


def _bare(figure: go.Figure) -> str:
    """The figure without its template: the page puts in that of the reader's mode."""
    plain = go.Figure(figure)
    plain.layout.template = None
    return json.dumps(
        _marked(json.loads(_to_json(plain))), ensure_ascii=False, separators=(",", ":")
    )


def _marked(value: Any) -> Any:
    """JSON with marks for control characters, keys included; line breaks of the figure stay."""
    if isinstance(value, str):
        return value if value.isprintable() else "\n".join(map(shown, value.split("\n")))
    if isinstance(value, dict):
        return {_marked(k): _marked(v) for k, v in value.items()}
    return [_marked(v) for v in value] if isinstance(value, list) else value


def _to_json(value: Any) -> str:
    from plotly.io import to_json

    return str(to_json(value, validate=False))


def _json_tag(name: str, text: str) -> str:
    """JSON inside a page: no character that could end the script element."""
    inert = text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    return f'<script type="application/json" id="{name}">{inert}</script>'


def _num(yes: bool) -> str:
    return ' class="num"' if yes else ""
