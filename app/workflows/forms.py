"""A config's schema as the fields of a form: one schema for YAML, flags, notebooks and pages."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lensbench.app.workflows.settings import read_value
from lensbench.errors import UnknownNameError
from lensbench.saes.architectures import ARCHITECTURES
from lensbench.saes.configs import LISTS, TrainConfig

Kind = Literal["int", "float", "bool", "choice", "text"]
_OWN = ("architecture", "site", "name")
TOKENS, WIDTH = 200_000, 512
"""Training tokens and latents that a form begins with."""
_BEGIN = {"tokens": TOKENS, "d_sae": WIDTH}


@dataclass(frozen=True)
class Field:
    """One setting: what may be entered, what it is when nothing is, and what it means."""

    name: str
    kind: Kind
    default: Any
    """None: left out, and then worked out from the others (see ``help``)."""
    low: float | None
    high: float | None
    choices: tuple[str, ...]
    help: str


def architectures() -> tuple[str, ...]:
    """Architectures that can be trained."""
    return tuple(ARCHITECTURES)


def dictionary_fields(architecture: str) -> list[Field]:
    """Settings of a dictionary, those of its own sparsity and width first.

    Raises:
        UnknownNameError: no such architecture.
    """
    if architecture not in ARCHITECTURES:
        raise UnknownNameError("architecture", architecture, known=tuple(ARCHITECTURES))
    found = _fields(ARCHITECTURES[architecture])
    first = ("d_sae", "k", "target_l0", "l1_coefficient", "l0_coefficient", "lr", "seed")
    return sorted(found, key=lambda f: first.index(f.name) if f.name in first else len(first))


def train_fields() -> list[Field]:
    """Settings that all dictionaries of a run share."""
    return _fields(TrainConfig)


def sweep_from(
    store: str,
    site: str,
    architecture: str,
    dictionary: Mapping[str, Any],
    train: Mapping[str, Any],
) -> dict[str, Any]:
    """What a filled form asks for, as a sweep file holds it.

    Text values are read as ``--set`` reads them: commas make a grid. Empty ones are left out.
    """
    entry = {k: read_value(v) if isinstance(v, str) else v for k, v in _given(dictionary).items()}
    return {
        "source": {"store": store},
        "train": _given(train),
        "sweep": [{"architecture": architecture, "site": site, **entry}],
    }


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in values.items() if v is not None and v != ""}


def _fields(config: Any) -> list[Field]:
    schema = config.model_json_schema(by_alias=False)
    # Lists (the prefixes of a Matryoshka, the sinks of a log) are set in a sweep file; a form
    # leaves them as they are.
    known: Mapping[str, Mapping[str, Any]] = schema["properties"]
    lists = {n for n, told in known.items() if told.get("type") == "array"}
    left = {*_OWN, *LISTS, *lists}
    return [_field(n, told) for n, told in known.items() if n not in left]


def _field(name: str, told: Mapping[str, Any]) -> Field:
    options = told.get("anyOf", [told])
    kind = next(o for o in options if o.get("type") != "null")
    choices = tuple(kind.get("enum", [kind["const"]] if "const" in kind else []))
    names: dict[str, Kind] = {
        "integer": "int",
        "number": "float",
        "boolean": "bool",
        "string": "text",
    }
    default = told.get("default", _BEGIN.get(name))
    return Field(
        name,
        "choice" if choices else names[str(kind["type"])],
        default,
        kind.get("minimum", kind.get("exclusiveMinimum")),
        kind.get("maximum", kind.get("exclusiveMaximum")),
        choices,
        str(told.get("description", "")).replace("\n", " "),
    )
