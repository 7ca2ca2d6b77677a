"""Attribute isolation on a model whose attributes lie in known orthogonal directions.

One block of GPT-2's architecture with weights set by hand; a prompt is [relation, entity]. An
entity's embedding is the sum of a direction for its value of A and one for its value of B; block 0
attends evenly, which brings the relation to the entity's place, and its MLP has a neuron per value
that fires where the value and its relation are both there and writes the value's logit.
"""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from tests.saes_evaluation_helpers import HandSet

SITE, N, D = "blocks.0.resid_pre", 4, 20
COPIES = 3
ENTITIES = list(product(range(N), range(N))) * COPIES
N_VOCAB = 2 + len(ENTITIES) + 2 * N


def directions() -> torch.Tensor:
    """Orthonormal rows of mean 0: N of A, N of B, two relations, N + N outputs."""
    gen = torch.Generator().manual_seed(0)
    start = torch.cat([torch.ones(D, 1), torch.randn(D, D - 1, generator=gen)], 1)
    return torch.linalg.qr(start).Q.T[1 : 4 * N + 3]


@pytest.fixture(scope="module")
def model() -> Any:
    import transformers

    import lensbench

    config = transformers.GPT2Config(
        vocab_size=N_VOCAB, n_positions=8, n_embd=D, n_layer=1, n_head=1, n_inner=2 * N,
        activation_function="relu", tie_word_embeddings=False, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    module = transformers.GPT2LMHeadModel(config).eval()
    e = directions()
    value, relation, output = e[: 2 * N], e[2 * N : 2 * N + 2], e[2 * N + 2 :]
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "ln_" not in name:
                parameter.zero_()
        module.transformer.wte.weight[:2] = relation
        for i, (a, b) in enumerate(ENTITIES):
            module.transformer.wte.weight[2 + i] = value[a] + value[N + b]
        block = module.transformer.h[0]
        # The norm makes the relation's token sqrt(D) long, and half of it arrives.
        block.attn.c_attn.weight[:, 2 * D :] = relation.T @ relation
        block.attn.c_proj.weight[:] = torch.eye(D) * 2 / D**0.5
        length = (D / 3) ** 0.5  # of each of the three parts after the second norm
        for j in range(2 * N):
            block.mlp.c_fc.weight[:, j] = value[j] + relation[j // N]
            block.mlp.c_fc.bias[j] = -1.5 * length
            block.mlp.c_proj.weight[j] = 4 * output[j]
        module.lm_head.weight[2 + len(ENTITIES) :] = output
    return lensbench.load_model(module, certify=False)


@pytest.fixture(scope="module")
def prompts() -> Any:
    from lensbench.saes.evaluation.attributes import AttributePrompts

    n, first = len(ENTITIES), 2 + len(ENTITIES)
    values = np.array([[first + a, first + N + b] for a, b in ENTITIES])
    both = [(r, i) for r in range(2) for i in range(n)]
    relation, entity = (np.array(c) for c in zip(*both, strict=True))
    ids = tuple((r, 2 + i) for r, i in both)
    return AttributePrompts(
        tuple(f"entity {i}" for i in range(n)), ("A", "B"), values, ids, entity, relation, relation,
        np.ones(2 * n, np.int64),
    )  # fmt: skip


def isolated(codec: Any, model: Any, prompts: Any, **changes: Any) -> Any:
    from lensbench import saes

    settings: dict[str, Any] = {"ks": (1, 2, N, 2 * N), "n_pairs": 60} | changes
    return saes.attribute_isolation(
        saes.Dictionary("planted", SITE, codec), model, prompts, **settings
    )


def separate() -> HandSet:
    """A latent per value: the truth."""
    rows = directions()[: 2 * N]
    return HandSet(rows.T, rows)


def superposed() -> HandSet:
    """A latent per pair of values: whoever exchanges one attribute exchanges the other."""
    e = directions()
    rows = torch.stack([e[a] + e[N + b] for a, b in product(range(N), range(N))])
    return HandSet(2 * rows.T, rows, b_enc=-3.0)


@pytest.fixture(scope="module")
def found(model: Any, prompts: Any) -> Any:
    return isolated(separate(), model, prompts)


def test_latents_of_one_attribute_change_it_and_nothing_else(found: Any) -> None:
    assert found.known.tolist() == [1, 1]
    assert found.attributes == ("A", "B")
    assert found.ks[found.best_k[0, 0]] == N
    assert found.at_best("cause", "latents").tolist() == [1, 1]
    assert found.at_best("isolation", "latents").tolist() == [1, 1]
    assert found.mean("latents").mean == 1
    assert sorted(found.chosen[0][:N].tolist()) == list(range(N))
    assert sorted(found.chosen[1][:N].tolist()) == list(range(N, 2 * N))


def test_exchanging_everything_or_anything_scores_half(found: Any) -> None:
    for method in ("whole_site", "all_latents"):
        assert found.at_best("cause", method).tolist() == [1, 1]
        assert found.at_best("isolation", method).tolist() == [0, 0]
        assert found.mean(method).mean == 0.5
    for method in ("random_latents", "shuffled_labels", "neurons"):
        assert found.mean(method).mean < 0.75, method
    assert found.controls.values["whole_site"] == 0.5


def test_a_superposed_dictionary_cannot_isolate(model: Any, prompts: Any) -> None:
    codec = superposed()
    found = isolated(codec, model, prompts, ks=(N, 2 * N, N * N))
    assert found.mean("latents").mean < 0.65
    assert found.at_best("cause", "all_latents").tolist() == [1, 1]  # it carries both,
    assert found.at_best("isolation", "all_latents").tolist() == [0, 0]  # and moves both


def test_the_exchange_is_an_edit_of_the_spliced_latents(model: Any, prompts: Any) -> None:
    from lensbench import saes
    from lensbench.plan import Edit, Plan, Set
    from lensbench.saes.evaluation.exchange import Coordinates, Exchanger

    gen = torch.Generator().manual_seed(1)
    weights = torch.randn(D, 12, generator=gen), torch.randn(12, D, generator=gen)
    codec, chosen = HandSet(*weights), np.array([0, 3, 7])
    world = Exchanger(model, SITE, prompts)
    basis = Coordinates.of("random", codec, world.flat)
    base, source = np.array([0, 5, 60]), np.array([9, 30, 80])
    moved = basis.moved(base, source, chosen)
    assert float(moved.abs().max()) > 0.1
    spliced = model.with_saes(saes.Dictionary("random", SITE, codec))
    for row, (b, s) in enumerate(zip(base, source, strict=True)):
        value = basis.codes[s][torch.from_numpy(chosen)]
        plan = Plan((Edit(f"{SITE}.sae.acts", Set(value), positions=(1,), dims=chosen.tolist()),))
        out = spliced.run([list(prompts.ids[b])], plan, capture=SITE)
        torch.testing.assert_close(out.acts[SITE][0, 1], world.flat[b] + moved[row])
        assert world.said(np.array([b]), [moved[row : row + 1]])[0] == out.logits[0, -1].argmax()


def test_pairs_differ_where_they_must(model: Any, prompts: Any) -> None:
    from lensbench.saes.evaluation.exchange import Exchanger
    from lensbench.saes.evaluation.pairing import cause_pairs, isolation_pairs

    world = Exchanger(model, SITE, prompts)
    part = np.arange(len(ENTITIES)) % 2 == 0
    chose = ~part & (prompts.values[:, 0] != prompts.values[0, 0])
    rng = np.random.default_rng(0)
    for pairs, asked in (
        (cause_pairs(world, part, 0, chose, 50, rng), 0),
        (isolation_pairs(world, part, 0, chose, 50, rng), 1),
    ):
        assert len(pairs) == 50
        assert set(prompts.attribute[pairs.base]) == {asked}
        np.testing.assert_array_equal(prompts.wording[pairs.base], prompts.wording[pairs.source])
        b, s = prompts.entity[pairs.base], prompts.entity[pairs.source]
        assert part[b].all()
        assert part[s].all()
        assert (prompts.values[b, 0] != prompts.values[s, 0]).all()
        assert (prompts.values[b, asked] != prompts.values[s, asked]).all()
        assert prompts.values[0, 0] not in prompts.values[s, 0]  # none chose by that value
        wanted = prompts.values[s if asked == 0 else b, asked]
        np.testing.assert_array_equal(pairs.wanted, wanted)


def test_ranking_finds_the_coordinates_that_follow_the_attribute() -> None:
    from lensbench.saes.evaluation.exchange import ranked

    rng = np.random.default_rng(0)
    entity, value = np.repeat(np.arange(40), 3), np.arange(40) % 4
    codes = rng.normal(size=(120, 6))
    codes[:, 2] += 5 * (value[entity] == 1)
    codes[:, 4] += 3 * (value[entity] == 3)
    assert ranked(codes, entity, value, np.ones(6))[:2].tolist() == [2, 4]
    long = np.where(np.arange(6) == 4, 10.0, 1.0)  # longer decoder rows move the site further
    assert ranked(codes, entity, value, long)[0] == 4
    assert len(ranked(np.ones((120, 6)), entity, value, np.ones(6))) == 0


def test_results_come_back_from_disk_and_show_themselves(found: Any, tmp_path: Any) -> None:
    from lensbench.results import load

    assert load(found.save(tmp_path)) == found
    frame = found.to_frame()
    assert len(frame) == len(found.methods) * 2 * 4
    assert found.plot().data
    assert found.plot_trade().data
    assert found.summary()["whole_site"] == 0.5
    own = frame[(frame["method"] == "latents") & frame["chosen"]]
    assert own["disentangle"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"ks": ()}, "ConfigError", "ks must hold"),
        ({"ks": (0,)}, "ConfigError", "at least 1"),
        ({"share": 1.0}, "ConfigError", "share"),
        ({"share": 0.01}, "ConfigError", "0 to score"),
        ({"n_pairs": 2}, "ConfigError", "n_pairs"),
    ],
)
def test_bad_settings_are_refused(
    model: Any, prompts: Any, changes: Any, error: str, words: str
) -> None:
    from lensbench import errors

    with pytest.raises(getattr(errors, error), match=words):
        isolated(separate(), model, prompts, **changes)


