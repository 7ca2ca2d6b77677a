"""Colours stay apart for readers who see no red, no green or no blue.

Simulation: Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB. Distance: CIE 1976, in
which about 2.3 is just seen; 10 is clear at the width of a line.
"""

from itertools import combinations, pairwise

import numpy as np
import pytest
from plotly.colors import get_colorscale, sample_colorscale

from lensbench.plots.theme import DASHES, DIVERGING, PALETTE, SEQUENTIAL, SYMBOLS

SEEN = {
    "all": np.eye(3),
    "no red": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                        [-0.003882, -0.048116, 1.051998]]),
    "no green": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                          [-0.011820, 0.042940, 0.968881]]),
    "no blue": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                         [0.004733, 0.691367, 0.303900]]),
}  # fmt: skip
CLEAR, FIRST = 10.0, 6
"""The first six colours are told apart by colour alone; of later ones, marks and dashes differ."""


def lab(colour: str | np.ndarray, how: str) -> np.ndarray:
    """CIE L*a*b* of sRGB (a hex string, or numbers from 0 to 1) as it is seen."""
    if isinstance(colour, str):
        colour = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    linear = np.clip(SEEN[how] @ linear, 0, 1)
    xyz = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
                    [0.0193339, 0.1191920, 0.9503041]]) @ linear  # fmt: skip
    f = np.cbrt(np.maximum(xyz / np.array([0.95047, 1.0, 1.08883]), 216 / 24389))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def apart(one: str | np.ndarray, other: str | np.ndarray, how: str) -> float:
    return float(np.linalg.norm(lab(one, how) - lab(other, how)))


@pytest.mark.parametrize("how", SEEN)
def test_colours_of_series_are_told_apart(how: str) -> None:
    near = {pair: apart(*pair, how) for pair in combinations(PALETTE[:FIRST], 2)}
    assert min(near.values()) >= CLEAR, min(near, key=lambda pair: near[pair])


def test_later_series_differ_by_more_than_colour() -> None:
    marks = list(zip(PALETTE, SYMBOLS, DASHES, strict=True))
    for how in SEEN:
        for (one, mark, dash), (other, mark2, dash2) in combinations(marks, 2):
            assert apart(one, other, how) >= CLEAR or (mark != mark2 and dash != dash2)


@pytest.mark.parametrize("how", SEEN)
@pytest.mark.parametrize("scale", [SEQUENTIAL, DIVERGING])
def test_steps_of_a_scale_keep_their_order_in_lightness_or_hue(how: str, scale: str) -> None:
    """Ten steps of the sequential scale grow lighter; the ends of the diverging one stay apart."""
    steps = [np.array(c) for c in sample_colorscale(get_colorscale(scale), 11, colortype="tuple")]
    if scale == SEQUENTIAL:
        light = [lab(step, how)[0] for step in steps]
        assert all(b > a for a, b in pairwise(light))
    else:
        assert min(apart(steps[i], steps[-1 - i], how) for i in range(5)) >= CLEAR


def test_a_red_and_a_green_of_one_lightness_are_not() -> None:
    """Control: the simulation can fail a pair."""
    pair = ("#A06A00", "#6B8000")
    assert apart(*pair, "all") >= 2 * CLEAR
    assert apart(*pair, "no green") < CLEAR
