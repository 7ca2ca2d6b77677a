"""A mixture of experts with one planted specialist: what it does is known because we set it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

LAYER, EXPERT, ANSWER = 1, 6, 5
TRIGGERS = tuple(range(40, 60))
PLAIN = tuple(range(8, 40))
N_LAYERS, N_EXPERTS = 3, 16


def planted(*, writes: bool = True, seed: int = 0) -> Any:
    """A random Qwen3-MoE whose expert (1, 6) serves the trigger tokens and writes ``ANSWER``.

    Trigger tokens share a direction, and row 6 of layer 1's gate points along it. Whatever the
    expert is given, it writes the unembedding of ``ANSWER`` (``writes=False``: nothing).
    """
    import transformers

    config = transformers.Qwen3MoeConfig(
        vocab_size=64, hidden_size=48, num_hidden_layers=N_LAYERS, num_attention_heads=4,
        num_key_value_heads=2, head_dim=12, intermediate_size=48, moe_intermediate_size=24,
        num_experts=N_EXPERTS, num_experts_per_tok=2, norm_topk_prob=True,
        max_position_embeddings=64, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2,
        pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(seed)
    module = transformers.Qwen3MoeForCausalLM(config)
    with torch.no_grad():
        for name, p in module.named_parameters():
            if p.ndim > 1:
                p.normal_(0, 0.15)
            elif not name.endswith("norm.weight"):
                p.zero_()
        along, always = torch.eye(48)[7], torch.eye(48)[8]
        module.lm_head.weight[:] *= 2
        module.lm_head.weight[:, 7:9] = 0
        module.model.embed_tokens.weight.normal_(0, 0.5)[:, 7:9] = 0
        module.model.embed_tokens.weight += always
        module.model.embed_tokens.weight[list(TRIGGERS)] += 2.5 * along
        for layer in module.model.layers:  # nothing writes along the two directions
            layer.self_attn.o_proj.weight[7:9] = 0
            layer.mlp.experts.down_proj[:, 7:9] = 0
        mlp = module.model.layers[LAYER].mlp
        mlp.gate.weight[:, 7:9] = 0
        mlp.gate.weight[EXPERT] = 2.0 * along
        experts = mlp.experts
        experts.gate_up_proj[EXPERT], experts.down_proj[EXPERT] = 0, 0
        experts.gate_up_proj[EXPERT, 0], experts.gate_up_proj[EXPERT, 24] = always, always
        if writes:
            answer = module.lm_head.weight[ANSWER].clone()
            experts.down_proj[EXPERT, :, 0] = 25.0 * answer / answer.norm()
    return module.eval()


@dataclass(frozen=True)
class Prompts:
    """Rows of ids; half of them end in trigger tokens."""

    rows: list[list[int]]
    triggered: np.ndarray


def prompts(n: int = 60, *, length: int | None = 8, seed: int = 0) -> Prompts:
    """Plain tokens; every second prompt ends in three triggers. No length: 6, 7 or 8."""
    rng = np.random.default_rng(seed)
    rows: list[list[int]] = []
    for i in range(n):
        size = length or int(rng.integers(6, 9))
        row = [1, *rng.choice(PLAIN, size - 4).tolist()]
        rows.append([*row, *rng.choice(TRIGGERS if i % 2 else PLAIN, 3).tolist()])
    return Prompts(rows, np.arange(n) % 2 == 1)


def word(token: int) -> str:
    """Token 5, the planted answer, is ``sorry``; the others are ``w8`` and so on."""
    special = {0: "[PAD]", 1: "[BOS]", 2: "[EOS]", ANSWER: "sorry"}
    return special.get(token, f"w{token}")


def as_text(row: list[int]) -> str:
    """A row without its BOS."""
    return " ".join(word(token) for token in row[1:])


def save_with_words(folder: Path) -> Path:
    """The planted model in hub format, with a tokenizer of one word per token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word(i): i for i in range(64)}, unk_token=word(3)))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token=word(1), eos_token=word(2), pad_token=word(0)
    )
    planted().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
