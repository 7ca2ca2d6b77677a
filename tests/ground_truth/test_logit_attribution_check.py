"""Direct logit attribution beside removals: exact when held, wrong shares shown wrong.

Limits and seeds were fixed before the first run.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

import lensbench
from lensbench import Tokens
from lensbench.errors import ConfigError, MismatchError
from lensbench.ops import Zero
from lensbench.plan import edit
from lensbench.probes import direct_logit_attribution
from tests.ground_truth.test_circuits import VOCAB, planted, repeated
from tests.helpers import random_ids, tiny

EVERY = {"top": 5, "random": 10_000}


def attributed(kind="gpt2", position=-1):
    """Random weights, rows of unequal length, five answers."""
    model = lensbench.load_model(tiny(kind, seed=3), certify=False)
    ids = random_ids(3, 8, seed=1)
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1, :3] = False
    tokens = Tokens(ids, mask)
    return model, tokens, direct_logit_attribution(model, tokens, 5, [7, 8, 9], position=position)


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "llama", "phi"])
@pytest.mark.parametrize("position", [-1, 3])
def test_with_all_that_follows_held_a_removal_takes_exactly_the_share(kind, position):
    """One after the other and side by side; norms that centre, and norms that do not."""
    model, tokens, found = attributed(kind, position)
    done = found.verify(model, tokens, **EVERY)
    assert len(done.names) == sum(not n.endswith("bias") for n in found.names)
    size = np.abs(found.shares).max()
    assert done.error < 1e-3 * size
    summary = done.summary()
    assert summary["spearman_held"] > 0.99
    assert summary["gap_free"] > 0.01  # later layers and norms answer
    assert abs(summary["spearman_control"]) < 0.8
    assert summary["called_small"] <= done.n_small
    every = found.verify(model, tokens, top=3, random=1, large=1e9)
    assert every.n_small == len(done.names) - 3  # the top are not called small


def test_heads_behind_a_norm_of_their_own_need_not_lose_their_share_and_all_else_does():
    model, tokens, found = attributed("gemma2")
    done = found.verify(model, tokens, **EVERY)
    off = np.abs(done.share - done.held).max(0)
    heads = np.array(["H" in name for name in done.names])
    assert off[~heads].max() < 1e-3 * np.abs(found.shares).max() < off[heads].max()
    assert done.correlation("held") > 0.8


def test_a_free_removal_is_the_run_without_the_component():
    model, tokens, found = attributed("llama")
    done = found.verify(model, tokens, **EVERY)
    clean = model.run(tokens, logits="last").logits[:, -1]
    for name, plan in (
        ("L1H2", edit("blocks.1.attn.z", Zero(), positions=[-1], heads=[2])),
        ("L0 MLP", edit("blocks.0.mlp_out", Zero(), positions=[-1])),
    ):
        without = model.run(tokens, plan, logits="last").logits[:, -1]
        lost = (clean - without)[:, 5] - (clean - without)[torch.arange(3), torch.tensor([7, 8, 9])]
        np.testing.assert_allclose(done.free[:, done.names.index(name)], lost, atol=1e-4)


def test_shares_given_to_other_components_are_shown_wrong():
    model, tokens, found = attributed("llama")
    order = np.random.default_rng(0).permutation(len(found.names) - 1)
    wrong = replace(found, shares=np.concatenate(
        [found.shares[:, order], found.shares[:, -1:]], 1))  # fmt: skip
    done = wrong.verify(model, tokens, **EVERY)
    assert abs(done.correlation("held")) < 0.6
    assert done.error > 0.1 * np.abs(found.shares).max()
    assert done.summary()["mean_error_free"] > found.verify(
        model, tokens, **EVERY).summary()["mean_error_free"]  # fmt: skip


def test_a_planted_head_that_acts_through_another_is_what_direct_shares_miss(tmp_path):
    """L0H0 fills the room that L1H1 looks into: no direct share, and all is lost without it."""
    model, tokens = planted(), repeated()[:, : VOCAB + 3]
    answer, foil = tokens[:, 3].tolist(), tokens[:, 6].tolist()
    found = direct_logit_attribution(model, tokens, answer, foil)
    done = found.verify(model, tokens, top=1, random=3)
    assert done.names[0] == "L1H1"
    assert done.held.mean(0)[0] == pytest.approx(found.logit_diff.mean(), rel=0.1)
    assert done.free.mean(0)[0] > 0.9 * found.logit_diff.mean()
    assert lensbench.results.load(done.save(tmp_path / "d")) == done
    assert done.plot().data
    assert 0 <= done.missed_bound <= 1
    with pytest.raises(MismatchError, match="not the prompts"):
        found.verify(model, tokens.flip(0))
    with pytest.raises(MismatchError, match="not the prompts"):
        found.verify(model, tokens[:2])
    with pytest.raises(MismatchError, match="fingerprint"):
        found.verify(planted(broken=True), tokens)
    with pytest.raises(ConfigError, match="got None"):
        found.verify(None, tokens)
    with pytest.raises(ConfigError, match="both 0"):
        found.verify(model, tokens, top=0, random=0)
    with pytest.raises(ConfigError, match="'held' or 'free'"):
        done.correlation("both")
