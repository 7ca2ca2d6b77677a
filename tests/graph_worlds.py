"""Models and dictionaries whose graph of latents is known, or can be worked out from weights."""

import numpy as np
import torch

from tests.attribution_worlds import gpt2, opened, pole

D = 32
CAUSE, BYSTANDER, EFFECT = 0, 1, 2
"""Latent j of layer 0, another one there, and latent i of layer 1 (numbers in their dictionary)."""


def random_model(*, layers: int = 3, dtype: torch.dtype = torch.float64):
    """GPT-2 with every weight drawn, norms too, so that nothing is 0 or 1 by luck."""
    import transformers

    config = transformers.GPT2Config(
        vocab_size=13, n_positions=16, n_embd=16, n_layer=layers, n_head=4, n_inner=24,
        bos_token_id=None, eos_token_id=None, tie_word_embeddings=False,
    )  # fmt: skip
    module = transformers.GPT2LMHeadModel(config)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            norm = "ln_" in name and name.endswith("weight")
            parameter.copy_(torch.randn(parameter.shape, generator=rng) * 0.3 + float(norm))
    return opened(module.to(dtype))


def transcoder(layer: int, *, d: int = 16, n: int = 20, dtype=torch.float64, skip: bool = False):
    """A ReLU transcoder of drawn weights: far from what the MLP does, so errors are large."""
    from lensbench.saes.transcoder import Transcoder

    rng = torch.Generator().manual_seed(100 + layer)
    draw = lambda *shape: (torch.randn(*shape, generator=rng) * 0.4).to(dtype)  # noqa: E731
    return Transcoder(
        W_enc=draw(d, n), b_enc=draw(n), W_dec=draw(n, d), b_dec=draw(d), activation="relu",
        W_skip=draw(d, d) if skip else None,
    )  # fmt: skip


def autoencoder(site: str, *, d: int = 16, n: int = 20, dtype=torch.float64):
    """A TopK autoencoder of drawn weights."""
    from lensbench.saes.sae import SAE

    rng = torch.Generator().manual_seed(sum(map(ord, site)))
    draw = lambda *shape: (torch.randn(*shape, generator=rng) * 0.4).to(dtype)  # noqa: E731
    return SAE(W_enc=draw(d, n), b_enc=draw(n), W_dec=draw(n, d), b_dec=draw(d),
               activation="topk", k=5, metadata={"site": site})  # fmt: skip


def planted(*, shuffled: bool = False):
    """Two layers in which one latent causes another, by hand, and the transcoders that say so.

    Token 1 has dimension 0. MLP 0 turns it into dimension 1 (the cause) and token 1's second
    mark, dimension 2, into dimension 3 (the bystander); MLP 1 turns dimension 1 into dimension 4
    (the effect), which the unembedding reads for token 5. Norms and attention are linear and off.
    With ``shuffled`` the decoder rows of layer 0 are given to the latent before, so that the cause
    writes what the bystander should, and nobody active what the cause should.
    """
    from lensbench.saes.transcoder import Transcoder

    module = gpt2(2, "relu", d=D)
    with torch.no_grad():
        base = module.transformer
        base.wte.weight[1] = pole(D, 0) + pole(D, 2)
        base.wte.weight[2] = pole(D, 2)
        for layer, ways in enumerate([[(0, 1), (2, 3)], [(1, 4)]]):
            mlp = base.h[layer].mlp
            for neuron, (source, target) in enumerate(ways):
                mlp.c_fc.weight[:, neuron] = pole(D, source) / 2
                mlp.c_proj.weight[neuron] = pole(D, target)
        module.lm_head.weight[5] = pole(D, 4)
        module.lm_head.weight[6] = -pole(D, 4)
    model = opened(module)
    first, second = (_as_neurons(base.h[layer].mlp, Transcoder) for layer in (0, 1))
    if shuffled:
        from dataclasses import replace

        first = replace(first, W_dec=first.W_dec.roll(-1, 0))
    return model, {0: first, 1: second}


def _as_neurons(mlp, transcoder_of):
    """Neurons 0 and 1 as latents 0 and 1 (layer 0), or neuron 0 as latent EFFECT (layer 1)."""
    enc, dec = mlp.c_fc.weight.detach().clone(), mlp.c_proj.weight.detach().clone()
    used = [n for n in range(D) if bool(dec[n].any())]
    places = [CAUSE, BYSTANDER] if len(used) == 2 else [EFFECT]
    W_enc, W_dec = torch.zeros(D, 3), torch.zeros(3, D)
    W_enc[:, places], W_dec[places] = enc[:, used], dec[used]
    return transcoder_of(W_enc=W_enc, b_enc=torch.zeros(3), W_dec=W_dec, b_dec=torch.zeros(D),
                         activation="relu")  # fmt: skip


def small_graph() -> np.ndarray:
    """Twelve nodes whose influences on the last one are simple fractions (rows are targets)."""
    adjacency = np.zeros((12, 12))
    for target, sources in {11: (1, 3, 6, 8), 3: (0, 1, 6), 1: (9, 10), 0: (9,)}.items():
        adjacency[target, list(sources)] = 10.0
    return adjacency
