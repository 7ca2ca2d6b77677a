"""Dose curves, neuron clamps and texts side by side, against runs by hand and planted truths."""

import numpy as np
import pytest
import torch

import lensbench
from lensbench import prompts
from lensbench.errors import ConfigError, MismatchError, NonFiniteError, UnknownNameError
from lensbench.interventions import (
    Direction,
    OfText,
    activation_addition,
    clamp_latent,
    clamped_latent,
    contrast_states,
    dose_curve,
    generate_beside,
    latent_direction,
    neuron_clamps,
    steer,
    towards,
)
from lensbench.interventions.steering.continuations import continue_rows
from lensbench.interventions.steering.controls import random_directions
from lensbench.interventions.steering.matching import at_level
from lensbench.plan import Plan
from tests.helpers import random_ids, tiny
from tests.splice_helpers import random_sae

SITE = "blocks.1.resid_post"
PLURAL = ["are", "were", "seem"]


@pytest.fixture(scope="module")
def atlas():
    return lensbench.load_model("atlas-dense", certify=False)


@pytest.fixture(scope="module")
def pairs(atlas):
    return towards(prompts.agreement(atlas, n=10), PLURAL)


@pytest.fixture(scope="module")
def number(atlas, pairs):
    return contrast_states(atlas, pairs, SITE, position="subject").mean_difference()


@pytest.fixture(scope="module")
def curve(atlas, pairs, number):
    return dose_curve(
        atlas, number, pairs, [1.0, 0.0, -0.5], at="subject", random=2, shuffled=0, new_tokens=4,
        batch_size=16,
    )  # fmt: skip


def test_number_at_the_subject_flips_the_verb_where_chance_directions_of_its_length_do_not(atlas):
    # Fixed before the run: layer 1, strength 1, success of at least .8 on wordings that the
    # direction was not made of, at most .2 for each of 20 random directions, and at most .4 on
    # average for 20 of shuffled labels.
    def of(seed, wordings):
        found = prompts.agreement(atlas, n=80, seed=seed)
        return towards(found.select(np.isin(found.wordings, wordings)), PLURAL)

    contrast = contrast_states(atlas, of(0, ["near", "past"]), SITE, position="subject")
    found = dose_curve(
        atlas, contrast.mean_difference(), of(1, ["that", "plain"]), [0.0, 1.0], at="subject",
        random=20, new_tokens=0,
    )  # fmt: skip
    success = (found.effect[:, 1] > 0).mean(-1)
    assert success[0] >= 0.8
    assert success[found.rows_of("random")].max() <= 0.2
    assert success[found.rows_of("shuffled")].mean() <= 0.4
    assert (found.clean < 0).mean() >= 0.9  # unsteered, the verb is singular


def test_every_number_of_a_dose_equals_a_run_by_hand(atlas, pairs, number, curve):
    at, step = pairs.position("subject"), float(curve.scale[0])
    for row in (0, 4):
        ids = [list(pairs.corrupted_ids[row])]
        clean = atlas.run(ids).logits[0].double().log_softmax(-1)
        for j, strength in enumerate((-0.5, 0.0, 1.0)):
            plan = steer(number, strength * step / number.norm, positions=[at[row]])
            logits = atlas.run(ids, plan).logits
            assert curve.effect[0, j, row] == pytest.approx(
                float(pairs.select([row]).logit_diff(logits)), abs=2e-4
            )
            after = logits[0].double().log_softmax(-1)
            kl = (clean.exp() * (clean - after)).sum(-1).mean()
            assert curve.kl[0, j, row] == pytest.approx(float(kl), abs=1e-5)
            said = atlas.generate(ids, plan, 4)[0]
            scored = atlas.run([ids[0] + said]).logits[0].double().log_softmax(-1)
            n = len(ids[0])
            nll = -np.mean([float(scored[n - 1 + k, token]) for k, token in enumerate(said)])
            assert curve.nll[0, j, row] == pytest.approx(nll, abs=1e-4)


def test_strength_0_holds_the_clean_numbers_themselves(curve):
    assert (curve.effect[:, 1] == curve.clean).all()
    assert (curve.kl[:, 1] == 0).all()
    assert (curve.nll[:, 1] == curve.clean_nll).all()


