"""Every configuration a user can write, by section: schemas, and one key explained.

A section is what a file or ``--set`` calls it (``train.batch_size``), or a config of its own. Of
``sweep`` and ``world`` the fields depend on the architecture and the model.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from lensbench.config import Config
from lensbench.errors import UnknownNameError
from lensbench.probes.lenses.tuned.config import TunedLensConfig
from lensbench.saes.architectures import ARCHITECTURES
from lensbench.saes.configs import SourceConfig, SweepConfig, TrainConfig
from lensbench.saes.evaluation.settings import EvaluationConfig
from lensbench.saes.explanations.contexts import ContextConfig
from lensbench.saes.latents.dashboard import DashboardConfig
from lensbench.worlds.recipe import MODELS
from lensbench.worlds.task import recipe_class

Variants = Mapping[str, type[Config]]
SAID = {
    "source": "where activations come from, in a sweep file",
    "train": "what all dictionaries of a run share, in a sweep file",
    "sweep": "one dictionary: an entry of `sweep` in a sweep file, by architecture",
    "evaluate": "saes.evaluate(...); `lensbench eval sae` has flags for most of it",
    "dashboard": "saes.dashboards(...): pages of single latents",
    "contexts": "saes.explain(...): which contexts explanations are made of and scored on",
    "tune": "`lensbench lens tune --set KEY=VALUE`",
    "world": "`lensbench world train -c FILE --set KEY=VALUE`, by model",
}
"""Sections and what they are for."""
_ALIASES = {"sae": "sweep", "dictionary": "sweep", "evaluation": "evaluate", "lens": "tune"}


def variants(section: str) -> Variants:
    """The configs of a section by what they depend on; one named ``""`` where on nothing.

    Raises:
        UnknownNameError: no such section.
    """
    name = _ALIASES.get(section, section)
    single = {"source": SourceConfig, "train": TrainConfig, "evaluate": EvaluationConfig,
              "dashboard": DashboardConfig, "contexts": ContextConfig,
              "tune": TunedLensConfig}  # fmt: skip
    if name in single:
        return {"": single[name]}
    if name == "sweep":
        return ARCHITECTURES
    if name == "world":
        return {model: recipe_class(model) for model in MODELS}
    raise UnknownNameError("section", section, known=tuple(SAID))


def schema_of(section: str) -> dict[str, Any]:
    """JSON schema of a section; ``file`` is the whole sweep file, with every architecture.

    Raises:
        UnknownNameError: no such section.
    """
    if section == "file":
        whole = SweepConfig.model_json_schema()
        whole["properties"]["sweep"]["items"] = _grids(schema_of("sweep"))
        return whole
    found = variants(section)
    if len(found) == 1:
        return next(iter(found.values())).model_json_schema()
    return {
        "title": _ALIASES.get(section, section),
        "oneOf": [{**one.model_json_schema(), "title": name} for name, one in found.items()],
    }


def explain_key(key: str) -> list[dict[str, Any]]:
    """What one setting means, in every section that has it, variants that agree as one.

    ``key`` is ``section.name`` or a name alone.

    Raises:
        UnknownNameError: no such key; the message offers the nearest.
    """
    section, dot, name = key.rpartition(".")
    sections = [_ALIASES.get(section, section)] if dot else [*SAID]
    found = [row for one in sections for row in _rows(one, _spelled(one, name))]
    if not found:
        raise UnknownNameError("setting", key, known=_nearest(name, sections), hint=(
            "All of a section: lensbench config explain SECTION, one of " + ", ".join(SAID) + "."
        ))  # fmt: skip
    return found


def explain_section(section: str) -> list[dict[str, Any]]:
    """Every setting of a section.

    Raises:
        UnknownNameError: no such section.
    """
    names = dict.fromkeys(n for one in variants(section).values() for n in one.model_fields)
    return [row for name in names for row in _rows(_ALIASES.get(section, section), name)]


def _spelled(section: str, name: str) -> str:
    """The name of the setting that a file may also spell ``name`` (``batch``: ``batch_size``)."""
    for one in variants(section).values():
        for field, info in one.model_fields.items():
            if name in getattr(info.validation_alias, "choices", ()):
                return field
    return name


def _rows(section: str, name: str) -> list[dict[str, Any]]:
    """A row per meaning: variants whose type, default and words agree share one."""
    every = variants(section)
    if name == "architecture" and every is ARCHITECTURES:
        return [{"key": f"{section}.{name}", "type": " | ".join(every), "default": "required",
                 "range": "", "meaning": "Which latents fire; it decides which other settings "
                 "there are.", "of": [*every], "not_of": []}]  # fmt: skip
    told: dict[str, dict[str, Any]] = {}
    for label, config in every.items():
        properties = config.model_json_schema(by_alias=False)["properties"]
        if name not in properties:
            continue
        facts = _facts(properties[name], required=config.model_fields[name].is_required())
        row = told.setdefault(repr(facts), {"key": f"{section}.{name}", **facts, "of": []})
        row["of"] += [label] if label else []
    rows = list(told.values())
    for row in rows:
        row["not_of"] = [v for v in every if v and v not in row["of"]] if row["of"] else []
    return rows


def _facts(told: Mapping[str, Any], *, required: bool) -> dict[str, Any]:
    options = told.get("anyOf", [told])
    ranges = [_range(one) for one in options]
    return {
        "type": " or ".join(_type(one) for one in options),
        "default": "required" if required else told.get("default"),
        "range": ", ".join(r for r in ranges if r),
        "meaning": " ".join(str(told.get("description", "")).split()),
    }


def _type(told: Mapping[str, Any]) -> str:
    if "enum" in told or "const" in told:
        return " | ".join(map(str, told.get("enum", [told.get("const")])))
    kind = str(told.get("type", "a section"))
    inner = told.get("items")
    if kind == "array":
        return f"list of {_type(inner)}" if isinstance(inner, Mapping) else "list"
    return {"null": "nothing", "string": "text", "object": "a section"}.get(kind, kind)


_BOUNDS = {"minimum": ">= ", "exclusiveMinimum": "> ", "maximum": "<= ", "exclusiveMaximum": "< "}


def _range(told: Mapping[str, Any]) -> str:
    return " and ".join(f"{sign}{told[name]}" for name, sign in _BOUNDS.items() if name in told)


def _nearest(name: str, sections: list[str]) -> list[str]:
    known = {
        field: f"{section}.{field}"
        for section in sections
        for one in variants(section).values()
        for field in one.model_fields
    }
    near = get_close_matches(name, known, n=5, cutoff=0.4)
    begins = [field for field in known if field.startswith(name)]
    return [known[field] for field in dict.fromkeys([*begins, *near])] or sorted(known.values())


def _grids(schema: dict[str, Any]) -> dict[str, Any]:
    """The same where every scalar may also be a list of them, which makes a grid."""
    for one in schema["oneOf"]:
        for name, told in one["properties"].items():
            one["properties"][name] = {"anyOf": [told, {"type": "array", "items": told}],
                                       "description": told.get("description", "")}  # fmt: skip
    return schema
