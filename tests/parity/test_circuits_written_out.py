"""Circuits and attributions against the formula written out on the transformers module itself."""

import numpy as np
import pytest
import torch

from tests.helpers import random_ids, tiny

IDS = random_ids(3, 8, seed=1)
FAMILIES = (
    "gpt2", "gpt_neox", "gpt_neox_serial", "opt", "llama", "mistral", "qwen2", "qwen3", "gemma2",
    "gemma3_text", "phi3", "mixtral", "olmoe", "gpt_oss", "olmo2", "starcoder2", "phi",
)  # fmt: skip


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_shares_sum_to_the_models_own_logit_difference(kind) -> None:
    import lensbench
    from lensbench import Tokens
    from lensbench.probes import direct_logit_attribution

    model = lensbench.load_model(tiny(kind, seed=3), certify=False)
    mask = torch.ones_like(IDS, dtype=torch.bool)
    mask[1, :3] = False
    cap = getattr(model.module.config, "final_logit_softcapping", None)
    for position in (-1, 3):
        found = direct_logit_attribution(model, Tokens(IDS, mask), 5, [7, 8, 9], position=position)
        logits = model.run(Tokens(IDS, mask)).logits
        at = [position % 8, position % 8 if position < 0 else 3 + position, position % 8]
        here = logits[torch.arange(3), at]
        here = torch.atanh(here.double() / cap) * cap if cap else here.double()
        own = here[:, 5] - here[torch.arange(3), torch.tensor([7, 8, 9])]
        assert np.allclose(found.logit_diff, own, rtol=1e-3, atol=1e-3)
        size = np.abs(found.shares).sum(1)
        assert (np.abs(found.shares.sum(1) - own.numpy()) < 1e-3 * size + 1e-4).all()
        assert np.abs(found.shares[:, :-1]).min(0).max() > 1e-2  # control: they are something
        if kind in ("gemma2", "gemma3_text", "olmo2"):  # no biases: heads alone give attn_out
            rest = [i for i, n in enumerate(found.names) if n.endswith(" bias") and n[0] == "L"]
            assert np.abs(found.shares[:, rest]).max() < 1e-3 * size.max()
        heads = [i for i, n in enumerate(found.names) if "H" in n]
        without = np.delete(found.shares, heads, 1).sum(1)
        assert (np.abs(without - own.numpy()) > 1e-3 * size).any()  # control: heads are needed


def test_shares_of_heads_are_those_of_gpt2_written_out() -> None:
    import lensbench
    from lensbench.probes import direct_logit_attribution

    model = lensbench.load_model(tiny("gpt2", seed=3), certify=False)
    found = direct_logit_attribution(model, IDS, 5, 7)
    gpt, width = model.module.transformer, 8
    last = "ln_final.scale"
    acts = model.run(IDS, capture=[*(f"blocks.{i}.attn.z" for i in range(3)), last]).acts
    towards = (gpt.wte.weight[5] - gpt.wte.weight[7]) * gpt.ln_f.weight
    for layer in range(3):
        attn = gpt.h[layer].attn
        # What each head adds whatever it attends to: from value biases and from the norm's bias.
        bias = attn.c_attn.bias[64:] + gpt.h[layer].ln_1.bias @ attn.c_attn.weight[:, 64:]
        bias = bias.view(4, width)
        for head in range(4):
            z = acts[f"blocks.{layer}.attn.z"][:, -1, head] - bias[head]
            out = z @ attn.c_proj.weight[head * width : (head + 1) * width]
            share = ((out - out.mean(-1, keepdim=True)) @ towards) / acts[last][:, -1, 0]
            got = found.shares[:, found.names.index(f"L{layer}H{head}")]
            assert np.allclose(got, share.detach().numpy(), atol=1e-4)
    other = found.shares[:, found.names.index("L0H0")]
    assert not np.allclose(found.shares[:, found.names.index("L0H1")], other, atol=1e-2)  # control


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gpt_neox", "gemma2"])
def test_circuits_are_products_of_the_modules_own_weights(kind) -> None:
    import lensbench
    from lensbench.probes import full_ov_circuit, ov_circuit, qk_circuit

    model = lensbench.load_model(tiny(kind, seed=3), certify=False)
    w_q, w_k, w_v, w_o = own_weights(kind, model.module, layer=1, head=2)
    torch.testing.assert_close(ov_circuit(model, 1, 2, fold=False).AB, w_v @ w_o)
    torch.testing.assert_close(qk_circuit(model, 1, 2, fold=False).AB, w_q @ w_k.T)
    other = ov_circuit(model, 1, 1, fold=False).AB
    assert float((other - w_v @ w_o).abs().max()) > 1e-2  # control: another head
    if kind == "llama":  # folded: gains are in the weights, and the full circuit has both ends
        gain = model.module.model.layers[1].input_layernorm.weight[:, None]
        torch.testing.assert_close(ov_circuit(model, 1, 2).AB, gain * (w_v @ w_o))
        table = model.module.model.embed_tokens.weight
        out = (model.module.lm_head.weight * model.module.model.norm.weight).T
        whole = table @ (gain * (w_v @ w_o)) @ out
        got = full_ov_circuit(model, 1, 2).AB
        torch.testing.assert_close(got, whole, rtol=1e-3, atol=1e-3)
    if kind == "gemma2":  # what it looks up is scaled
        from lensbench.models.transformer_lens.convert import lens_twin
        from lensbench.probes.circuits.weights import token_embedding

        scaled = model.module.model.embed_tokens.weight * 32**0.5
        table = token_embedding(lens_twin(model, fold=False))
        torch.testing.assert_close(table, scaled, rtol=1e-3, atol=1e-3)


