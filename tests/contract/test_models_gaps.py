"""Padding between tokens, frozen weights, special tokens: other ways to be wrong quietly."""

from typing import Any

import pytest
import torch

from lensbench import Past, Tokens, load_model
from lensbench.errors import ConfigError
from lensbench.plan import Add, Scale, Set, edit
from tests.helpers import random_ids, tiny
from tests.store_builder import word_tokenizer
from tests.zoo import SEQ2SEQ

IDS = random_ids(2, 9, seed=1)
HOLE = torch.tensor([[True] * 4 + [False] * 2 + [True] * 3, [True] * 9])


@pytest.mark.parametrize(
    ("kind", "exact"),
    [
        ("llama", True),
        ("gpt2", True),
        ("bloom", True),
        ("m2m_100", True),
        ("bert", True),
        ("t5", False),
        ("bart", False),
        ("mistral", False),
        ("gemma2", False),
        ("gpt_oss", False),
        ("gpt_neo", False),
        ("mamba", False),
    ],
)
def test_padding_between_tokens_is_exact_or_refused(kind: str, exact: bool) -> None:
    model = load_model(tiny(kind, seed=3), certify=False)
    if not exact:
        with pytest.raises(ConfigError, match="padding stands between real tokens of row 0"):
            model.run(Tokens(IDS, HOLE))
        if kind in SEQ2SEQ:
            return
        past = model.run(Tokens(IDS[:, :6], HOLE[:, :6]), past=Past()).past
        with pytest.raises(ConfigError, match="padding stands between real tokens of row 0"):
            model.run(IDS[:, 6:7], past=past)
        return
    alone = IDS[:1, [0, 1, 2, 3, 6, 7, 8]]
    shown = model.run(Tokens(IDS, HOLE)).logits[:1]
    if kind not in SEQ2SEQ:
        shown = shown[:, HOLE[0]]
    torch.testing.assert_close(shown, model.run(alone).logits, rtol=0, atol=2e-4)


@pytest.mark.parametrize("kind", [*SEQ2SEQ, "llama", "bert"])
def test_frozen_weights_still_give_gradients(kind: str) -> None:
    module = tiny(kind, seed=3)
    module.requires_grad_(False)
    model = load_model(module, certify=False)
    sites = [s for s in model.sites() if s.name == "resid_pre" and s.layer == 0]
    out = model.run(IDS, capture=sites, grad=True)
    grads = torch.autograd.grad(out.logits.square().sum(), list(out.acts.values()))
    assert all(float(g.abs().max()) > 0 for g in grads)


def framing_tokenizer() -> Any:
    """Words between [BOS] and [EOS], as BERT's and T5's tokenizers frame a text."""
    from tokenizers.processors import TemplateProcessing

    made = word_tokenizer([f"w{i}" for i in range(50)])
    made._tokenizer.post_processor = TemplateProcessing(
        single="[BOS] $A [EOS]", special_tokens=[("[BOS]", 1), ("[EOS]", 2)]
    )
    return made


@pytest.mark.parametrize(("kind", "ids"), [("bert", [1, 4, 5, 2]), ("llama", [1, 4, 5])])
def test_encoders_read_texts_framed_as_they_were_trained(kind, ids, tmp_path) -> None:
    import lensbench

    model = load_model(tiny(kind), tokenizer=framing_tokenizer(), certify=False)
    assert model.tokens("w0 w1").ids.tolist() == [ids]
    assert model.tokens("w0 w1", bos=False).ids.tolist() == [[4, 5]]
    store = lensbench.capture(model, ["w0 w1"], ["blocks.0.resid_post"], out=tmp_path / "s")
    assert store.index().token_ids.tolist() == ids
    if kind == "bert":
        with pytest.raises(ConfigError, match="so they would see each other"):
            lensbench.capture(model, ["w0"], ["embed"], out=tmp_path / "p", layout="pack")


def test_a_decoder_with_a_vocabulary_of_its_own_is_held_to_it() -> None:
    sizes = {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 80}
    model = load_model(tiny("marian", **sizes))
    assert model.card.d_vocab == model.width("logits") == 80
    out = model.run(Tokens(IDS, None, torch.tensor([[70], [79]])))
    assert out.logits.shape == (2, 1, 80)
    with pytest.raises(ConfigError, match="token id 61 is outside the vocabulary of 61"):
        model.run(torch.tensor([[61, 3]]))
    with pytest.raises(ConfigError, match="token id 80 is outside the vocabulary of 80"):
        model.run(Tokens(IDS, None, torch.tensor([[80], [3]])))


@pytest.mark.parametrize("op", [Set(1.7), Add(0.6), Scale(0.5)])
def test_a_fraction_of_an_expert_is_refused(op: Any) -> None:
    model = load_model(tiny("mixtral"), certify=False)
    with pytest.raises(ConfigError, match="not whole"):
        model.run(IDS, edit("blocks.1.router.indices", op))


@pytest.mark.parametrize("kind", ["llama", "t5", "qwen3"])
def test_float64_stays_float64_where_it_is_tapped(kind: str) -> None:
    model = load_model(tiny(kind, seed=3).double(), certify=False)
    sites = [s for s in model.sites() if s.name in ("attn.pattern", "ln1.scale")]
    out = model.run(IDS, capture=sites)
    assert all(x.dtype == torch.float64 for x in out.acts.values())
    torch.testing.assert_close(out.logits, model.run(IDS).logits, rtol=0, atol=1e-11)


@pytest.mark.parametrize("kind", ["mixtral", "qwen2_moe"])
@pytest.mark.parametrize("seed", range(6))
def test_mixtures_in_half_precision_are_not_refused_for_a_tie(kind: str, seed: int) -> None:
    model = load_model(tiny(kind, seed=seed).to(torch.bfloat16), certify=False)
    certificate = model.certify(fresh=True)
    assert certificate.passed, certificate.to_frame().to_string()
