"""Controls against worlds whose answer is known by construction."""

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from lensbench.errors import ConfigError
from lensbench.models import load_model
from lensbench.worlds.atlas import Atlas
from lensbench.worlds.controls import (
    always_on,
    current_token_lookup,
    f1_interval,
    implant_directions,
    random_dictionary,
    recovered_share,
    reinitialised_twin,
    shuffled_labels,
    split_documents,
)


def llama() -> LlamaForCausalLM:
    torch.manual_seed(3)
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                    num_attention_heads=4, num_key_value_heads=2, pad_token_id=None)
    )  # fmt: skip


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(3)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2)
    )


@pytest.mark.parametrize("make", [llama, gpt2])
def test_twin_is_the_same_machine_with_other_weights(make) -> None:
    model = make().eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.random.get_rng_state()
    twin = reinitialised_twin(model, seed=5)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert type(twin) is type(model)
    assert twin.training is False
    ours = twin.state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in before.items()}
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    for name, p in model.named_parameters():
        if p.ndim == 2:
            new = dict(twin.named_parameters())[name]
            assert not torch.equal(new, p), name
            assert 0.7 < new.std() / p.std() < 1.4, name  # same law, other draw
    again, other = reinitialised_twin(model, seed=5), reinitialised_twin(model, seed=6)
    assert all(torch.equal(a, b) for a, b in zip(twin.parameters(), again.parameters()))  # noqa: B905
    assert not all(torch.equal(a, b) for a, b in zip(twin.parameters(), other.parameters()))  # noqa: B905


def test_twin_of_a_loaded_model_keeps_its_tokenizer() -> None:
    model = load_model("atlas-dense", certify=False)
    twin = reinitialised_twin(model, seed=0)
    assert twin.tokenizer is model.tokenizer
    tokens = model.tokens("The capital of France is")
    ours, theirs = (m.run(tokens).logits for m in (model, twin))
    assert ours is not None
    assert theirs is not None
    assert ours.shape == theirs.shape
    assert not torch.allclose(ours, theirs)


def test_twin_wants_a_transformers_model() -> None:
    with pytest.raises(ConfigError, match="got Linear"):
        reinitialised_twin(torch.nn.Linear(2, 2))


def test_lookup_solves_lexical_labels_and_not_contextual_ones() -> None:
    corpus = Atlas(0).sample(4000, "all", seed=5)
    names = ("is_name", "is_number_above_25", "seen_before", "left_greater", "io_named_first")
    labels = {name: corpus.labels[name] for name in names}
    scores = current_token_lookup(corpus.tokens, labels, corpus.doc_ids)
    for name in names:
        if corpus.label_kinds[name] == "lexical":
            assert scores[name].f1.mean == 1.0
        else:
            assert scores[name].f1.high < 0.85
    base = always_on(labels, corpus.doc_ids)
    for name in names:
        p = labels[name].mean()
        assert base[name].f1.mean == pytest.approx(2 * p / (1 + p))
        assert base[name].f1.mean < scores[name].f1.mean
    moved = shuffled_labels(labels, corpus.doc_ids, seed=1)
    chance = current_token_lookup(corpus.tokens, moved, corpus.doc_ids)
    assert chance["is_name"].f1.mean < 0.4  # control: labels dealt to other documents


def test_shuffled_labels_keep_the_marginal_and_move_the_rows() -> None:
    docs = np.repeat(np.arange(200), np.random.default_rng(0).integers(3, 9, 200))
    y = np.random.default_rng(1).random(len(docs)) < 0.2
    moved = shuffled_labels({"y": y}, docs, seed=2)["y"]
    assert moved.sum() == y.sum()
    assert 0.1 < (moved & y).sum() / y.sum() < 0.35  # overlap near the base rate
    assert np.array_equal(moved, shuffled_labels({"y": y}, docs, seed=2)["y"])


def test_splits_and_intervals_respect_documents() -> None:
    docs = np.repeat(np.arange(40), 25)
    train = split_documents(docs, seed=1)
    assert not set(docs[train]) & set(docs[~train])
    y = np.isin(docs, np.arange(0, 40, 2))  # a whole document is positive or not
    wide = f1_interval(np.ones_like(y), y, docs)
    narrow = f1_interval(np.ones_like(y), y, np.arange(len(docs)))  # control: tokens resampled
    assert wide.mean == narrow.mean == pytest.approx(2 / 3)
    assert wide.n == 40
    assert (wide.high - wide.low) > 3 * (narrow.high - narrow.low)


def test_random_dictionary_has_exactly_k_latents() -> None:
    codec = random_dictionary(16, 64, 5, seed=0)
    x = torch.randn(100, 16, generator=torch.Generator().manual_seed(0))
    acts = codec.encode(x)
    assert codec.d_sae == acts.shape[1] == 64
    assert ((acts != 0).sum(-1) == 5).all()
    torch.testing.assert_close(codec.W_dec.norm(dim=-1), torch.ones(64))
    kept = (x @ codec.W_dec.T).topk(5).values
    torch.testing.assert_close(acts.sort(-1, descending=True).values[:, :5].sum(-1), kept.sum(-1))
    assert codec.decode(acts).shape == x.shape
    with pytest.raises(ConfigError, match=r"1\.\.64"):
        random_dictionary(16, 64, 65)


def test_implants_are_where_they_are_said_to_be() -> None:
    x = 3 * torch.randn(1000, 16, generator=torch.Generator().manual_seed(0))
    changed, implant = implant_directions(x, 8, 2.0, seed=1)
    rows = np.concatenate(implant.rows)
    assert len(rows) == len(set(rows.tolist())) == 8 * 10
    untouched = np.setdiff1d(np.arange(1000), rows)
    assert torch.equal(changed[untouched], x[untouched])
    for direction, mine in zip(implant.directions, implant.rows, strict=True):
        added = changed[mine] - x[mine]
        torch.testing.assert_close(added.norm(dim=-1), 2.0 * x.norm(dim=-1).median().expand(10))
        assert torch.nn.functional.cosine_similarity(added, direction, dim=-1).min() > 0.999
    same, _ = implant_directions(x, 8, 0.0, seed=1)
    assert torch.equal(same, x)  # control without implant
    with pytest.raises(ConfigError, match="do not fit"):
        implant_directions(x, 101, 1.0)
    with pytest.raises(ConfigError, match="strength"):
        implant_directions(x, 1, -1.0)


def test_recovered_share_rises_with_strength_and_is_zero_without_implant() -> None:
    """A simple finder (the mean of the implanted rows) stands in for a dictionary."""
    x = torch.randn(4000, 32, generator=torch.Generator().manual_seed(0))
    shares = []
    for strength in (0.0, 0.25, 0.5, 2.0):
        changed, implant = implant_directions(x, 20, strength, seed=1)
        finder = torch.stack([changed[rows].mean(0) for rows in implant.rows])
        shares.append(recovered_share(finder, implant.directions))
    assert shares[0] == 0.0
    assert shares[-1] == 1.0
    assert shares == sorted(shares)
    assert recovered_share(-implant.directions, implant.directions) == 0.0  # the sign counts
