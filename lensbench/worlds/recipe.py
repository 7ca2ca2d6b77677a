"""How a bundled model is trained, as data."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from lensbench.config import Config
from lensbench.errors import ConfigError

MODELS = (
    "atlas-dense", "atlas-early", "atlas-equal", "atlas-moe", "atlas-refusing", "atlas-translate",
    "othello", "words",
)  # fmt: skip


class TrainConfig(Config):
    """What the recipes of all worlds share: sizes, learning rates, what is kept and where."""

    rotary: ClassVar[bool] = True
    """Heads are turned by position, in pairs of dimensions."""
    model: str
    seed: int = 0
    """Seed of the initial weights and of the documents."""
    seeds: int = Field(default=1, ge=1)
    """Train this many models with seeds ``seed``, ``seed + 1``, ... into ``out/seed<k>``."""
    steps: int = Field(default=3_000, ge=1)
    out: Path
    n_layers: int = Field(default=6, ge=1)
    d_model: int = Field(default=128, ge=8)
    n_heads: int = Field(default=4, ge=1)
    rows: int = Field(default=64, ge=1)
    """Sequences per step."""
    muon_lr: float = Field(default=0.02, gt=0)
    adam_lr: float = Field(default=4e-3, gt=0)
    warmup: int = Field(default=100, ge=0)
    decay_steps: int = Field(default=1400, ge=1)
    """The learning rate falls linearly to zero over this many last steps (at most half)."""
    save_steps: str = ""
    """``log:12`` keeps the 12 largest powers of two up to ``steps``; ``512,2048`` keeps those."""
    evaluate_every: int = Field(default=1000, ge=0)
    state_every: int = Field(default=500, ge=1)
    """Steps between resumable states."""
    card: bool = True
    """Measure the finished model and write ``evaluation.json`` and the model card."""
    resume: bool = False
    threads: int = Field(default=2, ge=1)
    compile: bool = False
    """Faster with ``torch.compile``, but two runs then differ in rounding (measured)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.d_model % (self.n_heads * (2 if self.rotary else 1)):
            kind = "an even multiple" if self.rotary else "a multiple"
            raise ValueError(f"d_model ({self.d_model}) must be {kind} of n_heads ({self.n_heads})")
        return self

    @property
    def falling(self) -> int:
        """Steps over which the learning rate falls: never more than half of the run."""
        return min(self.decay_steps, max(1, self.steps // 2))

    def scale(self, step: int) -> float:
        """Learning-rate factor of ``step`` (from 0): warm-up, flat, linear decay."""
        up = min(1.0, (step + 1) / max(1, self.warmup))
        down = min(1.0, (self.steps - step) / self.falling)
        return min(up, down)

    def is_flat(self, step: int) -> bool:
        """Has the learning rate not begun to fall before ``step``?"""
        return step <= self.steps - self.falling

    def kept_steps(self) -> tuple[int, ...]:
        """Steps whose weights are kept as revisions."""
        return parse_steps(self.save_steps, self.steps)


class WorldTrainConfig(TrainConfig):
    """Recipe of a model of the atlas world (Llama architecture, tied embeddings)."""

    model: Literal["atlas-dense"] = "atlas-dense"  # pyright: ignore[reportIncompatibleVariableOverride] - frozen
    world_seed: int = 0
    variant: Literal["english", "equal"] = "english"
    out: Path = Path("runs/atlas-dense")
    d_mlp: int = Field(default=384, ge=8)
    n_ctx: int = Field(default=64, ge=48)
    rows: int = Field(default=64, ge=1)
    """Rows of ``n_ctx`` tokens per step; each holds about four documents."""
    pools: tuple[tuple[int, float], ...] = ((320, 0.25), (800, 0.5))
    """(until this step, use this fraction of every entity pool), then all of it: small pools
    early let facts and recall start."""

    def pool(self, step: int) -> float:
        """Fraction of every entity pool in use at ``step``."""
        return next((share for until, share in self.pools if step < until), 1.0)

    def llama(self, d_vocab: int) -> dict[str, Any]:
        """Arguments of ``LlamaConfig``; initial std 1 / sqrt(d_model)."""
        return {
            "vocab_size": d_vocab,
            "hidden_size": self.d_model,
            "intermediate_size": self.d_mlp,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "num_key_value_heads": self.n_heads,
            "max_position_embeddings": self.n_ctx,
            "tie_word_embeddings": True,
            "initializer_range": self.d_model**-0.5,
            "rope_theta": 10_000.0,
            "pad_token_id": 0,
            "bos_token_id": 2,
            "eos_token_id": 3,
        }


def parse_steps(text: str, steps: int) -> tuple[int, ...]:
    """``log:N`` or a comma list as ascending step numbers.

    Raises:
        ConfigError: neither form, or a step past the end.
    """
    if not text:
        return ()
    head, _, tail = text.partition(":")
    if head == "log" and tail.isdigit() and int(tail) > 0:
        powers = [2**k for k in range(steps.bit_length()) if 2**k <= steps]
        return tuple(powers[-int(tail) :])
    parts = [part.strip() for part in text.split(",")]
    if all(part.isdigit() for part in parts):
        found = tuple(sorted({int(part) for part in parts}))
        if found[0] >= 1 and found[-1] <= steps:
            return found
        raise ConfigError(f"save_steps {text!r}: steps must lie in 1..{steps}")
    raise ConfigError(f"save_steps {text!r}: write log:12 or a list such as 512,2048")
