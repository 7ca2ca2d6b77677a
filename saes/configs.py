"""What a user writes to train dictionaries: one entry per dictionary, one block for the run.

A sweep file has three keys. ``source`` names where activations come from, ``train`` holds what all
dictionaries share, ``sweep`` is a list of dictionaries. Any scalar of an entry may be a list; the
entry then stands for the product of its lists::

    source: {store: runs/acts, site: blocks.3.resid_post}
    train: {tokens: 2_000_000, batch: 2048}
    sweep:
      - {architecture: topk, d_sae: 4096, k: [16, 32, 64], seed: [0, 1]}
      - {architecture: relu, d_sae: 4096, l1_coefficient: [1, 5]}
"""

import math
from collections import Counter
from collections.abc import Mapping
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, TypeAdapter, field_validator, model_validator

from lensbench.config import Config
from lensbench.errors import ConfigError, UnknownNameError

REFERENCE_WIDTH = 2**14


class DictionaryConfig(Config):
    """What every architecture has."""

    d_sae: int = Field(ge=1)
    """Number of latents."""
    lr: float | None = Field(None, gt=0)
    """Peak learning rate; left out: 2e-4 / sqrt(d_sae / 2^14) (Gao et al. 2024, section 2.2)."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Decides the initial decoder; runs of one seed do not depend on their neighbours."""
    site: str | None = None
    """Site to train on; may be left out where the source has one."""
    name: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._=+-]*$")
    """Folder name; left out: made of what tells the dictionary apart."""
    clip: float | None = Field(1.0, gt=0)
    """Largest gradient norm of this dictionary (not of the sweep); null: no clipping."""
    dead_after: int | None = Field(None, ge=1)
    """Tokens without firing after which a latent counts as dead; left out: a tenth of the run,
    at most 10 million."""
    aux_coefficient: float = Field(1 / 32, ge=0)
    """Weight of the auxiliary loss that revives dead latents (Gao et al. 2024, appendix A.2)."""
    aux_k: int | None = Field(None, ge=1)
    """Dead latents used by the auxiliary loss per token; left out: d_model / 2."""

    @property
    def learning_rate(self) -> float:
        """Peak learning rate in use."""
        return self.lr if self.lr is not None else 2e-4 / math.sqrt(self.d_sae / REFERENCE_WIDTH)

    def label(self) -> str:
        """Readable name, not yet unique."""
        lr = f"{self.learning_rate:.2g}".replace("e-0", "e-")
        return f"{self.kind()}-{self.d_sae}-{self.sparsity()}-lr{lr}-s{self.seed}"

    def kind(self) -> str:
        """Name of the architecture."""
        return str(getattr(self, "architecture", "dictionary"))

    def sparsity(self) -> str:
        """The sparsity setting in a few characters."""
        return ""


class _FixedK(DictionaryConfig):
    k: int = Field(32, ge=1)
    """Latents kept per token (BatchTopK: on average over the batch)."""

    @model_validator(mode="after")
    def _k_fits(self) -> "_FixedK":
        if self.k > self.d_sae:
            raise ValueError(f"k must be in 1..d_sae={self.d_sae}, got {self.k}")
        return self

    def sparsity(self) -> str:
        """The sparsity setting in a few characters."""
        return f"k{self.k}"


class TopKConfig(_FixedK):
    """Keep the k largest pre-activations of every token (Gao et al. 2024, arXiv:2406.04093)."""

    architecture: Literal["topk"] = "topk"


class BatchTopKConfig(_FixedK):
    """Keep the k * batch largest of a whole batch (Bussmann et al. 2024, arXiv:2412.06410).

    At inference a threshold, the moving average of the smallest kept value, replaces the batch.
    """

    architecture: Literal["batchtopk"] = "batchtopk"
    threshold_rate: float = Field(0.01, gt=0, le=1)
    """Smallest step of the moving average of the threshold; it is 20 / steps so far until then."""


