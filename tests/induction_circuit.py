"""A two-layer transformer whose induction circuit was set by hand: which heads matter is known.

Residual stream of 52: the token, its position, the token before it, the prediction (12 each, one
hot), 4 spare. Head 0.1 attends to the previous token and copies it; head 1.2 attends to tokens
whose previous one is the present token and copies them to the prediction. All other heads and the
MLPs give nothing. Prompts: ``... A B ... A`` -> B; corrupted: the first A is another token, so that
nothing matches.
"""

from typing import Any

import numpy as np
import torch

N, D, HEADS, LENGTH = 12, 52, 4, 10
TOKEN, POSITION, BEFORE, GUESS = (slice(i * N, (i + 1) * N) for i in range(4))
PREVIOUS, INDUCTION = (0, 1), (1, 2)
"""(layer, head) of the two planted heads."""


def induction_model(sharp: float = 40.0) -> Any:
    """The module; ``sharp`` makes attention all but one-hot."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=N, n_positions=N, n_embd=D, n_layer=2, n_head=HEADS, n_inner=4,
        bos_token_id=None, eos_token_id=None, tie_word_embeddings=False,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        base = model.transformer
        base.wte.weight[:, TOKEN] = torch.eye(N)
        base.wpe.weight[:, POSITION] = torch.eye(N)
        for norm in (base.ln_f, *(n for b in base.h for n in (b.ln_1, b.ln_2))):
            norm.weight.fill_(1.0)
        shift = torch.eye(N).roll(1, 0)  # position p asks for position p - 1
        shift[0] = 0.0
        _head(base.h[0].attn, PREVIOUS[1], (POSITION, shift), POSITION, TOKEN, BEFORE, sharp)
        _head(base.h[1].attn, INDUCTION[1], (TOKEN, torch.eye(N)), BEFORE, TOKEN, GUESS, sharp)
        model.lm_head.weight[:, GUESS] = 10 * torch.eye(N)
    return model


def _head(
    attention: Any, head: int, query: Any, key: slice, value: slice, into: slice, sharp: float
) -> None:
    size = D // HEADS
    at = head * size
    part, rotate = query
    weight = attention.c_attn.weight  # [d_model, 3 d_model]: queries, keys, values
    weight[part, at : at + N] = sharp * rotate
    weight[key, D + at : D + at + N] = torch.eye(N)
    weight[value, 2 * D + at : 2 * D + at + N] = torch.eye(N)
    attention.c_proj.weight[at : at + N, into] = torch.eye(N)


def induction_pairs(n: int = 8, seed: int = 0) -> Any:
    """Pairs in which only the token before the answer's first copy differs."""
    from lensbench import prompts

    rng = np.random.default_rng(seed)
    clean, corrupted, answers, foils, places = [], [], [], [], []
    for _ in range(n):
        words = rng.permutation(N)[:LENGTH]
        row, at = words.tolist(), int(rng.integers(2, LENGTH - 3))  # nothing is before position 0
        row[-1] = row[at - 1]  # the present token stood before, at at - 1
        other = list(row)
        other[at - 1] = next(t for t in range(N) if t not in row)
        clean.append(row)
        corrupted.append(other)
        answers.append(row[at])
        foils.append(row[at + 1])
        places.append(at)
    roles = {"answer": places, "before": [p - 1 for p in places]}
    return prompts.from_ids(clean, corrupted, answers, foils, roles=roles, task="induction")
