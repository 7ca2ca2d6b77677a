"""Latent languages: a pivot that was built in is found, and where there is none, none is found.

Fixed before the first run: seeds, ``PLANTED`` and the ranges of energy (those of the published
checks), the rule of ``pivot_layers`` (see there), and for the bundled atlas-dense that the pivot
through English *shows* in French to German and in German to French. What did not come out as aimed
stays as an expected failure with what was measured.
"""

from typing import Any

import numpy as np
import pytest
import torch

from lensbench import load_model, results
from lensbench.errors import (
    ConfigError,
    MismatchError,
    NonFiniteError,
    NotEnoughDataError,
    UnknownNameError,
)
from lensbench.probes import (
    TokenEnergy,
    UnembedReadout,
    latent_language,
    translation_prompts,
    word_tokens,
)
from lensbench.worlds.atlas import lexicon as lex
from tests.helpers import silent_gpt2, tiny

N = 10
EN, FR, ZH = (list(range(1 + k * N, 1 + (k + 1) * N)) for k in range(3))
V = 1 + 3 * N
PLANTED = 0.95
WORDS: dict[str, Any] = {
    name: [[i] for i in ids] for name, ids in {"en": EN, "fr": FR, "zh": ZH}.items()
}


def hand_built(middle: dict[str, float]) -> Any:
    """Four blocks: block 1 writes the word in the ``middle`` languages, block 3 the zh word."""
    hf = silent_gpt2(V, 2 * V, 4, V)
    base = hf.transformer
    with torch.no_grad():
        base.wte.weight[:, :V] = 10 * torch.eye(V)
        for block, words in ((1, middle), (3, {"zh": 6.0})):
            mlp = base.h[block].mlp
            mlp.c_fc.weight[:V] = torch.eye(V)  # one neuron per token of the text
            mlp.c_fc.bias.fill_(-3.0)
            for name, size in words.items():
                for source, (word,) in zip(FR, WORDS[name], strict=True):
                    mlp.c_proj.weight[source, V + word] = size
        hf.lm_head.weight[:, V:] = 4 * torch.eye(V)
    return load_model(hf, certify=False)


def measure(model: Any, **options: Any) -> Any:
    return latent_language(model, [[0, i] for i in FR], WORDS, target="zh", pivot="en", **options)


def test_a_planted_pivot_is_found_where_it_was_planted() -> None:
    found = measure(hand_built({"en": 1.0}))
    en, fr, zh = found.prob.mean(-1)
    assert found.languages == ("en", "fr", "zh")
    assert en[0] < 0.1
    assert en[1] > PLANTED
    assert en[2] > PLANTED
    assert zh[3] > PLANTED
    assert en[3] < 0.01
    assert max(zh[:3]) < 0.1
    assert max(fr) < 0.1
    assert found.pivot_layers() == (1, 2)
    # Controls: neither the words of other items nor random tokens have it.
    assert found.others[:, 1].max() < 0.1
    assert found.random[:, 1].max() < 0.1
    # Entropy: before the word is there nothing is said; then one word is.
    assert found.entropy[0].min() > 0.95 * np.log2(V)
    assert found.entropy[[1, 3]].max() < 0.5


@pytest.mark.parametrize("middle", [{}, {"en": 1.0, "fr": 1.0, "zh": 1.0}])
def test_where_no_language_comes_first_no_pivot_shows(middle: dict[str, float]) -> None:
    found = measure(hand_built(middle))
    assert found.pivot_layers() == ()
    assert found.prob[2, 3].min() > PLANTED or middle  # it still answers in zh
    assert found.prob[0, 1].mean() < 0.34


def test_the_last_layer_is_the_model() -> None:
    model = load_model(tiny("llama", seed=3), certify=False)
    prompts = [[5, 9, 2], [7, 3, 3, 8, 1], [4, 4]]
    words = {"a": [[1, 2], [3], [4]], "b": [[5], [6, 7], [8]], "c": [[9], [10], [11]]}
    for size in (1, 16):
        found = latent_language(model, prompts, words, target="b", pivot="a", batch_size=size)
        for i, prompt in enumerate(prompts):
            p = model.run([prompt]).logits[0, -1].double().softmax(-1)
            for k, name in enumerate(words):
                assert found.prob[k, -1, i] == pytest.approx(float(p[words[name][i]].sum()), 1e-4)
            bits = float(-(p * p.log2()).sum())
            assert found.entropy[-1, i] == pytest.approx(bits, rel=1e-4)
    again = latent_language(
        model, prompts, words, target="b", pivot="a", readout=UnembedReadout(model)
    )
    np.testing.assert_allclose(again.prob, found.prob)


