"""Rules of drafting against numbers worked out by hand."""

import math

import numpy as np
import pytest

from lensbench.errors import ConfigError
from lensbench.interventions.acceleration.speculative.del_rule import DelRule
from lensbench.interventions.acceleration.speculative.schedules import (
    AdaptiveThreshold,
    ConfidenceStop,
    DraftLengthFSM,
)

TARGET = np.array([5, 6, 7, 8])
TOKENS = np.array([[5, 0, 0, 8], [5, 6, 0, 0]])
SURE = np.array([[0.9, 0.5, 0.3, 0.7], [0.8, 0.6, 0.4, 0.2]])


def test_a_round_counts_the_refused_position_and_nothing_past_it() -> None:
    rule = DelRule(3)
    assert (rule.exit_layer, rule.most) == (1, 1)
    choice = rule.update(TOKENS, SURE, TARGET, accepted=1)  # columns 0 and 1 only
    assert choice.alpha == (0.5, 1.0)
    # layer 1: i=0 1/3, i=1 1.5/4, i=2 1.75/5, ...; layer 2: (i+1)/(3+2i) grows to 18/37.
    assert rule.tokens_per_layer[0, :3] == pytest.approx([1 / 3, 1.5 / 4, 1.75 / 5])
    assert rule.tokens_per_layer[1, 17] == pytest.approx(18 / 37)
    assert (choice.exit_layer, choice.draft_length) == (2, 17)
    assert rule.most == 18


def test_sums_decay_once_a_round_and_the_threshold_is_the_middle_of_two_means() -> None:
    rule = DelRule(3)
    rule.update(TOKENS, SURE, TARGET, accepted=1)
    rule.update(TOKENS[:, 2:], SURE[:, 2:], TARGET[2:], accepted=1)
    # layer 1: match .95*1 + 1 of .95*.9 + .7, mismatch .95*1 + 1 of .95*.5 + .3
    match, mismatch = (0.95 * 0.9 + 0.7) / 1.95, (0.95 * 0.5 + 0.3) / 1.95
    assert rule._threshold(1) == pytest.approx((match + mismatch) / 2)
    # layer 2: matches .95*2, mismatches 2: alpha 1.9/3.9
    assert rule.alpha == pytest.approx([0.5, 1.9 / 3.9])
    # both about a half: G(1)/(3+1) = .375 of layer 1 is the largest of all
    assert rule.exit_layer == 1
    assert rule.history[-1].draft_length == 1


def test_positions_of_the_prompt_come_before_the_draft() -> None:
    rule, other = DelRule(3), DelRule(3)
    rule.update(TOKENS, SURE, TARGET, accepted=0, before=2)
    other.update(TOKENS[:, :3], SURE[:, :3], TARGET[:3], accepted=2)
    assert rule.history == other.history
    assert rule.alpha == pytest.approx([1 / 3, 2 / 3])


def test_without_a_match_and_a_mismatch_a_draft_runs_to_its_cap() -> None:
    rule = DelRule(3, gamma_max=4)
    rule.update(TARGET[None].repeat(2, 0), SURE, TARGET, accepted=3)
    assert math.isnan(rule.threshold)
    assert [rule.go_on(n, 0.0) for n in (1, 3, 4)] == [True, True, False]


def test_equal_choices_go_to_the_lowest_layer_and_the_shortest_draft() -> None:
    rule = DelRule(4)
    nothing = np.full((3, 2), -1)
    choice = rule.update(nothing, np.full((3, 2), 0.5), np.array([1, 2]), accepted=1)
    assert choice.alpha == (0.0, 0.0, 0.0)
    assert (choice.exit_layer, choice.draft_length) == (1, 0)  # 1 / L whatever the layer


def test_the_threshold_is_no_number_below_itself() -> None:
    rule = DelRule(3)
    rule.update(TOKENS, SURE, TARGET, accepted=3)
    tau = rule._threshold(rule.exit_layer)
    assert rule.go_on(1, tau)
    assert not rule.go_on(1, tau - 1e-9)


def test_the_draft_length_goes_up_and_down_by_one_within_its_bounds() -> None:
    rule = DraftLengthFSM(2, most=3)
    seen = []
    for drafted, accepted in [(2, 2), (3, 3), (3, 2), (2, 0), (1, 0), (0, 0)]:
        rule.update(drafted, accepted)
        seen.append(rule.length)
    assert seen == [3, 3, 2, 1, 1, 1]
    assert rule.go_on(0, 0.0)
    assert not rule.go_on(1, 1.0)


def test_the_adaptive_threshold_moves_by_a_thousandth() -> None:
    rule = AdaptiveThreshold()
    rule.update(4, 4)  # rate .5 < .9: up
    assert (rule.rate, rule.threshold) == pytest.approx((0.5, 0.601))
    for _ in range(3):
        rule.update(4, 4)  # .75, .875: up; .9375: down
    assert (rule.rate, rule.threshold) == pytest.approx((0.9375, 0.602))
    rule.update(12, 12)  # the longest draft: stays
    assert rule.threshold == pytest.approx(0.602)
    rule.update(0, 0)
    assert rule.threshold == pytest.approx(0.602)
    rule.new_text()
    assert (rule.rate, rule.threshold) == pytest.approx((0.0, 0.602))


def test_an_unsure_token_ends_the_draft_it_belongs_to() -> None:
    rule = ConfidenceStop(0.6, 6)
    assert [rule.go_on(1, 0.6), rule.go_on(1, 0.59), rule.go_on(6, 0.9)] == [True, False, False]


@pytest.mark.parametrize(
    "call",
    [
        lambda: DelRule(1),
        lambda: DelRule(4, omega=0.0),
        lambda: DelRule(4, gamma_max=0),
        lambda: DraftLengthFSM(0),
        lambda: DraftLengthFSM(9, most=4),
        lambda: AdaptiveThreshold(goal=2.0),
        lambda: ConfidenceStop(0.5, 0),
    ],
)
def test_settings_out_of_range_are_refused(call) -> None:
    with pytest.raises(ConfigError):
        call()


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 6 positions"):
        DelRule(3).update(TOKENS, SURE, TARGET, accepted=5)
    with pytest.raises(ConfigError):
        DelRule(4).update(TOKENS, SURE, TARGET, accepted=1)
