"""Read-outs on accelerated models: what is written by a layer that runs is read, else it is not."""

import numpy as np
import pytest
import torch

import lensbench
from lensbench.errors import ConfigError, MismatchError, UnknownNameError
from lensbench.interventions import probe_direction, steer
from lensbench.interventions.acceleration import Route, readability, swapped, without
from lensbench.interventions.acceleration.reading.ways import Texts, states, way
from lensbench.plan import Plan, skip_layers
from lensbench.results import load
from lensbench.sites import Site
from tests.helpers import random_ids, tiny

L, D = 6, 32
TEXT = random_ids(8, 20, seed=6)
AFTER = "blocks.4.resid_post"


class Dictionary:
    """Latents ``relu(x A)``, and back by the pseudo-inverse."""

    d_sae = 48

    def __init__(self, site=None, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.site, self.weights = site, torch.randn(D, 48, generator=generator)

    def encode(self, x):
        return (x @ self.weights).relu()

    def decode(self, acts):
        return acts @ torch.linalg.pinv(self.weights)


class Sign:
    """A probe of the sign of a direction."""

    numeric = False

    def __init__(self, site, weights, bias=0.0):
        self.site, self.weights, self.bias = site, weights, bias

    def score(self, x):
        return np.asarray(x) @ self.weights + self.bias


def model_with(*, silent=(), planted=None, seed=3):
    """Random blocks; ``silent`` ones write nothing, ``planted`` is the only one to write along e_0.

    The planted MLP writes along dimension 0 what no other block, nor the embedding, does.
    """
    module = tiny("llama", seed=seed, hidden_size=D, num_hidden_layers=L)
    model = lensbench.load_model(module, certify=False)
    with torch.no_grad():
        for i, block in enumerate(module.model.layers):
            if i in silent:
                block.self_attn.o_proj.weight.zero_()
                block.mlp.down_proj.weight.zero_()
            if planted is not None:
                block.self_attn.o_proj.weight[0] = 0
                if i != planted:
                    block.mlp.down_proj.weight[0] = 0
        if planted is not None:
            module.model.embed_tokens.weight[:, 0] = 0
    return model


def axis(n=D, at=0):
    found = np.zeros(n, dtype=np.float32)
    found[at] = 1
    return found


@pytest.fixture(scope="module")
def llama():
    return model_with()


def lens(model):
    return lambda h, _: model.unembed(h)


def readouts(model):
    vector = np.random.default_rng(0).normal(size=D).astype(np.float32)
    return {
        "probe": Sign(AFTER, vector),
        "direction": probe_direction(AFTER, vector),
        "latents": Dictionary(AFTER),
        "lens": (AFTER, lens(model)),
    }


def test_on_silent_layers_every_readout_reads_the_same() -> None:
    model = model_with(silent=(1, 2))
    fast = {"plan": skip_layers([1, 2]), "route": without(L, [1, 2])}
    vector = np.random.default_rng(1).normal(size=D).astype(np.float32)
    found = readability(
        model, TEXT, fast, readouts(model),
        steer=steer(probe_direction("blocks.3.resid_post", vector), 2.0),
    )  # fmt: skip
    frame = found.to_frame().set_index("measure")
    for name in ("agreement", "jaccard", "f1"):
        assert (frame.loc[name, "value"] == 1).all()
    for name in ("correlation", "effect_kept", "effect_cosine"):
        np.testing.assert_allclose(frame.loc[name, "value"].to_numpy(), 1, atol=1e-6)
    for name in ("kl", "fvu"):
        assert frame.loc[name, "value"].max() < 1e-9
    # Controls: two other layers do change what is read, and other tokens read otherwise.
    clean = found.headlines()
    assert (clean["random"] < 0.95).all()
    assert (clean["shuffled"] < 0.9).all()
    assert (frame.loc["fvu", "random"] > 0.05).all()


def test_a_planted_direction_is_lost_with_its_layer_and_kept_with_another() -> None:
    model = model_with(planted=2)
    acts = model.run(TEXT, capture=[AFTER]).acts[AFTER]
    middle = float(acts[..., 0].median())
    assert float(acts[..., 0].std()) > 0.05
    probe = {"planted": Sign(AFTER, axis(), -middle)}
    found = readability(
        model, TEXT, {"its layer": skip_layers([2]), "the next": without(L, [3])}, probe
    )
    lost, kept = found.of("its layer", "planted"), found.of("the next", "planted")
    assert lost["agreement"] == pytest.approx(0.5, abs=0.05)  # one side of the median for all
    assert np.isnan(lost["correlation"])  # a constant correlates with nothing
    assert lost["fvu"] > 0.9
    assert kept["agreement"] == 1
    assert kept["fvu"] < 1e-9
    # What is upstream of the planted layer changes what it writes, so neither is a foregone result.
    upstream = readability(model, TEXT, {"before": skip_layers([0])}, probe).of("before", "planted")
    assert 0.5 < upstream["agreement"] < 1


def test_the_states_compared_are_those_of_the_models_own_passes(llama) -> None:
    ragged = [row[: 20 - 3 * i].tolist() for i, row in enumerate(TEXT[:4])]
    texts = Texts.of(ragged, 3)
    site = lensbench.Site.parse(AFTER)
    push = steer(probe_direction("blocks.2.resid_mid", axis(at=3)), 4.0)
    for how in (skip_layers([1, 3]), without(L, [1, 3])):
        found = states(llama, texts, how, push, [site, None])
        alone = [
            llama.run([row], skip_layers([1, 3]) + push, capture=[AFTER]) for row in ragged
        ]  # fmt: skip
        wanted = torch.cat([one.acts[AFTER][0] for one in alone])
        torch.testing.assert_close(found[site], wanted, rtol=0, atol=3e-5)
        logits = torch.cat([one.logits[0] for one in alone])
        torch.testing.assert_close(llama.unembed(found[None]), logits, rtol=0, atol=3e-4)
    assert texts.doc.tolist() == [i for i, row in enumerate(ragged) for _ in row]


def test_an_early_exit_leaves_lower_readouts_alone_and_moves_the_output(llama) -> None:
    low = "blocks.1.resid_post"
    found = readability(llama, TEXT, {"exit 3": Plan(stop=3)}, {"latents": Dictionary(low)})
    latents = found.of("exit 3", "latents")
    assert latents["jaccard"] == latents["f1"] == 1
    assert latents["fvu"] == 0
    frame = found.to_frame()
    mine = frame[frame["readout"] == "latents"]
    assert (mine["skipped_before"] == 0).all()  # and so it could not be otherwise
    assert mine["random"].isna().all()
    output = found.of("exit 3", "model output")
    exited = llama.run(TEXT, Plan(stop=3)).logits
    full = llama.run(TEXT).logits
    agreed = (exited.argmax(-1) == full.argmax(-1)).float().mean()
    assert output["agreement"] == pytest.approx(float(agreed))
    assert output["agreement"] < 0.6
    p, q = full.double().log_softmax(-1), exited.double().log_softmax(-1)
    assert output["kl"] == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-4)


