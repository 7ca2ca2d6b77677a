"""A verdict beside random controls: yes where an effect was planted, rarely in noise."""

import numpy as np
import pytest

from lensbench.errors import NotEnoughDataError
from lensbench.standing import ENOUGH, LEVEL, Standing, standing


def test_a_value_beyond_all_draws_stands_out_either_way() -> None:
    draws = tuple(0.5 + i / 1000 for i in range(20))
    for value in (0.1, 0.9):
        found = Standing(value, draws, base=0.5)
        assert (found.as_far, found.p) == (0, pytest.approx(1 / 21))
        assert found.stands_out is True
        assert found.told("random experts").startswith(
            "Stands out of 20 random experts (p = 0.048)"
        )
    near = Standing(0.505, draws, base=0.5)
    assert near.as_far == 15
    assert near.stands_out is False
    assert near.told("random experts").startswith("Not outside the random experts: 15 of 20 move")


def test_few_draws_cannot_tell_and_say_what_the_smallest_p_is() -> None:
    few = Standing(1.0, (0.0,) * 4)
    assert few.stands_out is None
    assert "no p below 0.2; that takes 19" in few.told("random experts")
    assert Standing(0.0, (1.0,) * 4).stands_out is False, "one draw that goes as far is an answer"
    assert Standing(1.0, (0.0,) * ENOUGH).stands_out is True
    assert Standing(1.0, (0.0,) * (ENOUGH - 1)).stands_out is None


def test_ties_count_against_the_value_and_what_is_no_number_is_left_out() -> None:
    assert Standing(0.3, (0.3,) * 20).p == 1
    assert Standing(0.1 + 0.2, (0.3,) * 20).p == 1, "rounding makes no difference"
    assert standing(1.0, [0.0, float("nan"), 0.1]).n == 2
    for value, draws in ((float("nan"), [0.0]), (1.0, []), (1.0, [float("nan")])):
        with pytest.raises(NotEnoughDataError, match="nothing to rank"):
            standing(value, draws)


def test_in_noise_it_stands_out_as_rarely_as_it_says() -> None:
    rng = np.random.default_rng(0)
    for draw in (rng.normal, lambda size: rng.binomial(48, 0.3, size) / 48):
        worlds = draw(size=(4000, 21))
        out = [standing(w[0], w[1:], float(np.median(w))).stands_out for w in worlds]
        assert np.mean(out) <= LEVEL + 2 * np.sqrt(LEVEL * (1 - LEVEL) / 4000)
    planted = rng.normal(size=(200, 21)) + np.eye(1, 21) * 8
    assert np.mean([standing(w[0], w[1:]).stands_out for w in planted]) == 1
