"""Decoder rows made of few shared directions are explained; random rows are not.

Thresholds, written before the first run: 128 rows, each a sum of 2 of 16 directions in 32
dimensions: above 0.85 of the variance explained with 32 meta-latents, and at least 0.25 more than
of random rows; 80 % of the 16 directions found with cosine above 0.9.
"""

import numpy as np
import pytest

from lensbench.errors import ConfigError, NonFiniteError

F, D, SHARED = 128, 32, 16


def decoder() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(SHARED, D))
    shared /= np.linalg.norm(shared, axis=1, keepdims=True)
    rows = np.stack([shared[rng.choice(SHARED, 2, replace=False)].sum(0) for _ in range(F)])
    return rows, shared


def test_shared_directions_are_found_and_random_rows_have_none(tmp_path) -> None:
    from lensbench.results import load
    from lensbench.saes import match_dictionaries, meta_sae

    rows, shared = decoder()
    rows[7] = 0
    found = meta_sae(rows, k=2, width=32, steps=400, lr=5e-3)
    assert found.explained > 0.85
    assert found.explained > found.explained_random + 0.25
    assert found.controls.values["random directions"] == found.explained_random
    best = match_dictionaries(shared, found.W_dec).best_a_to_b
    assert (best > 0.9).mean() > 0.8
    assert np.isnan(found.error[7])
    assert (found.strongest[7] == -1).all()
    assert found.summary()["rows"] == F - 1
    assert load(found.save(tmp_path)) == found
    assert len(found.plot().data) == 1
    assert 7 not in set(found.to_frame()["latent"])


def test_what_has_no_meta_structure_to_find_is_named() -> None:
    from lensbench.saes import meta_sae

    rows, _ = decoder()
    with pytest.raises(ConfigError, match="at least 8 decoder rows, got 3"):
        meta_sae(rows[:3])
    with pytest.raises(ConfigError, match="at most the width of 5"):
        meta_sae(rows[:20], k=6)
    with pytest.raises(NonFiniteError, match="in the decoder"):
        meta_sae(np.where(rows > 0, rows, np.nan))
