"""Sweeps of a part of the vector, a subspace or a latent: what is known of it, is found."""

from typing import Any

import numpy as np
import pytest
import torch

import lensbench
from lensbench import interventions, prompts
from lensbench.errors import ConfigError, NonFiniteError
from lensbench.interventions.places import places
from lensbench.interventions.values import RandomSteps, run_of
from lensbench.ops import Add, Set, SetInSpan
from lensbench.plan import edit
from tests.induction_circuit import BEFORE, GUESS, TOKEN, D, induction_model, induction_pairs
from tests.splice_helpers import random_sae
from tests.subspace_worlds import planted

SPLICED = "blocks.2.resid_post"
LATENTS = f"{SPLICED}.sae.acts"


def rotated(d: int, k: int, seed: int = 0) -> torch.Tensor:
    """``k`` orthonormal rows of ``d``."""
    rng = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(d, k, generator=rng, dtype=torch.float64)).Q.T.float()


def axes(d: int, which: slice) -> torch.Tensor:
    return torch.eye(d)[which]


def but(d: int, which: slice) -> torch.Tensor:
    return torch.eye(d)[[i for i in range(d) if i not in range(*which.indices(d))]]


@pytest.fixture(scope="module")
def model() -> Any:
    return lensbench.load_model("atlas-dense", certify=False)


@pytest.fixture(scope="module")
def pairs(model: Any) -> Any:
    return prompts.recall(model, n=6)


@pytest.fixture(scope="module")
def sae() -> Any:
    return random_sae(SPLICED, 128, 256, activation="relu")


@pytest.fixture(scope="module")
def circuit() -> Any:
    return lensbench.load_model(induction_model(), certify=False), induction_pairs(n=8)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize(("site", "d"), [("resid_pre", 128), ("attn.z", 32)])
def test_a_basis_of_everything_is_the_whole_sweep(model, pairs, site, d, direction):
    where = {"layers": [1, 4], "positions": ["value", "end"], "direction": direction}
    whole = interventions.patch_sweep(model, pairs, site, **where)
    spun = interventions.patch_sweep(model, pairs, site, subspace=rotated(d, d), **where)
    assert spun.values == pytest.approx(whole.values, abs=1e-4)
    assert spun.random == pytest.approx(whole.random, abs=1e-4)
    one = interventions.patch_sweep(model, pairs, site, subspace=rotated(d, d - 1), **where)
    assert np.abs(one.values - whole.values).max() > 1e-3  # control: a dimension is missing


@pytest.mark.parametrize("how", ["zero", "mean", "resample", "solo"])
def test_ablation_of_everything_is_the_whole_sweep(model, pairs, how):
    # Not a whole zeroed stream: the next norm would make rounding as large as a state.
    for site, d, positions in (("attn.z", 32, ["end"]), ("attn_out", 128, "together")):
        if how == "resample" and positions == "together":
            positions = ["value", "end"]
        where = {"how": how, "layers": [1, 4], "positions": positions}
        whole = interventions.ablation_sweep(model, pairs, site, **where)
        spun = interventions.ablation_sweep(model, pairs, site, subspace=rotated(d, d), **where)
        assert spun.values == pytest.approx(whole.values, abs=1e-4)


@pytest.mark.parametrize("how", ["denoise", "noise", "zero", "mean", "resample", "solo"])
def test_a_basis_of_one_axis_is_that_dimension(model, pairs, how):
    sweep = interventions.patch_sweep if how in ("denoise", "noise") else (
        interventions.ablation_sweep
    )  # fmt: skip
    word = "direction" if how in ("denoise", "noise") else "how"
    for site, d, dim in (("mlp.post", model.width("blocks.3.mlp.post"), 7), ("attn.z", 32, 5)):
        where: dict[str, Any] = {"layers": [3], "positions": ["end"], word: how}
        by_dim = sweep(model, pairs, site, dims=[dim], **where)
        by_axis = sweep(model, pairs, site, subspace=torch.eye(d)[dim], **where)
        assert by_axis.values == pytest.approx(by_dim.values, abs=1e-5)
        assert by_axis.random == pytest.approx(by_dim.random, abs=1e-5)