def test_measures_are_what_their_formulas_say(llama) -> None:
    coder, gone = Dictionary(AFTER), skip_layers([2])
    found = readability(llama, TEXT, {"no 2": gone}, {"latents": coder}).of("no 2", "latents")
    x = llama.run(TEXT, capture=[AFTER]).acts[AFTER].flatten(0, 1)
    y = llama.run(TEXT, gone, capture=[AFTER]).acts[AFTER].flatten(0, 1)
    f, a = coder.encode(x).double(), coder.encode(y).double()
    both, either = ((f > 0) & (a > 0)).sum(1), ((f > 0) | (a > 0)).sum(1)
    assert found["jaccard"] == pytest.approx(float((both / either).mean()), rel=1e-4)
    share = 2 * both / ((f > 0).sum(1) + (a > 0).sum(1))
    assert found["f1"] == pytest.approx(float(share.mean()), rel=1e-4)
    fc, ac = f - f.mean(0), a - a.mean(0)
    fvu = float((f - a).square().sum() / fc.square().sum())
    assert found["fvu"] == pytest.approx(fvu, rel=1e-4)
    r = float((fc * ac).sum() / (fc.square().sum() * ac.square().sum()).sqrt())
    assert found["correlation"] == pytest.approx(r, rel=1e-4)
    left = (y - coder.decode(a.float())).double().square().sum()
    own = (y - y.mean(0)).double().square().sum()
    assert found["reconstruction_fvu"] == pytest.approx(float(left / own), rel=1e-3)


def test_a_direction_decides_by_its_mean_on_the_full_model_and_a_probe_by_its_sign(llama) -> None:
    gone = skip_layers([2])
    x = llama.run(TEXT, capture=[AFTER]).acts[AFTER].flatten(0, 1)
    y = llama.run(TEXT, gone, capture=[AFTER]).acts[AFTER].flatten(0, 1)
    vector = 5 * x.mean(0) / x.mean(0).norm()  # so that most tokens lie on one side of 0
    found = readability(
        llama, TEXT, {"no 2": gone},
        {"direction": (AFTER, vector), "probe": Sign(AFTER, vector.numpy(), 0.5)},
    )  # fmt: skip
    f, a = x @ vector, y @ vector
    by_mean = float(((f > f.mean()) == (a > f.mean())).float().mean())
    by_sign = float(((f + 0.5 > 0) == (a + 0.5 > 0)).float().mean())
    assert abs(by_mean - by_sign) > 0.02
    assert found.of("no 2", "direction")["agreement"] == pytest.approx(by_mean)
    assert found.of("no 2", "probe")["agreement"] == pytest.approx(by_sign)