def test_every_direction_makes_steps_of_one_length(atlas, pairs, number, curve):
    for d in (number, *random_directions(number, 3)):
        one = d.with_norm(float(curve.scale[0]))
        assert np.linalg.norm(one.vector) == pytest.approx(curve.scale[0], rel=1e-5)
    lengths = [
        float(atlas.run([row], capture=SITE).acts[SITE][0, i].norm())
        for row, i in zip(pairs.corrupted_ids, pairs.position("subject"), strict=True)
    ]
    assert curve.scale[0] == pytest.approx(np.median(lengths), rel=1e-4)
    assert {*curve.scale} == {curve.scale[0]}


def test_random_directions_keep_the_length_of_every_token(atlas):
    d = activation_addition(atlas, "The queens", "The dog", "blocks.1.resid_pre")
    for r in random_directions(d, 3):
        np.testing.assert_allclose(
            np.linalg.norm(r.vector, axis=1), np.linalg.norm(d.vector, axis=1), rtol=1e-4
        )
        assert abs(r.cosine(d)) < 0.5


def test_texts_of_a_batch_are_those_of_every_row_alone(atlas, pairs, number):
    rows = [list(r) for r in pairs.corrupted_ids]
    at = pairs.position("subject")
    one_each = [steer(number, 1.0, positions=[i]) for i in at]
    everywhere = [steer(number, c) for c in (0.5, 1.0, 2.0, *[1.0] * (len(rows) - 3))]
    for plans in (one_each, everywhere):
        alone = [atlas.generate([r], p, 5)[0] for r, p in zip(rows, plans, strict=True)]
        assert continue_rows(atlas, rows, plans, 5, batch_size=4) == alone
    assert alone != [atlas.generate([r], Plan(), 5)[0] for r in rows]


@pytest.mark.parametrize("at", ["all", "after", [-1], ["subject", "end"], 1])
def test_where_a_dose_stands(atlas, pairs, number, at):
    found = dose_curve(atlas, number, pairs, [1.0], at=at, random=0, shuffled=0, new_tokens=2)
    ids = [list(pairs.corrupted_ids[0])]
    n, subject = len(ids[0]), pairs.position("subject")[0]
    named = {"all": None, "after": range(n - 1, n + 2), "1": [1], "[-1]": [n - 1]}
    where = named.get(str(at), [subject, n - 1])
    plan = steer(number, float(found.scale[0]) / number.norm, positions=where)
    said = atlas.generate(ids, plan, 2)[0]
    logits = atlas.run([ids[0] + said]).logits[0].double().log_softmax(-1)
    nll = -np.mean([float(logits[n - 1 + k, t]) for k, t in enumerate(said)])
    assert found.nll[0, 0, 0] == pytest.approx(nll, abs=1e-4)
    short = int(np.argmin([len(row) for row in pairs.corrupted_ids]))  # padded in its batch
    ids = [list(pairs.corrupted_ids[short])]
    if where is not None:
        subject, n = pairs.position("subject")[short], len(ids[0])
        plan = {"after": [n - 1], "1": [1], "[-1]": [n - 1]}.get(str(at), [subject, n - 1])
        plan = steer(number, float(found.scale[0]) / number.norm, positions=plan)
    clean, after = (atlas.run(ids, p).logits[0].double().log_softmax(-1) for p in (Plan(), plan))
    kl = (clean.exp() * (clean - after)).sum(-1).mean()
    assert found.kl[0, 0, short] == pytest.approx(float(kl), rel=1e-4, abs=1e-5)


def test_an_act_add_direction_is_dosed_at_the_front(atlas, pairs):
    d = activation_addition(atlas, "The queens", "The queen", SITE)
    found = dose_curve(atlas, d, pairs, [0.5], random=1, new_tokens=0)
    assert np.isnan(found.nll).all()
    assert found.at == "the first tokens"
    coefficient = float(found.to_frame()["coefficient"].iloc[0])
    out = atlas.run([pairs.corrupted_ids[0]], steer(d, coefficient)).logits
    one = pairs.select([0])
    assert found.effect[0, 0, 0] == pytest.approx(float(one.logit_diff(out)), abs=2e-4)


