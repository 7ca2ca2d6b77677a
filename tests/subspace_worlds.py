"""One-block models with a linear MLP, in which what an MLP direction does was planted.

Two tokens carry a feature f = +1 and -1. ``used``: the MLP reads f and moves along a direction that
its output projection turns into the answer. ``illusion``: the residual stream alone carries f to
the answer; in the MLP a direction that the output projection ignores follows f, and another one
that it reads, and would turn into the answer, never moves. Mixing the two gives a line whose patch
works. All directions are rotated at random; other tokens bring noise; strengths are drawn alike for
both.
"""

from typing import Any

import numpy as np
import torch

D, D_MLP, N_NOISE = 16, 48, 6


def planted(kind: str, seed: int) -> tuple[Any, Any, torch.Tensor]:
    """A model's module, its pairs, and the direction ``[d_mlp]`` that would be claimed."""
    from transformers import GPT2Config, GPT2LMHeadModel

    rng = torch.Generator().manual_seed(seed)
    config = GPT2Config(
        vocab_size=2 + N_NOISE, n_positions=8, n_embd=D, n_layer=1, n_head=1, n_inner=D_MLP,
        activation_function="linear", bos_token_id=None, eos_token_id=None,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    stream = _centred(D, rng)  # orthonormal, orthogonal to ones: norms leave directions alone
    hidden = torch.linalg.qr(torch.randn(D_MLP, D_MLP, generator=rng)).Q
    feature, constant = stream[:, 0], stream[:, 1]
    size = float(0.6 + 0.8 * torch.rand(1, generator=rng))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        block = model.transformer.h[0]
        for norm in (block.ln_1, block.ln_2, model.transformer.ln_f):
            norm.weight.fill_(1.0)
        embed = model.transformer.wte.weight
        embed[:] = 4 * constant
        embed[0] += feature
        embed[1] -= feature
        embed[2:] += 0.7 * torch.randn(N_NOISE, 4, generator=rng) @ stream[:, 2:6].T
        direction = _plant(kind, block.mlp, feature, hidden, size, stream, rng)
        for head, sign in ((0, 1.0), (1, -1.0)):
            model.lm_head.weight[head] = 5 * sign * feature
    wobble = torch.randn(D_MLP, generator=rng)
    much = 0.2 + 0.6 * torch.rand(1, generator=rng)
    claimed = direction + much * wobble / wobble.norm()  # as one that was found, not known
    return model, _pairs(rng), claimed / claimed.norm()


def _plant(
    kind: str, mlp: Any, feature: torch.Tensor, hidden: torch.Tensor, size: float,
    stream: torch.Tensor, rng: torch.Generator,
) -> torch.Tensor:  # fmt: skip
    read, null = hidden[:, :D], hidden[:, D:]
    reads, writes = mlp.c_fc.weight, mlp.c_proj.weight  # [d, d_mlp], [d_mlp, d]
    # What the output projection makes of the read directions; the null ones it does not have.
    writes += read[:, 1:6] @ (0.3 * torch.randn(5, 4, generator=rng)) @ stream[:, 2:6].T
    writes += torch.outer(read[:, 0], size * feature)
    noise = 0.3 * torch.randn(4, 5, generator=rng)
    reads += stream[:, 2:6] @ noise @ read[:, 1:6].T
    reads += stream[:, 2:6] @ (0.3 * torch.randn(4, 5, generator=rng)) @ null[:, 1:6].T
    if kind == "used":
        reads += torch.outer(feature, 2.5 * read[:, 0])
        return read[:, 0]
    reads += torch.outer(feature, 1.9 * null[:, 0])
    return (read[:, 0] + null[:, 0]) / 2**0.5


def _centred(d: int, rng: torch.Generator) -> torch.Tensor:
    columns = torch.cat([torch.ones(d, 1), torch.randn(d, 7, generator=rng)], dim=1)
    return torch.linalg.qr(columns).Q[:, 1:]


def _pairs(rng: torch.Generator) -> Any:
    from lensbench import prompts

    n = 8
    noise = torch.randint(2, 2 + N_NOISE, (n, 2), generator=rng).tolist()
    ends = np.arange(n) % 2
    clean = [[*row, int(end)] for row, end in zip(noise, ends, strict=True)]
    corrupted = [[*row, int(1 - end)] for row, end in zip(noise, ends, strict=True)]
    return prompts.from_ids(clean, corrupted, ends.tolist(), (1 - ends).tolist(), task="planted")
