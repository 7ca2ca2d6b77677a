"""Latents and heads of a planted base, carried over to siblings whose answer is known.

The base is the toy of ``test_selection_study``: knowledge on dim 0, one head copies it to dim 1,
which "yes" reads with + and "no", the refusal, with -. Siblings are copies that were changed by
hand: a little noise and a stronger refusal; a refusal that reads something else; knowledge moved to
another dimension.
"""

from copy import deepcopy

import numpy as np
import pytest
import torch

import lensbench
from lensbench import results
from lensbench.errors import ConfigError, MismatchError, UnknownNameError
from lensbench.interventions import (
    EntityPrompts,
    answer_entropy,
    attribute_effects,
    sibling_study,
    token_probability,
)
from lensbench.plan import Edit, Plan, Zero
from lensbench.sites import Site
from tests.ground_truth.test_selection_study import (
    NO,
    PLANTED,
    SITE,
    Planted,
    entities,
    toy,
)
from tests.helpers import tiny

WIDE = 160


def fine_tuned(base, change):
    module = deepcopy(base.module)
    with torch.no_grad():
        change(module)
    return lensbench.load_model(module, certify=False)


def refuses_more(module):
    module.lm_head.weight[NO] *= 2
    rng = torch.Generator().manual_seed(7)
    e = module.model.embed_tokens.weight
    e += 0.02 * torch.randn(e.shape, generator=rng)


def reads_something_else(module):
    module.model.layers[0].self_attn.v_proj.weight[0, 0] = 0.0
    module.model.layers[0].self_attn.v_proj.weight[0, 3] = 1.0


def knows_elsewhere(module):
    e = module.model.embed_tokens.weight
    e[:, [0, 40]] = e[:, [40, 0]].clone()


@pytest.fixture(scope="module")
def base():
    return toy()


@pytest.fixture(scope="module")
def halves():
    return entities().halves(0)


def study_of(base, sibling, halves, **settings):
    given = {"metric": token_probability([NO]), "within": 0.3, "strengths": (0.5, 1.0), "heads": 2}
    return sibling_study(base, sibling, *halves, SITE, Planted(WIDE), **given | settings)


@pytest.fixture(scope="module")
def study(base, halves):
    return study_of(base, fine_tuned(base, refuses_more), halves)


def test_the_planted_latent_separates_on_both_and_random_ones_do_not(study):
    assert study.latents[0] == PLANTED
    assert study.kinds[0] == "known"
    assert study.auroc[:, 0].tolist() == [1.0, 1.0]
    row = study.to_frame().iloc[0]
    assert row["p"] == pytest.approx(1 / 41)
    assert row["p_selection"] < 0.05
    assert row["low_sibling"] > 0.5
    drawn = study.auroc[1, study.rows_of("random")]
    assert abs(drawn.mean() - 0.5) < 0.1
    assert study.controls.values["random_latents_auroc_farthest"] < 0.9


def test_an_auroc_is_that_of_pairs_of_entities(study, halves):
    """By hand, from the sibling's own embedding of the last name."""
    other = halves[1]
    sibling_rows = study.rows_of("random")[:3]
    assert study.steering.entity == other.entity
    for i in sibling_rows:
        assert study.low[1, i] <= study.auroc[1, i] <= study.high[1, i]
    codec, base = Planted(WIDE), toy()
    sibling = fine_tuned(base, refuses_more)
    e = sibling.module.model.embed_tokens.weight.detach()
    latent = int(study.latents[sibling_rows[0]])
    last = [row[at[-1]] for row, at in zip(other.rows, other.tokens, strict=True)]
    acts = codec.encode(e[last])[:, latent].detach().numpy()
    own, rest = acts[other.first], acts[~other.first]
    wins = [(a > b) + 0.5 * (a == b) for a in own for b in rest]
    assert study.auroc[1, sibling_rows[0]] == pytest.approx(np.mean(wins), abs=1e-6)


def test_steering_the_sibling_moves_its_refusals_and_random_latents_do_not(study):
    frame = study.steering.to_frame().query("latent == @PLANTED")
    frame = frame.set_index(["condition", "prompts"])
    assert frame.loc[("add 1", "unknown"), "high"] < -0.3  # refused before, not any more
    assert frame.loc[("ablate", "known"), "low"] > 0.3
    assert frame.loc[("add 1", "unknown"), "p"] == pytest.approx(1 / 41)
    assert study.steering_p(0) == pytest.approx(1 / 41)
    assert "latent 5" in study.verdict
    assert "separate" in study.verdict
    assert "no more than random" not in study.verdict