@pytest.mark.parametrize(("align", "told"), [("middle", "the middle"), ("back", "the last tokens")])
def test_an_act_add_direction_is_dosed_at_the_middle_and_the_back(atlas, pairs, align, told):
    d = activation_addition(atlas, "The queens", "The queen", SITE)
    found = dose_curve(atlas, d, pairs, [0.5], random=1, new_tokens=2, align=align)
    front = dose_curve(atlas, d, pairs, [0.5], random=1, new_tokens=0)
    assert found.at == told
    coefficient = float(found.to_frame()["coefficient"].iloc[0])
    lengths = []
    for i, ids in enumerate(pairs.corrupted_ids):  # of unequal lengths
        n, k = len(ids), len(d.vector)
        start = n - k if align == "back" else n // 2 - k // 2
        states = atlas.run([ids], capture=SITE).acts[SITE][0, start : start + k]
        lengths += states.norm(dim=-1).tolist()
        by_hand = d.step(coefficient, range(start, start + k))
        out = atlas.run([ids], by_hand).logits
        assert found.effect[0, 0, i] == pytest.approx(
            float(pairs.select([i]).logit_diff(out)), abs=2e-4
        )
    assert found.scale[0] == pytest.approx(np.median(lengths), rel=1e-4)
    assert np.abs(found.effect - front.effect).max() > 0.05  # control
    long = Direction(site=SITE, vector=np.ones((40, 128)))
    with pytest.raises(ConfigError, match=r"the (middle|last) 40 tokens, and prompt"):
        dose_curve(atlas, long, pairs, [0.5], random=1, new_tokens=0, align=align)
    with pytest.raises(UnknownNameError, match="middle"):
        dose_curve(atlas, d, pairs, [0.5], random=1, new_tokens=0, align="centre")


def test_adding_and_clamping_a_latent_are_dosed_at_equal_mean_steps(atlas, pairs):
    sae = random_sae(SITE, d=128, width=32)
    spliced = atlas.with_saes([sae])
    both = [latent_direction(atlas, sae, 4), clamped_latent(atlas, sae, 4, pairs, at="all")]
    found = dose_curve(spliced, both, pairs, [0.0, 1.0], random=1, new_tokens=3)
    assert (found.effect[:, 0] == found.clean).all()
    assert found.rows_of("direction").tolist() == [0, 1]
    step, acts = found.scale[0] * both[0].vector / both[0].norm, f"{SITE}.sae.acts"
    moved, fired = [], []
    for row in pairs.corrupted_ids:
        before = spliced.run([row], capture=[SITE, acts]).acts
        fired.append(before[acts][0, :, 4])
        plan = steer(both[1].with_norm(float(found.scale[0])), 1.0)
        moved.append((spliced.run([row], plan, capture=SITE).acts[SITE] - before[SITE])[0])
    assert both[1].rest == pytest.approx(float(torch.cat(fired).mean()), rel=1e-4)
    assert both[1].rest > 0
    np.testing.assert_allclose(torch.cat(moved).mean(0), step, atol=2e-3)
    assert torch.cat(moved).std(0).max() > 0.1  # a clamp moves tokens by unequal steps
    one, c = pairs.select([2]), both[1].rest + found.scale[0] / both[1].row_norm
    logits = spliced.run(one.corrupted, clamp_latent(SITE, 4, c)).logits
    assert found.effect[1, 1, 2] == pytest.approx(float(one.logit_diff(logits)), abs=5e-4)
    with pytest.raises(ConfigError, match="with_saes"):
        dose_curve(atlas, both, pairs)
    other = atlas.with_saes([random_sae(SITE, d=128, width=32, seed=1)])
    with pytest.raises(MismatchError, match="is of dictionary"):
        dose_curve(other, both, pairs)


@pytest.mark.illtyped
@pytest.mark.parametrize("backend", ["nnsight", "transformer_lens"])
def test_every_back_end_gives_the_same_curve(backend):
    module, ids = tiny("llama"), random_ids(4, 6).tolist()
    native = lensbench.load_model(module, certify=False)
    if backend == "transformer_lens":
        from lensbench.models.transformer_lens import to_transformer_lens

        model = lensbench.load_model(to_transformer_lens(native), certify=False)
    else:
        model = lensbench.load_model(module, certify=False, backend=backend)
    pairs = prompts.from_ids(ids, ids, [5, 6, 7, 8], [9, 9, 9, 9], roles={"x": [1, 2, 3, 4]})
    d = Direction(site=SITE, vector=np.arange(32.0) - 9)
    ours, theirs = (
        dose_curve(m, d, pairs, [0.0, 0.5, 1.0], at="x", random=1, new_tokens=2)
        for m in (native, model)
    )
    for name in ("effect", "kl", "nll", "clean", "clean_nll", "scale"):
        np.testing.assert_allclose(getattr(theirs, name), getattr(ours, name), atol=1e-3)
    assert np.abs(ours.effect[0, 2] - ours.clean).max() > 0.1