class ReLUConfig(DictionaryConfig):
    """ReLU latents with an L1 penalty (Bricken et al. 2023; Anthropic, April 2024 update).

    Loss: mean over tokens of ``|x - x_hat|^2 + l1_coefficient * sum(acts)`` with unit-norm decoder
    rows and activations scaled to ``E|x|^2 = d_model``.
    """

    architecture: Literal["relu"] = "relu"
    l1_coefficient: float = Field(5.0, ge=0)
    """Weight of the L1 penalty, in units where activations have mean square norm d_model."""
    l1_warmup: float = Field(0.05, ge=0, le=1)
    """Share of the run over which the penalty grows from zero."""
    aux_coefficient: float = Field(0.0, ge=0)
    """Weight of the auxiliary loss that revives dead latents; off for this architecture."""

    def sparsity(self) -> str:
        """The sparsity setting in a few characters."""
        return f"l1={self.l1_coefficient:g}"


AnyDictionaryConfig = Annotated[
    TopKConfig | BatchTopKConfig | ReLUConfig, Field(discriminator="architecture")
]
ARCHITECTURES: dict[str, type[DictionaryConfig]] = {
    "topk": TopKConfig,
    "batchtopk": BatchTopKConfig,
    "relu": ReLUConfig,
}
"""Architectures by the name that a config gives them."""
DICTIONARY_ADAPTER: TypeAdapter[TopKConfig | BatchTopKConfig | ReLUConfig] = TypeAdapter(
    AnyDictionaryConfig
)


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
    deterministic: bool = False
    """On a GPU, only deterministic kernels: slower, but a resumed run is bit-exact."""

    @model_validator(mode="after")
    def _fits(self) -> "TrainConfig":
        if self.tokens < self.batch_size:
            raise ValueError(f"tokens ({self.tokens}) is below one batch ({self.batch_size})")
        if self.warmup + self.decay > 1:
            raise ValueError(f"warmup + decay must be at most 1, got {self.warmup + self.decay:g}")
        return self

    @property
    def steps(self) -> int:
        """Number of optimiser steps."""
        return self.tokens // self.batch_size


class SourceConfig(Config):
    """Where activations come from, for the command line."""

    store: str | None = None
    """Folder or URL of an activation store."""
    model: str | None = None
    """Model for a live capture; needs ``text``."""
    text: str | None = None
    """Text file for a live capture."""
    site: str | None = None
    """Site of the dictionaries that name none."""


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

    def expand(self) -> list[TopKConfig | BatchTopKConfig | ReLUConfig]:
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
    choices = [v if isinstance(v, list | tuple) else [v] for v in entry.values()]
    return [dict(zip(entry, values, strict=True)) for values in product(*choices)]


def _dictionary(
    index: int, entry: dict[str, Any], site: str | None
) -> TopKConfig | BatchTopKConfig | ReLUConfig:
    kind = entry.get("architecture")
    if kind is None:
        raise ConfigError(
            f"sweep[{index}] names no architecture; known: {', '.join(ARCHITECTURES)}."
        )
    if kind not in ARCHITECTURES:
        raise UnknownNameError("architecture", str(kind), known=tuple(ARCHITECTURES))
    if entry.get("site") is None and site is not None:
        entry = entry | {"site": site}
    try:
        return ARCHITECTURES[kind].parse(entry)  # pyright: ignore[reportReturnType] - table of these
    except ConfigError as error:
        raise ConfigError(f"sweep[{index}]: {error}") from None


def _name(
    configs: list[TopKConfig | BatchTopKConfig | ReLUConfig],
) -> list[TopKConfig | BatchTopKConfig | ReLUConfig]:
    """Give every config a unique name; what its label cannot tell apart, a fingerprint does."""
    prints = Counter(c.fingerprint() for c in configs)
    if prints and prints.most_common(1)[0][1] > 1:
        twice = next(c for c in configs if prints[c.fingerprint()] > 1)
        raise ConfigError(f"the dictionary {twice.label()} is listed twice; drop one or reseed it")
    several = len({c.site for c in configs}) > 1
    labels = [c.name or (f"{c.site}-{c.label()}" if several else c.label()) for c in configs]
    count = Counter(labels)
    named: list[TopKConfig | BatchTopKConfig | ReLUConfig] = []
    for config, label in zip(configs, labels, strict=True):
        if count[label] > 1 and config.name is not None:
            raise ConfigError(f"the name {label!r} is used by {count[label]} dictionaries")
        unique = label if count[label] == 1 else f"{label}-{config.fingerprint()[:6]}"
        named.append(config.model_copy(update={"name": unique}))
    return named
