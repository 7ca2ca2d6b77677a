"""Patching where the answer follows from the definition, on the bundled model and a toy of ids."""

import numpy as np
import pytest
import torch

import lensbench
from lensbench import interventions, prompts
from lensbench.errors import ConfigError, NonFiniteError, UnknownNameError, UnknownSiteError
from lensbench.ops import Set
from lensbench.plan import edit


@pytest.fixture(scope="module")
def model():
    return lensbench.load_model("atlas-dense", certify=False)


@pytest.fixture(scope="module")
def pairs(model):
    return prompts.recall(model, n=6)


@pytest.fixture(scope="module")
def same_length(pairs):
    lengths = np.array([len(row) for row in pairs.clean_ids])
    return pairs.select(lengths == lengths[0])


def test_the_last_state_at_the_end_is_the_clean_run_and_elsewhere_is_nothing(model, same_length):
    last = model.card.n_layers - 1
    found = interventions.patch_sweep(model, same_length, "resid_post", layers=[last])
    assert found.effect[-1] == pytest.approx(1.0, abs=1e-5)
    assert np.abs(found.effect[:-1]).max() < 1e-5


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_all_tokens_of_a_residual_stream_are_the_other_run(model, pairs, direction):
    found = interventions.patch_sweep(
        model, pairs, "resid_pre", positions="together", direction=direction
    )
    assert found.effect == pytest.approx(1.0 if direction == "denoise" else 0.0, abs=1e-4)


def test_each_patch_equals_one_done_by_hand(model, pairs):
    found = interventions.patch_sweep(
        model, pairs, ["attn.z", "mlp_out"], positions=["value", "end"], layers=[1, 4], batch_size=5
    )
    rng = np.random.default_rng(0)
    for i in rng.permutation(len(found.site))[:6]:
        for row in (0, len(pairs) - 1):
            one = pairs.select([row])
            site, head = found.site[i], int(found.head[i])
            at = one.position(found.position[i])[0]
            clean = model.run(one.clean, capture=site).acts[site][0, at]
            value = clean[head] if head >= 0 else clean
            where = {"positions": [at]} | ({"heads": [head]} if head >= 0 else {})
            out = model.run(one.corrupted, edit(site, Set(value), **where), logits="last").logits
            assert found.values[i, row] == pytest.approx(float(one.logit_diff(out)), abs=2e-4)


def test_the_answer_is_carried_by_the_value_then_the_query(model, pairs):
    found = interventions.patch_sweep(
        model, pairs, "resid_pre", positions=["value", "query", "end"]
    )
    grid = found.effect.reshape(model.card.n_layers, 3)
    assert grid[0, 0] > 0.9
    assert grid[0, 1:].max() < 0.1
    assert abs(grid[-1, 0]) < 0.1


def test_random_steps_of_the_same_length_do_not_bring_the_answer_back(model, pairs):
    found = interventions.patch_sweep(
        model, pairs, "resid_pre", positions=["value"], layers=[0, 1], random_patches=2
    )
    assert found.effect.min() > 0.9
    assert found.controls.values["random_patch_farthest"] < 0.3


def test_random_steps_are_as_long_as_the_patch_and_go_elsewhere(model, pairs):
    from lensbench.interventions.places import places
    from lensbench.interventions.values import RandomSteps, run_of

    (place,) = places(model, pairs, "blocks.2.resid_pre", positions=["value"])
    source, _ = run_of(model, pairs.clean, pairs, [place.site])
    base, _ = run_of(model, pairs.corrupted, pairs, [place.site])
    random = RandomSteps(source, base, torch.Generator().manual_seed(0))
    for row in range(3):
        to, at = source.at(place, row), base.at(place, row)
        step = random.op(place, row).apply(at) - at
        assert float(step.norm()) == pytest.approx(float((to - at).norm()), rel=1e-4)
        assert abs(float(torch.cosine_similarity(step, to - at)[0])) < 0.4


def test_ablations_leave_an_unused_place_and_break_a_used_one(model, same_length):
    for how in ("zero", "mean", "resample", "solo"):
        found = interventions.ablation_sweep(
            model, same_length, "resid_post", how=how, layers=[5], positions=[1, -1]
        )
        assert found.effect[0] == pytest.approx(1.0, abs=1e-4), how
        assert found.effect[1] < 0.9, how


def test_solo_is_the_state_of_the_token_alone(model, pairs):
    one = pairs.select([0])
    found = interventions.ablation_sweep(
        model, one, "resid_post", how="solo", layers=[2], positions=["value"]
    )
    at = one.position("value")[0]
    ids = one.clean_ids[0]
    alone = model.run([ids[0], ids[at]], capture="blocks.2.resid_post")
    value = alone.acts["blocks.2.resid_post"][0, -1]
    plan = edit("blocks.2.resid_post", Set(value), positions=[at])
    out = model.run(one.clean, plan, logits="last").logits
    assert found.values[0, 0] == pytest.approx(float(one.logit_diff(out)), abs=1e-4)


