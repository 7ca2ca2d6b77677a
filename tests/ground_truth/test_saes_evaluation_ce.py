"""Live CE and KL: identity, zero and mean dictionaries hit the end points; layers are counted."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from lensbench import load_model
from lensbench.saes.evaluation.ce import LossSums, Sequences, live_losses
from lensbench.tokens import Tokens

N_LAYERS, D, VOCAB = 4, 16, 40


class Affine:
    """A codec with hand-set weights: x_hat = scale * x + offset."""

    d_sae = D

    def __init__(self, scale: float, offset: torch.Tensor | float = 0.0) -> None:
        self.scale, self.offset = scale, offset

    def encode(self, x):
        return x

    def decode(self, acts):
        return self.scale * acts + self.offset


def tiny_llama(seed: int = 0):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=D,
        intermediate_size=32,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def hf():
    return tiny_llama()


@pytest.fixture(scope="module")
def model(hf):
    return load_model(hf, certify=False)


def ragged(n: int = 6, *, drop_first: bool = False) -> list[Sequences]:
    """Left-padded sequences of different length, in two batches; every real position is kept."""
    gen = torch.Generator().manual_seed(1)
    ids = torch.randint(1, VOCAB, (n, 12), generator=gen)
    mask = torch.ones_like(ids, dtype=torch.bool)
    for i in range(n):
        mask[i, : i % 4] = False
    kept = mask.clone()
    if drop_first:
        kept &= mask.long().cumsum(1) > 1
    half = n // 2
    docs = np.repeat(np.arange(n)[:, None], 12, 1)
    return [
        Sequences(Tokens(ids[part], mask[part]), docs[part], kept[part])
        for part in (slice(0, half), slice(half, n))
    ]


def in_its_own_words(model, batches: list[Sequences]) -> list[Sequences]:
    """The same rows, but every next token is the model's choice: any ablation then costs."""
    for batch in batches:
        for ids, real in zip(batch.tokens.ids, batch.tokens.real, strict=True):
            places = real.nonzero()[:, 0].tolist()
            for before, at in pairwise(places):
                spoken = model.run(ids[places[0] : before + 1][None], logits="last").logits
                ids[at] = spoken[0, -1].argmax()
    return batches


def store_mean(model, site: str, batches) -> torch.Tensor:
    rows = [model.run(b.tokens, capture=[site]).acts[site][b.kept] for b in batches]
    return torch.cat(rows).flatten(1).mean(0)


def value(losses: LossSums, quantity: str, state: str, baseline: str) -> float:
    return losses.recovered(quantity, state, baseline).mean


@pytest.mark.parametrize("site", ["blocks.1.resid_post", "blocks.2.resid_pre", "blocks.1.mlp_out",
                                  "blocks.3.resid_post", "blocks.1.attn.z"])  # fmt: skip
def test_identity_recovers_all_and_each_ablation_nothing_of_itself(site: str) -> None:
    model = load_model(tiny_llama().double(), certify=False)  # 1e-9 is below what float32 keeps
    batches = in_its_own_words(model, ragged())
    mean = store_mean(model, site, batches)
    codecs = [Affine(1.0), Affine(0.0), Affine(0.0, mean), Affine(0.6, 0.3)]
    losses = live_losses(model, site, codecs, batches, mean, names=["same", "zero!", "mean!", "x"])
    for quantity in ("ce", "kl"):
        for baseline in ("zero", "mean"):
            assert value(losses, quantity, "same", baseline) == pytest.approx(1.0, abs=1e-9)
        assert value(losses, quantity, "zero!", "zero") == pytest.approx(0.0, abs=1e-9)
        assert value(losses, quantity, "mean!", "mean") == pytest.approx(0.0, abs=1e-9)
        # Control: the other baseline is another number, and a partial dictionary is neither end.
        assert abs(value(losses, quantity, "zero!", "mean")) > 1e-4
    partial = value(losses, "kl", "x", "zero")
    assert abs(1 - partial) > 0.001
    assert losses.per_token("kl/clean").mean == 0.0


