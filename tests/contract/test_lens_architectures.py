"""Every lens ends at the model: the last layer's reading is the model's own logits.

Caps, scaled and tied embeddings, parallel blocks, post-norms, experts, state spaces, two stacks.
"""

from typing import Any

import numpy as np
import pytest
import torch

from lensbench import load_model
from lensbench.errors import ConfigError
from lensbench.probes.lenses.components import component_lens
from lensbench.probes.lenses.held import held_norm
from lensbench.probes.lenses.logit import UnembedReadout
from lensbench.probes.lenses.measures import METRICS
from lensbench.probes.lenses.sites import site_lens
from lensbench.sites import Site
from lensbench.tokens import Tokens
from tests.helpers import FAMILY_NAMES, random_ids, tiny
from tests.zoo import DECODERS, ENCODERS, EXPERTS, RECURRENT, SEQ2SEQ, WITHOUT_INTERFACE

ONE_STACK = [*FAMILY_NAMES, *EXPERTS, *DECODERS, *WITHOUT_INTERFACE, *RECURRENT]
# One of each kind: learned positions, parallel blocks, capped scores and logits with post-norms,
# post-norms alone, experts, sinks.
COMPONENTS = ("gpt2", "gpt_neox", "llama", "gemma2", "olmo2", "mixtral", "gpt_oss")


@pytest.mark.parametrize("kind", [*ONE_STACK, *ENCODERS, *SEQ2SEQ])
def test_the_state_after_the_last_block_unembeds_to_the_logits_bit_for_bit(kind: str) -> None:
    model = load_model(tiny(kind, seed=3), certify=False)
    two = kind in SEQ2SEQ
    ids: Any = Tokens(random_ids(2, 7), None, random_ids(2, 5)) if two else random_ids(2, 7)
    last = Site("resid_post", model.n_layers - 1, "decoder" if two else "")
    run = model.run(ids, capture=[last])
    read = UnembedReadout(model)
    assert torch.equal(read(run.acts[last], model.n_layers - 1), run.logits)
    if kind == "gemma2":  # the cap is there and matters
        assert float(run.logits.abs().max()) <= 3.0
    before = Site("resid_post", model.n_layers - 2, last.stack)
    other = model.run(ids, capture=[before]).acts[before]
    assert float((read(other, 0) - run.logits).abs().max()) > 1e-2, "control: the layer before"


@pytest.mark.parametrize("kind", ONE_STACK)
def test_the_lens_of_a_text_ends_at_the_model(kind: str) -> None:
    model = load_model(tiny(kind, seed=3), certify=False)
    ids = random_ids(1, 7, seed=1)
    lens = site_lens(model, ids, "stream", k=5)
    own = model.run(ids).logits[0].softmax(-1)
    best = own.topk(5, -1)
    assert lens.top_ids[-1].tolist() == best.indices.tolist()
    np.testing.assert_allclose(lens.top_prob[-1], best.values, atol=1e-6)
    assert (lens.values[list(METRICS).index("kl_to_final"), -1] == 0).all()
    assert (lens.values[list(METRICS).index("kl_to_final"), 0] > 1e-3).all(), "control: the first"


@pytest.mark.parametrize("kind", COMPONENTS)
def test_components_sum_to_the_model(kind: str) -> None:
    model = load_model(tiny(kind, seed=3), certify=False)
    lens = component_lens(model, random_ids(1, 7), k=3)
    assert lens.gap < 1e-5
    assert lens.places[0] == "embed"
    assert lens.places[-1] == "L2 MLP"
    assert len(lens.places) == 1 + 3 * (4 + 2)


@pytest.mark.parametrize("kind", [*COMPONENTS, "mamba", "opt"])
def test_what_is_added_sums_to_the_logits_with_the_norm_held(kind: str) -> None:
    model = load_model(tiny(kind, seed=3), certify=False)
    names = ("attn_out", "mlp_out", "ssm_out")
    added = [s for s in model.sites() if s.name in names]
    sites = [Site("resid_pre", 0), *added]
    run = model.run(random_ids(1, 7), capture=[*sites, Site("ln_final.scale")])
    held = held_norm(model, run.acts["ln_final.scale"][0])
    parts = [held.logits(run.acts[s][0], slice(0, 7)) for s in sites]
    total = torch.stack(parts).sum(0) + held.constant()
    cap = getattr(model.module.config, "final_logit_softcapping", None)
    total = total if cap is None else torch.tanh(total / cap) * cap
    torch.testing.assert_close(total, run.logits[0].float(), atol=2e-4, rtol=1e-4)
    less = total - parts[-1]  # control: one block's part is missing
    assert float((less - run.logits[0]).abs().max()) > 1e-2


def test_architectures_without_heads_or_next_tokens_are_refused() -> None:
    with pytest.raises(ConfigError):
        component_lens(load_model(tiny("mamba"), certify=False), random_ids(1, 5))
    with pytest.raises(ConfigError, match="next token"):
        component_lens(load_model(tiny("bert"), certify=False), random_ids(1, 5))
