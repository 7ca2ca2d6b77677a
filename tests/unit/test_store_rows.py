"""Rows are named by whole numbers, a slice or a mask over every row; nothing else picks any."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lensbench.errors import ConfigError
from tests.splice_helpers import random_sae
from tests.store_builder import SITE, build

N, D, F = 20, 12, 40


@pytest.fixture
def store(tmp_path: Path) -> Any:
    values = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
    return build(tmp_path / "acts", {SITE: values}, [7, 1, 12])


@pytest.fixture
def latents(store: Any) -> Any:
    from lensbench import saes

    return saes.encode_store(random_sae(SITE, D, F, seed=1), store)


def test_a_mask_picks_the_rows_where_it_is_true(store: Any, latents: Any) -> None:
    mask = np.zeros(N, bool)
    mask[[3, 9, 19]] = True
    for which in (mask, mask.tolist()):
        np.testing.assert_array_equal(store.rows(SITE, which), store.rows(SITE, [3, 9, 19]))
        np.testing.assert_array_equal(latents.dense(which), latents.dense([3, 9, 19]))
        assert sorted(set(latents.to_frame(which)["row"])) == [3, 9, 19]
    assert len(store.rows(SITE, np.zeros(N, bool))) == 0
    assert len(store.rows(SITE, [])) == latents.rows([]).shape[0] == 0


@pytest.mark.parametrize(
    "wrong",
    [
        np.ones(N - 1, bool),
        np.ones((N, 1), bool),
        [1.9],
        np.array([1.0]),
        ["a"],
        [True, 3],
        [[0], 1],
    ],
    ids=str,
)
def test_what_is_no_row_number_is_refused(store: Any, latents: Any, wrong: Any) -> None:
    allowed = "whole numbers from 0 to 19, a slice, or a mask of 20 booleans; got"
    for ask in (latents.rows, latents.dense, latents.to_frame, lambda r: store.rows(SITE, r)):
        with pytest.raises(ConfigError, match=allowed):
            ask(wrong)


def test_one_row_or_latent_is_a_whole_number(store: Any, latents: Any) -> None:
    for ask in (
        lambda: latents.column(1.5),
        lambda: latents.row("a"),
        lambda: latents.row(True),
        lambda: latents.token(0.0),
        lambda: latents.dense([0], ["a"]),
        lambda: latents.dense([0], [1.0]),
        lambda: store.sequence_of(1.5),
    ):
        with pytest.raises(
            ConfigError, match=r"a (row|latent) is a whole number from 0 to \d+; got"
        ):
            ask()
    np.testing.assert_array_equal(latents.column(np.int32(3))[0], latents.column(3)[0])
