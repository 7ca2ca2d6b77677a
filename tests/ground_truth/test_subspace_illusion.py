"""Used subspaces and illusions: planted, and told apart.

Limits, written before the first run: AUROC at least 0.95 over 100 of each; of used ones at most 5 %
suspected, of illusions at most 5 % confirmed.
"""

import numpy as np
import pytest
import torch

import lensbench
from lensbench import interventions, prompts
from lensbench.errors import ConfigError, NonFiniteError, NotEnoughDataError
from tests.subspace_worlds import D_MLP, planted

SITE, N = "blocks.0.mlp.post", 100


def load(kind, seed):
    module, pairs, direction = planted(kind, seed)
    return lensbench.load_model(module, certify=False), pairs, direction


@pytest.fixture(scope="module")
def judged():
    found = {"used": [], "illusion": []}
    for kind, results in found.items():
        for seed in range(N):
            model, pairs, direction = load(kind, seed)
            results.append(interventions.subspace_patch(model, pairs, SITE, direction))
    return found


def test_illusions_score_above_used_subspaces(judged):
    used, illusion = (np.array([r.illusion_score for r in judged[k]]) for k in ("used", "illusion"))
    auroc = float((illusion[:, None] > used).mean() + (illusion[:, None] == used).mean() / 2)
    assert auroc >= 0.95


def test_verdicts_are_rarely_wrong(judged):
    used = [r.verdict for r in judged["used"]]
    illusion = [r.verdict for r in judged["illusion"]]
    assert used.count("suspect illusion") / N <= 0.05
    assert illusion.count("confirmed") / N <= 0.05
    assert used.count("no effect") + illusion.count("no effect") == 0


def test_both_kinds_have_effects_of_one_size(judged):
    """So that no size of effect tells them apart: it does so no better than chance."""
    used, illusion = (np.array([r.effect[1] for r in judged[k]]) for k in ("used", "illusion"))
    auroc = float((illusion[:, None] > used).mean())
    assert 0.25 < auroc < 0.75


def test_an_illusion_is_a_moving_part_unread_and_a_read_part_unmoved():
    model, pairs, direction = load("illusion", 3)
    found = interventions.subspace_patch(model, pairs, SITE, direction)
    frame = found.to_frame().set_index("patched")
    assert found.verdict == "suspect illusion"
    assert frame.loc["subspace", "effect"] > 0.3
    assert abs(frame.loc["row", "effect"]) < 0.05
    assert abs(frame.loc["null", "effect"]) < 1e-5
    assert abs(frame.loc["full", "effect"]) < 0.05
    assert frame.loc["null", "moves"] > 5 * frame.loc["row", "moves"]


def test_the_next_map_is_the_output_projection():
    module, *_ = planted("used", 0)
    torch.nn.init.normal_(module.transformer.h[0].mlp.c_proj.bias)  # no part of the map
    model = lensbench.load_model(module, certify=False)
    weight = module.transformer.h[0].mlp.c_proj.weight.detach()
    torch.testing.assert_close(interventions.next_map(model, SITE), weight, rtol=0, atol=1e-6)
    atlas = lensbench.load_model("atlas-dense", certify=False)
    head = interventions.next_map(atlas, "blocks.2.attn.z", head=1)
    size = head.shape[0]
    own = atlas.module.model.layers[2].self_attn.o_proj.weight.detach().T[size : 2 * size]
    torch.testing.assert_close(head, own, rtol=0, atol=1e-4)
    with pytest.raises(ConfigError, match="many maps"):
        interventions.next_map(atlas, "blocks.2.resid_post")


