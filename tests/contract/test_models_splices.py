"""A dictionary spliced into any model: nothing moves unedited, and edits land where they say.

Tolerances: an edited pass against the same edit made by hand at the host site differs by rounding
of one decode and one sum (1e-4 on logits of order 10, effects of order 1); unedited passes are
compared bit for bit.
"""

import pytest
import torch

from tests.helpers import FAMILY_NAMES, random_ids, tiny
from tests.splice_helpers import random_sae

IDS = random_ids(2, 8, seed=1)
HOST = "blocks.1.resid_post"
LATENTS = f"{HOST}.sae.acts"


@pytest.fixture(scope="module", params=FAMILY_NAMES)
def model(request):
    import lensbench

    return lensbench.load_model(tiny(request.param, seed=3), certify=False)


@pytest.fixture(scope="module")
def saes(model):
    z = model.width("blocks.2.attn.z") * model.card.n_heads
    return [
        random_sae(HOST),
        random_sae("blocks.2.attn.z", z, 48, seed=1, activation="relu"),
        random_sae("blocks.0.mlp_out", seed=2),
    ]


def _by_hand(model, sae, ids, latents) -> torch.Tensor:
    """Logits with the host replaced by ``decode(latents) + error``."""
    from lensbench.plan import Replace, edit

    x = model.run(ids, capture=HOST, logits="none").acts[HOST]
    flat = x.flatten(0, 1)
    error = flat - sae.decode(sae.encode(flat))
    value = (sae.decode(latents.flatten(0, 1)) + error).reshape(x.shape)
    return model.run(ids, edit(HOST, Replace(value))).logits


def test_unedited_logits_are_those_of_the_bare_model_bit_for_bit(model, saes) -> None:
    spliced = model.with_saes(saes)
    own = [s for s in spliced.sites() if s.part]
    assert len(own) == 9
    out = spliced.run(IDS, capture=[HOST, *own])
    hosts = [s.site for s in spliced.splices]
    assert torch.equal(out.logits, model.run(IDS, capture=hosts).logits)
    assert torch.equal(spliced.run(IDS).logits, model.run(IDS).logits)
    x = out.acts[HOST]
    torch.testing.assert_close(
        out.acts[f"{HOST}.sae.recons"] + out.acts[f"{HOST}.sae.error"], x, rtol=0, atol=1e-5
    )
    assert torch.equal(out.acts[LATENTS].flatten(0, 1), saes[0].encode(x.flatten(0, 1)))
    for site in own:
        assert out.acts[site].shape == (2, 8, spliced.width(site)), site
    dropped = model.with_saes(saes, error="drop").run(IDS).logits  # control: error matters
    assert float((dropped - out.logits).abs().max()) > 0.1


def test_an_edit_of_latents_equals_the_same_edit_by_hand(model, saes) -> None:
    from lensbench.plan import Replace, Scale, edit

    spliced = model.with_saes(saes)
    clean = spliced.run(IDS, capture=LATENTS).acts[LATENTS]
    live = int(clean[1, 4].argmax())
    latents = clean.clone()
    latents[1, 4, live] *= 3
    latents[1, 7, live] *= 3
    plan = edit(LATENTS, Scale(3.0), rows=[1], positions=[4, -1], dims=[live])
    out = spliced.run(IDS, plan, [LATENTS, HOST])
    torch.testing.assert_close(out.acts[LATENTS], latents, rtol=0, atol=0)
    torch.testing.assert_close(
        out.logits, _by_hand(model, saes[0], IDS, latents), rtol=1e-4, atol=1e-4
    )
    bare = model.run(IDS).logits
    assert torch.equal(out.logits[0], bare[0])
    assert torch.equal(out.logits[1, :4], bare[1, :4])
    assert float((out.logits[1, 4:] - bare[1, 4:]).abs().max()) > 1e-2
    swapped = edit(LATENTS, Replace(clean[:, [5, 2]]), positions=[2, 5])  # order counts
    latents = clean.clone()
    latents[:, 2], latents[:, 5] = clean[:, 5], clean[:, 2]
    torch.testing.assert_close(
        spliced.run(IDS, swapped).logits,
        _by_hand(model, saes[0], IDS, latents),
        rtol=1e-4,
        atol=1e-4,
    )


