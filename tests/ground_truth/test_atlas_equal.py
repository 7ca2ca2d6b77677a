"""The committed atlas-equal: it translates, its languages are equally frequent, none is a pivot.

Fixed before the first run, seeds included: the bounds below; that no language is a pivot for the
two others in any of the six directions, by the rule of ``pivot_layers`` (which finds the pivot of a
hand-built model, ``test_latent_language.py``); and the control: the pivot's word added to the
stream of this same model after block ``PLANTED_AT``, ``STRENGTH`` times as long as the state, is
found there.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lensbench import io
from lensbench.models import load_model
from lensbench.models.loading import bundled_models
from lensbench.probes import latent_language, translation_prompts
from lensbench.worlds.atlas import Atlas
from lensbench.worlds.atlas import lexicon as lex
from lensbench.worlds.card import load_module
from lensbench.worlds.controls import reinitialised_twin
from lensbench.worlds.equal_task import (
    AIM,
    DIRECTIONS,
    FAMILY,
    card_text,
    evaluate_model,
    floor,
    hits_by_direction,
    language_shares,
    words_by_language,
)
from lensbench.worlds.task import parse_recipe

ACCURACY, TWIN = 0.8, 0.2
"""Least accuracy in every direction; most of a model of fresh weights."""
DOMINANT = 0.45
"""Least share of English, among the words that one language says, where English dominates."""
ANSWERED, SLIPPED = 0.9, 0.05
"""At the last layer: least mean probability of the translation, most of the third language."""
PLANTED_AT, STRENGTH = 2, 2.0
MEGABYTES = 2.2

WORLD = Atlas(0, "equal")
LEXICON = {
    "English": [row[0] for row in lex.DICTIONARY],
    "French": [row[1] for row in lex.DICTIONARY],
    "German": [row[3] for row in lex.DICTIONARY],
}
WAYS = [(a, b, next(c for c in LEXICON if c not in (a, b))) for a, b in DIRECTIONS]

bundled = pytest.mark.skipif(
    "atlas-equal" not in bundled_models(), reason="atlas-equal is not bundled"
)


@pytest.fixture(scope="module")
def folder() -> Path:
    return bundled_models()["atlas-equal"]


@pytest.fixture(scope="module")
def stated(folder: Path) -> dict[str, Any]:
    return io.read_json(folder / "evaluation.json")


def asked(model: Any, source: str, target: str, pivot: str) -> Any:
    form = "{source_name} : {source} - {target_name} : {target} ."
    prompts = translation_prompts(LEXICON, source, target, shots=0, template=form)
    return latent_language(model, prompts, LEXICON, target=target, pivot=pivot)


# ---- the text -----------------------------------------------------------------------------------
def test_the_three_languages_are_equally_frequent_in_what_it_is_trained_on() -> None:
    shares = language_shares(WORLD)
    assert list(shares.values()) == pytest.approx([1 / 3] * 3, rel=1e-9)
    sampled = counted(WORLD.sample(6000, "train", 5, family=FAMILY))
    assert list(sampled.values()) == pytest.approx([1 / 3] * 3, abs=4 * 0.0067)  # 4 errors
    # Controls: the dictionary of atlas-dense, and the equal dictionary among English families.
    assert language_shares(Atlas(0))["English"] > DOMINANT
    assert counted(WORLD.sample(2000, "train", 5))["English"] > DOMINANT


def counted(corpus: Any) -> dict[str, float]:
    words = Counter(corpus.vocab[t] for t in corpus.tokens)
    said = {name: sum(words[w] for w in own) for name, own in words_by_language().items()}
    return {name: n / sum(said.values()) for name, n in said.items()}


def test_the_floor_is_that_of_a_dictionary_that_speaks_alone() -> None:
    corpus = WORLD.sample(40, "train", 3, family=FAMILY)
    least = floor(WORLD, corpus)
    first = corpus.offsets[:-1]
    # Another family might begin alike, so a world that has them is never surer of a first word.
    assert (least[first] < corpus.nll[first]).all()
    answer = np.flatnonzero(corpus.labels["is_answer"]) - 1
    np.testing.assert_allclose(least[answer], 0, atol=1e-12)


# ---- the model ----------------------------------------------------------------------------------
@bundled
def test_the_card_is_made_of_the_measured_figures(folder: Path, stated: dict[str, Any]) -> None:
    text = (folder / "README.md").read_text()
    assert text == card_text(stated, io.read_json(folder / "recipe.json"))
    missed = any(row["mean"] < AIM for row in stated["accuracy_heldout"].values())
    assert ("MISSED" in text) == missed


@bundled
def test_the_recipe_is_the_one_that_the_command_runs(folder: Path) -> None:
    """``lensbench world train atlas-equal`` with nothing else said."""
    used = parse_recipe(io.read_json(folder / "recipe.json") | {"out": "x"})
    plain = parse_recipe({"model": "atlas-equal", "out": "x"})
    assert json.loads(used.model_dump_json()) == json.loads(plain.model_dump_json())


@bundled
def test_it_opens_by_name_has_the_words_of_atlas_dense_and_is_small(folder: Path) -> None:
    model = load_model("atlas-equal")
    assert model.tokenizer.get_vocab() == load_model("atlas-dense").tokenizer.get_vocab()
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) < MEGABYTES * 1e6


@bundled
def test_it_translates_held_out_words_in_every_direction(
    folder: Path, stated: dict[str, Any]
) -> None:
    module = load_module(folder)
    twin = reinitialised_twin(module, seed=0)
    found = hits_by_direction(WORLD, module, "heldout", n=600, seed=21)
    chance = hits_by_direction(WORLD, twin, "heldout", n=600, seed=21)
    for way, hits in found.items():
        assert hits.mean() >= ACCURACY, way
        assert abs(hits.mean() - stated["accuracy_heldout"][way]["mean"]) < 0.1
        assert chance[way].mean() < TWIN


@bundled
@pytest.mark.parametrize(("source", "target", "pivot"), WAYS)
def test_it_answers_and_passes_through_no_third_language(
    source: str, target: str, pivot: str
) -> None:
    found = asked(load_model("atlas-equal"), source, target, pivot)
    assert found.summary()["target_last"] > ANSWERED
    assert found.summary()["pivot_last"] < SLIPPED
    assert found.pivot_layers() == ()


@bundled
@pytest.mark.parametrize(("source", "target", "pivot"), WAYS)
def test_a_pivot_put_into_this_model_is_found(
    folder: Path, source: str, target: str, pivot: str
) -> None:
    """Control: nothing about this model hides a pivot from the rule."""
    module, index = load_module(folder), WORLD.index
    table = module.lm_head.weight.detach()
    other = {index[a]: index[b] for a, b in zip(LEXICON[source], LEXICON[pivot], strict=True)}
    seen: dict[str, torch.Tensor] = {}
    block = module.model.layers[PLANTED_AT]

    def plant(_: Any, __: Any, out: torch.Tensor) -> torch.Tensor:
        """Into what the block's MLP adds, so that the block's own output has it."""
        words = [next(other[t] for t in row.tolist() if t in other) for row in seen["ids"]]
        unit = torch.nn.functional.normalize(table[words], dim=-1)[:, None]
        return out + STRENGTH * (seen["middle"] + out).norm(dim=-1, keepdim=True) * unit

    def remember(name: str) -> Any:
        return lambda _, given: seen.update({name: given[0]})

    module.model.embed_tokens.register_forward_pre_hook(remember("ids"))
    block.post_attention_layernorm.register_forward_pre_hook(remember("middle"))
    block.mlp.register_forward_hook(plant)
    tokenizer = load_model("atlas-equal").tokenizer
    model = load_model(module, tokenizer=tokenizer, certify=False)
    assert PLANTED_AT in asked(model, source, target, pivot).pivot_layers()


@bundled
@pytest.mark.slow
def test_every_figure_of_the_card_again(folder: Path, stated: dict[str, Any]) -> None:
    again = evaluate_model(folder)
    assert again["parameters"] == stated["parameters"]
    assert again["language_shares"] == pytest.approx(stated["language_shares"])
    assert again["loss_fresh"]["loss"] == pytest.approx(stated["loss_fresh"]["loss"], abs=2e-3)
    for key in ("accuracy_heldout", "accuracy_train", "accuracy_twin"):
        for way, row in stated[key].items():
            assert again[key][way]["mean"] == pytest.approx(row["mean"], abs=0.01), way