def test_each_patch_equals_one_done_by_hand(model, pairs):
    rows = torch.stack([rotated(128, 2)[0] * 3, rotated(128, 2).sum(0)])  # neither long nor square
    basis = torch.linalg.qr(rows.double().T).Q.float()
    found = interventions.patch_sweep(
        model, pairs, "resid_pre", layers=[1, 4], positions=["value", "end"], subspace=rows,
        batch_size=5,
    )  # fmt: skip
    for i in range(len(found.site)):
        for row in (0, len(pairs) - 1):
            one, site = pairs.select([row]), found.site[i]
            at = one.position(found.position[i])[0]
            there = model.run(one.clean, capture=site).acts[site][0, at]
            here = model.run(one.corrupted, capture=site).acts[site][0, at]
            value = here + (there - here) @ basis @ basis.T
            out = model.run(one.corrupted, edit(site, Set(value), positions=[at]), logits="last")
            assert found.values[i, row] == pytest.approx(
                float(one.logit_diff(out.logits)), abs=2e-4
            )


def test_what_is_orthogonal_to_the_span_stays(model):
    rows, site = rotated(128, 3), "blocks.2.resid_post"
    value = torch.randn(128, generator=torch.Generator().manual_seed(1))
    before = model.run([[1, 5, 9, 2]], capture=site).acts[site]
    for given in (value, 0.0):
        plan = edit(site, SetInSpan(rows, given), positions=[1, 3])
        after = model.run([[1, 5, 9, 2]], plan, site).acts[site]
        step = (after - before)[0]
        assert torch.equal(after[0, [0, 2]], before[0, [0, 2]])
        assert float((step - step @ rows.T @ rows).abs().max()) < 1e-5
        wanted = torch.as_tensor(given).expand(2, 128) @ rows.T
        torch.testing.assert_close(after[0, [1, 3]] @ rows.T, wanted, rtol=0, atol=1e-5)


def test_the_planted_slots_carry_the_effect_and_their_complement_none(circuit):
    model, pairs = circuit
    for site, position, slot in (
        ("blocks.1.resid_pre", "answer", BEFORE),  # what the previous-token head wrote there
        ("blocks.0.resid_pre", "before", TOKEN),
        ("blocks.1.resid_post", "end", GUESS),
    ):
        sweep = lambda rows, site=site, at=position: interventions.patch_sweep(  # noqa: E731
            model, pairs, site, positions=[at], subspace=rows, random_patches=1
        )
        inside, outside = sweep(axes(D, slot)), sweep(but(D, slot))
        assert inside.effect[0] > 0.95, site
        assert abs(outside.effect[0]) < 0.05, site
        # Asked of all three at first: before attention, which is set to be all but one-hot and has
        # nothing to match in the corrupted run, a random step turns it too (.51 and .71).
        if slot is GUESS:
            assert abs(inside.random_effect[0]) < 0.5, site


def test_ablating_the_planted_slot_breaks_the_circuit_and_spare_dimensions_do_not(circuit):
    model, pairs = circuit
    for how in ("zero", "mean", "resample"):
        sweep = lambda rows, how=how: interventions.ablation_sweep(  # noqa: E731
            model, pairs, "blocks.1.resid_post", how=how, positions=["end"], subspace=rows
        ).effect[0]
        assert sweep(axes(D, GUESS)) < 0.5, how
        assert sweep(axes(D, slice(48, 52))) == pytest.approx(1.0, abs=1e-3), how


def test_a_used_direction_carries_what_the_whole_state_does_and_the_rest_nothing():
    module, pairs, _ = planted("used", 3)
    model = lensbench.load_model(module, certify=False)
    clean, corrupted = (
        model.run(t, capture="blocks.0.mlp.post").acts["blocks.0.mlp.post"][:, -1]
        for t in (pairs.clean, pairs.corrupted)
    )
    line = (clean - corrupted)[0] / (clean - corrupted)[0].norm()
    rest = torch.linalg.svd(line[None]).Vh[1:]
    sweep = lambda rows: interventions.patch_sweep(  # noqa: E731
        model, pairs, "mlp.post", positions=["end"], subspace=rows, random_patches=0
    )
    whole = sweep(None)
    assert whole.effect[0] > 0.3
    assert sweep(line).effect[0] == pytest.approx(whole.effect[0], rel=0.05)
    assert abs(sweep(rest).effect[0]) < 0.05 * whole.effect[0]


