"""What a user writes to train dictionaries: one entry per dictionary, one block for the run.

A sweep file has three keys. ``source`` names where activations come from, ``train`` holds what all
dictionaries share, ``sweep`` is a list of dictionaries. Any scalar of an entry may be a list; the
entry then stands for the product of its lists; lists of ``site`` and of ``target`` are pairs::

    source: {store: runs/acts, site: blocks.3.resid_post}
    train: {tokens: 2_000_000, batch: 2048}
    sweep:
      - {architecture: topk, d_sae: 4096, k: [16, 32, 64], seed: [0, 1]}
      - {architecture: relu, d_sae: 4096, l1_coefficient: [1, 5]}
"""

from collections import Counter
from collections.abc import Mapping
from difflib import get_close_matches
from itertools import product
from typing import Any, Literal

from pydantic import AliasChoices, Field, field_validator, model_validator

from lensbench.config import Config
from lensbench.errors import ConfigError, UnknownNameError
from lensbench.saes.architectures import ARCHITECTURES, DictionaryConfig
from lensbench.saes.ends import Ends

LISTS = ("prefixes", "sites", "resample_at")
"""Settings that are lists; a list of lists is a choice of them."""


class TrainConfig(Config):
    """What all dictionaries of a run share."""

    tokens: int = Field(ge=1)
    """Activations each dictionary is trained on (rounded down to whole batches)."""
    batch_size: int = Field(2048, ge=1, validation_alias=AliasChoices("batch_size", "batch"))
    """Activations per step; ``batch`` in a file means the same."""
    warmup: float = Field(0.05, ge=0, le=1)
    """Share of the run over which the learning rate grows from zero."""
    decay: float = Field(0.2, ge=0, le=1)
    """Share of the run, at its end, over which the learning rate falls to zero."""
    normalize: bool = True
    """Scale activations to mean square norm d_model while training; folded in when saved."""
    log_every: int = Field(50, ge=1)
    """Steps between two lines of ``metrics.jsonl``."""
    checkpoint_every: int = Field(1000, ge=1)
    """Steps between two checkpoints."""
    keep: int = Field(2, ge=1)
    """Checkpoints kept per dictionary, newest first."""
    engine: Literal["auto", "dense", "screened", "stacked"] = "auto"
    """How steps are computed; auto measures on the first batch. Equal up to rounding."""
    precision: Literal["float32", "bf16"] = "float32"
    """Of dense products; bf16 rounds their factors. Sums, weights and moments stay float32."""
    deterministic: bool = False
    """On a GPU, only deterministic kernels: slower, but a resumed run is bit-exact."""
    read_ahead: int | None = Field(None, ge=0)
    """Batches that a thread makes before they are asked for; default: 2 for a GPU, else 0."""
    in_memory: bool | Literal["auto"] = "auto"
    """Keep the whole store on the device; auto: on a GPU, where it fits beside the sweep."""
    sinks: tuple[Literal["wandb", "tensorboard"], ...] = ()
    """Where metrics go beside the run folder; their failures never stop a run."""
    parallel: Literal["members", "data", "width"] = "members"
    """What several ranks (``torchrun``) divide: the sweep, each batch, or each dictionary."""
    rank_timeout: float = Field(180.0, gt=0)
    """Seconds without a sign of life after which a rank counts as lost and the job ends."""

    @model_validator(mode="after")
    def _fits(self) -> "TrainConfig":
        if self.tokens < self.batch_size:
            raise ValueError(f"tokens ({self.tokens}) is below one batch ({self.batch_size})")
        if self.warmup + self.decay > 1:
            raise ValueError(f"warmup + decay must be at most 1, got {self.warmup + self.decay:g}")
        if self.engine == "screened" and self.precision == "bf16":
            raise ValueError("engine: screened is exact in float32; with precision: bf16 use dense")
        return self

    @property
    def steps(self) -> int:
        """Number of optimiser steps."""
        return self.tokens // self.batch_size


class SourceConfig(Config):
    """Where activations come from, for the command line."""

    store: str | None = None
    """Folder or URL of an activation store."""
    stores: dict[str, str] | None = None
    """Stores of several models over one text, by name; their sites are ``name:site``."""
    model: str | None = None
    """Model for a live capture; needs ``text``."""
    text: str | None = None
    """Text file for a live capture."""
    mixing: int = Field(default=32768, ge=0)
    """Tokens that a live capture holds and mixes, half of them new at a time; 0: no such buffer,
    groups are shuffled and used up whole. It becomes part of every checkpoint. End-to-end training
    has none: it reads whole sequences in the order of the text."""
    site: str | None = None
    """Site of the dictionaries that name none."""

    @model_validator(mode="after")
    def _is_one(self) -> "SourceConfig":
        if self.store is not None and self.stores is not None:
            raise ValueError("give store or stores, not both")
        return self


