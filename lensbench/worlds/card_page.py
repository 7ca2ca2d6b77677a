"""What the cards of all bundled models share: the frame of the page, and how a figure is shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lensbench import io

CardText = Callable[[dict[str, Any], dict[str, Any]], str]
"""The card of measured figures and a recipe."""


def write_page(folder: Path, found: dict[str, Any], text: CardText) -> Path:
    """Write figures measured on ``folder`` to ``evaluation.json``, and their card beside it."""
    io.write_json(folder / "evaluation.json", found)
    io.write_text(folder / "README.md", text(found, io.read_json(folder / "recipe.json")))
    return folder / "README.md"


def page(recipe: dict[str, Any], *parts: str) -> str:
    """A card in Markdown: front matter and name, the parts, the recipe."""
    head = ("---\nlicense: mit\nlibrary_name: transformers\n---", f"# {recipe['model']}\n")
    settings = (f"- `{key}`: {value}" for key, value in recipe.items())
    return "\n".join([*head, *parts, "\n## Recipe\n", *settings, ""])


def interval(row: dict[str, float] | None) -> str:
    """A mean with its interval; ``none`` where nothing was measured."""
    if row is None:
        return "none"
    return f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