def test_the_copying_head_is_the_attribute_head(study):
    assert study.heads[0] == "L0H0"
    assert study.direct_effect[0, 0] > 0.5
    assert study.direct_effect[0, 1] == pytest.approx(0, abs=1e-6)  # its values are zero
    looks = study.attention_frame().set_index(["head", "prompts", "model", "condition", "kind"])
    looks = looks["attention"]
    before = looks[("L0H1", "unknown", "sibling", "clean", "")]
    after = looks[("L0H1", "unknown", "sibling", "add 1", "known")]
    drawn = looks[("L0H1", "unknown", "sibling", "add 1", "random")]
    in_base = looks[("L0H1", "unknown", "base", "clean", "")]
    assert after > before + 0.1
    assert after > drawn + 0.2  # a step along anything raises it a little: keys are exponentials
    assert in_base == pytest.approx(before, abs=0.05)
    uniform = looks[("L0H0", "unknown", "sibling", "add 1", "known")]
    assert uniform == pytest.approx(np.mean([2 / 6, 2 / 8]), abs=1e-3)


def test_a_latent_of_the_second_class_is_measured_for_its_own_class(base, halves):
    """The same prompts with the classes exchanged: the planted latent is that of the second."""
    turned = [
        EntityPrompts(h.rows, h.tokens, h.entity, ~h.first, h.group, ("strange", "familiar"),
                      answer=h.answer, foil=h.foil)
        for h in halves
    ]  # fmt: skip
    found = study_of(base, fine_tuned(base, refuses_more), turned, heads=[(0, 1)])
    i = found.kinds.index("familiar")
    assert found.latents[i] == PLANTED
    assert found.auroc[:, i].tolist() == [1.0, 1.0]
    assert found.auroc_p(i) == pytest.approx(1 / 41)


def test_a_sibling_that_reads_something_else_is_told_apart_but_not_steered(base, halves):
    """Control: the activation carries over, what it does does not."""
    found = study_of(base, fine_tuned(base, reads_something_else), halves)
    assert found.auroc[1, 0] == 1.0
    assert found.steering_p(0) > 0.05
    assert "latents that separate them: 5" in found.verdict
    assert "steering by them moves probability of the tokens no more than random" in found.verdict


def test_a_sibling_that_keeps_its_knowledge_elsewhere_is_not_told_apart(base, halves):
    """Control: the base's latent does not fire there at all."""
    found = study_of(base, fine_tuned(base, knows_elsewhere), halves)
    assert found.auroc[0, 0] == 1.0
    assert found.auroc[1, 0] == pytest.approx(0.5, abs=0.2)
    assert "no selected latent separates them more than random ones" in found.verdict


def test_a_base_without_such_a_latent_is_said_so_in_words(base, halves):
    """Control: classes at random."""
    moved = []
    for n, half in enumerate(halves):
        names = half.entities
        first = dict(zip(names, np.random.default_rng(n).permutation(
            np.arange(len(names)) % 2 == 0), strict=True))  # fmt: skip
        moved.append(EntityPrompts(
            half.rows, half.tokens, half.entity, np.array([first[e] for e in half.entity]),
            half.group, answer=half.answer, foil=half.foil))  # fmt: skip
    found = study_of(base, fine_tuned(base, refuses_more), moved, within=0.4)
    assert found.verdict.startswith("on the base no latent separates the classes beyond chance")
    assert "no selected latent separates them more than random ones" in found.verdict