# ---- energy: the published checks ---------------------------------------------------------------
def random_rows(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_energy_is_one_at_random_none_outside_and_one_inside_what_tokens_fill() -> None:
    d, v = 64, 2000
    rows, h = random_rows(v, d, 0), random_rows(200, d, 1)
    isotropic = TokenEnergy.of_table(rows)(h)
    assert 0.96 <= float(isotropic.mean()) <= 1.0
    half = rows.clone()
    half[:, d // 2 :] = 0.0
    inside, outside = h.clone(), h.clone()
    inside[:, d // 2 :], outside[:, : d // 2] = 0.0, 0.0
    energy = TokenEnergy.of_table(half)
    assert 0.98 <= float(energy(inside).mean()) <= 1.02
    assert float(energy(outside).abs().max()) == 0.0
    # The row that half of the tokens share has more; scale does not matter; a state of 0 has none.
    shared = TokenEnergy.of_table(torch.cat((rows[:1000], rows[:1].repeat(1000, 1))))
    assert 1.3 < float(shared(rows[0])) < 1.5  # sqrt(1/2) / sqrt(1/4)
    torch.testing.assert_close(energy(3 * inside), energy(inside))
    assert torch.isnan(energy(torch.zeros(d)))
    with pytest.raises(NonFiniteError):
        energy(torch.full((d,), torch.nan))


def test_energy_is_its_formula_with_gain_and_centring() -> None:
    model = load_model(tiny("gpt2", seed=4), certify=False)
    table = model.module.lm_head.weight.detach().double()
    gain = model.module.transformer.ln_f.weight.detach().double()
    unit = torch.nn.functional.normalize(table * gain, dim=-1)
    h = random_rows(5, 32, 3).double()
    direction = torch.nn.functional.normalize(h - h.mean(-1, keepdim=True), dim=-1)
    of_h = (direction @ unit.T).square().mean(-1).sqrt()
    expected = of_h / (unit @ unit.T).square().mean().sqrt()
    torch.testing.assert_close(TokenEnergy.of(model)(h), expected)


# ---- token sets ---------------------------------------------------------------------------------
def tokenizer_of(vocab: list[str], *, byte_level: bool = False) -> Any:
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE({w: i for i, w in enumerate(vocab)}, [], byte_fallback=True))
    inner.decoder = decoders.ByteLevel() if byte_level else decoders.ByteFallback()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", bos_token="<s>")


def test_every_prefix_with_and_without_a_space_counts_and_first_bytes() -> None:
    vocab = ["<unk>", "<s>", "▁", "do", "dog", "▁d", "▁dog", "dogs", "og", "山", "<0xE5>", "<0xB1>",
             "<0x64>", "▁山", "d", "ñ", "<0xC3>"]  # fmt: skip
    tokenizer = tokenizer_of(vocab)
    names = lambda word: {vocab[i] for i in word_tokens(tokenizer, word)}  # noqa: E731
    assert names("dog") == {"do", "dog", "▁d", "▁dog", "d"}
    assert names("山") == {"山", "▁山", "<0xE5>"}
    assert names("ñu") == {"ñ", "<0xC3>"}
    assert names("xyz") == set()


def test_byte_level_pieces_are_read_as_bytes() -> None:
    vocab = ["<unk>", "<s>", "Ġ", "do", "Ġdog", "å", "å±", "å±±", "Ġå±±", "±"]
    tokenizer = tokenizer_of(vocab, byte_level=True)
    names = lambda word: {vocab[i] for i in word_tokens(tokenizer, word)}  # noqa: E731
    assert names("dog") == {"do", "Ġdog"}
    assert names("山") == {"å", "å±", "å±±", "Ġå±±"}


def test_word_level_tokenizers_count_whole_words() -> None:
    atlas = load_model("atlas-dense").tokenizer
    assert word_tokens(atlas, "Hund") == {atlas.convert_tokens_to_ids("Hund")}
    assert atlas.convert_tokens_to_ids("H") not in word_tokens(atlas, "Hund")
    with pytest.raises(ConfigError, match="letters"):
        word_tokens(atlas, " ")


# ---- items --------------------------------------------------------------------------------------
def test_items_that_cannot_be_told_apart_are_left_out_and_counted() -> None:
    atlas = load_model("atlas-dense")
    words = {
        "en": ["dog", "cat", "zzz", "king", "man"],
        "fr": ["chien", "chat", "livre", "roi", "homme"],
        "de": ["Hund", "cat", "Buch", "König", "woman"],
    }
    prompts = ["French : chien - German :"] * 5
    found = latent_language(atlas, prompts, words, target="de", pivot="en")
    assert found.n_items == 2
    assert found.dropped == {"pivot inside the target word": 2, "no token": 1}
    shared = {**words, "fr": ["Hund", "chat", "livre", "roi", "homme"]}
    with pytest.raises(NotEnoughDataError, match="shared tokens: 1"):
        latent_language(atlas, prompts, shared, target="de", pivot="en")


def test_translation_prompts_are_those_of_the_paper() -> None:
    words = {"de": ["Berg", "Buch", "Hund"], "zh": ["山", "书", "狗"]}
    names = {"de": "Deutsch", "zh": "中文"}
    made = translation_prompts(words, "de", "zh", shots=2, names=names)
    assert made[1].endswith('\nDeutsch: "Buch" - 中文: "')
    for i, prompt in enumerate(made):
        lines = prompt.split("\n")
        assert len(lines) == 3
        assert sorted(lines[:2]) == sorted(
            f'Deutsch: "{a}" - 中文: "{b}"'
            for j, (a, b) in enumerate(zip(*words.values(), strict=True))
            if j != i
        )
    assert made == translation_prompts(words, "de", "zh", shots=2, names=names)
    plain = translation_prompts(words, "de", "zh", shots=0, template="{source} : {target} .")
    assert plain == ["Berg :", "Buch :", "Hund :"]


# ---- atlas-dense --------------------------------------------------------------------------------
NAMES = {"en": "English", "fr": "French", "de": "German"}
LEXICON = {
    "en": [row[0] for row in lex.DICTIONARY],
    "fr": [row[1] for row in lex.DICTIONARY],
    "de": [row[3] for row in lex.DICTIONARY],
}


def on_atlas(source: str, target: str, pivot: str) -> Any:
    form = "{source_name} : {source} - {target_name} : {target} ."
    prompts = translation_prompts(LEXICON, source, target, shots=0, template=form, names=NAMES)
    return latent_language(load_model("atlas-dense"), prompts, LEXICON, target=target, pivot=pivot)


@pytest.mark.parametrize(("source", "target"), [("fr", "de"), ("de", "fr")])
def test_atlas_dense_translates_at_its_last_layer(source: str, target: str) -> None:
    found = on_atlas(source, target, "en")
    assert found.summary()["target_last"] > 0.9
    assert found.summary()["pivot_last"] < 0.05


@pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="measured: English peaks after block 3 at .005 (fr-de) and .003 (de-fr), above other "
    "English words (.0001) but far below the target's .31 and .40 there",
)
@pytest.mark.parametrize(("source", "target"), [("fr", "de"), ("de", "fr")])
def test_atlas_dense_passes_through_english(source: str, target: str) -> None:
    assert on_atlas(source, target, "en").pivot_layers()


@pytest.mark.parametrize(
    ("source", "target", "pivot"),
    [("en", "de", "fr"), ("en", "fr", "de"), ("de", "en", "fr"), ("fr", "en", "de")],
)
def test_atlas_dense_does_not_pass_through_the_rarer_languages(
    source: str, target: str, pivot: str
) -> None:
    assert on_atlas(source, target, pivot).pivot_layers() == ()


# ---- results and errors -------------------------------------------------------------------------
def test_the_result_is_drawn_and_comes_back_from_disk(tmp_path: Any) -> None:
    found = measure(hand_built({"en": 1.0}))
    assert results.load(found.save(tmp_path)) == found
    for view in ("probability", "energy"):
        assert found.plot(view).data
    strip = found.plot().data[0]
    np.testing.assert_allclose(np.array(strip.z)[0], found.entropy.mean(-1))
    frame = found.to_frame()
    assert set(frame["measure"]) == {"probability", "entropy", "energy"}
    assert len(frame) == 4 * (3 * 3 + 2)
    assert found.controls.values["other_words"] < 0.1
    without = measure(hand_built({}), energy=False)
    assert np.isnan(without.energy).all()
    with pytest.raises(ConfigError, match="energy=True"):
        without.plot("energy")


def test_bad_input_is_refused_in_words() -> None:
    model = hand_built({})
    prompts = [[0, i] for i in FR]
    bad: list[tuple[Any, type[Exception], str]] = [
        (lambda: measure(load_model(tiny("t5"))), ConfigError, "encoder-decoder"),
        (
            lambda: measure(model, readout=UnembedReadout(hand_built({"en": 1.0}))),
            MismatchError, "was made for",
        ),
        (
            lambda: latent_language(model, prompts, WORDS, target="zh", pivot="es"),
            UnknownNameError, "no language named 'es'",
        ),
        (
            lambda: latent_language(model, prompts, WORDS, target="zh", pivot="zh"),
            ConfigError, "third language",
        ),
        (
            lambda: latent_language(model, prompts[1:], WORDS, target="zh", pivot="en"),
            ConfigError, "words for 9 prompts",
        ),
        (
            lambda: latent_language(
                model, prompts, {**WORDS, "en": [[V]] * N}, target="zh", pivot="en"
            ),
            ConfigError, f"below {V}",
        ),
        (
            lambda: latent_language(
                model, prompts, {**WORDS, "en": ["dog"] * N}, target="zh", pivot="en"
            ),
            ConfigError, "need a tokenizer",
        ),
        (lambda: measure(model).plot("enrgy"), UnknownNameError, "energy"),
        (lambda: translation_prompts(LEXICON, "fr", "es"), UnknownNameError, "es"),
        (lambda: translation_prompts(LEXICON, "fr", "de", shots=99), ConfigError, "need 100 words"),
        (lambda: translation_prompts(LEXICON, "fr", "de", template="x"), ConfigError, "must hold"),
    ]  # fmt: skip
    for make, error, words in bad:
        with pytest.raises(error, match=words):
            make()
