"""Edges by EAP as they are usually written: TransformerLens' inputs split by head, and autograd.

The other side is a TransformerLens bridge with ``use_split_qkv_input``, ``use_attn_result`` and
``use_hook_mlp_in`` on the same weights. Tolerance: 1e-3 of scores of up to about 10 nats, the gap
of two float32 backward passes.
"""

import numpy as np
import pytest
import torch

import lensbench
from lensbench import interventions, prompts


@pytest.fixture(scope="module")
def model():
    return lensbench.load_model("atlas-dense", certify=False)


def theirs(lens, pair, layers, heads):
    """Scores by edge name, of one pair of prompts."""
    for name in ("attn_result", "split_qkv_input", "hook_mlp_in"):
        getattr(lens, f"set_use_{name}")(True)
    read = [f"blocks.{n}.{h}" for n in range(layers) for h in (
        "hook_mlp_in", "attn.hook_result", "attn.hook_q_input", "attn.hook_k_input",
        "attn.hook_v_input", "hook_mlp_out", "hook_resid_post")]  # fmt: skip
    read.append("blocks.0.hook_resid_pre")

    def run(ids):
        kept = {}
        hooks = [(n, lambda x, hook, n=n: kept.__setitem__(n, x)) for n in read]  # noqa: ARG005
        logits = lens.run_with_hooks(torch.tensor(ids), fwd_hooks=hooks)
        return kept, logits[0, -1, pair.answer[0]] - logits[0, -1, pair.foil[0]]

    with torch.enable_grad():
        (clean, _), (bad, metric) = run(pair.clean_ids), run(pair.corrupted_ids)
        inputs = [n for n in bad if n.endswith(("_input", "mlp_in", "resid_post"))]
        slopes = dict(
            zip(inputs, torch.autograd.grad(metric, [bad[n] for n in inputs]), strict=True)
        )
    written = {"input": clean["blocks.0.hook_resid_pre"] - bad["blocks.0.hook_resid_pre"]}
    readers = {"logits": slopes[f"blocks.{layers - 1}.hook_resid_post"]}
    for n in range(layers):
        block, moved = f"blocks.{n}", {}
        for part in ("attn.hook_result", "hook_mlp_out"):
            moved[part] = clean[f"{block}.{part}"] - bad[f"{block}.{part}"]
        written |= {f"L{n}H{h}": moved["attn.hook_result"][:, :, h] for h in range(heads)}
        written[f"L{n} MLP"] = moved["hook_mlp_out"]
        readers |= {f"L{n}H{h}.{p}": slopes[f"{block}.attn.hook_{p}_input"][:, :, h]
                    for h in range(heads) for p in "qkv"}  # fmt: skip
        # 3.9's bridge shows the stream itself at hook_mlp_in: what passes by the MLP is taken off.
        past = slopes[f"{block}.hook_resid_post"]
        readers[f"L{n} MLP"] = slopes[f"{block}.hook_mlp_in"] - past
    return lambda edge: float(
        (written[edge.split(" -> ")[0]] * readers[edge.split(" -> ")[1]]).sum().detach()
    )


def test_edges_are_those_of_split_inputs_in_transformer_lens(model):
    from lensbench.models.transformer_lens import to_transformer_lens

    pair = prompts.recall(model, n=2).select([0])
    score = theirs(to_transformer_lens(model).root, pair, model.n_layers, model.card.n_heads)
    ours = interventions.attribute_edges(model, pair, method="eap")
    expected = np.array([score(name) for name in ours.names])
    assert np.abs(expected).max() > 1
    assert ours.values[:, 0] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("method", ["atp", "atp_qk", "ig"])
def test_other_back_ends_give_the_same_estimates(model, method):
    """TransformerLens and nnsight as back ends; tolerance as for their forward passes."""
    from lensbench.models.transformer_lens import to_transformer_lens

    pairs = prompts.recall(model, n=2)
    where = {"layers": [1, 4], "positions": ["query", "end"], "method": method, "steps": 2}
    native = interventions.attribute(model, pairs, ["attn.q", "attn.z", "mlp_out"], **where)
    other = to_transformer_lens(model)
    found = interventions.attribute(other, pairs, ["attn.q", "attn.z", "mlp_out"], **where)
    assert np.abs(native.values).max() > 1
    assert found.values == pytest.approx(native.values, abs=1e-3)