def test_several_classes_numbers_and_steered_models_are_compared_as_they_say(llama) -> None:
    gone, push = skip_layers([2]), steer(probe_direction("blocks.1.resid_post", axis(at=3)), 3.0)
    weights = np.random.default_rng(5).normal(size=(4, D)).astype(np.float32)
    several, number = Sign(AFTER, weights.T), Sign(AFTER, weights[0])
    number.numeric = True
    found = readability(
        llama, TEXT, {"no 2": gone}, {"classes": several, "number": number}, steer=push
    )
    for condition, more in (("clean", Plan()), ("steered", push)):
        x = llama.run(TEXT, more, capture=[AFTER]).acts[AFTER].flatten(0, 1)
        y = llama.run(TEXT, gone + more, capture=[AFTER]).acts[AFTER].flatten(0, 1)
        f, a = several.score(x), several.score(y)
        same = float((f.argmax(1) == a.argmax(1)).mean())
        assert 0.3 < same < 1
        assert found.of("no 2", "classes", condition)["agreement"] == pytest.approx(same)
        one = found.of("no 2", "number", condition)
        assert set(one) == {"correlation", "fvu"}  # numbers decide nothing
        r = np.corrcoef(number.score(x), number.score(y))[0, 1]
        assert one["correlation"] == pytest.approx(r, rel=1e-3)
    clean, steered = (found.of("no 2", "classes", c)["fvu"] for c in ("clean", "steered"))
    assert clean != pytest.approx(steered, rel=1e-3)  # control: they are two conditions


def test_a_steer_reaches_the_output_only_through_layers_that_run() -> None:
    """Layer 4 alone passes on what is steered: without it the steer moves nothing at the site."""
    model = model_with(planted=4)
    reader = {"planted": Sign("blocks.5.resid_post", axis())}
    push = steer(probe_direction("blocks.0.resid_post", axis(at=7)), 3.0)
    found = readability(
        model, TEXT, {"no 4": skip_layers([4]), "no 3": without(L, [3])}, reader, steer=push
    )
    with_four, without_four = (
        found.of("no 3", "planted", "effect"), found.of("no 4", "planted", "effect"),
    )  # fmt: skip
    assert without_four["effect"] == 0
    assert without_four["effect_kept"] == 0
    assert with_four["effect_full"] > 0.01
    assert with_four["effect_full"] == pytest.approx(without_four["effect_full"])
    assert with_four["effect"] > 0.01


def test_a_step_along_the_direction_that_is_read_is_kept_in_full(llama) -> None:
    """Added at the site that is read, a steer moves any model by itself, whatever is skipped."""
    vector = np.random.default_rng(0).normal(size=D).astype(np.float32)
    push = steer(probe_direction(AFTER, vector), 2.0)
    found = readability(
        llama, TEXT, {"no 1": skip_layers([1])}, {"probe": Sign(AFTER, vector)}, steer=push,
        metric=lambda logits: logits[:, 5] - logits[:, 6],
    )  # fmt: skip
    effect = found.of("no 1", "probe", "effect")
    moved = 2.0 * float(vector @ vector)
    assert effect["shift_full"] == pytest.approx(moved, rel=1e-4)
    assert effect["shift"] == pytest.approx(moved, rel=1e-4)
    assert effect["effect_kept"] == pytest.approx(1, rel=1e-4)
    metric = found.of("no 1", "metric", "effect")
    full = llama.run(TEXT, push).logits - llama.run(TEXT).logits
    want = float((full[..., 5] - full[..., 6]).mean())
    assert metric["shift_full"] == pytest.approx(want, rel=1e-3)
    assert metric["effect_kept"] != pytest.approx(1, abs=0.01)  # control: downstream it is not


def test_halves_left_out_and_swaps_have_their_controls(llama) -> None:
    routes = {
        "halves": Route(tuple(range(L)), frozenset({("attn", 1), ("mlp", 2)})),
        "swap": swapped(L, 1),
    }
    found = readability(llama, TEXT, routes, {"latents": Dictionary(AFTER)})
    frame = found.headlines().set_index(["acceleration", "readout"])
    halves, swap = frame.loc[("halves", "latents")], frame.loc[("swap", "latents")]
    assert halves["value"] < 1
    assert halves["skipped_before"] == 1
    assert 0 < halves["random"] < 1
    assert swap["value"] < 1
    assert np.isnan(swap["random"])  # nothing is skipped, so nothing to draw


