"""What a page says of itself: its purpose, its commands, and the formulae behind it."""

import ast
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import lensbench

APP = Path(__file__).resolve().parents[1]
METHODS = Path(lensbench.__file__).resolve().parents[1] / "docs" / "methods.md"
"""There in a checkout alone; an installed package names the section instead."""


@dataclass(frozen=True)
class Help:
    """The first sentence of the page's module, verbs of the command line, Markdown of ours."""

    purpose: str
    verbs: tuple[str, ...]
    methods: str


@lru_cache(maxsize=64)
def help_of(path: str, verb: str, methods: str) -> Help:
    """What page ``path`` says of itself."""
    source = (APP / "views" / f"{path}.py").read_text("utf-8")
    told = (ast.get_docstring(ast.parse(source)) or "").split("\n\n")[0].replace("\n", " ")
    _, _, purpose = told.partition(": ")
    verbs = tuple(part.strip() for part in verb.split(",") if part.strip())
    return Help(f"{purpose[:1].upper()}{purpose[1:]}", verbs, section(methods))


def section(begins: str) -> str:
    """The section of docs/methods.md whose title begins so, with its title as text; or nothing."""
    if not begins or not METHODS.is_file():
        return ""
    for part in METHODS.read_text("utf-8").split("\n## ")[1:]:
        title, _, body = part.partition("\n")
        if title.split(" (")[0] == begins:
            return f"**{title}**\n\n{body.strip().replace('### ', '##### ')}"
    return ""