def test_every_layer_may_have_its_own_and_only_the_span_counts(model, pairs):
    own = {1: rotated(128, 4, 1), 3: rotated(128, 2, 2)}
    both = interventions.patch_sweep(
        model, pairs, "resid_pre", layers=[1, 3], positions=["value"], subspace=own
    )
    assert [v["k"] for v in both.config["subspace"].values()] == [4, 2]
    for i, layer in enumerate(own):
        mixed = torch.cat([torch.randn(4, len(own[layer])) @ own[layer], own[layer][:1]])
        for given in (own[layer], 5 * mixed.numpy(), {f"blocks.{layer}.resid_pre": mixed}):
            one = interventions.patch_sweep(
                model, pairs, "resid_pre", layers=[layer], positions=["value"], subspace=given
            )
            assert one.values[0] == pytest.approx(both.values[i], abs=1e-4)
            assert next(iter(one.config["subspace"].values()))["k"] == len(own[layer])


@pytest.mark.parametrize("slice_", ["subspace", "dims"])
def test_the_control_steps_as_far_as_the_part_does_and_elsewhere(model, pairs, slice_):
    rows = rotated(128, 2) if slice_ == "subspace" else axes(128, slice(9, 10))
    given = {"subspace": rows} if slice_ == "subspace" else {"dims": [9]}
    (place,) = places(model, pairs, "blocks.2.resid_pre", positions=["value"], **given)
    source, _ = run_of(model, pairs.clean, pairs, [place.site])
    base, _ = run_of(model, pairs.corrupted, pairs, [place.site])
    random = RandomSteps(source, base, torch.Generator().manual_seed(0))
    for row in range(len(pairs)):
        (made,) = random.plan(place, row).edits
        at, to = base.at(place.whole, row), source.at(place.whole, row)
        step = made.op.apply(at) - at
        assert made.dims is None
        assert float(step.norm()) == pytest.approx(float(((to - at) @ rows.T).norm()), rel=1e-3)
        assert float((step @ rows.T).norm() / step.norm()) < 0.5  # mostly outside the span


def test_a_result_says_its_span_and_comes_back_equal(model, pairs, tmp_path):
    found = interventions.patch_sweep(
        model, pairs, "resid_pre", positions=["value"], layers=[1], subspace=rotated(128, 2)
    )
    assert found.config["places"] == ["blocks.1.resid_pre @value span of 2"]
    assert found.summary()["subspace_dims"] == 2
    assert "2 dims" in found.plot().layout.title.text
    assert lensbench.results.load(found.save(tmp_path / "r")) == found


def test_answers_of_several_tokens_take_subspaces_too(model, pairs):
    summed = pairs.scored("sum")
    where: dict[str, Any] = {"layers": [2], "positions": ["value"]}
    whole = interventions.patch_sweep(model, summed, "resid_pre", **where)
    spun = interventions.patch_sweep(
        model, summed, "resid_pre", subspace=rotated(128, 128), **where
    )
    assert spun.values == pytest.approx(whole.values, abs=1e-4)


def test_a_claim_about_a_subspace_can_be_scrubbed(circuit):
    model, pairs = circuit
    answer = [int(a) for a in pairs.answer]
    recovered: dict[str, float] = {}
    for name, rows in (("slot", axes(D, GUESS)), ("all", torch.eye(D))):
        (place,) = places(model, pairs, "blocks.1.resid_post", positions=["end"], subspace=rows)
        for told, feature in (("answer", answer), ("nothing", [0] * len(pairs))):
            claim = interventions.Claim(place, feature)
            found = interventions.causal_scrub(model, pairs, claim, draws=4)
            recovered[f"{name} {told}"] = found.summary()["recovered"]
    assert recovered["slot answer"] > 0.9
    assert recovered["all answer"] > 0.9
    assert recovered["slot nothing"] < 0.5


