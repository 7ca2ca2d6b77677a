"""YAML as people mean it: a key once, ``1e-3`` a number, ``010`` and ``12:30`` no hidden ones.

PyYAML follows YAML 1.1, which reads ``1e-3`` as text, ``010`` as eight and ``12:30`` as 750, and
keeps the last of two equal keys in silence. ``yes``, ``no``, ``on`` and ``off`` stay booleans, as
every such file means them; a name that is one of them is written in quotes.
"""

import json
import re
from typing import Any

import yaml

from lensbench.errors import ConfigError

_INT = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)$|0x[0-9a-fA-F_]+$|0b[01_]+$")
_FLOAT = re.compile(
    r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9_]+)(?:[eE][-+]?[0-9]+)?$|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$"
    r"|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
)
_REPLACED = ("int", "float", "timestamp")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with numbers of YAML 1.2, no dates, and every key at most once."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """A mapping; two equal keys are an error."""
        seen: set[Any] = set()
        for key, _ in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else None
            if name in seen and name != "<<":
                line = key.start_mark.line + 1
                raise ConfigError(f"line {line}: the key {name!r} stands there twice")
            seen.add(name) if name is not None else None
        return super().construct_mapping(node, deep=deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, rule) for tag, rule in rules if tag.rpartition(":")[2] not in _REPLACED]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def parse_yaml(text: str, where: str = "the text") -> Any:
    """The value that YAML text stands for.

    Raises:
        ConfigError: it is not YAML, or has a key twice; with the line.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except ConfigError as error:
        raise ConfigError(f"{where}, {error}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{where} is not valid YAML: {_fault(error)}") from error


def parse_json(text: str, where: str = "the text") -> Any:
    """The value of JSON text (where tabs may indent, as YAML does not allow).

    Raises:
        ConfigError: it is not JSON, or has a key twice.
    """
    if not text.strip():
        return None
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: _once(pairs, where))
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{where} is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}"
        ) from error


def _once(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ConfigError(f"{where}: the key {key!r} stands there twice")
        found[key] = value
    return found


def _fault(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = str(getattr(error, "problem", None) or "it is nested too deeply")
    if "\\t" in problem:
        problem = "a tab; YAML is indented with spaces only"
    place = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
    return f"{place}{problem}"
