"""Spliced dictionaries on every further architecture and on the other back end.

Tolerances as in ``test_models_splices``: bit for bit where nothing is edited, 1e-3 relative to the
logits' spread where an edit of latents is compared with the same edit made by hand.
"""

from typing import Any

import pytest
import torch

from tests.helpers import random_ids, tiny
from tests.splice_helpers import random_sae
from tests.zoo import SEQ2SEQ, ZOO

IDS, DECODER_IDS = random_ids(2, 8, seed=1), random_ids(2, 5, seed=2)


def _tokens(kind: str) -> Any:
    from lensbench import Tokens

    return Tokens(IDS, None, DECODER_IDS) if kind in SEQ2SEQ else Tokens(IDS)


def _hosts(model: Any) -> list[str]:
    """The residual stream of each stack, and whatever this architecture has of its own."""
    known = {str(s) for s in model.sites()}
    wanted = [
        "blocks.1.resid_post",
        "encoder.blocks.1.resid_post",
        "decoder.blocks.1.resid_post",
        "decoder.blocks.0.xattn_out",
        "blocks.1.experts.shared_out",
        "blocks.1.ssm_out",
        "blocks.1.mlp.post",
        "blocks.2.attn.z",
    ]
    return [site for site in wanted if site in known]


@pytest.fixture(scope="module", params=ZOO)
def spliced(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    import lensbench

    model = lensbench.load_model(tiny(request.param, seed=3), certify=False)
    clean = model.run(_tokens(request.param), capture=_hosts(model)).acts
    widths = {site: clean[site].flatten(2).shape[-1] for site in _hosts(model)}
    saes = [random_sae(site, d, seed=i) for i, (site, d) in enumerate(widths.items())]
    return model.with_saes(saes), _tokens(request.param)


def test_unedited_logits_are_those_of_the_bare_model_bit_for_bit(spliced: Any) -> None:
    model, tokens = spliced
    hosts = [s.site for s in model.splices]
    parts = [s for s in model.sites() if s.part]
    assert len(parts) == 3 * len(hosts) >= 6
    out = model.run(tokens, capture=[*hosts, *parts])
    assert torch.equal(out.logits, model.inner.run(tokens, capture=hosts).logits)
    for host in hosts:
        x = out.acts[host].flatten(2)
        whole = out.acts[f"{host}.sae.recons"] + out.acts[f"{host}.sae.error"]
        torch.testing.assert_close(whole, x, rtol=1e-5, atol=1e-5)


def test_edits_of_latents_equal_edits_by_hand_at_every_host(spliced: Any) -> None:
    from lensbench.plan import Replace, Scale, edit

    model, tokens = spliced
    for splice in model.splices:
        host, latents = str(splice.site), f"{splice.site}.sae.acts"
        clean = model.run(tokens, capture=[host, latents])
        changed = clean.acts[latents].clone()
        changed[1, [2, -1]] *= 3
        x = clean.acts[host]
        moved = splice.decode(changed) - splice.decode(clean.acts[latents])
        by_hand = edit(splice.site, Replace((x.flatten(2) + moved).reshape(x.shape)))
        expected = model.inner.run(tokens, by_hand).logits
        plan = edit(latents, Scale(3.0), rows=[1], positions=[2, -1])
        out = model.run(tokens, plan)
        spread = float(expected.std())
        assert float((out.logits - expected).abs().max()) < 1e-3 * spread, host
        unmoved = float((out.logits[0] - clean.logits[0]).abs().max())
        assert unmoved < 1e-5 * spread, host  # experts sum their tokens batch by batch
        assert float((expected - clean.logits).abs().max()) > 1e-3 * spread, host  # control


def test_gradients_reach_latents_and_error_at_every_host(spliced: Any) -> None:
    model, tokens = spliced
    for splice in model.splices:
        names = [f"{splice.site}.sae.acts", f"{splice.site}.sae.error"]
        out = model.run(tokens, capture=names, grad=True)
        a, e = torch.autograd.grad(
            out.logits[:, -1, 7].sum(), [out.acts[n] for n in names], allow_unused=False
        )
        assert float(a.abs().max()) > 0
        torch.testing.assert_close(a, e @ splice.codec.W_dec.T, rtol=1e-3, atol=1e-4)


def test_decoding_under_edited_latents_equals_full_forwards(spliced: Any) -> None:
    from lensbench import Tokens
    from lensbench.plan import Scale, edit

    model, tokens = spliced
    if not model.inner.layout.architecture.causal:
        pytest.skip("an encoder does not generate")
    last = model.splices[-1].site
    plan = edit(f"{last}.sae.acts", Scale(4.0))
    made = model.generate(tokens, plan, 4, stop_ids=[])
    ids, start = tokens.ids, tokens.decoder_ids
    for step in range(4):
        new = torch.tensor(made)[:, :step]
        if start is None:
            now = Tokens(torch.cat((ids, new), 1))
        else:
            now = Tokens(ids, None, torch.cat((start, new), 1))
        logits = model.run(now, plan).logits[:, -1]
        for row, top in enumerate(logits.max(-1).values):
            assert float(top - logits[row, made[row][step]]) < 1e-3 * float(logits.std())
    assert model.generate(tokens, max_new_tokens=4) == model.inner.generate(
        tokens, max_new_tokens=4
    )


@pytest.mark.filterwarnings("ignore")  # what nnsight and its imports warn about
@pytest.mark.parametrize("kind", ["gpt2", "gemma2"])
def test_the_other_back_end_gives_the_same(kind: str) -> None:
    import lensbench
    from lensbench.plan import Scale, Zero, edit

    module = tiny(kind, seed=3)
    saes = [random_sae("blocks.1.resid_post"), random_sae("blocks.0.mlp_out", seed=1)]
    native = lensbench.load_model(module, certify=False).with_saes(saes)
    traced = lensbench.load_model(module, backend="nnsight", certify=False).with_saes(saes)
    latents, error = "blocks.1.resid_post.sae.acts", "blocks.0.mlp_out.sae.error"
    plan = edit(latents, Scale(2.0), positions=[3, -1], rows=[1]) + edit(error, Zero())
    ours, theirs = (m.run(IDS, plan, [latents, error]) for m in (native, traced))
    torch.testing.assert_close(theirs.logits, ours.logits, rtol=0, atol=1e-5)
    for name in (latents, error):
        torch.testing.assert_close(theirs.acts[name], ours.acts[name], rtol=0, atol=1e-5)
    bare = native.run(IDS).logits
    assert float((bare - ours.logits).abs().max()) > 1e-2  # control
    assert torch.equal(traced.run(IDS).logits, bare)