def test_an_effect_of_text_reads_what_is_said(atlas, pairs, number):
    plural = OfText(lambda text: bool({*PLURAL} & {*text.split()}), "plural verb", "share")
    texts = list(pairs.corrupted_texts[:4])
    found = dose_curve(
        atlas, number, texts, [0.0, 1.0], effect=plural, at=[-1], random=1, new_tokens=3
    )
    tokens = atlas.tokens(texts[0])
    plan = steer(number, float(found.scale[0]) / number.norm, positions=[-1])
    said = atlas.tokenizer.decode(atlas.generate(tokens, plan, 3)[0])
    assert found.effect[0, 1, 0] == plural.of(said)
    assert (found.clean == 0).all()
    with pytest.raises(ConfigError, match="new tokens"):
        dose_curve(atlas, number, texts, effect=plural, new_tokens=0)
    broken = OfText(lambda _: float("nan"), "broken")
    with pytest.raises(NonFiniteError, match="broken of"):
        dose_curve(atlas, number, texts, [0.0], effect=broken, random=0)


def test_a_curve_is_read_where_its_cost_first_reaches_a_level():
    cost, gain = np.array([0.0, 1.0, 0.5, 3.0]), np.array([10.0, 20.0, 0.0, 30.0])
    assert at_level(cost, gain, 0.25) == 12.5
    assert at_level(cost, gain, 1.0) == 20.0
    assert at_level(cost, gain, 1.75) == 15.0
    assert at_level(cost, gain, 0.0) == 10.0
    assert np.isnan(at_level(cost, gain, 3.5))


def test_doses_are_compared_at_equal_kl(curve):
    from dataclasses import replace

    effect = np.zeros((3, 3, 10))
    kl = np.zeros((3, 3, 10))
    strengths = np.array([0.0, 1.0, 2.0])
    effect[0, 1:], kl[0, 1:] = [[4.0], [6.0]], [[1.0], [3.0]]
    effect[1, 1:], kl[1, 1:] = [[1.0], [9.0]], [[0.5], [1.5]]
    effect[2, 1:], kl[2, 1:] = [[1.0], [2.0]], [[0.1], [0.2]]
    made = replace(
        curve, strengths=strengths, effect=effect, kl=kl, clean=np.zeros(10), nll=effect,
        above=0.5, clean_nll=np.zeros(10),
    )  # fmt: skip
    frame = made.matched()
    first, second = frame.iloc[0], frame.iloc[1]
    assert (first["kl"], first["effect"], first["control_effect"]) == (1.0, 4.0, 5.0)
    assert (first["reached"], first["directions"], first["p"]) == (1, 2, 1.0)
    assert first["success"] == first["control_success"] == 1.0
    assert second["reached"] == 0
    assert np.isnan(second["p"])


def test_a_negative_strength_is_compared_on_its_own_side(curve):
    """A step back lowers the effect by 4; controls at its cost by 1 and by 6, or raise it."""
    from dataclasses import replace

    strengths = np.array([-1.0, 0.0, 1.0])
    effect, kl = np.zeros((3, 3, 10)), np.zeros((3, 3, 10))
    effect[:, 0] = np.array([-4.0, -1.0, 9.0])[:, None]
    effect[:, 2] = np.array([4.0, 1.0, -9.0])[:, None]
    kl[:, [0, 2]] = 1.0
    made = replace(
        curve, strengths=strengths, effect=effect, kl=kl, clean=np.zeros(10), nll=effect,
        clean_nll=np.zeros(10),
    )  # fmt: skip
    p = made.matched().set_index("strength")["p"]
    assert p[1.0] == p[-1.0] == pytest.approx(1 / 3)  # neither control goes as far, either way
    effect[2, 0] = -6.0
    assert made.matched().set_index("strength")["p"][-1.0] == pytest.approx(2 / 3)


