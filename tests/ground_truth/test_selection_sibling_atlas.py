"""The entity study on a fine-tuned sibling of atlas-dense that refuses questions about strangers.

The sibling is made here by the recipe ``atlas-refusing`` (seed 0): half of the people, known and
unknown, are asked about in fine-tuning, the others never. Latents and attribute heads are found on
atlas-dense, in statements about the former; the sibling is asked about the latter.

Fixed before the first study was run: recipe, site, dictionary, seeds, metric, strengths, number of
controls and every threshold below. The recipe had been run once before, and its card read; the aims
for people it was never asked about are .75. Misses are strict xfails with what was measured; the
words of the verdict were filled in after the run.

What came out: nothing carries over, because nothing was there to carry: no latent of block 2 of the
base tells the known from the unknown, and what the sibling learnt (.69 of unseen strangers refused,
and .52 of unseen acquaintances) is not to be moved by the best of them more than by random latents.
"""

import numpy as np
import pytest

import lensbench
from lensbench.interventions import entity_prompts, sibling_study, token_probability
from lensbench.stats import bootstrap_mean
from lensbench.worlds.atlas import Atlas
from lensbench.worlds.refusing import RefusingAtlas
from lensbench.worlds.refusing_task import answered
from lensbench.worlds.task import parse_recipe
from lensbench.worlds.training import train_world
from tests.ground_truth.test_selection_atlas import SITE, WORDINGS
from tests.selection_worlds import atlas_sae

pytestmark = pytest.mark.slow

LEARNT, CARRIED, LEVEL = 0.95, 0.75, 0.05
RANDOM, STRENGTHS = 40, (0.5, 1.0, 2.0)
LEAST_EFFECT = 0.5
"""Nats of direct effect that the first attribute head has at least."""


@pytest.fixture(scope="module")
def base():
    return lensbench.load_model("atlas-dense", certify=False)


@pytest.fixture(scope="module")
def world():
    return Atlas(seed=0)


@pytest.fixture(scope="module")
def asked(world):
    return RefusingAtlas(world)


@pytest.fixture(scope="module")
def sibling(tmp_path_factory):
    out = tmp_path_factory.mktemp("sibling")
    recipe = parse_recipe({"model": "atlas-refusing", "out": out, "card": False, "device": "cpu"})
    return lensbench.load_model(train_world(recipe), certify=False)


@pytest.fixture(scope="module")
def study(base, world, asked, sibling):
    rows = []
    for first, last, known in asked.people["train"]:
        for wording, kind in WORDINGS.items():
            name = f"{first} {last}"
            told = getattr(world.people, kind).get((first, last), "the")
            rows.append((wording.format(name), name, known, wording, world.index[told]))
    texts, names, known, groups, answer = zip(*rows, strict=True)
    found_on = entity_prompts(base, texts, names, known, groups, answer=answer)
    p = asked.prompts("heldout")
    prompts = entity_prompts(sibling, p.texts, p.names, p.known, p.wordings, answer=p.answers)
    return sibling_study(
        base, sibling, found_on, prompts, SITE, atlas_sae(base, world, SITE),
        metric=token_probability([asked.refusal], "probability of a refusal"),
        strengths=STRENGTHS, random=RANDOM, heads=3,
    )  # fmt: skip


def test_the_sibling_learnt_whom_to_refuse_among_those_it_was_asked_about(asked, sibling):
    found = answered(asked, sibling.module)
    assert found["train_known"].mean() >= LEARNT
    assert found["train_unknown"].mean() >= LEARNT


@pytest.mark.xfail(strict=True, reason="measured: .43 of the answers right, .52 refused")
def test_it_answers_for_known_people_it_was_never_asked_about(asked, sibling):
    assert answered(asked, sibling.module)["heldout_known"].mean() >= CARRIED


@pytest.mark.xfail(strict=True, reason="measured: .69 refused")
def test_it_refuses_for_unknown_people_it_was_never_asked_about(asked, sibling):
    assert answered(asked, sibling.module)["heldout_unknown"].mean() >= CARRIED


def test_it_refuses_unknown_people_more_often_than_known_ones_all_the_same(asked, sibling):
    found, people = answered(asked, sibling.module), asked.people["heldout"]
    n = sum(known for *_, known in people)  # prompts come wording by wording, people within
    unknown, known = (
        bootstrap_mean(found[name].astype(float), np.tile(np.arange(n), 4))
        for name in ("heldout_unknown", "heldout_known_refused")
    )
    assert unknown.low > known.high


@pytest.mark.xfail(strict=True, reason="measured: best p = 1 of 1,024 latents")
def test_a_latent_of_the_base_tells_the_people_apart(study):
    assert min(study.separation.p.min(1)) < LEVEL


@pytest.mark.xfail(
    strict=True, reason="measured: AUROC .50 (known) and .48 (unknown), p = .41 and 1"
)
def test_a_latent_of_the_base_tells_them_apart_on_the_sibling(study):
    frame = study.to_frame().query("kind != 'random'")
    assert ((frame.low_sibling > 0.5) & (frame.p <= LEVEL / 2)).any()


@pytest.mark.xfail(strict=True, reason="measured: p = .29 and .24")
def test_steering_by_it_moves_refusals_beyond_random_latents(study):
    frame = study.to_frame().query("kind != 'random'")
    assert frame.p_steering.min() <= LEVEL / 2


@pytest.mark.xfail(strict=True, reason="measured: .13 nats at most behind the site (L3H0)")
def test_attribute_heads_are_found_on_the_base(study):
    effects = study.direct_effect[np.isfinite(study.direct_effect)]
    assert effects.max() >= LEAST_EFFECT
    assert effects.max() >= 3 * np.median(np.abs(effects))


@pytest.mark.xfail(
    reason="the machine's rounding in fine-tuning decides which latent is chosen: .99 to .97 "
    "(random latents .89) in one run, .998 to .606 (p .024 among 40 random ones) in another"
)
def test_attribute_heads_look_less_at_known_people_once_steered_to_the_unknown(study):
    looks = study.steering.attention_frame()
    rows = looks[(looks.kind == "unknown") & (looks.prompts == "known")]
    rows = rows[(rows["condition"] == "add 2") & (rows["head"] == study.heads[0])]
    assert rows.high.iloc[0] < 0
    assert rows.p.iloc[0] <= LEVEL


def test_the_study_says_in_words_what_it_found(study):
    assert study.verdict == (
        "on the base no latent separates the classes beyond chance; on the sibling no selected "
        "latent separates them more than random ones do (best AUROC 0.50); steering by them moves "
        "probability of a refusal no more than random latents do"
    )