def test_direct_effects_are_those_of_values_taken_out_by_hand():
    """Another way round on a real model: the entity's values set to zero in one head."""
    from lensbench.plan import Add

    model = lensbench.load_model("atlas-dense", certify=False)
    texts = ["Ruth Novak works as a", "Everyone knows Ruth Novak , the"]
    rows = [model.tokens(t).ids[0].tolist() for t in texts]
    prompts = EntityPrompts(
        tuple(map(tuple, rows)), ((1, 2), (3, 4)), ("Ruth Novak",) * 2, np.array([True, True]),
        ("a", "b"), answer=(50, 60),
    )  # fmt: skip
    found = attribute_effects(model, prompts, after="blocks.1.resid_post")
    assert np.isnan(found[:2]).all()
    assert np.isfinite(found[2:]).all()
    total = 0.0
    for ids, at, answer in zip(rows, prompts.tokens, (50, 60), strict=True):
        out = Site("attn_out", 3)
        cut = Plan((Edit(Site("attn.v", 3), Zero(), heads=(2,), positions=at),))
        clean, without = (model.run([ids], p, capture=out) for p in (Plan(), cut))
        part = (clean.acts[out] - without.acts[out])[0, -1]
        end = Plan((Edit(Site("resid_post", model.n_layers - 1), Add(-part), positions=(-1,)),))
        stands = [x[0, -1, answer] - x[0, -1].mean()
                  for x in (clean.logits, model.run([ids], end).logits)]  # fmt: skip
        total += float(stands[0] - stands[1])
    assert found[3, 2] == pytest.approx(total / 2, abs=1e-4)


def test_what_a_head_brings_from_all_tokens_is_what_it_writes_with_shared_values_too():
    from lensbench.interventions.selection.attributes import _brought

    model = lensbench.load_model(tiny("llama"), certify=False)
    rows = [[1, 5, 9, 4], [1, 7, 8, 3, 6, 2]]
    prompts = EntityPrompts(
        tuple(map(tuple, rows)), ((0, 1, 2, 3), tuple(range(6))), ("a", "b"),
        np.array([True, False]), ("all",) * 2,
    )  # fmt: skip
    sites = [Site(name, 1) for name in ("attn.pattern", "attn.v", "attn.z")]
    out = model.run(rows, capture=sites)
    for head in range(model.card.n_heads):
        for row, got in enumerate(_brought(prompts, out, sites[0], sites[1], head)):
            torch.testing.assert_close(got, out.acts[sites[2]][row, -1, head], atol=1e-5, rtol=0)


def test_a_study_saves_frames_and_draws(study, tmp_path):
    assert results.load(study.save(tmp_path / "r")) == study
    assert len(study.to_frame()) == len(study.latents)
    assert len(study.attention_frame()) == 2 * 2 * (2 + 3 * 3)
    assert study.plot().data
    assert study.summary()["known_auroc_sibling"] == 1.0


@pytest.mark.illtyped
def test_what_is_no_sibling_or_no_fair_test_is_refused(base, halves):
    sibling, (found_on, prompts) = base, halves
    metric = token_probability([NO])

    def ask(one=sibling, a=found_on, b=prompts, **settings):
        return sibling_study(base, one, a, b, SITE, Planted(WIDE),
                             **{"metric": metric, "within": 0.3} | settings)  # fmt: skip

    with pytest.raises(MismatchError, match="a sibling is a fine-tuned copy"):
        ask(lensbench.load_model(tiny("llama"), certify=False))
    with pytest.raises(ConfigError, match="are in both sets of prompts"):
        ask(b=found_on)
    with pytest.raises(ConfigError, match="all about one class"):
        ask(b=prompts.select(prompts.first))
    with pytest.raises(ConfigError, match="3 heads are asked for and 2"):
        ask(heads=3)
    with pytest.raises(ConfigError, match="within must be a number"):
        ask(heads=2, within="near")
    with pytest.raises(UnknownNameError, match="Did you mean 'permutations'"):
        ask(heads=2, permutation=3)
    with pytest.raises(ConfigError, match="threshold must be a number"):
        ask(heads=2, threshold="high")
    bare = EntityPrompts(found_on.rows, found_on.tokens, found_on.entity, found_on.first,
                         found_on.group)  # fmt: skip
    with pytest.raises(ConfigError, match="need answer="):
        ask(a=bare)
    assert ask(a=bare, heads=[(0, 1)]).heads == ("L0H1",)
    assert ask(heads=0, metric=answer_entropy()).heads == ()
    with pytest.raises(ConfigError, match="pairs"):
        ask(heads=[(0, 7)])
    for heads in (-1, None, 1.5, True):
        with pytest.raises(ConfigError, match="heads must be"):
            ask(heads=heads)
    for seed in (-1, "x"):
        with pytest.raises(ConfigError, match="seed"):
            ask(seed=seed)
    with pytest.raises(MismatchError, match="token 1000000"):
        ask(metric=token_probability([10**6]))
    with pytest.raises(ConfigError, match="strengths"):
        ask(strengths=[])