def test_a_curve_has_intervals_bands_and_pictures_and_comes_back_equal(curve, tmp_path):
    frame = curve.to_frame()
    assert list(frame["kind"]) == ["direction"] * 3 + ["random"] * 3
    own = frame[frame["kind"] == "direction"]
    assert (own["low"] <= own["effect"]).all()
    assert (own["effect"] <= own["high"]).all()
    assert (frame["n"] == 10).all()
    assert (frame["perplexity"] >= 1).all()
    assert lensbench.results.load(curve.save(tmp_path / "c")) == curve
    for y in ("effect", "success", "kl", "perplexity"):
        assert curve.plot(y).data
    assert curve.plot("effect", "kl").data
    assert "random_directions" in curve.controls.values
    with pytest.raises(UnknownNameError, match="perplexity"):
        curve.plot("perplexty")


def test_texts_side_by_side_differ_by_the_plan_alone(atlas, number):
    texts = ["Yesterday the queen beside the dogs", "I think the ring"]
    plans = {"nothing": Plan(), "plural": steer(number, 1.0, positions=[3])}
    said = generate_beside(atlas, texts, plans, 6, temperature=1.0, seed=5)
    frame = said.to_frame()
    assert list(frame.columns) == ["prompt", "clean", "nothing", "plural"]
    assert (frame["clean"] == frame["nothing"]).all()
    assert "were" in frame["plural"][0]
    assert "was" in frame["clean"][0]
    again = generate_beside(atlas, texts, plans["plural"], 6, temperature=1.0, seed=5)
    assert again.texts("steered") == said.texts("plural") == tuple(frame["plural"])
    with pytest.raises(UnknownNameError, match="plural"):
        said.texts("plurall")
    with pytest.raises(ConfigError, match="'clean'"):
        generate_beside(atlas, texts, {"clean": Plan()})


def test_texts_side_by_side_say_which_tokens_a_plan_changed(atlas, number, tmp_path):
    plans = {"nothing": Plan(), "plural": steer(number, 1.0, positions=[3])}
    texts = ["Yesterday the queen beside the dogs", "I think the ring"]
    said = generate_beside(atlas, texts, plans, 6)
    rows = said.changes().set_index(["prompt", "under"])
    prompt = said.prompts[0]
    assert (
        rows.loc[(prompt, "nothing"), "changed"]
        == rows.loc[(prompt, "nothing"), "first_changed"]
        == 0
    )
    clean, plural = said.ids[0][0], said.ids[2][0]
    apart = [i for i, (a, b) in enumerate(zip(clean, plural, strict=True)) if a != b]
    assert apart
    assert rows.loc[(prompt, "plural"), "changed"] == len(apart)
    assert rows.loc[(prompt, "plural"), "first_changed"] == apart[0] + 1
    assert said.pieces[2][0][0].strip() == "were"
    assert said.summary()["changed_by_nothing"] == 0 < said.summary()["changed_by_plural"]
    share = said.shares().set_index("under").loc["plural"]
    assert share["low"] <= share["changed"] == said.summary()["changed_by_plural"] <= share["high"]
    one = said.plot(prompt=0)
    grid = np.asarray(one.data[0].z)
    assert grid.shape == (3, len(clean))  # rows downwards from the last plan
    assert grid[0].tolist() == [float(i in apart) for i in range(len(clean))]
    assert not grid[1:].any()
    assert "were" in one.data[0].text[0]
    assert one.layout.yaxis.ticktext[0] == "clean"
    assert "n = 2 prompts" in said.plot().layout.title.subtitle.text
    assert lensbench.results.load(said.save(tmp_path / "said")) == said
    shown = said._repr_html_()
    assert "changed by plural" in shown
    assert shown.count("<td") == 6 * 6
    with pytest.raises(ConfigError, match="no prompt 2"):
        said.plot(prompt=2)


def test_a_text_that_ends_early_differs_from_there_on():
    from lensbench.interventions import SideBySide

    ids = (((1, 2, 3),), ((1,),), ((1, 2, 3, 4),))
    words = tuple(tuple(tuple(map(str, row)) for row in plan) for plan in ids)
    said = SideBySide(
        prompts=("p",), names=("clean", "short", "long"), plans=("", "a", "b"), ids=ids,
        pieces=words, said=tuple(tuple(" ".join(row) for row in plan) for plan in words),
    )  # fmt: skip
    frame = said.changes()
    assert frame["changed"].tolist() == [0, 2, 1]
    assert frame["first_changed"].tolist() == [0, 2, 4]
    assert frame["n"].tolist() == [3, 3, 4]
    assert "(ended)" in said.token_frame(0)["token"].tolist()
    assert len(said.plot().data)