def test_the_smallest_example_by_hand():
    """h = (1, 0, 1) x is read by (1, 2, 0): e1 and (e2 + e3) / sqrt 2 both give the source's y."""
    from lensbench.interventions.subspace.spans import basis_of, orthonormal, split
    from lensbench.interventions.subspace.values import exchanged

    write, read = torch.tensor([1.0, 0.0, 1.0]), torch.tensor([1.0, 2.0, 0.0])
    at, to = -0.5 * write, 2.0 * write

    def y(direction):
        return float(exchanged(at, to, basis_of(direction, 3)).float() @ read)

    assert y([1.0, 0.0, 0.0]) == pytest.approx(2.0)
    assert y([0.0, 1.0, 1.0]) == pytest.approx(2.0)
    for alone in ([0.0, 1.0, 0.0], [0.0, 0.0, 1.0]):
        assert y(alone) == pytest.approx(-0.5)
    row, null = split(basis_of([0.0, 1.0, 1.0], 3), read[:, None])
    both = orthonormal(torch.cat([row, null], dim=1))
    assert both.shape[1] == 2
    assert float((null.T @ read.double()).abs().max()) < 1e-12


def test_alignment_finds_the_planted_line_and_the_test_unmasks_it():
    model, pairs, _ = load("illusion", 5)
    found = interventions.align_subspace(
        model, pairs, SITE, steps=150, lr=0.05, held_out=0.25, batch_size=6
    )
    summary = found.summary()
    assert summary["loss_last"] < 0.5 * summary["loss_first"]
    tested = interventions.subspace_patch(
        model, pairs.select(found.held_out), SITE, found.directions
    )
    assert tested.effect[1] > 0.3
    assert tested.verdict == "suspect illusion"


def test_a_used_state_of_a_trained_model_is_confirmed():
    model = lensbench.load_model("atlas-dense", certify=False)
    pairs = prompts.recall(model, n=24)
    found = interventions.align_subspace(
        model, pairs, "blocks.1.resid_pre", position="value", k=8, steps=60, lr=0.03
    )
    unseen = pairs.select(found.held_out)
    tested = interventions.subspace_patch(
        model, unseen, "blocks.1.resid_pre", found.directions, position="value"
    )
    assert tested.verdict == "confirmed"
    assert tested.effect[1] > tested.controls.values["random_subspace"] + 0.2
    assert not tested.readable


def test_directions_where_nothing_is_carried_have_no_effect():
    model = lensbench.load_model("atlas-dense", certify=False)
    pairs = prompts.recall(model, n=8)
    found = interventions.subspace_patch(
        model, pairs, "blocks.5.resid_pre", np.eye(128)[:4], position="value"
    )
    assert found.verdict == "no effect"


def test_runs_that_do_not_differ_leave_nothing_to_judge():
    model, pairs, direction = load("used", 1)

    def either_way(ends):  # half of the prompts are asked the other way round: no difference left
        sign = torch.ones(len(ends.answer))
        sign[::4], sign[1::4] = -1.0, -1.0
        logits = ends.logits.float()
        return (
            sign
            * (logits.gather(1, ends.answer[:, None]) - logits.gather(1, ends.foil[:, None]))[:, 0]
        )

    found = interventions.subspace_patch(model, pairs, SITE, direction, metric=either_way)
    assert found.verdict == "no contrast"


def test_slips_are_named(tmp_path):
    model, pairs, direction = load("used", 0)
    patch = interventions.subspace_patch
    with pytest.raises(ConfigError, match=f"{D_MLP}"):
        patch(model, pairs, SITE, direction[:-1])
    with pytest.raises(NonFiniteError, match="NaN"):
        patch(model, pairs, SITE, torch.full((D_MLP,), float("nan")))
    with pytest.raises(ConfigError, match="zero"):
        patch(model, pairs, SITE, torch.zeros(D_MLP))
    with pytest.raises(ConfigError, match=rf"\[{D_MLP}, m\]"):
        patch(model, pairs, SITE, direction, reads=torch.eye(3))
    with pytest.raises(NotEnoughDataError, match="at least 4"):
        interventions.align_subspace(model, pairs.select([0, 1]), SITE)
    with pytest.raises(ConfigError, match="k must be"):
        interventions.align_subspace(model, pairs, SITE, k=D_MLP + 1)
    found = patch(model, pairs, SITE, direction)
    assert lensbench.results.load(found.save(tmp_path / "r")) == found
    assert found.plot().data