def test_models_drawn_at_random_run_the_layer_of_the_steer(llama) -> None:
    """Of two blocks before the site one is steered and one is skipped: nothing else is left."""
    push = steer(probe_direction("blocks.1.resid_post", axis(at=3)), 3.0)
    site = "blocks.2.resid_pre"
    readout = {"latents": Dictionary(site)}
    found = readability(llama, TEXT, {"no 0": skip_layers([0])}, readout, push).to_frame()
    assert found[found["readout"] == "latents"]["random"].isna().all()


def test_a_site_between_the_halves_of_a_block_is_before_the_second_one() -> None:
    both = way("halves", Route(tuple(range(L)), frozenset({("attn", 2), ("mlp", 1)})), L)
    assert both.before(Site.parse("blocks.1.resid_mid")) == frozenset()
    assert both.before(Site.parse("blocks.2.resid_mid")) == {("mlp", 1), ("attn", 2)}


def test_a_lens_without_a_site_is_read_after_every_block_that_all_run(llama) -> None:
    found = readability(
        llama, TEXT, {"no 2": skip_layers([2]), "exit 5": Plan(stop=5)}, {"lens": lens(llama)}
    )
    frame = found.to_frame()
    sites = frame[frame["readout"] == "lens"]["site"].unique().tolist()
    assert sites == [f"blocks.{i}.resid_post" for i in (0, 1, 3, 4)]
    first = found.of("no 2", "lens", site="blocks.1.resid_post")
    assert first["agreement"] == 1
    assert first["kl"] == 0
    assert found.of("no 2", "lens", site="blocks.3.resid_post")["kl"] > 0
    with pytest.raises(UnknownNameError, match="site"):
        found.of("no 2", "lens")


def test_result_is_saved_shown_and_the_same_twice(llama, tmp_path) -> None:
    make = lambda: readability(  # noqa: E731
        llama, TEXT, {"no 2": skip_layers([2])}, readouts(llama), seed=4
    )
    found = make()
    again = make()
    for name in ("rows", "value", "low", "high", "random", "shuffled"):
        np.testing.assert_array_equal(getattr(found, name), getattr(again, name))
    assert load(found.save(tmp_path / "r")) == found
    assert len(found.plot().data) == 3
    assert set(found.summary()) == {"worst", "mean", "random", "shuffled"}
    assert found.controls.values["shuffled"] < found.controls.values["random"]
    low, high = found.to_frame().loc[0, ["low", "high"]]
    assert low <= found.value[0] <= high


def test_what_cannot_be_read_is_refused_in_words(llama) -> None:
    gone = {"no 4": skip_layers([4])}
    cases = [
        (gone, {"p": Dictionary(AFTER)}, None, r"'p' reads blocks.4.resid_post.*'no 4'.*layers 4"),
        ({"exit": Plan(stop=4)}, {"p": Dictionary(AFTER)}, None, "never computes"),
        ({"h": Route(tuple(range(L)), frozenset({("mlp", 2)}))},
         {"p": Dictionary("blocks.2.mlp_out")}, None, "the halves mlp 2"),
        (gone, {"p": Dictionary()}, None, "does not know its site"),
        (gone, {"p": 3}, None, "must be a probe"),
        (gone, {"p": Dictionary("blocks.1.attn.z")}, None, "one vector"),
        (gone, {"p": Dictionary("blocks.9.resid_post")}, None, "in a block of"),
        (gone, {"model output": Dictionary("blocks.1.resid_post")}, None, "taken"),
        (gone, {}, skip_layers([1]), "steer must hold edits"),
        (gone, {}, steer(probe_direction(AFTER, axis()), 1.0), "steer acts at blocks.4"),
        ({}, {}, None, "at least one"),
        ({"none": Plan()}, {}, None, "runs every layer"),
        ({"all": skip_layers(range(L))}, {}, None, "runs no layer"),
        ({"far": skip_layers([9])}, {}, None, "beyond 5"),
        ({"odd": 3}, {}, None, "must be a Plan"),
    ]  # fmt: skip
    for fast, given, push, words in cases:
        with pytest.raises(ConfigError, match=words):
            readability(llama, TEXT, fast, given, steer=push)
    with pytest.raises(MismatchError, match="width"):
        readability(llama, TEXT, gone, {"p": ("blocks.1.resid_post", axis(7))})
    other = Dictionary("blocks.1.resid_post")
    other.metadata = {"model": {"name": "other", "fingerprint": "ff" * 8}}
    with pytest.raises(MismatchError, match="another model"):
        readability(llama, TEXT, gone, {"p": other})
    assert way("x", Plan(stop=4), L).layers == {4, 5}
