"""Sweeps give the numbers of TransformerLens' patching helpers and of nnsight's traces.

Weights are shared; tolerance: 1e-4 of logit differences of about 13, which is the gap of the two
libraries' float32 forward passes on this model.
"""

import numpy as np
import pytest
import torch

import lensbench
from lensbench import interventions, prompts


@pytest.fixture(scope="module")
def model():
    return lensbench.load_model("atlas-dense", certify=False)


@pytest.fixture(scope="module")
def pair(model):
    return prompts.recall(model, n=2).select([0])


@pytest.fixture(scope="module")
def lens(model):
    from lensbench.models.transformer_lens import to_transformer_lens

    return to_transformer_lens(model).root


@pytest.mark.parametrize(
    ("site", "helper", "options"),
    [
        ("resid_pre", "get_act_patch_resid_pre", {}),
        ("attn_out", "get_act_patch_attn_out", {}),
        ("mlp_out", "get_act_patch_mlp_out", {}),
        ("attn.z", "get_act_patch_attn_head_out_all_pos", {"positions": "together"}),
        ("attn.v", "get_act_patch_attn_head_v_all_pos", {"positions": "together"}),
        ("attn.pattern", "get_act_patch_attn_head_pattern_all_pos", {"positions": "together"}),
    ],
)
def test_sweeps_equal_transformer_lens(model, pair, lens, site, helper, options):
    from transformer_lens import patching

    _, cache = lens.run_with_cache(torch.tensor(pair.clean_ids))
    corrupted = torch.tensor(pair.corrupted_ids)

    def metric(logits):
        return logits[0, -1, pair.answer[0]] - logits[0, -1, pair.foil[0]]

    theirs = getattr(patching, helper)(lens, corrupted, cache, metric).numpy()
    ours = interventions.patch_sweep(model, pair, site, random_patches=0, **options)
    assert ours.values[:, 0].reshape(theirs.shape) == pytest.approx(theirs, abs=1e-4)
    # what is compared moves: a patch of nothing would give one number everywhere
    assert np.ptp(theirs) > (0.01 if site == "attn.pattern" else 0.5)


def test_resid_mid_is_both_the_stream_and_what_the_mlp_reads(model, pair, lens):
    """TransformerLens 3.9's bridge hands what a hook returns there to the MLP alone.

    What flows on beside the MLP stays unedited, so its ``get_act_patch_resid_mid`` differs from
    ours. A hook that writes in place reaches both, and gives our number.
    """
    _, cache = lens.run_with_cache(torch.tensor(pair.clean_ids))
    at, name = pair.position("value")[0], "blocks.0.hook_resid_mid"

    def in_place(x, hook):
        del hook
        x[:, at] = cache[name][:, at]
        return x

    def anew(x, hook):
        return in_place(x.clone(), hook)

    corrupted = torch.tensor(pair.corrupted_ids)
    with torch.no_grad():
        both, one = (
            float(pair.logit_diff(lens.run_with_hooks(corrupted, fwd_hooks=[(name, hook)])))
            for hook in (in_place, anew)
        )
    ours = interventions.patch_sweep(
        model, pair, "resid_mid", layers=[0], positions=["value"], random_patches=0
    )
    assert ours.values[0, 0] == pytest.approx(both, abs=1e-4)
    assert abs(one - both) > 0.1


def test_a_sweep_equals_nnsight(model, pair):
    import nnsight

    wrapped = nnsight.NNsight(model.module)
    clean, corrupted = torch.tensor(pair.clean_ids), torch.tensor(pair.corrupted_ids)
    ours = interventions.patch_sweep(
        model, pair, "resid_pre", layers=[1, 4], positions=["value", "end"], random_patches=0
    )
    for i, site in enumerate(ours.site):
        layer, p = int(ours.layer[i]), pair.position(ours.position[i])[0]
        value = model.run(clean, capture=site).acts[site][:, p]
        with wrapped.trace(corrupted, use_cache=False):
            wrapped.model.layers[layer].input[:, p] = value
            last = wrapped.output.logits[0, -1].save()
        theirs = float((last[pair.answer[0]] - last[pair.foil[0]]).detach())
        assert ours.values[i, 0] == pytest.approx(theirs, abs=1e-4)
