"""Splits by entity and relation, rows of single concepts, one read of a store, and their names."""

from random import Random
from typing import Any

import numpy as np
import pytest
import torch

import lensbench
from lensbench.errors import ConfigError, NotEnoughDataError, UnknownNameError
from lensbench.probes.hd.atlas import atlas_prompts
from lensbench.probes.hd.augment import single_concepts
from lensbench.probes.hd.dealing import deal_names
from lensbench.probes.hd.encoder import EncoderConfig, fit_encoder
from lensbench.probes.hd.ingest import ingest_layers, stored_states
from lensbench.probes.hd.memory import ItemMemory
from lensbench.probes.hd.study import hd_study
from tests.helpers import random_ids, tiny

SMALL = EncoderConfig(hidden=(1.0,), max_epochs=2, lr=3e-3)


def words_and_relations(prompts: Any, *, asked: bool) -> tuple[set[str], set[str]]:
    """Entities (asked about, or in any pair as its key) and relations of a side."""
    pairs = [row[-1:] if asked else row for row in prompts.pairs]
    return {key for row in pairs for key, _ in row}, set(prompts.relations)


@pytest.mark.parametrize("task", ["analogy", "question"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_entity_or_relation_that_is_held_out_is_in_training(task: str, seed: int) -> None:
    for split in ("entity", "relation", "both"):
        dealt = atlas_prompts(task, split, n_train=800, n_test=40, seed=seed)
        entities, relations = words_and_relations(dealt.train, asked=False)
        words = {w for row in dealt.train.pairs for pair in row for w in pair}
        for side in (dealt.validation, dealt.test):
            held, new = words_and_relations(side, asked=True)
            assert not (held & words) if split != "relation" else held & entities
            assert not (new & relations) if split != "entity" else new <= relations
    # Control: held-out pairs have entities and relations that training knows.
    pair = atlas_prompts(task, "pair", n_train=800, n_test=40, seed=seed)
    held, new = words_and_relations(pair.test, asked=True)
    entities, relations = words_and_relations(pair.train, asked=False)
    assert held & entities
    assert new & relations


def test_a_held_out_entity_is_no_value_of_training_either() -> None:
    facts = [(f"r{n}", f"w{i}", f"w{(i + n) % 40}") for n in range(10) for i in range(40)]
    pools = deal_names(facts, "both", Random("0"))
    trained = {word for pool in pools[0] for fact in pool for word in fact[1:]}
    for asked, known in pools[1:]:
        assert asked
        assert not {entity for _, entity, _ in asked} & trained
        assert {r for r, _, _ in known} == {r for r, _, _ in asked}  # examples of the same relation


def test_answers_for_new_entities_are_words_that_training_says() -> None:
    dealt = atlas_prompts("analogy", "entity", n_train=3000, n_test=60, seed=0)
    assert {value for _, _, value in dealt.held_out} <= {row[-1][1] for row in dealt.train.pairs}
    assert len(dealt.held_out) > 10


def test_a_split_that_a_task_does_not_have_is_told() -> None:
    with pytest.raises(NotEnoughDataError, match=r"1 relations \(after\) cannot be dealt"):
        atlas_prompts("pattern", "relation")
    few = [("r", "a", "b"), ("r", "b", "c"), ("r", "c", "a")]
    with pytest.raises(NotEnoughDataError, match=r"leaves \[\d, \d, \d\] facts"):
        deal_names(few, "entity", Random("0"))


def test_the_best_right_prompt_of_each_word_stands_for_it() -> None:
    memory = ItemMemory.random(["a", "b", "c"], dim=256)
    states = torch.arange(12.0).reshape(6, 2)
    said, targets = ("a", "a", "b", "a", "c", "b"), ("a", "a", "b", "c", "c", "a")
    x, concepts = single_concepts(
        memory, states, said, np.array([0.2, 0.9, 0.5, 1.0, 0.4, 1.0]), targets
    )
    assert x.tolist() == [states[i].tolist() for i in (1, 2, 4)]
    assert concepts.tolist() == [0, 1, 2]
    none = single_concepts(
        memory, states, targets[::-1], np.ones(6), ("c", "b", "a", "b", "b", "b")
    )
    assert len(none[0]) == len(none[1])


def test_rows_of_single_concepts_teach_single_concepts() -> None:
    """Planted: pairs lie in one half of the input and single words in the other."""
    rng = torch.Generator().manual_seed(0)
    memory = ItemMemory.random([f"c{i}" for i in range(8)], dim=256)
    pairs = torch.randint(0, 8, (400, 1, 2), generator=rng)
    pairs[:, 0, 1] = (pairs[:, 0, 0] + 1) % 8
    noise = 0.05 * torch.randn(400, 16, generator=rng)
    x = torch.nn.functional.one_hot(pairs[:, 0, 0], 16) + noise
    words = torch.arange(8).repeat(8)
    alone = torch.nn.functional.one_hot(words + 8, 16).float()
    config = EncoderConfig(hidden=(4.0,), max_epochs=20, lr=1e-2, dropout=0.0, patience=20)

    def similarity(single: Any) -> float:
        net = fit_encoder(
            x[:300], pairs[:300], memory, config, validation=(x[300:], pairs[300:]), single=single
        )
        return float(memory.space.similarity(net.encode(alone), memory.vectors[words]).mean())

    assert similarity((alone, words)) > 0.8
    assert similarity(None) < 0.3
    assert similarity((alone, words.roll(1))) < 0.3  # control: rows that stand for other words
    with pytest.raises(ConfigError, match="kind 'mlp'"):
        fit_encoder(
            x, pairs, memory, EncoderConfig(kind="factored"), validation=(x, pairs),
            single=(alone, words),
        )  # fmt: skip
    with pytest.raises(ConfigError, match="as wide as the others"):
        fit_encoder(x, pairs, memory, config, validation=(x, pairs), single=(alone[:, :3], words))


def test_training_from_a_store_reads_every_layer_once(tmp_path: Any, monkeypatch: Any) -> None:
    model = lensbench.load_model(tiny("llama"), certify=False)
    store = lensbench.capture(
        model, random_ids(24, 6).tolist(), ["blocks.*.resid_post"], out=tmp_path / "s",
        dtype="float32", layout="pad",
    )  # fmt: skip
    asked: list[tuple[str, int]] = []
    plain = type(store).rows

    def counted(self: Any, site: Any, indices: Any) -> np.ndarray:
        asked.append((str(site), len(indices)))
        return plain(self, site, indices)

    monkeypatch.setattr(type(store), "rows", counted)
    states = stored_states(store)
    x = ingest_layers(states)
    memory = ItemMemory.random([f"c{i}" for i in range(8)], dim=256)
    pairs = (torch.arange(48) % 8).reshape(24, 1, 2)
    fit_encoder(x[:16], pairs[:16], memory, SMALL, validation=(x[16:], pairs[16:]))
    assert asked == [(f"blocks.{layer}.resid_post", 24) for layer in states.layers]


def test_a_study_says_its_split_solver_and_extra_rows() -> None:
    model = lensbench.load_model("atlas-dense", revision="step512", certify=False)
    options: dict[str, Any] = {"encoder": SMALL, "dim": 512, "n_train": 200, "n_test": 60,
                               "seed": 4, "baselines": ()}  # fmt: skip
    plain = hd_study(model, "question", "combination", **options)
    more = hd_study(model, "question", "combination", solver="greedy", augment="single_concepts",
                    **options)  # fmt: skip
    assert plain.config["single_concepts"] == 0
    assert more.config["single_concepts"] > 5
    assert (plain.config["solver"], more.config["solver"]) == ("threshold", "greedy")
    assert len(more.reading.pairs) == 60
    assert set(more.to_frame()["split"]) == {"combination"}
    held = hd_study(model, "question", "entity", **options)
    assert set(held.to_frame()["split"]) == {"entity"}
    assert held.value() < 0.15  # the code of a new country was never trained


@pytest.mark.illtyped
def test_slips_in_options_of_a_study_are_told() -> None:
    model = lensbench.load_model("atlas-dense", certify=False)
    for options, error, told in (
        ({"solver": "greed"}, UnknownNameError, "Did you mean 'greedy'"),
        ({"solver": None}, UnknownNameError, "no solver named 'None'"),
        ({"augment": "single"}, UnknownNameError, "single_concepts"),
        ({"augment": "single_concepts", "when": "after"}, ConfigError, "end of the prompt"),
        ({"split": "entities"}, UnknownNameError, "Did you mean 'entity'"),
    ):
        with pytest.raises(error, match=told):
            hd_study(model, **options)  # pyright: ignore[reportArgumentType]
