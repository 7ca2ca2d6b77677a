"""A dictionary made by hand: what each latent stands for is known, so is what an edit must do."""

from typing import Any

import pytest
import torch

from tests.helpers import random_ids, tiny
from tests.splice_helpers import random_sae

HOST = "blocks.1.resid_post"
LATENTS, ERROR = f"{HOST}.sae.acts", f"{HOST}.sae.error"
IDS = random_ids(2, 7, seed=4)
D = 32


@pytest.fixture(scope="module")
def model() -> Any:
    import lensbench

    return lensbench.load_model(tiny("llama", seed=5), certify=False)


def _hand_made(basis: torch.Tensor, n: int) -> Any:
    """Latents 2i and 2i+1 are the positive and negative part of the i-th basis direction."""
    rows = torch.stack((basis[:n], -basis[:n]), 1).flatten(0, 1)
    zeros = {"b_enc": torch.zeros(2 * n), "b_dec": torch.zeros(D)}
    return random_sae(HOST, D, 2 * n, W_enc=rows.T, W_dec=rows, activation="relu", **zeros)


@pytest.fixture(scope="module")
def basis() -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.linalg.qr(torch.randn(D, D, generator=rng).double())[0].float()


def test_zeroing_a_latent_pair_removes_exactly_its_direction(
    model: Any, basis: torch.Tensor
) -> None:
    from lensbench.plan import Project, Zero, edit

    spliced = model.with_saes(_hand_made(basis, D))
    ours = spliced.run(IDS, edit(LATENTS, Zero(), dims=[6, 7]), HOST)
    known = model.run(IDS, edit(HOST, Project(basis[3])), HOST)
    torch.testing.assert_close(ours.acts[HOST], known.acts[HOST], rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.logits, known.logits, rtol=0, atol=1e-4)
    assert float((ours.acts[HOST] @ basis[3]).abs().max()) < 1e-5
    other = model.run(IDS, edit(HOST, Project(basis[4])))  # control: another direction
    assert float((other.logits - known.logits).abs().max()) > 0.1


def test_the_error_is_exactly_what_the_dictionary_does_not_span(
    model: Any, basis: torch.Tensor
) -> None:
    from lensbench.plan import Project, Zero, edit

    spliced = model.with_saes(_hand_made(basis, 20))
    out = spliced.run(IDS, capture=[HOST, ERROR])
    outside = out.acts[HOST] @ basis[20:].T @ basis[20:]
    torch.testing.assert_close(out.acts[ERROR], outside, rtol=0, atol=1e-5)
    known = model.run(IDS, edit(HOST, Project(basis[:20], keep=True))).logits
    by_edit = spliced.run(IDS, edit(ERROR, Zero())).logits
    by_mode = model.with_saes(_hand_made(basis, 20), error="drop").run(IDS).logits
    torch.testing.assert_close(by_edit, known, rtol=0, atol=1e-4)
    torch.testing.assert_close(by_mode, known, rtol=0, atol=1e-4)
    assert float((out.logits - known).abs().max()) > 0.1  # control: the error is not nothing


def test_steering_by_a_latent_adds_its_decoder_row_and_keeps_the_error(
    model: Any, basis: torch.Tensor
) -> None:
    from lensbench.plan import Add, Set, edit

    spliced = model.with_saes(_hand_made(basis, 20))
    clean = spliced.run(IDS, capture=LATENTS).acts[LATENTS]
    ours = spliced.run(IDS, edit(LATENTS, Set(5.0), dims=[8], positions=[3])).logits
    push = (5.0 - clean[:, 3, 8])[:, None, None] * basis[4]
    known = model.run(IDS, edit(HOST, Add(push), positions=[3])).logits
    torch.testing.assert_close(ours, known, rtol=0, atol=1e-4)


def test_dictionaries_at_three_sites_are_edited_in_the_order_of_the_pass(
    model: Any,
) -> None:
    """The later dictionary reads what the edit of the earlier one left."""
    from lensbench.plan import Replace, Zero, edit

    low, high = random_sae("blocks.0.resid_post", seed=1), random_sae(HOST, seed=2)
    spliced = model.with_saes([high, low]).with_saes([random_sae("blocks.2.mlp_out", seed=3)])
    assert [s for s in map(str, spliced.sites()) if s.endswith("acts")] == [
        "blocks.0.resid_post.sae.acts",
        LATENTS,
        "blocks.2.mlp_out.sae.acts",
    ]
    first = edit("blocks.0.resid_post.sae.acts", Zero(), positions=[2])
    mid = spliced.run(IDS, first, [HOST, "blocks.0.resid_post"])
    moved = model.run(
        IDS, edit("blocks.0.resid_post", Replace(mid.acts["blocks.0.resid_post"])), HOST
    )
    torch.testing.assert_close(moved.acts[HOST], mid.acts[HOST], rtol=0, atol=1e-5)
    found = spliced.run(IDS, first, LATENTS).acts[LATENTS]
    expected = high.encode(mid.acts[HOST].flatten(0, 1)).reshape(found.shape)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    both = first + edit(LATENTS, Zero(), dims=[1, 2, 3])
    swapped = edit(LATENTS, Zero(), dims=[1, 2, 3]) + first
    assert torch.equal(spliced.run(IDS, both).logits, spliced.run(IDS, swapped).logits)


