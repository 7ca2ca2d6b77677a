"""Configs: everything a user can write in YAML, flags, a notebook or a form.

One schema serves all four. Configs are frozen, check themselves, refuse keys they do not know
(naming the nearest one) and have a fingerprint that names run folders and cache keys.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from lensbench import io
from lensbench.errors import ConfigError, MissingDataError
from lensbench.yaml_text import parse_json, parse_yaml

C = TypeVar("C", bound="Config")


class Config(BaseModel):
    """Base of all configs: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @classmethod
    def parse(cls: type[C], data: Any) -> C:
        """Validate ``data`` (a mapping).

        Raises:
            ConfigError: every fault in one message: field, rule, value, and the nearest name for
                an unknown key.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ConfigError(explain(error, cls)) from None

    @classmethod
    def from_yaml(cls: type[C], path: Path) -> C:
        """Read and validate a YAML file (JSON is YAML too)."""
        return cls.parse(load_mapping(path))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able dictionary."""
        return self.model_dump(mode="json")

    def fingerprint(self) -> str:
        """16 hex digits that change when any value changes."""
        return io.fingerprint({"kind": type(self).__name__, **self.to_dict()})


def load_yaml(path: Path) -> Any:
    """Parse a YAML file, or a JSON one where it ends in ``.json``; see ``yaml_text``.

    Raises:
        MissingDataError: no such file, or one that may not be read.
        ConfigError: not YAML, or a key twice; the message carries the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise MissingDataError(f"no config file {path}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no text in UTF-8 (byte {error.start})") from error
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise MissingDataError(f"cannot read the config file {path}: {why}") from error
    return parse_json(text, str(path)) if path.suffix == ".json" else parse_yaml(text, str(path))


def load_mapping(path: Path) -> dict[str, Any]:
    """A YAML file that a user wrote, which has to hold keys.

    Raises:
        MissingDataError, ConfigError: see ``load_yaml``; or it is empty, or holds something else.
    """
    found = load_yaml(path)
    if found is None:
        raise ConfigError(f"{path} is empty; write keys such as `train: {{tokens: 100000}}`")
    if not isinstance(found, dict):
        kind = "a list" if isinstance(found, list) else f"{found!r}"
        raise ConfigError(f"{path} must hold keys (`key: value` lines), and holds {kind}")
    return found


def explain(error: ValidationError, schema: type[BaseModel]) -> str:
    """Pydantic's errors as one sentence per fault, with the nearest known key."""
    lines: list[str] = []
    for fault in error.errors():
        where = ".".join(str(part) for part in fault["loc"]) or schema.__name__
        if fault["type"] == "extra_forbidden":
            key, known = str(fault["loc"][-1]), sorted(_at(schema, fault["loc"][:-1]).model_fields)
            begins = [name for name in known if name.startswith(f"{key}_")]
            near = begins or get_close_matches(key, known, n=1, cutoff=0.5)
            guess = f" Did you mean {near[0]!r}?" if near else ""
            lines.append(f"unknown key {where!r}; known: {', '.join(known)}.{guess}")
        else:
            # A rule about several keys names them itself, and would repeat the whole section.
            whole = isinstance(fault["input"], Mapping)
            got = "" if whole else f" (got {fault['input']!r})"
            message = f"{_said(fault)}{got}"
            lines.append(f"{where}: {message}" if fault["loc"] else message)
    return "; ".join(lines)


_SAID = {
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be above {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be below {lt}",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be text (in quotes, where it is a number or a word such as no)",
    "literal_error": "must be one of {expected}",
    "missing": "is required",
}
"""Pydantic's commonest complaints in our words."""


def _said(fault: Any) -> str:
    if fault["type"] in _SAID:
        numbers = {
            k: f"{v:g}" if isinstance(v, float) else v for k, v in fault.get("ctx", {}).items()
        }
        return _SAID[fault["type"]].format_map(numbers)
    return str(fault["msg"]).removeprefix("Value error, ")


def _at(schema: type[BaseModel], path: tuple[int | str, ...]) -> type[BaseModel]:
    """The config that lies at ``path`` inside ``schema`` (the last one on the way that is one)."""
    for part in path:
        inner = schema.model_fields.get(str(part))
        kind = None if inner is None else inner.annotation
        for one in (kind, *get_args(kind)):  # of a list or tuple what it holds
            if isinstance(one, type) and issubclass(one, BaseModel):
                schema = one
    return schema
