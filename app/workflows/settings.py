"""Settings as people type them: ``--set a.b=c`` and comma lists, into plain dictionaries."""

import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from lensbench.errors import ConfigError
from lensbench.yaml_text import parse_yaml


def read_value(text: str) -> Any:
    """One value, or a list where commas part several: ``16``, ``topk``, ``16,32``.

    Raises:
        ConfigError: brackets or quotes that do not close.
    """
    if "," in text and not text.lstrip().startswith(("[", "{", '"', "'")):
        return [read_value(part.strip()) for part in text.split(",") if part.strip()]
    return parse_yaml(text, f"the value {text!r}")


def assignments(items: Sequence[str]) -> dict[str, Any]:
    """``["train.batch=2048", "sweep.lr=1e-3,3e-4"]`` as nested dictionaries.

    Raises:
        ConfigError: no ``=``, an empty key, or a key that is both a value and a section.
    """
    tree: dict[str, Any] = {}
    for item in items:
        key, equals, text = item.partition("=")
        parts = [part.strip() for part in key.split(".")]
        if not equals or not all(parts):
            raise ConfigError(f"--set needs key=value, such as train.batch=2048; got {item!r}")
        where = tree
        for part in parts[:-1]:
            where = where.setdefault(part, {})
            if not isinstance(where, dict):
                raise ConfigError(f"--set {item!r}: {part!r} was set to a value before")
        where[parts[-1]] = read_value(text)
    return tree


ENVIRONMENT = "LENSBENCH_SET"
"""Environment variable with assignments, parted by spaces: between files and flags."""


def from_environment() -> dict[str, Any]:
    """What ``LENSBENCH_SET`` sets, as :func:`assignments` reads it.

    Raises:
        ConfigError: it cannot be read; the message names the variable.
    """
    try:
        return assignments(shlex.split(os.environ.get(ENVIRONMENT, "")))
    except ValueError as error:  # a ConfigError is one too
        raise ConfigError(f"{ENVIRONMENT}: {error}") from error


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the values of ``over``; sections merge, everything else is replaced."""
    out = dict(base)
    for key, value in over.items():
        below = out.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            value = merged(below, value)
        out[key] = value
    return out