def planted_neurons():
    """Neurons of a Llama that read one token's unembedding and write it, under closed gates."""
    module = tiny("llama", vocab_size=200, hidden_size=64, intermediate_size=128)
    head, mlp = module.get_output_embeddings().weight, module.model.layers[1].mlp
    with torch.no_grad():
        mlp.down_proj.weight[:, :40] = 5 * head[7][:, None]
    return lensbench.load_model(module, certify=False)


def test_a_clamp_before_the_gate_turns_round_where_the_gate_is_below_zero():
    model = planted_neurons()
    ids = random_ids(4, 8)
    gates = model.run(ids, capture="blocks.1.mlp.gate").acts["blocks.1.mlp.gate"][:, -1, :40]
    closed, opened = int((gates < 0).all(0).nonzero()[0]), int((gates > 0).all(0).nonzero()[0])
    for neuron, sign in ((closed, -1), (opened, 1)):
        found = neuron_clamps(model, ids, 1, neuron, 7, metric="loss")
        rows = {place: i for i, place in enumerate(found.at)}
        assert set(rows) == {"up", "gate", "post"}
        gain = found.values[:, 0] - found.values[:, -1]  # loss at -20 less loss at +20
        assert (np.sign(found.gate_act) == sign).all()
        assert (np.sign(gain[rows["up"]]) == sign).all()
        assert (gain[rows["post"]] > 0).all()  # the product is what is written
        np.testing.assert_allclose(found.gate, gates[:, neuron], atol=1e-4)
        np.testing.assert_allclose(
            found.gate_act, found.gate / (1 + np.exp(-found.gate)), rtol=1e-4
        )


def test_a_neuron_clamp_equals_one_by_hand_and_another_neuron_does_less(tmp_path):
    model = planted_neurons()
    ids = random_ids(3, 8)
    found = neuron_clamps(model, ids, 1, 3, 7, values=[-4.0, 4.0], batch_size=2)
    from lensbench.ops import Set
    from lensbench.plan import edit

    for i, place in enumerate(found.at):
        for j, value in enumerate((-4.0, 4.0)):
            plan = edit(f"blocks.1.mlp.{place}", Set(value), dims=[3])
            p = model.run(ids, plan).logits[:, -1].softmax(-1)[:, 7]
            np.testing.assert_allclose(found.values[i, j], p, atol=1e-5)
    assert lensbench.results.load(found.save(tmp_path / "n")) == found
    assert found.plot().data
    assert {"clean", "clamp", "other neuron"} == set(found.to_frame()["kind"])
    plain = neuron_clamps(lensbench.load_model(tiny("gpt2"), certify=False), ids, 0, 1, 5)
    assert plain.at == ("up", "post")
    assert np.isnan(plain.gate_act).all()


def test_the_rows_of_a_table_are_clamped_together_each_with_its_sign(tmp_path):
    """Neurons 0 to 39 of block 1 write token 7; the table of another package names them."""
    from lensbench.ops import Set
    from lensbench.plan import edit
    from lensbench.probes import decode_neurons

    model, ids = planted_neurons(), random_ids(3, 8)
    table = decode_neurons(model).specialised(0.0)
    rows = table[(table["layer"] == 1) & (table["neuron"] < 40)].head(5)
    assert set(decode_neurons(model, layers=[1]).top_ids[:40, 0].tolist()) == {7}
    found = neuron_clamps(model, ids, rows, token=7, values=[-2.0, 2.0], at=["post"])
    numbers = rows["neuron"].tolist()
    assert found.neurons == tuple((1, n, 1) for n in numbers)
    plan = edit("blocks.1.mlp.post", Set(2.0), dims=sorted(numbers))
    p = model.run(ids, plan).logits[:, -1].softmax(-1)[:, 7]
    np.testing.assert_allclose(found.values[0, 1], p, atol=1e-5)
    one = neuron_clamps(model, ids, 1, numbers[0], 7, values=[2.0], at=["post"])
    assert found.values[0, 1].mean() > one.values[0, 0].mean() > found.clean.mean()
    # All that were planted, so that none of them is among the others of the control.
    # Downwards, as the token is likely already.
    down = [(1, n, -1) for n in range(40)]
    every = neuron_clamps(model, ids, down, token=7, values=[0.5], at=["post"])
    assert not {row[1] for row in every.config["others"]} & set(range(40))
    assert every.values.mean() < 0.5 * every.other.mean(), "control: forty others"
    # Signs: two that write the same cancel.
    signed = neuron_clamps(model, ids, [(1, 3, 1), (1, 4, -1)], token=7, values=[3.0], at=["post"])
    zero = neuron_clamps(model, ids, [(1, 3), (1, 4)], token=7, values=[0.0], at=["post"])
    np.testing.assert_allclose(signed.values, zero.values, atol=1e-5)
    assert lensbench.results.load(found.save(tmp_path / "n")) == found
    assert "5 neurons" in found.plot().layout.title.text


