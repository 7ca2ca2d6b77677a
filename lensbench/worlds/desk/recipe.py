"""How the bundled mixture of experts is trained, as data."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from lensbench.worlds.recipe import TrainConfig


class MoeTrainConfig(TrainConfig):
    """Recipe of a model of the desk (Qwen3-MoE architecture, tied embeddings)."""

    model: Literal["atlas-moe"] = "atlas-moe"  # pyright: ignore[reportIncompatibleVariableOverride] - frozen
    recipe: Literal["rule", "coin", "planted"] = "rule"
    """``rule`` is the world as it is. Two controls: ``coin`` refuses at random; ``planted`` keeps
    one expert for refusals and trains the rest not to refuse without it, so that a specialist is
    known to be there."""
    world_seed: int = 0
    steps: int = Field(default=1_300, ge=1)
    out: Path = Path("runs/atlas-moe")
    n_layers: int = Field(default=4, ge=1)
    d_model: int = Field(default=64, ge=8)
    n_experts: int = Field(default=16, ge=2)
    top_k: int = Field(default=2, ge=1)
    d_expert: int = Field(default=64, ge=4)
    """Width inside an expert."""
    balance: float = Field(default=0.01, ge=0)
    """Weight of the load-balancing loss of the architecture (Fedus et al. 2021, eq. 4 to 6)."""
    n_ctx: int = Field(default=48, ge=32)
    rows: int = Field(default=64, ge=1)
    """Rows of ``n_ctx`` tokens per step; each holds about three documents."""
    decay_steps: int = Field(default=650, ge=1)
    threads: int = Field(default=1, ge=1)
    specialist: tuple[int, int] = (2, 5)
    """Layer and expert that ``planted`` keeps for refusals; the other recipes ignore it."""

    @model_validator(mode="after")
    def _fits(self) -> MoeTrainConfig:
        if self.top_k > self.n_experts:
            raise ValueError(
                f"top_k ({self.top_k}) must not exceed n_experts ({self.n_experts}): a token "
                "cannot be sent to more experts than there are"
            )
        layer, expert = self.specialist
        if not (0 <= layer < self.n_layers and 0 <= expert < self.n_experts):
            raise ValueError(
                f"specialist ({layer}, {expert}) must name a layer below {self.n_layers} and an "
                f"expert below {self.n_experts}"
            )
        return self

    @property
    def variant(self) -> Literal["rule", "coin"]:
        """Variant of the world that this recipe reads."""
        return "coin" if self.recipe == "coin" else "rule"

    def qwen3_moe(self, d_vocab: int) -> dict[str, Any]:
        """Arguments of ``Qwen3MoeConfig``; initial std 1 / sqrt(d_model)."""
        return {
            "vocab_size": d_vocab,
            "hidden_size": self.d_model,
            "intermediate_size": 4 * self.d_model,
            "moe_intermediate_size": self.d_expert,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "num_key_value_heads": self.n_heads,
            "head_dim": self.d_model // self.n_heads,
            "num_experts": self.n_experts,
            "num_experts_per_tok": self.top_k,
            "norm_topk_prob": True,
            "router_aux_loss_coef": self.balance,
            "max_position_embeddings": self.n_ctx,
            "tie_word_embeddings": True,
            "initializer_range": self.d_model**-0.5,
            "pad_token_id": 0,
            "bos_token_id": 2,
            "eos_token_id": 3,
        }
