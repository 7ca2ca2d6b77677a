"""One state in every layer of a prompt: as single transplants, beside controls of its length."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers import random_ids, tiny


@pytest.fixture(scope="module")
def model() -> Any:
    import lensbench

    return lensbench.load_model(tiny("llama"), certify=False)


def asked(model: Any, **more: Any) -> Any:
    from lensbench import probes

    source, target = probes.Spot(random_ids(1, 7), 3), probes.Spot(random_ids(1, 5, seed=3), 2)
    return probes.transplant_layers(model, source, target, **more)


def test_every_cell_is_a_transplant(model: Any) -> None:
    from lensbench import probes

    found = asked(model, k=3)
    for j, into in enumerate(found.into):
        source = probes.Spot(random_ids(1, 7), 3)
        one = probes.transplant(model, source, probes.Spot(random_ids(1, 5, seed=3), 2, into), k=3)
        np.testing.assert_allclose(found.top_prob[0, :, j], one.top_prob, rtol=1e-4)
        np.testing.assert_allclose(found.kl[0, :, j], one.kl, rtol=1e-3, atol=1e-6)
        assert [cell[j] for cell in found.top[0]] == list(one.top)
    assert np.ptp(found.kl[0]) > 0


def test_the_scored_token_is_the_models_own_next(model: Any) -> None:
    logits = model.run(random_ids(1, 7)).logits[0, 3]
    assert asked(model).config["scored"] == int(logits.argmax())
    assert asked(model, scored=5).config["scored"] == 5
    p = logits.softmax(-1)
    np.testing.assert_allclose(asked(model, scored=5).lens_prob[-1], float(p[5]), rtol=1e-4)


def test_controls_have_the_states_length_and_say_something_else(model: Any) -> None:
    from lensbench.probes.lenses.future.layers import _others, _random

    states = torch.randn(3, 7, 8, generator=torch.Generator().manual_seed(0)) * 5
    length = states[:, 4].norm(dim=-1)
    mean = _others(states, 4)
    assert mean is not None
    torch.testing.assert_close(mean.norm(dim=-1), length)
    own = states[:, [1, 2, 3, 5, 6]].mean(1)
    torch.testing.assert_close(torch.cosine_similarity(mean, own, dim=-1), torch.ones(3))
    assert _others(states[:, :2], 1) is None, "the first token is no control"
    drawn = _random(states[:, 4], 2, 0)
    torch.testing.assert_close(drawn[0].norm(dim=-1), length)
    assert not torch.equal(*drawn)
    found = asked(model)
    assert np.abs(found.kl[0] - found.kl[1]).max() > 1e-4
    rivals = np.maximum(np.maximum(found.prob[1], found.prob[2]), found.plain_prob)
    np.testing.assert_allclose(found.above(), found.prob[0] - rivals, atol=1e-7)


def test_a_text_of_one_other_token_has_no_mean_state(model: Any) -> None:
    from lensbench import probes

    target = probes.Spot(random_ids(1, 5), 2)
    found = probes.transplant_layers(model, probes.Spot(random_ids(1, 2), 1), target)
    assert not found.has_mean
    assert "mean state" not in found.at(0, 0)["reading"].tolist()
    assert "mean_state" not in found.controls.values
    assert np.isfinite(found.above()).all()
    assert "NaN" not in repr(found)


def test_it_is_kept_and_drawn(model: Any, tmp_path: Path) -> None:
    from lensbench.results import load

    found = asked(model)
    assert load(found.save(tmp_path / "r")) == found
    for view, span in (("prob", (0, 1)), ("above", (-1, 1)), ("top_prob", (0, 1))):
        assert (found.plot(view).data[0].zmin, found.plot(view).data[0].zmax) == span
    with pytest.raises(LookupError, match="prob"):
        found.plot("probb")
    with pytest.raises(LookupError, match="source layer"):
        found.at(9, 0)


@pytest.mark.parametrize(
    ("source", "target", "more", "told"),
    [
        ([1, 2], 2, {}, "one position"),
        (9, 2, {}, "out of range"),
        (3, 0, {}, "position 0"),
        (3, 2, {"scored": 10**6}, "token id"),
        (3, 2, {"k": 0}, "k must be"),
        (3, 2, {"draws": 0}, "draws"),
    ],
)
def test_slips_are_told(model: Any, source: Any, target: Any, more: Any, told: str) -> None:
    from lensbench import probes
    from lensbench.errors import ConfigError

    with pytest.raises(ConfigError, match=told):
        probes.transplant_layers(model, probes.Spot(random_ids(1, 7), source),
                                 probes.Spot(random_ids(1, 5), target), **more)  # fmt: skip