def test_a_model_that_knows_nothing_is_said_to(model: Any, prompts: Any) -> None:
    from dataclasses import replace

    from lensbench.errors import ConfigError, MismatchError, NotEnoughDataError

    wrong = replace(prompts, values=prompts.values[:, ::-1].copy())
    with pytest.raises(NotEnoughDataError, match="0 pairs for cause"):
        isolated(separate(), model, wrong)
    with pytest.raises(ConfigError, match="position must be one whole number"):
        replace(prompts, position=prompts.position[:-1])
    with pytest.raises(ConfigError, match="prompt 0 names a token"):
        replace(prompts, position=prompts.position + 5)
    with pytest.raises(ConfigError, match="once of every entity"):
        replace(prompts, wording=np.zeros_like(prompts.wording))
    with pytest.raises(MismatchError, match="reads vectors of 3"):
        isolated(HandSet(torch.eye(3), torch.eye(3)), model, prompts)


@pytest.fixture(scope="module")
def atlas() -> Any:
    from lensbench import load_model

    return load_model("atlas-dense", certify=False)


def test_atlas_prompts_ask_what_the_world_knows(atlas: Any) -> None:
    from lensbench import saes
    from lensbench.errors import UnknownNameError
    from lensbench.worlds.atlas.lexicon import FACTS

    prompts = saes.atlas_attributes()
    assert prompts.attributes == tuple(FACTS)
    vocab = list(atlas.tokenizer.convert_ids_to_tokens(range(atlas.card.d_vocab)))
    for i in (0, 300, 900):
        country = prompts.entities[prompts.entity[i]]
        value = FACTS[prompts.attributes[prompts.attribute[i]]][country]
        assert vocab[prompts.answer[i]] == value
        assert country in [vocab[t] for t in prompts.ids[i]]
        assert prompts.position[i] == len(prompts.ids[i]) - 1
    named = saes.atlas_attributes(at="entity")
    for i in (0, 300, 900):
        word = vocab[named.ids[i][named.position[i]]]
        assert word == named.entities[named.entity[i]]
    people = saes.atlas_attributes(entities="people")
    assert (people.attributes, len(people.entities)) == (("job", "city"), 160)
    with pytest.raises(UnknownNameError, match="Did you mean 'people'"):
        saes.atlas_attributes(entities="persons people")


def test_the_bundled_model_is_measured_with_all_its_controls(atlas: Any) -> None:
    from lensbench import saes
    from lensbench.worlds.controls import random_dictionary

    site = "blocks.1.resid_post"
    chance, twin = (
        saes.Dictionary(f"random {i}", site, random_dictionary(128, 64, 8, seed=i)) for i in (0, 1)
    )
    found = saes.attribute_isolation(
        chance, atlas, saes.atlas_attributes(), ks=(8,), n_pairs=12, twin=twin
    )
    assert (found.known == 1).all()
    assert "capital" in found.missing  # every country has its own: nothing to choose by
    assert found.attributes == ("language", "continent", "currency")
    assert found.at_best("cause", "whole_site").min() == 1
    assert found.mean("whole_site").mean <= 0.6
    assert "twin" in found.controls.values
    assert found.mean("random_latents").mean < 0.6
    # Control: where the country's name was already read, exchanging all of it moves nothing.
    read = saes.attribute_isolation(
        chance, atlas, saes.atlas_attributes(at="entity"), ks=(8,), n_pairs=12
    )
    assert read.at_best("cause", "whole_site").max() == 0
