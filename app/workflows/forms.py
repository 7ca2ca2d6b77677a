"""A config's schema as the fields of a form: one schema for YAML, flags, notebooks and pages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lensbench.app.workflows.settings import read_value
from lensbench.app.workflows.stores import store_info
from lensbench.errors import UnknownNameError
from lensbench.saes.architectures import ARCHITECTURES
from lensbench.saes.configs import LISTS, TrainConfig

Kind = Literal["int", "float", "bool", "choice", "text"]
CHOSEN = ("architecture", "site", "target", "name")
"""Keys of an entry that are chosen above the fields, or made up."""
SAE, TRANSCODER, CROSSCODER = "sae", "transcoder", "crosscoder"
GROUPS: dict[str, tuple[str, ...]] = {
    "Size and sparsity": (
        "d_sae", "k", "target_l0", "l1_coefficient", "l0_coefficient", "multi_topk",
        "threshold_rate", "penalty", "penalty_warmup", "steer_over", "bandwidth",
        "initial_threshold", "tanh_scale", "pre_act_coefficient", "p_end", "anneal_start",
        "anneal_end", "updates",
    ),
    "Learning": ("tokens", "lr", "seed", "clip", "objective", "downstream_coefficient",
                 "batch_size", "warmup", "decay", "normalize"),
    "Latents that never fire": ("dead_after", "aux_coefficient", "aux_k"),
    "Several sites": ("skip_connection", "unequal_widths"),
    "What is written": ("log_every", "checkpoint_every", "keep"),
    "Computing": ("engine", "precision", "deterministic", "read_ahead", "in_memory", "parallel",
                  "rank_timeout"),
}  # fmt: skip
"""Settings by what they are about; those that are named nowhere come last."""
TOKENS, WIDTH = 200_000, 512
"""Training tokens and latents that a form begins with."""
POINTS = 50
"""Logged lines that the form asks for at least, so that short runs have curves too."""
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

    @property
    def label(self) -> str:
        """What a reader sees: words, and the key of a sweep file where that is another."""
        words = self.name.replace("_", " ")
        return LABELS.get(self.name, words[0].upper() + words[1:])


LABELS = {
    "d_sae": "Latents (d_sae)",
    "k": "Active latents per token (k)",
    "lr": "Learning rate (lr)",
    "target_l0": "Active latents aimed at (target_l0)",
    "tokens": "Training tokens",
    "lr_scale": "Learning rate, as a factor (lr_scale)",
}
"""Names that say more than the key does."""


def architectures(role: str = SAE) -> tuple[str, ...]:
    """Architectures that can be trained as ``role``: sae, transcoder or crosscoder."""
    return tuple(name for name, config in ARCHITECTURES.items() if role in config.roles)


def grouped(fields: Sequence[Field], sought: str = "") -> dict[str, list[Field]]:
    """Fields by what they are about, or those whose name or explanation holds ``sought``."""
    words = sought.lower().replace("_", " ").split()

    def says(field: Field) -> str:
        return f"{field.name} {field.label} {field.help}".lower().replace("_", " ")

    kept = [f for f in fields if all(w in says(f) for w in words)]
    place = {name: group for group, names in GROUPS.items() for name in names}
    found = {group: [f for f in kept if place.get(f.name, "Others") == group]
             for group in (*GROUPS, "Others")}  # fmt: skip
    return {group: fields for group, fields in found.items() if fields}


def lens_fields() -> list[Field]:
    """Settings of a tuned lens."""
    from lensbench.probes import TunedLensConfig

    first = ("steps", "tokens_per_step", "optimizer")
    found = _fields(TunedLensConfig)
    return sorted(found, key=lambda f: first.index(f.name) if f.name in first else len(first))


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


def with_curves(train: Mapping[str, Any]) -> dict[str, Any]:
    """``train`` with lines of the log close enough for a curve, where nothing is said of them."""
    usual = TrainConfig.model_fields["log_every"].default
    batch = train.get("batch_size") or TrainConfig.model_fields["batch_size"].default
    every = max(1, min(usual, int(train["tokens"]) // int(batch) // POINTS))
    return {"log_every": every, **train} if every != usual else dict(train)


def check_lens(values: Mapping[str, Any]) -> None:
    """Refuse settings that no tuned lens can be trained with.

    Raises:
        ConfigError: every fault with its key.
    """
    from lensbench.probes import TunedLensConfig

    TunedLensConfig.parse(dict(values))


def usual_site(store: Path) -> str:
    """A site to begin with: the residual stream half way up, or the first one."""
    sites = [str(row["site"]) for row in store_info(store)["sites"]]
    residual = [site for site in sites if site.endswith("resid_post")] or sites
    return residual[(len(residual) - 1) // 2]


def ends_of(role: str, sites: Sequence[str]) -> dict[str, Any]:
    """What an entry of a sweep says of its sites: one dictionary each, a pair, or all in one."""
    if role == TRANSCODER:
        return {"site": sites[0], "target": sites[1]}
    if role == CROSSCODER:
        return {"sites": list(sites)}
    return {"site": sites[0] if len(sites) == 1 else list(sites)}


def sweep_from(
    store: str,
    site: str | Mapping[str, Any],
    architecture: str,
    dictionary: Mapping[str, Any],
    train: Mapping[str, Any],
) -> dict[str, Any]:
    """What a filled form asks for, as a sweep file holds it; ``site`` may be of :func:`ends_of`.

    Text values are read as ``--set`` reads them: commas make a grid. Empty ones are left out.
    """
    entry = {k: read_value(v) if isinstance(v, str) else v for k, v in _given(dictionary).items()}
    ends = {"site": site} if isinstance(site, str) else dict(site)
    return {
        "source": {"store": store},
        "train": _given(train),
        "sweep": [{"architecture": architecture, **ends, **entry}],
    }


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in values.items() if v is not None and v != ""}


def _fields(config: Any) -> list[Field]:
    schema = config.model_json_schema(by_alias=False)
    # Lists (the prefixes of a Matryoshka, the sinks of a log) are set in a sweep file; a form
    # leaves them as they are.
    known: Mapping[str, Mapping[str, Any]] = schema["properties"]
    lists = {n for n, told in known.items() if told.get("type") == "array"}
    left = {*CHOSEN, *LISTS, *lists}
    return [_field(n, told) for n, told in known.items() if n not in left]


def _field(name: str, told: Mapping[str, Any]) -> Field:
    options = told.get("anyOf", [told])
    kind = next(o for o in options if o.get("type") != "null")
    choices = tuple(kind.get("enum", [kind["const"]] if "const" in kind else []))
    if kind.get("type") == "boolean" and any("const" in o or "enum" in o for o in options):
        words = next(o for o in options if "const" in o or "enum" in o)  # bool | "auto"
        choices = (*words.get("enum", [words.get("const")]), "true", "false")
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
