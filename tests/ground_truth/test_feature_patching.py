"""Patching a dictionary's latents against principal directions, where the right latents are known.

The logits depend on the last token's own direction alone, and the dictionary's latents are these
directions: two of them (the clean token's and the corrupted one's) are all there is to patch.
Thresholds and seeds were fixed before the first run.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lensbench.errors import ConfigError
from tests.attribution_worlds import gpt2, opened, pole
from tests.graph_worlds import transcoder

D, VOCAB, SITE = 32, 8, "blocks.0.resid_post"


def world():
    """One layer that adds nothing; a token's direction is its own logit. Prompts end in 1 or 2."""
    from lensbench import prompts
    from lensbench.saes.sae import SAE

    module = gpt2(1, d=D)
    rows = torch.stack([pole(D, i) for i in range(VOCAB)])
    with torch.no_grad():
        module.transformer.wte.weight.copy_(rows)
        module.lm_head.weight.copy_(2 * rows)
    before = np.random.default_rng(0).integers(0, VOCAB, (12, 3)).tolist()
    pairs = prompts.from_ids([[*b, 1] for b in before], [[*b, 2] for b in before],
                             [1] * 12, [2] * 12, task="copy")  # fmt: skip
    sae = SAE(W_enc=rows.mT / 2, b_enc=torch.zeros(VOCAB), W_dec=rows, b_dec=torch.zeros(D),
              activation="relu", metadata={"site": SITE})  # fmt: skip
    return opened(module), pairs, sae


def test_two_latents_do_what_random_directions_cannot() -> None:
    from lensbench.interventions import feature_patching
    from lensbench.interventions.graphs.feature_patching import BASES

    model, pairs, sae = world()
    found = feature_patching(model, pairs, sae, [0, 1, 2, 8, 32])
    kl = dict(zip(BASES, found.kl.mean(2), strict=True))
    base = found.base.mean()
    assert base > 1.0
    for values in kl.values():
        assert values[0] == pytest.approx(base)
    assert kl["latents"][2] < 1e-6 * base
    assert kl["latents"][1] > 0.05 * base  # one of the two is not enough
    assert kl["random rotation"][2] > 0.3 * base  # the control
    # every prompt ends in one of the two tokens, so a principal direction is their difference too
    assert kl["latents"][2] < kl["pca"][2] < kl["random rotation"][2]
    assert kl["pca"][4] < 1e-6 * base  # all of a whole basis are the whole state
    assert kl["random rotation"][4] < 1e-6 * base
    assert found.whole.mean() < 1e-6 * base
    assert found.needed("latents", 0.01) == 2
    assert found.n[0].tolist() == [0, 1, 2, 8, -1]


def test_a_dictionary_of_other_directions_does_not() -> None:
    from lensbench.interventions import feature_patching

    model, pairs, sae = world()
    order = torch.tensor([0, 3, 4, 1, 2, 5, 6, 7])
    wrong = replace(sae, W_dec=sae.W_dec[order])
    found = feature_patching(model, pairs, wrong, [2, 8])
    assert found.kl[0].mean(1).min() > 0.3 * found.base.mean()


def test_the_curve_is_a_result_and_refuses_what_it_cannot_patch(tmp_path) -> None:
    from lensbench.interventions import feature_patching
    from lensbench.results import load

    model, pairs, sae = world()
    found = feature_patching(model, pairs, {SITE: sae}, batch_size=5)
    assert load(found.save(tmp_path)) == found
    assert found.plot().data
    assert set(found.to_frame()["basis"]) == {"latents", "pca", "random rotation"}
    again = feature_patching(model, pairs, sae)
    np.testing.assert_allclose(found.kl, again.kl, atol=1e-5)
    with pytest.raises(ConfigError, match="one autoencoder"):
        feature_patching(model, pairs, {0: transcoder(0, d=D, dtype=torch.float32)})
    with pytest.raises(ConfigError, match="whole number"):
        feature_patching(model, pairs, sae, [-1])
    with pytest.raises(ConfigError, match="empty"):
        feature_patching(model, pairs, sae, [])
    with pytest.raises(ConfigError, match="list of numbers"):
        feature_patching(model, pairs, sae, 3)
    with pytest.raises(ConfigError, match="no basis has 1000 components"):
        feature_patching(model, pairs, sae, [1000])
    with pytest.raises(ConfigError, match="seed"):
        feature_patching(model, pairs, sae, [1], seed="x")


def test_runs_that_say_the_same_have_no_components_to_need() -> None:
    from lensbench import prompts
    from lensbench.interventions import feature_patching

    model, pairs, sae = world()
    same = prompts.from_ids(pairs.clean_ids, pairs.clean_ids, [1] * 12, [2] * 12, task="same")
    found = feature_patching(model, same, sae, [0, 2])
    assert "both runs say the same" in found.undefined
    assert all(np.isnan(found.needed(basis)) for basis in ("latents", "pca", "random rotation"))
    assert np.isnan(found.summary()["half_latents"])
    assert np.isnan(found.controls.values["random_rotation"])
    assert "undefined" in found.plot().layout.title.subtitle.text
    assert not feature_patching(model, pairs, sae, [0, 2]).undefined  # control
