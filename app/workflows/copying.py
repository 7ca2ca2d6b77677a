"""Code to copy: a call of one of our functions, with what it was given, and its imports."""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

WIDE = 96
"""Letters of a line; a longer call has an argument on each."""


class Call:
    """A call that is an argument of another one; ``then`` stands behind it, such as ``.frame``."""

    def __init__(self, function: Callable[..., Any], *given: Any, then: str = "") -> None:
        self.function, self.given, self.then = function, given, then


def python_of(function: Callable[..., Any], *given: Any, then: str = "", **named: Any) -> str:
    """Python that calls ``function``; ``then`` is written behind the call, such as ``.frame``."""
    said = [*map(_said, given), *(f"{k}={_said(v)}" for k, v in named.items())]
    call = f"{function.__name__}({', '.join(said)}){then}"
    if len(call) > WIDE:
        lines = "".join(f"    {one},\n" for one in said)
        call = f"{function.__name__}(\n{lines}){then}"
    used = {(function.__module__, function.__name__)}
    used |= {name for value in (*given, *named.values()) for name in _names(value)}
    by_module: dict[str, list[str]] = {}
    for module, name in sorted(used):
        by_module.setdefault(module, []).append(name)
    first = ["from pathlib import Path\n"] * bool(by_module.pop("pathlib", []))
    lines = [f"from {module} import {', '.join(names)}" for module, names in by_module.items()]
    return "\n".join([*first, *lines, "", call, ""])


def _said(value: Any) -> str:
    """A value as it is typed: folders by ``Path``, our own settings by their fields."""
    if isinstance(value, Call):
        return f"{value.function.__name__}({', '.join(map(_said, value.given))}){value.then}"
    if isinstance(value, Path):
        return f"Path({str(value)!r})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k!r}: {_said(v)}" for k, v in _items(value)) + "}"
    if is_dataclass(value) and not isinstance(value, type):
        kept = [(f.name, getattr(value, f.name)) for f in fields(value) if f.init]
        return f"{type(value).__name__}({', '.join(f'{k}={_said(v)}' for k, v in kept)})"
    return repr(value)


def _names(value: Any) -> set[tuple[str, str]]:
    """What :func:`_said` needs imported."""
    if isinstance(value, Call):
        own = {(value.function.__module__, value.function.__name__)}
        return own | {name for v in value.given for name in _names(v)}
    if isinstance(value, Path):
        return {("pathlib", "Path")}
    if isinstance(value, Mapping):
        return {name for _, v in _items(value) for name in _names(v)}
    if is_dataclass(value) and not isinstance(value, type):
        inner = {n for f in fields(value) for n in _names(getattr(value, f.name))}
        return {(type(value).__module__, type(value).__name__), *inner}
    return set()


def _items(value: Any) -> list[tuple[Any, Any]]:
    return list(value.items())