def test_batches_change_nothing(model, pairs):
    one, many = (
        interventions.patch_sweep(model, pairs, "attn_out", batch_size=size, random_patches=3)
        for size in (3, 64)
    )
    assert one.values == pytest.approx(many.values, abs=1e-4)


def test_a_missing_role_is_counted_out(model):
    found_pairs = prompts.agreement(model, n=12)
    absent = np.array(found_pairs.position("distractor")) == -1
    if not absent.any():
        pytest.skip("every wording has a distractor here")
    found = interventions.patch_sweep(model, found_pairs, "resid_pre", positions=["distractor"])
    assert np.isnan(found.values[:, absent]).all()
    frame = found.to_frame()
    assert (frame[frame["kind"] == "patch"]["n"] == (~absent).sum()).all()


def test_a_result_comes_back_equal(model, pairs, tmp_path):
    found = interventions.patch_sweep(model, pairs, "attn.z", positions=["end"])
    assert lensbench.results.load(found.save(tmp_path / "r")) == found
    assert list(found.plot().layout.xaxis.ticktext) == ["0", "1", "2", "3"]  # heads, no halves
    assert found.top(2)["effect"].abs().iloc[0] == pytest.approx(np.abs(found.effect).max())


def test_metrics_are_what_their_formulas_say():
    from lensbench.interventions.metrics import METRICS, Ends

    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.0, 3.0]])
    ends = Ends(logits, torch.tensor([0, 1]), torch.tensor([1, 2]), logits.flip(0))
    p = logits.softmax(-1)
    assert METRICS["logit_diff"](ends).tolist() == [1.0, -3.0]
    assert METRICS["rank"](ends).tolist() == [1.0, 2.5]
    assert METRICS["probability"](ends).tolist() == pytest.approx([float(p[0, 0]), float(p[1, 1])])
    assert METRICS["loss"](ends).tolist() == pytest.approx((-p[[0, 1], [0, 1]].log()).tolist())
    q = logits.flip(0).softmax(-1)
    assert METRICS["kl"](ends).tolist() == pytest.approx((q * (q / p).log()).sum(-1).tolist())


def test_slips_are_named(model, pairs):
    sweep = interventions.patch_sweep
    with pytest.raises(UnknownNameError, match="denoise"):
        sweep(model, pairs, direction="denoising")
    with pytest.raises(UnknownSiteError, match="resid_pre"):
        sweep(model, pairs, "resid_pree")
    with pytest.raises(UnknownNameError, match="value"):
        sweep(model, pairs, positions=["valeu"])
    with pytest.raises(UnknownNameError, match="logit_diff"):
        sweep(model, pairs, metric="logit_dif")
    with pytest.raises(ConfigError, match=r"heads 0\.\.3"):
        sweep(model, pairs, "attn.z", heads=[4])
    with pytest.raises(ConfigError, match=r"0\.\.5"):
        sweep(model, pairs, layers=[6])
    with pytest.raises(ConfigError, match="roles"):
        sweep(model, prompts.ioi(model, n=12), positions="each")


def test_nan_in_a_state_is_refused_by_name(model, pairs):
    class Broken:
        def __getattr__(self, name):
            return getattr(model, name)

        def run(self, *args, **kwargs):
            out = model.run(*args, **kwargs)
            for x in out.acts.values():
                x[0, 0] = float("nan")
            return out

    with pytest.raises(NonFiniteError, match=r"blocks\.0\.resid_pre"):
        interventions.patch_sweep(Broken(), pairs, "resid_pre", layers=[0])


def test_nan_that_a_patch_makes_is_no_missing_place(model, pairs):
    for value in ("nan", "inf"):

        def broken(ends, value=value):
            out = ends.logits.float()[:, 0]
            return out.masked_fill(torch.arange(len(out)) == 1, float(value))

        with pytest.raises(NonFiniteError, match="broken is NaN or infinite for 1 of"):
            interventions.patch_sweep(model, pairs, "resid_pre", layers=[0], metric=broken)


def test_pairs_of_ids_are_aligned_or_refused(model):
    pairs = prompts.from_ids([[1, 2, 3]], [[1, 4, 3]], [5], [6], roles={"x": [1]}, model=model)
    assert pairs.position("end") == (2,)
    found = interventions.patch_sweep(model, pairs, "resid_pre", positions=["x"], layers=[0])
    assert found.effect[0] == pytest.approx(1.0, abs=1e-4)
    with pytest.raises(ConfigError, match="not aligned"):
        prompts.from_ids([[1, 2, 3]], [[1, 4]], [5], [6])
    with pytest.raises(ConfigError, match="one token"):
        prompts.from_ids([[1, 2, 3]], [[1, 4, 3]], [5], [5])