def test_any_number_of_selections_and_any_precision_find_their_tokens(model: Any) -> None:
    """More selections than a pass has marks for, positions beyond what bfloat16 can count."""
    import lensbench
    from lensbench.plan import Plan, Scale, Set, edit

    spliced = model.with_saes(random_sae(HOST))
    many = Plan()
    for i in range(40):
        row, position, latent = i % 2, (i * 3) % 7, i
        many += edit(LATENTS, Set(1.0 + i), rows=[row], positions=[position], dims=[latent])
    expected = spliced.run(IDS, capture=LATENTS).acts[LATENTS].clone()
    for i in range(40):
        expected[i % 2, (i * 3) % 7, i] = 1.0 + i
    assert torch.equal(spliced.run(IDS, many, LATENTS).acts[LATENTS], expected)
    long = tiny("llama", seed=5, max_position_embeddings=512).bfloat16()
    half = lensbench.load_model(long, certify=False).with_saes(random_sae(HOST))
    ids = random_ids(1, 400, seed=6)
    clean = half.run(ids, capture=LATENTS, logits="none").acts[LATENTS]
    chosen = list(range(399, 0, -3))
    values = torch.arange(1.0, len(chosen) + 1)[:, None]
    plan = edit(LATENTS, Set(values), positions=chosen, dims=[5]) + edit(LATENTS, Scale(1.0))
    out = half.run(ids, plan, LATENTS, logits="none").acts[LATENTS]
    assert torch.equal(out[0, chosen, 5], values[:, 0])
    rest = [p for p in range(400) if p not in set(chosen)]
    assert torch.equal(out[0, rest], clean[0, rest])


def test_a_past_is_continued_under_edited_latents(model: Any) -> None:
    from lensbench import Past
    from lensbench.plan import Scale, edit

    spliced = model.with_saes(random_sae(HOST))
    plan = edit(LATENTS, Scale(2.0), positions=[2, 5])
    whole = spliced.run(IDS, plan, LATENTS)
    start = spliced.run(IDS[:, :4], edit(LATENTS, Scale(2.0), positions=[2]), past=Past())
    rest = spliced.run(IDS[:, 4:], plan, LATENTS, past=start.past)
    torch.testing.assert_close(rest.logits, whole.logits[:, 4:], rtol=0, atol=1e-4)
    torch.testing.assert_close(rest.acts[LATENTS], whole.acts[LATENTS][:, 4:], rtol=0, atol=1e-4)
    plain = spliced.run(IDS[:, 4:], past=spliced.run(IDS[:, :4], past=Past()).past).logits
    assert float((plain - rest.logits).abs().max()) > 1e-2  # control


def test_a_store_holds_latents_like_any_other_site(model: Any, tmp_path: Any) -> None:
    from lensbench import capture, saes
    from lensbench.errors import MismatchError

    sae = random_sae(HOST)
    ids = random_ids(6, 7, seed=8)
    options = {"layout": "pad", "context": 7, "dtype": "float32"}
    spliced = model.with_saes([sae])
    store = capture(spliced, ids, [LATENTS, HOST], out=tmp_path / "acts", **options)
    known = spliced.run(ids, capture=LATENTS).acts[LATENTS].flatten(0, 1)
    found = torch.from_numpy(store.rows(LATENTS, slice(None)))
    torch.testing.assert_close(found, known, rtol=0, atol=1e-4)
    latents = saes.encode_store(sae, store)  # the same numbers, sparse
    torch.testing.assert_close(
        torch.from_numpy(latents.dense(slice(None))), known, rtol=0, atol=1e-4
    )
    dropped = capture(
        model.with_saes([sae], error="drop"), ids, [HOST], out=tmp_path / "dropped", **options
    )
    own = random_sae(HOST, metadata={"site": HOST, "model": vars(model.card)})
    assert saes.encode_store(own, store, out=tmp_path / "own").complete
    with pytest.raises(MismatchError, match="another model"):
        saes.encode_store(own, dropped)