@pytest.mark.illtyped
def test_slips_are_named(atlas, pairs, number):
    with pytest.raises(UnknownNameError, match="subject"):
        dose_curve(atlas, number, pairs, at="subjekt")
    with pytest.raises(ConfigError, match="has no 'distractor'"):
        dose_curve(atlas, number, pairs, at="distractor")
    with pytest.raises(UnknownNameError, match="logit_diff"):
        dose_curve(atlas, number, pairs, effect="logit_dif")
    with pytest.raises(UnknownNameError, match="corrupted"):
        dose_curve(atlas, number, pairs, base="dirty")
    with pytest.raises(ConfigError, match="about an answer"):
        dose_curve(atlas, number, ["I think the ring"])
    with pytest.raises(MismatchError, match="has 7 numbers"):
        dose_curve(atlas, Direction(site=SITE, vector=np.ones(7)), pairs)
    with pytest.raises(ConfigError, match="different finite numbers"):
        dose_curve(atlas, number, pairs, [1.0, 1.0])
    with pytest.raises(ConfigError, match="one or more Direction"):
        dose_curve(atlas, [], pairs)
    other = Direction(site="blocks.2.resid_post", vector=np.ones(128))
    with pytest.raises(ConfigError, match="shuffled directions stand at"):
        dose_curve(atlas, number, pairs, shuffled=[other])
    front = Direction(site=SITE, vector=np.ones((40, 128)))
    with pytest.raises(ConfigError, match="the first 40 tokens"):
        dose_curve(atlas, front, pairs)
    with pytest.raises(ConfigError, match=r"neurons 0\.\.383"):
        neuron_clamps(atlas, ["I think"], 1, 384, 7)
    for rows, match in (
        ([], "no rows"),
        ([(1, 3), (1, 3)], "twice"),
        ([(1, 3, 2)], "must be 1 or -1"),
        ([(1, 384)], r"neurons 0\.\.383"),
        ([(1,)], r"\(layer, neuron\)"),
        ([None], r"\(layer, neuron\)"),
        ("1.3", "must be a table"),
        ([(1, n) for n in range(300)], "too few others"),
    ):
        with pytest.raises(ConfigError, match=match):
            neuron_clamps(atlas, ["I think"], rows, token=7)
    import pandas as pd

    with pytest.raises(ConfigError, match="'neuron' is missing"):
        neuron_clamps(atlas, ["I think"], pd.DataFrame({"layer": [1]}), token=7)
    with pytest.raises(ConfigError, match="leave neuron out"):
        neuron_clamps(atlas, ["I think"], [(1, 3)], 4, 7)
    with pytest.raises(ConfigError, match="token must be"):
        neuron_clamps(atlas, ["I think"], [(1, 3)])
    with pytest.raises(ConfigError, match="measure one with 'probability'"):
        neuron_clamps(atlas, ["I think"], 1, 3, 7, metric="logit_diff")
    with pytest.raises(ConfigError, match="token must be"):
        neuron_clamps(atlas, ["I think"], 1, 3, 897)
    for values in ([], "ab"):
        with pytest.raises(ConfigError, match="numbers to clamp at"):
            neuron_clamps(atlas, ["I think"], 1, 3, 7, values=values)
