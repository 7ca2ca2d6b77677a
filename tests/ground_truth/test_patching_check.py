"""A place of a sweep on held-out pairs: found where it is, refused where there is nothing new."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import lensbench
from lensbench import interventions, prompts, results
from lensbench.errors import ConfigError, NotEnoughDataError


@pytest.fixture(scope="module")
def model() -> Any:
    return lensbench.load_model("atlas-dense", certify=False)


@pytest.fixture(scope="module")
def sweep(model: Any) -> Any:
    """The heads of the recall task, of which one carries the answer."""
    return interventions.patch_sweep(model, prompts.recall(model, n=8), "attn.z")


def test_the_strongest_place_holds_on_pairs_it_was_not_picked_on(
    model: Any, sweep: Any, tmp_path: Any
) -> None:
    more = prompts.recall(model, n=12, seed=1)
    check = sweep.verify(model, more)
    assert check.found.n == len(more) - check.left_out
    by_hand = interventions.patch_sweep(
        model, more, str(sweep.site[sweep.strongest]),
        heads=[int(sweep.head[sweep.strongest])], positions=[sweep.position[sweep.strongest]],
    )  # fmt: skip
    assert check.found.effect[0] == pytest.approx(by_hand.effect[0], abs=1e-5)
    assert check.standing.stands_out
    assert check.before == sweep.effect[sweep.strongest]
    frame = check.to_frame()
    assert frame["kind"].tolist() == ["the place"] + ["control"] * 20
    assert frame["effect"][1:].abs().max() < 0.5 < frame["effect"][0]
    assert "pairs that the sweep has not seen" in check.verdict
    assert check.verdict in check._repr_html_()
    assert results.load(check.save(tmp_path)) == check
    assert len(check.plot().data) == 2


def test_a_place_that_does_nothing_does_not_stand_out(model: Any, sweep: Any) -> None:
    dull = int(np.nanargmin(np.abs(sweep.effect)))
    check = sweep.verify(model, prompts.recall(model, n=12, seed=1), dull, others=4)
    assert not check.standing.stands_out
    assert len(check.to_frame()) == 5


def test_an_ablation_is_ranked_among_other_places(model: Any) -> None:
    taken = interventions.ablation_sweep(model, prompts.recall(model, n=8), "attn.z", how="mean")
    check = taken.verify(model, prompts.recall(model, n=12, seed=1))
    assert not len(check.found.tried)
    assert check.found.intervention == "mean"
    assert check.standing.n == 20
    assert "other places drawn at random" in check.verdict


def test_pairs_that_were_seen_are_left_out(model: Any, sweep: Any) -> None:
    pairs = prompts.recall(model, n=8)
    with pytest.raises(NotEnoughDataError, match="0 of these 8 pairs"):
        sweep.verify(model, pairs)
    old = replace(sweep, config={k: v for k, v in sweep.config.items() if k != "prompts"})
    with pytest.raises(NotEnoughDataError, match="not seen"):
        old.verify(model, pairs)  # kept before prompts were marked: known by the whole


def test_slips_are_named(model: Any, sweep: Any) -> None:
    more = prompts.recall(model, n=8, seed=1)
    for place in (len(sweep.site), -1, "end"):
        with pytest.raises(ConfigError, match="number of a row"):
            sweep.verify(model, more, place)
    with pytest.raises(ConfigError, match="was your own"):
        replace(sweep, metric="mine").verify(model, more)
    with pytest.raises(ConfigError, match="subspaces"):
        replace(sweep, config={"subspace": {"a": 1}}).verify(model, more)
