"""Two dictionaries of the same atoms agree however ordered; a random one does not.

Thresholds, written before the first run: the same atoms score 1 to 1e-9; 64 random atoms in 32
dimensions score below 0.7 either way, and a planted half raises the mean by more than 0.2.
"""

import numpy as np
import pytest
import torch

from lensbench.errors import ConfigError, MismatchError, NonFiniteError

F, D = 64, 32


def atoms(seed: int = 0, n: int = F) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, D))


def match(a, b, **settings):
    from lensbench.saes import match_dictionaries

    return match_dictionaries(a, b, **settings)


def test_reordered_and_rescaled_atoms_agree_exactly_and_others_do_not() -> None:
    a = atoms()
    order = np.random.default_rng(1).permutation(F)
    same = match(a, 3.0 * a[order])
    assert same.mmcs_a_to_b.mean == pytest.approx(1, abs=1e-9)
    assert same.mmcs_b_to_a.mean == pytest.approx(1, abs=1e-9)
    assert same.hungarian.mean == pytest.approx(1, abs=1e-9)
    np.testing.assert_array_equal(order[same.nearest_a_to_b], np.arange(F))
    np.testing.assert_array_equal(order[same.pairs[:, 1]], same.pairs[:, 0])
    other = match(a, atoms(7))
    assert other.mmcs_a_to_b.mean < 0.7
    assert other.hungarian.mean < 0.7
    assert other.mmcs_a_to_b.n == F
    controls = other.controls.values
    assert controls["MMCS A->A permuted"] == pytest.approx(1, abs=1e-9)
    assert controls["Hungarian A, A permuted"] == pytest.approx(1, abs=1e-9)
    assert abs(controls["MMCS A->random"] - other.mmcs_a_to_b.mean) < 0.05


def test_the_two_directions_differ_and_are_named_rightly() -> None:
    """A is half of B: every row of A is in B, but not every row of B is in A."""
    b = atoms()
    half = match(b[: F // 2], b)
    assert half.mmcs_a_to_b.mean == pytest.approx(1, abs=1e-9)
    assert half.mmcs_b_to_a.mean < 0.85
    assert half.mmcs_b_to_a.mean > match(b[: F // 2], atoms(7)).mmcs_b_to_a.mean + 0.2
    assert len(half.pairs) == F // 2
    assert half.summary()["MMCS B->A"] == half.mmcs_b_to_a.mean


def test_mmcs_counts_the_sign_and_the_matching_does_not() -> None:
    a = atoms()
    flipped = match(a, -a)
    assert flipped.hungarian.mean == pytest.approx(1, abs=1e-9)
    assert flipped.mmcs_a_to_b.mean < 0.7
    assert (flipped.pair_cosine < 0).all()


def test_mmcs_is_many_to_one_and_the_matching_is_not() -> None:
    a = np.concatenate([atoms()[:1]] * F)
    crowded = match(a, atoms())
    assert crowded.mmcs_a_to_b.mean == pytest.approx(1, abs=1e-9)
    assert crowded.hungarian.mean < 0.5
    assert len(set(crowded.pairs[:, 1].tolist())) == F


def test_the_numbers_equal_those_written_out() -> None:
    a, b = atoms(2, 9), atoms(3, 5)
    unit = lambda m: m / np.linalg.norm(m, axis=1, keepdims=True)  # noqa: E731 - one use
    cosine = unit(a) @ unit(b).T
    found = match(torch.tensor(a), torch.tensor(b))
    assert found.mmcs_a_to_b.mean == pytest.approx(np.mean([max(row) for row in cosine]))
    assert found.mmcs_b_to_a.mean == pytest.approx(np.mean([max(row) for row in cosine.T]))
    from itertools import permutations

    best = max(sum(abs(cosine[i, j]) for j, i in enumerate(p)) for p in permutations(range(9), 5))
    assert found.hungarian.mean == pytest.approx(best / 5)


def test_a_planted_direction_is_nearest_to_its_own_latent() -> None:
    from lensbench.saes import nearest_latents

    a = atoms()
    found = nearest_latents(a[[5, 9]], a, n=3)
    np.testing.assert_array_equal(found.latents[:, 0], [5, 9])
    np.testing.assert_allclose(found.cosines[:, 0], 1.0)
    assert (np.diff(found.cosines, axis=1) <= 0).all()
    assert found.controls.values["random direction"] < 0.7
    assert nearest_latents(a[5], a).latents.shape == (1, 10)


def test_rows_of_zeros_are_counted_and_left_out(tmp_path) -> None:
    from lensbench.results import load
    from lensbench.saes import nearest_latents

    a = atoms()
    a[[3, 8]] = 0
    found = match(a, atoms())
    frame = found.to_frame().set_index("measure")
    assert frame.loc["MMCS A->B", "n_undefined"] == 2
    assert frame.loc["MMCS A->B", "n"] == F - 2
    assert frame.loc["MMCS A->B", "value"] == pytest.approx(1, abs=1e-9)
    assert not {3, 8} & set(found.pairs[:, 0].tolist())
    assert load(found.save(tmp_path)) == found
    assert not {3, 8} & set(nearest_latents(atoms(), a, n=F - 2).latents.ravel().tolist())
    nothing = match(np.zeros((4, D)), atoms())
    assert np.isnan(nothing.hungarian.mean)
    assert nothing.mmcs_a_to_b.n == 0


def test_what_cannot_be_compared_is_named() -> None:
    from lensbench.saes import nearest_latents

    with pytest.raises(MismatchError, match="d_model 32 but B 31"):
        match(atoms(), atoms()[:, :31])
    with pytest.raises(ConfigError, match=r"dictionary A must be \[d_sae, d_model\]"):
        match(np.zeros(3), atoms())
    with pytest.raises(ConfigError, match="got a str"):
        match("runs/a", atoms())
    with pytest.raises(NonFiniteError, match=r"1 of 2048 numbers in dictionary B"):
        match(atoms(), np.where(np.arange(F * D).reshape(F, D) == 5, np.nan, atoms()))
    with pytest.raises(ConfigError, match="at most 64"):
        nearest_latents(atoms()[0], atoms(), n=65)
    with pytest.raises(ConfigError, match="zeros"):
        nearest_latents(np.zeros(D), atoms())
