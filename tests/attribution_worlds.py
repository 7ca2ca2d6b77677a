"""Models whose attribution follows from their weights: linear, saturating, cancelling.

GPT-2's and Llama's norms are made linear by an epsilon so large that it alone decides what they
divide by: with weight sqrt(eps) a LayerNorm only takes the mean off, an RMSNorm does nothing.
"""

import torch

EPS = 1e12


def gpt2(n_layer: int, activation: str = "linear", *, d: int = 32, heads: int = 1, vocab: int = 8):
    """All weights zero, norms linear; the module, to be filled."""
    import transformers

    config = transformers.GPT2Config(
        vocab_size=vocab, n_positions=8, n_embd=d, n_layer=n_layer, n_head=heads, n_inner=d,
        activation_function=activation, layer_norm_epsilon=EPS, bos_token_id=None,
        eos_token_id=None, tie_word_embeddings=False,
    )  # fmt: skip
    module = transformers.GPT2LMHeadModel(config)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            norm = "ln_" in name and name.endswith("weight")
            parameter.fill_(EPS**0.5 if norm else 0.0)
    return module


def randomised(module, *, seed: int = 0, skip: tuple[str, ...] = ()):
    """Every weight that is no norm's drawn at random."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "ln_" not in name and "norm" not in name and not any(s in name for s in skip):
                parameter.copy_(torch.randn(parameter.shape, generator=rng) * 0.15)
    return module


def opened(module):
    import lensbench

    return lensbench.load_model(module, certify=False)


def linear(n_layer: int = 3):
    """Logits linear in every activation: even attention, linear neurons, linear norms."""
    module = randomised(gpt2(n_layer, heads=2))
    with torch.no_grad():
        for block in module.transformer.h:
            block.attn.c_attn.weight[:, :64] = 0  # queries and keys
            block.attn.c_attn.bias[:64] = 0
    return opened(module)


def linear_but_attention(*, kv_heads: int = 2):
    """One layer of grouped-query attention; whatever follows the pattern is linear."""
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=8, hidden_size=32, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=kv_heads, intermediate_size=8, rms_norm_eps=EPS,
        max_position_embeddings=8, bos_token_id=None, eos_token_id=None, tie_word_embeddings=False,
    )  # fmt: skip
    module = randomised(transformers.LlamaForCausalLM(config), seed=1)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "norm" in name:
                parameter.fill_(EPS**0.5)
            if "embed" in name:
                parameter.mul_(16)  # patterns that are not even
        module.model.layers[0].mlp.down_proj.weight.zero_()
    return opened(module)


def pole(size: int, at: int) -> torch.Tensor:
    """1 at a dimension and -1 half the width further on: a vector that no LayerNorm moves."""
    x = torch.zeros(size)
    x[at], x[at + size // 2] = 1.0, -1.0
    return x


def saturating():
    """Scores (12, 0, 0) after token 2, (0, 12, 0) after token 3; logit 0 is what key 0 gets.

    m = p_0 goes from 1 to 0, and its slope at the start is -36 exp(-12).
    """
    module = gpt2(1, d=32)
    with torch.no_grad():
        for token in range(4):
            module.transformer.wte.weight[token] = pole(32, token)
        attention = module.transformer.h[0].attn
        scale = 12 * 32**0.5
        attention.c_attn.weight[2, 0] = attention.c_attn.weight[3, 1] = scale  # queries
        attention.c_attn.weight[0, 32] = attention.c_attn.weight[1, 33] = 1.0  # keys
        attention.c_attn.weight[0, 64] = 1.0  # value of token 0
        attention.c_proj.weight[0] = pole(32, 8)
        module.lm_head.weight[0, 8] = 1.0
    return opened(module)


def cancelling():
    """m = 2 a - ((a + 1)^2 - 1) = -a^2, where a is what layer 0 writes: 0 after 1, 1 after 2."""
    module = gpt2(2, "relu2", d=32)
    with torch.no_grad():
        for token in range(4):
            module.transformer.wte.weight[token] = pole(32, token)
        first, second = (block.mlp for block in module.transformer.h)
        first.c_fc.weight[2, 0] = 1.0
        first.c_proj.weight[0] = pole(32, 8)
        second.c_fc.weight[8, 0] = second.c_fc.bias[0] = 1.0
        second.c_proj.weight[0] = -pole(32, 9)
        second.c_proj.bias.copy_(pole(32, 9))
        module.lm_head.weight[0, 8], module.lm_head.weight[0, 9] = 2.0, 1.0
    return opened(module)


def or_gate():
    """Token 1 after [2, x0, x1, 3] where x0 or x1 is 1, else token 0; sure by 20 nats."""
    module = gpt2(1, "relu", d=32)
    sure = 40.0
    with torch.no_grad():
        for token in range(4):
            module.transformer.wte.weight[token] = pole(32, token)
        block = module.transformer.h[0]
        block.attn.c_attn.weight[1, 64] = 1.0  # even attention counts the ones, over 4 tokens
        block.attn.c_proj.weight[0] = pole(32, 8)
        block.mlp.c_fc.weight[8, :2] = 4.0
        block.mlp.c_fc.bias[1] = -1.0
        block.mlp.c_proj.weight[0], block.mlp.c_proj.weight[1] = pole(32, 9), -pole(32, 9)
        block.mlp.c_proj.bias.copy_(pole(32, 10) - 0.5 * pole(32, 9))
        module.lm_head.weight[1, 9] = sure
        module.lm_head.weight[2:, 10] = -100.0  # no answers
    return opened(module)