class SweepConfig(Config):
    """A whole run: source, shared settings and the dictionaries."""

    source: SourceConfig = Field(default_factory=SourceConfig)
    train: TrainConfig
    sweep: tuple[dict[str, Any], ...] = Field(min_length=1)
    """Entries; each expands to the product of its lists."""

    @field_validator("sweep", mode="before")
    @classmethod
    def _as_entries(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise ValueError("write a list of dictionaries, each {architecture, d_sae, ...}")
        return tuple(
            v.model_dump(mode="json") if isinstance(v, DictionaryConfig) else v for v in value
        )

    @model_validator(mode="after")
    def _expands(self) -> "SweepConfig":
        self.expand()
        return self

    def expand(self) -> list[DictionaryConfig]:
        """Every dictionary, in order, each with its site and a unique name.

        Raises:
            ConfigError: an entry that is no valid dictionary, or the same one twice.
        """
        plain = [
            _dictionary(i, one, self.source.site)
            for i, entry in enumerate(self.sweep)
            for one in _product(i, entry)
        ]
        return _name(plain)

    def part(self, index: int, of: int) -> "SweepConfig":
        """Every ``of``-th dictionary, from ``index`` (0-based) on, under the same names.

        Raises:
            ConfigError: no such part, or an empty one.
        """
        if not 0 <= index < of:
            raise ConfigError(f"part {index} of {of} does not exist; parts are 0 to {of - 1}")
        chosen = self.expand()[index::of]
        if not chosen:
            raise ConfigError(f"part {index} of {of} is empty; lower the number of parts")
        entries = tuple(config.model_dump(mode="json") for config in chosen)
        return self.model_copy(update={"sweep": entries})

    @classmethod
    def of(cls, *dictionaries: Any, **train: Any) -> "SweepConfig":
        """Short form for a notebook: ``SweepConfig.of(TopKConfig(...), tokens=10**6)``."""
        return cls.parse({"train": train, "sweep": list(dictionaries)})


def _product(index: int, entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    for key, value in entry.items():
        if isinstance(value, list | tuple) and not value:
            raise ConfigError(
                f"sweep[{index}].{key} is an empty list; give one value or more, or leave {key} out"
            )
    choices = {key: [{key: v} for v in _choices(key, value)] for key, value in entry.items()}
    _pair(index, choices)
    return [
        {key: value for part in parts for key, value in part.items()}
        for parts in product(*choices.values())
    ]


def _pair(index: int, choices: dict[str, list[dict[str, Any]]]) -> None:
    """Make one choice of sites and targets: the first of these with the first of those."""
    sites, targets = choices.get("site", []), choices.get("target", [])
    if min(len(sites), len(targets)) < 2:
        return
    if len(sites) != len(targets):
        raise ConfigError(
            f"sweep[{index}] lists {len(sites)} sites and {len(targets)} targets; they are taken "
            "in pairs, so give as many of each (or one site, or one target)"
        )
    choices["site"] = [a | b for a, b in zip(sites, choices.pop("target"), strict=True)]


def _choices(key: str, value: Any) -> Any:
    """Values of one key; a list of numbers is one value where a setting is itself a list."""
    if not isinstance(value, list | tuple):
        return [value]
    single = key in LISTS and not any(isinstance(v, list | tuple) for v in value)
    return [value] if single else value


def _dictionary(index: int, entry: dict[str, Any], site: str | None) -> DictionaryConfig:
    kind = entry.get("architecture")
    if kind is None:
        near = get_close_matches("architecture", [key for key in entry if key != "name"], n=1)
        near = near or [key for key in entry if len(key) > 2 and "architecture".startswith(key)]
        raise ConfigError(
            f"sweep[{index}] names no architecture; known: {', '.join(ARCHITECTURES)}."
            + "".join(f" The key is 'architecture', not {key!r}." for key in near)
        )
    if kind not in ARCHITECTURES:
        raise UnknownNameError("architecture", str(kind), known=tuple(ARCHITECTURES))
    if entry.get("site") is None and entry.get("sites") is None and site is not None:
        entry = entry | {"site": site}
    try:
        return ARCHITECTURES[kind].parse(entry)
    except ConfigError as error:
        raise ConfigError(f"sweep[{index}]: {error}") from None


def _name(configs: list[DictionaryConfig]) -> list[DictionaryConfig]:
    """Give every config a unique name; what its label cannot tell apart, a fingerprint does."""
    prints = Counter(c.fingerprint() for c in configs)
    if prints and prints.most_common(1)[0][1] > 1:
        twice = next(c for c in configs if prints[c.fingerprint()] > 1)
        raise ConfigError(f"the dictionary {twice.label()} is listed twice; drop one or reseed it")
    places = [Ends.of(c).key for c in configs]
    several = len(set(places)) > 1
    labels = [
        c.name or (f"{_in_a_name(place)}-{c.label()}" if several else c.label())
        for c, place in zip(configs, places, strict=True)
    ]
    count = Counter(labels)
    named: list[DictionaryConfig] = []
    for config, label in zip(configs, labels, strict=True):
        if count[label] > 1 and config.name is not None:
            raise ConfigError(f"the name {label!r} is used by {count[label]} dictionaries")
        unique = label if count[label] == 1 else f"{label}-{config.fingerprint()[:6]}"
        named.append(config.model_copy(update={"name": unique}))
    return named


def _in_a_name(place: str) -> str:
    """Sites as a folder may be called."""
    return place.replace(">", "=").replace(":", ".").replace("/", ".") or "None"