def test_run_many_equals_separate_runs_and_starts_at_the_splice(model, saes) -> None:
    from lensbench.plan import Plan, Scale, Set, Zero, edit, skip_layers

    spliced = model.with_saes(saes)
    plans = [
        edit(LATENTS, Zero(), positions=[3]),
        edit("blocks.2.attn.z.sae.acts", Zero(), positions=[0, -2]),
        edit("blocks.0.mlp_out.sae.error", Zero()) + edit(LATENTS, Set(2.0), dims=[7]),
        edit(HOST, Scale(1.5)) + edit(f"{HOST}.sae.recons", Scale(2.0), positions=[2]),
        edit(LATENTS, Zero()) + skip_layers([2]),
        Plan(),
    ]
    capture = [LATENTS, "blocks.0.mlp_out.sae.error", "blocks.1.resid_post"]
    for plan in plans[:4]:
        assert float((spliced.run(IDS, plan).logits - model.run(IDS).logits).abs().max()) > 1e-3
    many = spliced.run_many(IDS[:1], plans, capture)
    for i, plan in enumerate(plans):
        alone = spliced.run(IDS[:1], plan, capture)
        torch.testing.assert_close(many.logits[i], alone.logits[0], rtol=0, atol=2e-4)
        for name in alone.acts:
            torch.testing.assert_close(many.acts[name][i], alone.acts[name][0], rtol=0, atol=2e-4)
    late = [edit("blocks.2.attn.z.sae.acts", Zero(), positions=[p]) for p in range(8)]
    assert spliced.run_many(IDS[:1], late).layers_run == 2 + 8


@pytest.mark.parametrize("error", ["keep", "drop"])
def test_generating_under_edited_latents_equals_full_forwards(model, saes, error: str) -> None:
    from lensbench.plan import Plan, Scale, Zero, edit

    spliced = model.with_saes(saes, error=error)
    plans = [
        Plan(),
        edit(LATENTS, Scale(2.0)),
        edit(LATENTS, Zero(), positions=[-1]) + edit(LATENTS, Scale(3.0), positions=[0, 10]),
    ]
    fixed = [*plans[:2], edit(LATENTS, Zero(), positions=[7])]
    beyond = edit(LATENTS, Scale(3.0), positions=[0])
    for plan, full in zip(plans, fixed, strict=True):
        ids = IDS[:1]
        for step, token in enumerate(spliced.generate(ids, plan, 6, stop_ids=[])[0]):
            if plan is plans[2]:
                there = edit(LATENTS, Scale(3.0), positions=[10]) if step > 2 else Plan()
                full = edit(LATENTS, Zero(), positions=[7]) + beyond + there
            logits = spliced.run(ids, full, logits="last").logits[0, -1]
            top = logits.max()
            assert float(top - logits[token]) < 1e-4 * max(1.0, float(top.abs()))
            ids = torch.cat((ids, torch.tensor([[token]])), 1)


def test_padding_moves_nothing_and_positions_ignore_it(model, saes) -> None:
    from lensbench import Tokens
    from lensbench.plan import Zero, edit

    spliced = model.with_saes(saes)
    row = IDS[:1]
    padded = Tokens(
        torch.cat((torch.zeros(1, 3, dtype=torch.long), row), 1),
        torch.tensor([[False] * 3 + [True] * 8]),
    )
    plan = edit(LATENTS, Zero(), positions=[2, -1])
    ours, alone = spliced.run(padded, plan), spliced.run(row, plan)
    torch.testing.assert_close(ours.logits[:, 3:], alone.logits, rtol=0, atol=2e-4)
    assert float((spliced.run(row).logits - alone.logits).abs().max()) > 1e-3  # control


def test_gradients_of_latents_and_error_equal_plain_autograd(model, saes) -> None:
    sae, part = saes[0], f"{HOST}.sae.error"
    out = model.with_saes(saes[:1]).run(IDS, capture=[LATENTS, part], grad=True)
    got = torch.autograd.grad(out.logits[:, -1, 7].sum(), [out.acts[LATENTS], out.acts[part]])
    x = model.run(IDS, capture=HOST, logits="none").acts[HOST].detach().flatten(0, 1)
    latents = sae.encode(x).requires_grad_()
    error = (x - sae.decode(sae.encode(x))).requires_grad_()
    h = (sae.decode(latents) + error).reshape(2, 8, -1)
    h, _ = model.run_layers(h, 2, 3, grad=True)
    loss = model.unembed(h, grad=True)[:, -1, 7].sum()
    expected = torch.autograd.grad(loss, [latents, error])
    for ours, theirs in zip(got, expected, strict=True):
        assert float(theirs.abs().max()) > 1e-4
        torch.testing.assert_close(ours.flatten(0, 1), theirs, rtol=1e-4, atol=1e-5)


def test_what_lies_before_a_splice_keeps_its_gradient(model, saes) -> None:
    before = "blocks.0.resid_post"
    found = []
    for who in (model, model.with_saes(saes[:1])):
        out = who.run(IDS, capture=[before, *([LATENTS] if who is not model else [])], grad=True)
        found += torch.autograd.grad(out.logits[:, -1, 7].sum(), [out.acts[before]])
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)
    dropped = model.with_saes(saes[:1], error="drop").run(IDS, capture=before, grad=True)
    (other,) = torch.autograd.grad(dropped.logits[:, -1, 7].sum(), [dropped.acts[before]])
    assert float((other - found[0]).abs().max()) > 1e-3  # control: without the error it does not
