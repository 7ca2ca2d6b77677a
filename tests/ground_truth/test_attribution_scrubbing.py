"""Causal scrubbing of an OR gate, where what each hypothesis recovers can be worked out."""

import itertools

import numpy as np
import pytest

import lensbench
from lensbench import interventions, prompts
from lensbench.errors import ConfigError, UnknownSiteError
from lensbench.interventions import Claim, Place, causal_scrub
from lensbench.sites import Site
from tests import attribution_worlds as worlds

BITS = list(itertools.product((0, 1), (0, 1))) * 16
OUT = Place(Site("mlp_out", 0), 3)
FIRST, SECOND = (Place(Site("resid_pre", 0), at) for at in (1, 2))


@pytest.fixture(scope="module")
def gate():
    model = worlds.or_gate()
    clean = [[2, a, b, 3] for a, b in BITS]
    answers = [int(a or b) for a, b in BITS]
    pairs = prompts.from_ids(clean, clean, answers, [1 - x for x in answers], model=model)
    return model, pairs


RULES = {
    "or": lambda x: x[0] or x[1], "both": tuple, "x0": lambda x: x[0], "x1": lambda x: x[1],
    "xor": lambda x: x[0] ^ x[1], "nothing": lambda _: 0,
}  # fmt: skip


def of(name):
    return [RULES[name](bits) for bits in BITS]


# 3/8 of random answers are wrong. With the same x0 those with x0 = 0 take x1 of another: 1/4 are.
@pytest.mark.parametrize(
    ("feature", "expected"),
    [("or", 1.0), ("both", 1.0), ("x0", 1 / 3), ("xor", 1 / 3), ("nothing", 0.0)],
)
def test_loss_recovered_is_what_the_hypothesis_leaves_to_chance(gate, feature, expected):
    model, pairs = gate
    found = causal_scrub(model, pairs, Claim(OUT, of(feature)), draws=96, batch_size=512)
    assert found.model.max() < 1e-4
    assert found.random.mean() == pytest.approx(20 * 3 / 8, rel=0.05)
    assert found.recovered == pytest.approx(expected, abs=1e-5 if expected == 1 else 0.03)
    assert abs(found.control) < 0.15  # shuffled features: nothing, but for chance agreement


def test_a_tree_is_scrubbed_at_every_level(gate):
    model, pairs = gate
    first, second = Claim(FIRST, of("x0")), Claim(SECOND, of("x1"))
    both = causal_scrub(model, pairs, Claim(OUT, of("or"), (first, second)), draws=32)
    assert both.recovered == pytest.approx(1.0, abs=1e-5)
    assert both.tree[0].startswith("blocks.0.mlp_out @3")
    assert both.tree[1].startswith("  blocks.0.resid_pre @1")
    # x0 of a prompt with the same OR, x1 at random: wrong in 1/4 of the prompts.
    one = causal_scrub(model, pairs, Claim(OUT, of("or"), (first,)), draws=64, batch_size=512)
    assert one.recovered == pytest.approx(1 / 3, abs=0.04)
    # Children follow the prompt that was drawn for their parent, not the one that is scrubbed.
    drawn = causal_scrub(model, pairs, Claim(OUT, of("xor"), (first, second)), draws=64)
    assert drawn.recovered == pytest.approx(1 / 3, abs=0.04)
    # Each path draws for itself: two claims that share a feature need not share a prompt.
    apart = causal_scrub(
        model, pairs, Claim(OUT, of("or"), (Claim(FIRST, of("or")), Claim(SECOND, of("or")))),
        draws=64, batch_size=512,
    )  # fmt: skip
    # With OR true each bit is 1 in 2 of 3; both 0 in 1 of 9, of 3/4 of the prompts: 1/12 wrong.
    assert apart.recovered == pytest.approx(1 - (1 / 12) / (3 / 8), abs=0.04)


def test_what_recall_reads_is_recovered_by_its_key_and_value_and_not_by_the_key_alone():
    model = lensbench.load_model("atlas-dense", certify=False)
    pairs = prompts.recall(model, n=12)
    at = pairs.position("value")
    value = [row[i] for row, i in zip(pairs.clean_ids, at, strict=True)]
    end = Place(Site("resid_post", 5), "end")
    right = causal_scrub(model, pairs, Claim(end, value, name="value"), draws=4)
    assert right.recovered > 0.9
    wordings = causal_scrub(model, pairs, Claim(end, pairs.wordings, name="wording"), draws=4)
    assert wordings.recovered < 0.5


def test_results_come_back_equal_and_are_drawn(gate, tmp_path):
    model, pairs = gate
    found = causal_scrub(model, pairs, [Claim(OUT, of("or"))], draws=2)
    assert lensbench.results.load(found.save(tmp_path / "s")) == found
    assert found.plot().data
    assert list(found.to_frame()["run"]) == ["model", "scrubbed", "shuffled", "random"]
    assert found.summary()["claims"] == 1
    again = causal_scrub(model, pairs, [Claim(OUT, of("or"))], draws=2)
    assert np.array_equal(again.random, found.random)
    assert interventions.ScrubResult is type(found)


@pytest.mark.illtyped  # on purpose
def test_slips_are_named(gate):
    model, pairs = gate
    with pytest.raises(ConfigError, match="values for 64"):
        causal_scrub(model, pairs, Claim(OUT, [0, 1]))
    with pytest.raises(UnknownSiteError, match="mlp_out"):
        causal_scrub(model, pairs, Claim(Place(Site("mlp_out", 3)), of("or")))
    for none in ([], ["mlp_out"]):
        with pytest.raises(ConfigError, match="claim"):
            causal_scrub(model, pairs, none)
    with pytest.raises(ConfigError, match="features"):
        causal_scrub(model, pairs, Claim(OUT, [[0]] * len(pairs)))
    with pytest.raises(ConfigError, match="too late"):
        causal_scrub(model, pairs, Claim(FIRST, of("x0"), (Claim(OUT, of("or")),)))
    with pytest.raises(ConfigError, match="positions"):
        causal_scrub(model, pairs, Claim(Place(Site("mlp_out", 0), 99), of("or")))
    atlas = lensbench.load_model("atlas-dense", certify=False)
    mixed = prompts.ioi(atlas, n=8)
    with pytest.raises(ConfigError, match="role"):
        causal_scrub(atlas, mixed, Claim(Place(Site("mlp_out", 3), 4), [0] * len(mixed)))
