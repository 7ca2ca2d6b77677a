"""The lens of single components: a planted head says the answer, and shares are those of DLA."""

import numpy as np
import pytest
import torch

from tests.ground_truth.test_circuits import VOCAB, planted, repeated
from tests.helpers import random_ids, tiny


def test_the_planted_induction_head_says_the_answer_by_itself_and_no_other_head_does() -> None:
    from lensbench.probes.lenses.components import component_lens

    tokens = repeated(1)[:, : VOCAB + 3]
    answer = f"#{int(tokens[0, 3])}"
    lens = component_lens(planted(), tokens, k=1)
    says = {p: lens.words[lens.top[i, -1, 0]] for i, p in enumerate(lens.places)}
    assert says["L1H1"] == answer
    sure = {p: float(lens.top_prob[i, -1, 0]) for i, p in enumerate(lens.places)}
    assert sure["L1H1"] > 0.9
    assert sure["L1H0"] == pytest.approx(1 / VOCAB, abs=1e-4), "a head without weights is silent"
    broken = component_lens(planted(broken=True), tokens, k=1)  # control
    row = broken.places.index("L1H1")
    assert broken.words[broken.top[row, -1, 0]] != answer or broken.top_prob[row, -1, 0] < 0.5


@pytest.mark.parametrize("kind", ["llama", "gpt_neox", "gemma2"])
def test_differences_of_a_components_logits_are_its_direct_attribution(kind: str) -> None:
    import lensbench
    from lensbench.probes import direct_logit_attribution
    from lensbench.probes.lenses.components import component_lens

    model = lensbench.load_model(tiny(kind), certify=False)
    ids, right, wrong = random_ids(1, 7), 11, 40
    lens = component_lens(model, ids, k=61)
    logp = np.empty((len(lens.places), 61))
    at = lens.top_ids[:, 4]
    np.put_along_axis(logp, at, np.log(lens.top_prob[:, 4].astype(np.float64)), 1)
    found = direct_logit_attribution(model, ids, right, wrong, position=4)
    assert found.names[:-1] == lens.places
    np.testing.assert_allclose(logp[:, right] - logp[:, wrong], found.shares[0, :-1], atol=2e-4)
    other = direct_logit_attribution(model, ids, right, wrong, position=3)  # control: elsewhere
    assert np.abs(logp[:, right] - logp[:, wrong] - other.shares[0, :-1]).max() > 0.01


def test_the_norm_is_held_at_the_full_state_and_not_taken_of_the_component() -> None:
    import lensbench
    from lensbench.probes.lenses.components import component_lens

    model = lensbench.load_model(tiny("llama"), certify=False)
    ids = random_ids(1, 5)
    lens = component_lens(model, ids, k=1)
    state = model.run(ids, capture=["blocks.0.resid_pre"], logits="none").acts["blocks.0.resid_pre"]
    own = model.unembed(state)[0].softmax(-1).amax(-1)  # the embedding normed by itself
    assert float(np.abs(lens.top_prob[0, :, 0] - own.numpy()).max()) > 0.01
    assert torch.isfinite(torch.from_numpy(lens.top_prob)).all()


@pytest.mark.parametrize("kind", ["gemma2", "olmo2"])
def test_a_head_in_front_of_a_norm_is_read_as_its_share_of_what_the_norm_lets_through(
    kind: str,
) -> None:
    """Written out with the modules' own norms: held, each is a factor per dimension."""
    import lensbench
    from lensbench.probes.lenses.components import component_lens

    module, layer = tiny(kind), 1
    model, ids = lensbench.load_model(module, certify=False), random_ids(1, 6)
    lens = component_lens(model, ids, k=61)
    sites = [f"blocks.{layer}.attn.z", f"blocks.{model.n_layers - 1}.resid_post"]
    acts = model.run(ids, capture=sites, logits="none").acts
    z, last = (acts[site][0] for site in sites)
    block = module.model.layers[layer]
    with torch.no_grad():
        mixed = block.self_attn.o_proj.weight.unflatten(1, z.shape[1:])
        heads = torch.einsum("the,dhe->htd", z, mixed)
        raw = heads.sum(0)
        through = block.post_attention_layernorm(raw) / raw
        final = module.model.norm(last) / last
        want = (heads * through * final @ module.lm_head.weight.T).softmax(-1).numpy()
        bare = (heads * final @ module.lm_head.weight.T).softmax(-1).numpy()
    at = lens.places.index(f"L{layer}H0")
    assert lens.places[at + len(want) - 1] == f"L{layer}H{len(want) - 1}"
    found = np.empty_like(want)
    rows = slice(at, at + len(want))
    np.put_along_axis(found, lens.top_ids[rows].astype(np.int64), lens.top_prob[rows], -1)
    np.testing.assert_allclose(found, want, atol=1e-4)
    assert np.abs(found - bare).max() > 0.01  # control: without the norm behind the heads