def test_losses_equal_hooked_transformers_one_dictionary_at_a_time(hf, model) -> None:
    """The plain way: a hook on block 1, full forwards, no sharing."""
    batches, site = ragged(drop_first=True), "blocks.1.resid_post"
    mean = store_mean(model, site, batches)
    losses = live_losses(model, site, [Affine(0.5, 0.1)], batches, mean, names=["d"])
    total, count = 0.0, 0
    for batch in batches:
        kept = batch.kept

        def edit(_module, _args, out, kept=kept):
            h = (out[0] if isinstance(out, tuple) else out).clone()
            h[kept] = 0.5 * h[kept] + 0.1
            return (h, *out[1:]) if isinstance(out, tuple) else h

        handle = hf.model.layers[1].register_forward_hook(edit)
        positions = batch.tokens.positions()
        with torch.no_grad():
            logits = hf(
                batch.tokens.ids, attention_mask=batch.tokens.mask.long(), position_ids=positions
            ).logits
        handle.remove()
        for row in range(batch.tokens.n_rows):
            real = batch.tokens.mask[row].nonzero()[:, 0]
            logp = logits[row].log_softmax(-1)
            for a, b in pairwise(real[1:]):  # the first prediction is left out
                total -= float(logp[a, batch.tokens.ids[row, b]])
                count += 1
    measured = losses.per_token("ce/d")
    assert measured.mean == pytest.approx(total / count, abs=1e-5)
    assert losses.columns()["tokens"].sum() == count
    assert measured.n == 6


def test_padding_side_changes_no_loss(model) -> None:
    left = ragged()
    right = [
        Sequences(Tokens(b.tokens.ids.clone(), b.tokens.mask.clone()), b.docs, b.kept.clone())
        for b in left
    ]
    for batch in right:
        for i, pad in enumerate((~batch.tokens.real).sum(1).tolist()):
            for x in (batch.tokens.ids, batch.tokens.mask, batch.kept):
                x[i] = x[i].roll(-pad)
    mean = torch.full((D,), 0.1)
    a, b = (
        live_losses(model, "blocks.1.resid_post", [Affine(0.5, 0.1)], batches, mean).columns()
        for batches in (left, right)
    )
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-4, err_msg=name)


def test_first_token_is_scored_only_on_request(model) -> None:
    batches, site = ragged(), "blocks.1.resid_post"
    mean = torch.zeros(D)
    without = live_losses(model, site, [], batches, mean).columns()["tokens"].sum()
    with_it = live_losses(model, site, [], batches, mean, score_first=True).columns()["tokens"]
    assert with_it.sum() - without == 6


def test_eight_dictionaries_at_a_middle_site_cost_at_most_035_of_separate_ones(hf, model) -> None:
    batches, site = ragged(), "blocks.1.resid_post"  # 2 of 4 blocks lie below
    seen = [0]
    handles = [
        # The MLP, not the block: skipped blocks are entered and left again without computing.
        layer.mlp.register_forward_pre_hook(lambda _m, a: seen.__setitem__(0, seen[0] + len(a[0])))
        for layer in hf.model.layers
    ]
    codecs = [Affine(1 - 0.1 * i) for i in range(8)]
    losses = live_losses(model, site, codecs, batches, torch.zeros(D))
    for handle in handles:
        handle.remove()
    assert losses.layers_run == seen[0]  # counted by hooks on the module, not by us
    rows, below, above = 6, 2, 2
    assert losses.layers_run == rows * (below + above * (3 + 8))
    assert losses.layers_separate == 8 * 4 * N_LAYERS * rows
    assert losses.ratio <= 0.35
    assert losses.layers_run / losses.layers_separate_shared <= 0.35
    # Control: one dictionary shares less, so the bound is not met for free.
    assert live_losses(model, site, codecs[:1], batches, torch.zeros(D)).ratio > 0.35


def test_inside_a_block_too_every_layer_that_ran_is_counted(hf, model) -> None:
    """Those of the pass that takes the activations with them; controls apart."""
    batches, site, seen = ragged(), "blocks.1.mlp_out", [0]
    handles = [
        layer.mlp.register_forward_pre_hook(lambda _m, a: seen.__setitem__(0, seen[0] + len(a[0])))
        for layer in hf.model.layers
    ]
    codecs = [Affine(0.9), Affine(0.8), Affine(0.7)]
    losses = live_losses(model, site, codecs, batches, torch.zeros(D), n_controls=1)
    for handle in handles:
        handle.remove()
    assert losses.layers_run + losses.layers_controls == seen[0]
    assert losses.layers_run > losses.layers_controls > 0


def test_nothing_is_recovered_from_an_ablation_that_helps() -> None:
    for zero, expected in ((2.0, float("nan")), (8.0, 0.0)):  # control: one that hurts
        sums = LossSums(("clean", "zero", "mean", "it"))
        columns = np.array([1.0, 5.0, zero, 6.0, 8.0, 0.0, 1.0, 1.0, 1.0])[:, None]
        sums.add(np.array([0, 1]), np.repeat(columns, 2, axis=1))
        found = sums.recovered("ce", "it", "zero").mean
        assert found == pytest.approx(expected, nan_ok=True)