def own_weights(kind: str, module, *, layer: int, head: int):
    """W_Q, W_K, W_V ``[d_model, d_head]`` and W_O ``[d_head, d_model]`` read off the module."""
    if kind == "gpt2":
        attn, part = module.transformer.h[layer].attn, slice(8 * head, 8 * head + 8)
        q, k, v = attn.c_attn.weight.split(32, dim=1)
        return (*(w[:, part].detach() for w in (q, k, v)), attn.c_proj.weight[part].detach())
    if kind == "gpt_neox":  # each head's q, k and v lie together
        attn = module.gpt_neox.layers[layer].attention
        q, k, v = attn.query_key_value.weight.view(4, 3, 8, 32)[head]
        rows = (q.T.detach(), k.T.detach(), v.T.detach())
        return (*rows, attn.dense.weight[:, 8 * head : 8 * head + 8].T.detach())
    attn, n = module.model.layers[layer].self_attn, 12 if kind == "gemma2" else 8
    query, key = (slice(n * h, n * h + n) for h in (head, head // 2))  # two heads share a key
    weights = ((attn.q_proj, query), (attn.k_proj, key), (attn.v_proj, key))
    rows = tuple(p.weight[part].T.detach() for p, part in weights)
    return (*rows, attn.o_proj.weight[:, query].T.detach())


def test_composition_scores_are_norms_of_products_written_out() -> None:
    import lensbench
    from lensbench.probes import composition_scores

    model = lensbench.load_model(tiny("llama", seed=3), certify=False)
    found = composition_scores(model, n_random=20)
    gains = [block.input_layernorm.weight[:, None].detach() for block in model.module.model.layers]
    one, two = (own_weights("llama", model.module, layer=i, head=h) for i, h in ((0, 1), (2, 3)))
    ov = (gains[0] * one[2]) @ one[3]
    q, k, v = (gains[2] * w for w in two[:3])
    for mode, right in enumerate((q @ k.T, k @ q.T, v @ two[3])):
        score = float((ov @ right).norm() / ov.norm() / right.norm())
        assert found.scores[mode, 0, 1, 2, 3] == pytest.approx(score, rel=1e-3)
        assert abs(found.scores[mode, 0, 0, 2, 3] - score) > 1e-3  # control: another head
    assert np.isnan(found.scores[:, 2, :, 0]).all()  # nothing composes backwards


def test_head_scores_use_the_targets_of_transformer_lens() -> None:
    from transformer_lens.head_detector import get_induction_head_detection_pattern

    import lensbench
    from lensbench.probes import head_scores

    model = lensbench.load_model(tiny("llama", seed=3), certify=False)
    ids = torch.tensor([[5, 9, 4, 5, 9, 4, 5, 8]])
    found = head_scores(model, ids)
    pattern = model.run(ids, capture="blocks.1.attn.pattern").acts["blocks.1.attn.pattern"][0, 2]
    targets = get_induction_head_detection_pattern(ids)
    by_hand = [4, 5, 6]  # the second 5, 9, 4 and the third 5: their followers so far
    assert targets[3, 1] == 1
    has = targets.any(1)
    assert {3, 4, 5, 6} == set(has.nonzero()[:, 0].tolist())
    mean = float((pattern * targets).sum(1)[has].mean())
    assert found.scores[2, 1, 2] == pytest.approx(mean, rel=1e-4)
    assert by_hand
    previous = float(pattern.diagonal(-1).mean())
    assert found.scores[0, 1, 2] == pytest.approx(previous, rel=1e-4)


def test_the_twin_is_kept_until_the_weights_change() -> None:
    import lensbench
    from lensbench.models.transformer_lens.convert import lens_twin
    from lensbench.probes import ov_circuit

    model = lensbench.load_model(tiny("llama", seed=3), certify=False)
    before = ov_circuit(model, 0, 0).AB
    assert lens_twin(model) is lens_twin(model)
    with torch.no_grad():
        model.module.model.layers[0].self_attn.v_proj.weight *= 2
    torch.testing.assert_close(ov_circuit(model, 0, 0).AB, 2 * before)


def test_tools_take_a_hooked_transformer_too() -> None:
    import lensbench
    from lensbench.probes import composition_scores, direct_logit_attribution, head_scores
    from tests.parity.test_transformer_lens_bugs import hooked_gpt2

    module = tiny("gpt2", seed=3)
    native = lensbench.load_model(module, certify=False)
    for fold in (False, True):
        model = lensbench.load_model(hooked_gpt2(module, fold=fold))
        ours = direct_logit_attribution(model, IDS, 5, 7)
        theirs = direct_logit_attribution(native, IDS, 5, 7)
        assert ours.names == theirs.names
        assert np.allclose(ours.shares, theirs.shares, atol=1e-3)
        a, b = (composition_scores(m, n_random=5).scores for m in (model, native))
        assert np.allclose(a, b, atol=1e-3, equal_nan=True)
        a, b = (head_scores(m, rows=3, length=6).scores for m in (model, native))
        assert np.allclose(a, b, atol=1e-4)
