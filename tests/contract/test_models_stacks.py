"""Encoder and decoder behind the same waist: edits in either, what each attends to, decoding."""

import copy
from typing import Any

import pytest
import torch

from lensbench import load_model
from lensbench.errors import ConfigError, UnknownSiteError
from lensbench.models.base import Past
from lensbench.plan import Add, Plan, Replace, Scale, Set, Zero, edit, skip_layers
from lensbench.sites import Site
from lensbench.tokens import Tokens
from tests.helpers import random_ids, tiny
from tests.zoo import SEQ2SEQ

IDS, DECODER_IDS = random_ids(2, 7, seed=1), random_ids(2, 5, seed=2)
BOTH = Tokens(IDS, None, DECODER_IDS)
STACKS = (("encoder", 2), ("decoder", 3))


@pytest.fixture(scope="module", params=SEQ2SEQ)
def model(request: pytest.FixtureRequest) -> Any:
    return load_model(tiny(request.param, seed=3), certify=False)


def moved(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


def test_certificate_passes(model: Any) -> None:
    certificate = model.certify(fresh=True)
    assert certificate.passed, certificate.to_frame().to_string()
    assert len(certificate.checks) == 13 - model.layout.architecture.right_padded


def test_an_empty_plan_is_the_module_to_the_bit(model: Any) -> None:
    with torch.no_grad():
        own = model.module(input_ids=IDS, decoder_input_ids=DECODER_IDS, use_cache=False).logits
    assert torch.equal(model.run(BOTH, Plan()).logits, own)


def test_writing_what_is_there_changes_nothing(model: Any) -> None:
    clean = model.run(BOTH, capture=model.sites())
    for site in model.sites():
        if site.name != "logits":
            same = model.run(BOTH, edit(site, Replace(clean.acts[site]))).logits
            torch.testing.assert_close(same, clean.logits, rtol=0, atol=2e-3, msg=str(site))
            width = clean.acts[site].shape[-1]
            assert model.width(site) in (0, width), str(site)


def test_a_patch_of_the_encoder_reproduces_the_other_text(model: Any) -> None:
    other = Tokens(random_ids(2, 7, seed=9), None, DECODER_IDS)
    site = "encoder.blocks.1.resid_post"
    source = model.run(other, capture=[site])
    patched = model.run(BOTH, edit(site, Replace(source.acts[site])))
    torch.testing.assert_close(patched.logits, source.logits, rtol=0, atol=1e-4)
    assert moved(model.run(BOTH).logits, source.logits) > 1e-2  # control: unpatched


def test_the_sums_between_the_branches_add_up(model: Any) -> None:
    """Pre-norm: resid_mid = resid_pre + attn_out and so on; post-norm: the norm of that sum."""
    at = "decoder.blocks.1."
    names = ["resid_pre", "attn_out", "resid_mid", "xattn_out", "resid_xmid", "mlp_out"]
    acts = model.run(BOTH, capture=[at + n for n in [*names, "resid_post"]]).acts
    pre, attn, mid, cross, xmid, mlp, post = (acts[at + n] for n in [*names, "resid_post"])
    block = model.module.get_submodule("decoder" if "t5" in model.layout.kind else "model.decoder")
    block = (block.block if "t5" in model.layout.kind else block.layers)[1]
    after = [lambda x: x] * 3
    if model.layout.architecture.stacks["decoder"].final_norm is None:
        after = [block.self_attn_layer_norm, block.encoder_attn_layer_norm, block.final_layer_norm]
    for base, added, norm, total in zip(
        (pre, mid, xmid), (attn, cross, mlp), after, (mid, xmid, post), strict=True
    ):
        torch.testing.assert_close(norm(base + added).detach(), total, rtol=0, atol=1e-4)
        assert moved(base, total) > 1e-2  # control: something is added


def test_cross_attention_counts_keys_by_the_encoder_and_queries_by_the_decoder(model: Any) -> None:
    """A key hidden from one text position: its column of the pattern changes most, by hand."""
    name = "decoder.blocks.1.xattn."
    clean = model.run(BOTH, capture=[name + n for n in ("q", "k", "v", "pattern", "z")]).acts
    assert clean[name + "k"].shape[1] == IDS.shape[1]
    assert clean[name + "q"].shape[1] == DECODER_IDS.shape[1]
    assert clean[name + "pattern"].shape[2:] == (5, 7)
    plan = edit(name + "v", Zero(), positions=[6], heads=[2])
    z = model.run(BOTH, plan, [name + "z"]).acts[name + "z"]
    weight = clean[name + "pattern"][:, 2, :, 6, None]
    lost = weight * clean[name + "v"][:, 6:7, 2]
    torch.testing.assert_close(z[:, :, 2], clean[name + "z"][:, :, 2] - lost, rtol=0, atol=1e-5)
    torch.testing.assert_close(z[:, :, 1], clean[name + "z"][:, :, 1], rtol=0, atol=1e-5)
    with pytest.raises(ConfigError, match="position 6 does not exist in row 0"):
        model.run(BOTH, edit(name + "q", Zero(), positions=[6]))


def test_encoder_sites_stop_before_the_decoder(model: Any) -> None:
    out = model.run(IDS, capture=["encoder.blocks.0.resid_post"], logits="none")
    assert out.layers_run == 2  # one encoder block, two rows
    assert model.run(BOTH).layers_run == 2 * (2 + 3)
    assert model.run(BOTH, skip_layers([1])).layers_run == 2 * (2 + 2)


def test_run_many_equals_separate_runs(model: Any) -> None:
    one = Tokens(IDS[:1], None, DECODER_IDS[:1])
    plans = [
        edit("encoder.blocks.1.attn.z", Scale(2.0), heads=[1], positions=[3]),
        edit("decoder.blocks.0.xattn.k", Zero(), positions=[0, 6]),
        edit("decoder.blocks.2.resid_xmid", Add(0.5), positions=[-1]),
        skip_layers([0]),
        Plan(stop=2),
    ]
    keep = ["encoder.blocks.1.resid_post", "decoder.blocks.1.resid_pre"]
    many = model.run_many(one, plans, keep)
    for i, plan in enumerate(plans):
        alone = model.run(one, plan, keep)
        torch.testing.assert_close(many.logits[i], alone.logits[0], rtol=0, atol=2e-4)
        for name in keep:
            torch.testing.assert_close(many.acts[name][i], alone.acts[name][0], rtol=0, atol=2e-4)


def test_a_skipped_block_is_one_that_adds_nothing() -> None:
    """T5's block 0 makes the position bias of all others: skipping it must not take that away."""
    for kind in ("t5", "t5_plain", "mbart"):
        module = tiny(kind, seed=3)
        silent = copy.deepcopy(module)
        block = (silent.decoder.block if "t5" in kind else silent.model.decoder.layers)[0]
        with torch.no_grad():
            for name, weight in block.named_parameters():
                if any(f"{n}." in name for n in ("o", "wo", "out_proj", "fc2")):
                    weight.zero_()
        model, expected = (load_model(m, certify=False) for m in (module, silent))
        torch.testing.assert_close(
            model.run(BOTH, skip_layers([0])).logits, expected.run(BOTH).logits, rtol=0, atol=1e-4
        )
        assert moved(model.run(BOTH).logits, expected.run(BOTH).logits) > 1e-2  # control


def test_the_decoder_may_read_an_earlier_encoder_layer(model: Any) -> None:
    """DecoderLens: what the decoder makes of encoder layer 0, edited or really shorter."""
    early = model.run(IDS, capture=["encoder.blocks.0.resid_post"], logits="none").acts
    plan = edit("encoder.blocks.1.resid_post", Replace(early["encoder.blocks.0.resid_post"]))
    shorter = copy.deepcopy(model.module)
    t5 = "t5" in model.layout.kind
    blocks = shorter.encoder.block if t5 else shorter.model.encoder.layers
    del blocks[1]
    with torch.no_grad():
        expected = shorter(input_ids=IDS, decoder_input_ids=DECODER_IDS).logits
    torch.testing.assert_close(model.run(BOTH, plan).logits, expected, rtol=0, atol=1e-4)


def test_generation_is_transformers_greedy_generation(model: Any) -> None:
    ours = model.generate(IDS, max_new_tokens=6, stop_ids=[])
    module = copy.deepcopy(model.module)
    module.generation_config.eos_token_id = None
    module.generation_config.forced_eos_token_id = None
    module.generation_config.forced_bos_token_id = None
    # Its cache breaks where the encoder has fewer blocks than the decoder (transformers 5.23).
    options = {"do_sample": False, "num_beams": 1, "use_cache": False}
    theirs = module.generate(IDS, max_new_tokens=6, **options)
    assert ours == theirs[:, 1:].tolist()


def test_generation_under_a_plan_equals_full_forwards(model: Any) -> None:
    start = int(model.module.config.decoder_start_token_id)
    for plan in (
        edit("encoder.blocks.0.mlp_out", Scale(0.3), positions=[1]),
        edit("decoder.blocks.1.xattn.k", Scale(1.7), positions=[2], heads=[0]),
        edit("decoder.blocks.1.resid_post", Scale(0.7)),
        skip_layers([0]),
    ):
        (made,) = model.generate(IDS[:1], plan, 5, stop_ids=[])
        ids = torch.tensor([[start]])
        for token in made:
            logits = model.run(Tokens(IDS[:1], None, ids), plan, logits="last").logits[0, -1]
            assert float(logits.max() - logits[token]) < 1e-4 * max(1.0, float(logits.abs().max()))
            ids = torch.cat((ids, torch.tensor([[token]])), 1)


def test_a_past_keeps_the_encoders_states(model: Any) -> None:
    first = model.run(Tokens(IDS, None, DECODER_IDS[:, :3]), past=Past())
    assert first.layers_run == 2 * (2 + 3)
    rest = model.run(Tokens(IDS, None, DECODER_IDS[:, 3:]), past=first.past)
    assert rest.layers_run == 2 * 3
    torch.testing.assert_close(rest.logits, model.run(BOTH).logits[:, 3:], rtol=0, atol=1e-4)


def test_texts_of_different_length_are_padded_where_the_model_bears_it(model: Any) -> None:
    rows = [IDS[0].tolist(), IDS[1].tolist()[:4]]
    out = model.run(rows, capture=["encoder.blocks.1.resid_post"]).logits
    alone = model.run([rows[1]]).logits
    torch.testing.assert_close(out[1:], alone, rtol=0, atol=2e-4)
    left = Tokens(
        torch.cat((torch.zeros(1, 2, dtype=torch.long), IDS[:1]), 1),
        torch.tensor([[False] * 2 + [True] * 7]),
    )
    if model.layout.architecture.right_padded:
        with pytest.raises(ConfigError, match="pad on the right"):
            model.run(left)
        return
    torch.testing.assert_close(model.run(left).logits, model.run(IDS[:1]).logits, rtol=0, atol=2e-4)


def test_what_does_not_fit_two_stacks_is_refused(model: Any) -> None:
    with pytest.raises(UnknownSiteError, match=r"encoder\.blocks\.<L> and decoder\.blocks\.<L>"):
        model.run(IDS, capture=["blocks.0.resid_post"])
    with pytest.raises(UnknownSiteError, match=r"This model has layers 0\.\.1"):
        model.run(IDS, capture=["encoder.blocks.2.resid_post"])
    with pytest.raises(ConfigError, match="run_layers runs a single stack"):
        model.run_layers(torch.zeros(1, 2, 32), 0, 1)
    with pytest.raises(ConfigError, match=r"decoder_ids must be \[batch, pos\] with 2 rows"):
        model.run(Tokens(IDS, None, DECODER_IDS[:1]))
    decoder = load_model(tiny("llama"), certify=False)
    with pytest.raises(ConfigError, match="has no decoder"):
        decoder.run(BOTH)


def test_gradients_of_every_site_are_those_of_adding_there() -> None:
    for kind in SEQ2SEQ:
        model = load_model(tiny(kind, seed=4).double(), certify=False)
        tokens = Tokens(IDS[:1], None, DECODER_IDS[:1])
        for site in model.sites():
            if site.name != "logits" and site.layer in (1, None):
                _one_gradient(model, tokens, site, kind)


def _one_gradient(model: Any, tokens: Tokens, site: Site, kind: str) -> None:
    out = model.run(tokens, capture=[site], grad=True)
    x = out.acts[site]
    target = torch.randn(out.logits.shape, generator=torch.Generator().manual_seed(2)).double()
    (grad,) = torch.autograd.grad((out.logits * target).sum(), x, allow_unused=True)
    assert grad is not None, f"{kind} {site}: not in the graph"
    step = torch.randn(x.shape, generator=torch.Generator().manual_seed(5)).double()
    causal = site.stack == "decoder" and site.name in ("attn.scores", "attn.pattern")
    step = step.tril() if causal else step
    eps = 2e-3 * float(x.detach().abs().median().clamp_min(0.1))
    up, down = (
        (model.run(tokens, edit(site, Add(sign * eps * step))).logits * target).sum()
        for sign in (1, -1)
    )
    gap = abs(float((grad * step).sum()) - float((up - down) / (2 * eps)))
    assert gap < 0.02 * float(grad.norm()), f"{kind} {site}: {gap} of {float(grad.norm())}"


def test_a_set_embedding_of_two_stacks_is_no_site(model: Any) -> None:
    with pytest.raises(UnknownSiteError, match="embed"):
        model.run(IDS, edit("embed", Set(torch.zeros(32))))