@pytest.mark.parametrize("how", ["denoise", "noise", "zero", "mean"])
def test_a_latent_moves_the_state_by_its_decoder_row_and_keeps_the_error(model, pairs, sae, how):
    latent, there = int(sae_fires(model, pairs, sae)), model.with_saes([sae])
    patching = how in ("denoise", "noise")
    sweep = interventions.patch_sweep if patching else interventions.ablation_sweep
    word: Any = {"direction" if patching else "how": how}
    found = sweep(there, pairs, LATENTS, dims=[latent], positions=["value"], **word)
    own = {
        name: np.array([
            float(there.run(one, capture=LATENTS).acts[LATENTS][0, at, latent])
            for i, at in enumerate(pairs.position("value"))
            for one in [getattr(pairs.select([i]), name)]
        ])
        for name in ("clean", "corrupted")
    }  # fmt: skip
    to = {"denoise": own["clean"], "noise": own["corrupted"], "zero": 0 * own["clean"]}
    base = "corrupted" if how == "denoise" else "clean"
    step = to.get(how, own["clean"].mean()) - own[base]
    assert np.abs(step).max() > 0.1
    for row, at in enumerate(pairs.position("value")):
        one = pairs.select([row])
        add = edit(SPLICED, Add(float(step[row]) * sae.W_dec[latent]), positions=[at])
        out = model.run(getattr(one, base), add, logits="last").logits
        assert found.values[0, row] == pytest.approx(float(one.logit_diff(out)), abs=5e-4)


def test_solo_and_resampled_latents_are_swept_too(model, pairs, sae):
    there, latent = model.with_saes([sae]), int(sae_fires(model, pairs, sae))
    where: dict[str, Any] = {"dims": [latent, latent + 1], "positions": ["value"]}
    for how in ("solo", "resample"):
        found = interventions.ablation_sweep(there, pairs, LATENTS, how=how, **where)
        assert np.isfinite(found.values).all(), how
    solo = interventions.ablation_sweep(there, pairs, LATENTS, how="solo", **where)
    every = interventions.ablation_sweep(
        there, pairs, LATENTS, how="solo", positions=["value"], subspace=torch.eye(256)[latent]
    )
    assert every.values[0] == pytest.approx(solo.values[0], abs=1e-4)


def sae_fires(model: Any, pairs: Any, sae: Any) -> int:
    """The latent whose activations differ most between the runs at the value's token."""
    there = model.with_saes([sae])
    gap = torch.zeros(256)
    for i, at in enumerate(pairs.position("value")):
        one = pairs.select([i])
        f = [there.run(t, capture=LATENTS).acts[LATENTS][0, at] for t in (one.clean, one.corrupted)]
        gap += (f[0] - f[1]).abs()
    return int(gap[:255].argmax())


def test_slips_are_named(model, pairs):
    sweep = lambda given, site="resid_pre", **more: interventions.patch_sweep(  # noqa: E731
        model, pairs, site, subspace=given, positions=["value"], **more
    )
    with pytest.raises(ConfigError, match=r"blocks\.0\.resid_pre.*\[k, 128\].*\[2, 64\]"):
        sweep(torch.ones(2, 64))
    with pytest.raises(ConfigError, match="transpose"):
        sweep(rotated(128, 2).T)
    with pytest.raises(ConfigError, match="zero"):
        sweep(torch.zeros(2, 128))
    with pytest.raises(NonFiniteError, match="NaN"):
        sweep(torch.full((2, 128), float("nan")))
    with pytest.raises(ConfigError, match="numbers"):
        sweep("blocks")
    with pytest.raises(ConfigError, match="real numbers"):
        sweep(torch.ones(2, 128, dtype=torch.complex64))
    with pytest.raises(ConfigError, match=r"no directions for blocks\.1\.resid_pre"):
        sweep({0: rotated(128, 2)}, layers=[0, 1])
    with pytest.raises(ConfigError, match="layer 5, which is not swept"):
        sweep({0: rotated(128, 2), 5: rotated(128, 2)}, layers=[0])
    with pytest.raises(ConfigError, match="named by layer"):
        sweep({0.5: rotated(128, 2)}, layers=[0])
    with pytest.raises(ConfigError, match="no vectors"):
        sweep(rotated(128, 2), "attn.pattern")
    with pytest.raises(ConfigError, match="give one"):
        sweep(rotated(128, 2), dims=[3])
    with pytest.raises(ConfigError, match=r"\[k, 128\]"):
        interventions.ablation_sweep(model, pairs, "resid_pre", subspace=torch.ones(3))
