"""Geometry of stores: which rows are measured, controls, checkpoints, figures, and slips."""

import numpy as np
import pytest


@pytest.fixture(scope="module")
def model():
    from lensbench.models import load_model
    from tests.helpers import tiny

    return load_model(tiny("llama"))


@pytest.fixture(scope="module")
def ids():
    """Sixty texts of ten tokens; the first ten begin alike, and the last repeats the first."""
    from tests.helpers import random_ids

    found = random_ids(60, 10).numpy()
    found[:, 0] = 1
    found[:10, :4] = found[0, :4]
    found[-1] = found[0]
    return found


@pytest.fixture(scope="module")
def store(model, ids, tmp_path_factory):
    from lensbench import capture

    return capture(model, [*ids], ["blocks.*.resid_post", "blocks.*.mlp.gate"], layout="pad",
                   out=tmp_path_factory.mktemp("geometry") / "plain", dtype="float32")  # fmt: skip


@pytest.fixture(scope="module")
def controls(store, model, tmp_path_factory):
    from lensbench.probes import control_stores

    return control_stores(store, model, tmp_path_factory.mktemp("geometry"))


def test_repeated_prefixes_are_left_out_and_counted(store, ids) -> None:
    from lensbench.probes.geometry.clouds import clouds_of, prefix_hashes

    distinct = {tuple(row[: i + 1]) for row in ids for i in range(10)}
    cloud = clouds_of(store, sites="blocks.1.resid_post")[0]
    assert len(cloud.docs) == len(distinct)
    assert cloud.n_repeated == 600 - len(distinct)
    assert len(np.unique(prefix_hashes(store))) == len(distinct)
    # a causal model gives them equal states, up to rounding
    x = store.rows("blocks.1.resid_post", slice(None)).reshape(60, 10, -1)
    np.testing.assert_allclose(x[:10, :4], np.broadcast_to(x[0, :4], (10, 4, 32)), atol=1e-4)


def test_rows_by_position(store, ids) -> None:
    from lensbench.probes.geometry.clouds import clouds_of

    def take(positions):
        return clouds_of(store, sites="blocks.0.resid_post", positions=positions)[0]

    last, inner = take("last"), take("not_first")
    assert len(last.docs) == 59  # one text is there twice
    assert (last.positions == 9).all()
    assert inner.positions.min() == 1
    np.testing.assert_array_equal(last.x(), store.rows("blocks.0.resid_post", last.rows))
    assert sorted(last.tokens) == sorted(ids[:-1, -1])
    assert last.length == 10


def test_every_source_gives_as_many_rows_and_a_limit_holds(store, controls) -> None:
    from lensbench.probes import intrinsic_dimension
    from lensbench.probes.geometry.clouds import clouds_of

    free = clouds_of(store, sites="blocks.0.resid_post", controls=controls)
    assert [len(cloud.docs) for cloud in free] == [len(free[0].docs)] * 3
    assert len({cloud.n_repeated for cloud in free}) == 2  # the shuffled text repeats less
    found = intrinsic_dimension(store, controls=controls, scales=(1, 2), max_rows=300)
    frame = found.to_frame()
    assert set(frame["source"]) >= {"shuffled_text", "reinitialised_twin"}
    total = frame["n"] + frame["n_duplicates"]
    assert (total <= 300).all()
    assert (total > 280).all()
    assert set(found.controls.values) == {"shuffled_text", "reinitialised_twin"}
    assert len(found) == 3 * 3 * 3  # sources, layers, estimators at scales
    assert frame["length"].notna().all()
    other = intrinsic_dimension(store, scales=(1,), max_rows=300, seed=1)
    again = intrinsic_dimension(store, scales=(1,), max_rows=300, seed=0)
    plain = found.part(source=frame["source"][0]).query("n1 == 1")["dimension"].to_numpy()
    np.testing.assert_array_equal(again.numbers["dimension"], plain)
    assert not np.array_equal(other.numbers["dimension"], plain)


def test_controls_hold_the_same_tokens_in_another_order(store, controls) -> None:
    plain, mixed = store.index(), controls["shuffled_text"].index()
    a, b = (i.token_ids.reshape(60, 10) for i in (plain, mixed))
    np.testing.assert_array_equal(np.sort(a, 1), np.sort(b, 1))
    np.testing.assert_array_equal(a[:, 0], b[:, 0])
    assert (a != b).mean() > 0.5
    twin = controls["reinitialised_twin"]
    np.testing.assert_array_equal(twin.index().token_ids, plain.token_ids)
    assert twin.model["fingerprint"] != store.model["fingerprint"]


def test_spaces_of_models_are_compared_on_the_same_tokens(store, controls, model, ids, tmp_path):
    from lensbench import capture
    from lensbench.errors import MismatchError
    from lensbench.probes import neighbourhoods

    twin = controls["reinitialised_twin"]
    found = neighbourhoods({"one": store, "two": twin}, k=5, controls=controls, max_rows=200)
    firsts = [f"one blocks.{n}.resid_post" for n in range(3)]
    assert found.names[:4] == (*firsts, "two blocks.0.resid_post")
    assert found.imbalance.shape == (12, 12)
    assert sum(found.is_control) == 6
    np.testing.assert_allclose(np.diag(found.overlap), 1)
    # a space beside its own copy: nothing is lost
    assert found.imbalance[3, 9] == pytest.approx(2 / found.n)
    other = capture(model, [*ids[::-1]], "blocks.*.resid_post", layout="pad", out=tmp_path / "o")
    with pytest.raises(MismatchError, match="not the same tokens"):
        neighbourhoods({"one": store, "other": other}, k=5)
    by_text = neighbourhoods({"one": store, "two": twin}, k=5, positions="last")
    assert by_text.n == 59


def test_codes_of_stored_units_by_document(store, controls, ids) -> None:
    from lensbench.errors import MismatchError
    from lensbench.probes import store_codes

    y = (ids[:, -1] % 2).astype(int)
    sites, twin = [f"blocks.{n}.mlp.gate" for n in range(3)], controls["reinitialised_twin"]
    found = store_codes(store, y, sites=sites, controls={"reinitialised_twin": twin})
    assert len(found) == 6
    assert (found.numbers["bits"] <= 48).all()
    rows = np.repeat(y, 10)
    same = store_codes(store, rows, sites=sites)
    np.testing.assert_array_equal(same.numbers["knn"], found.numbers["knn"][:3])
    with pytest.raises(MismatchError, match="one per stored row or per document"):
        store_codes(store, y[:-1], sites="blocks.0.mlp.gate")


def test_every_result_comes_back_from_disk_and_draws(store, controls, model, ids, tmp_path) -> None:
    import lensbench.results
    from lensbench import probes

    y = (ids[:, -1] % 2).astype(int)
    found = [
        probes.anisotropy(store, controls=controls),
        probes.intrinsic_dimension(store, controls=controls, scales=(1, 4), max_rows=200),
        probes.neighbourhoods(store, controls=controls, k=5, max_rows=100),
        probes.store_codes(store, y, sites="blocks.1.mlp.gate"),
        probes.length_profile(model, ids, lengths=(4, 8)),
    ]
    for result in found:
        assert lensbench.results.load(result.save(tmp_path / result.kind)) == result
        assert len(result.to_frame())
        assert len(result.plot().data)
        assert result.summary()
        assert result.controls
    rows = found[0].plot(found[0].text["source"][0])
    assert len(rows.data) == 4, "three choices of rows, and what an isotropic cloud has"
    assert len(found[1].plot_scale().data) == 6  # a line and a band per source
    assert len(found[2].plot("overlap").data) == 1
    assert len(found[2].plot_overlap().data) >= 2
    assert len(found[3].plot_phases().data) == 1
    for measure in ("zero_frequency", "gain", "anisotropy", "similarity_without_first"):
        assert len(found[4].plot(measure, layer=0).data) >= 3


@pytest.mark.illtyped
def test_slips_are_named(store, model, ids) -> None:
    from lensbench import probes
    from lensbench.errors import (
        ConfigError,
        MissingDataError,
        NonFiniteError,
        NotEnoughDataError,
        UnknownNameError,
    )

    x = np.random.default_rng(0).standard_normal((50, 4))
    bad = x.copy()
    bad[3, 1] = np.nan
    with pytest.raises(NonFiniteError, match="1 of 50 rows"):
        probes.gride(bad)
    with pytest.raises(ConfigError, match=r"\[rows, width\]"):
        probes.gride(x[0])
    with pytest.raises(ConfigError, match="n1 must be a whole number of at least 1"):
        probes.gride(x, 0)
    with pytest.raises(NotEnoughDataError, match="distinct rows"):
        probes.two_nn(np.ones((50, 4)))
    with pytest.raises(UnknownNameError, match="Did you mean 'regression'"):
        probes.two_nn(x, "regresion")
    with pytest.raises(NotEnoughDataError, match="are needed"):
        probes.intrinsic_dimension(x, scales=(64,))
    with pytest.raises(UnknownNameError, match="position"):
        probes.intrinsic_dimension(store, positions="first")
    with pytest.raises(MissingDataError, match=r"lacks blocks\.0\.resid_mid"):
        probes.anisotropy(store, sites="blocks.0.resid_mid")
    with pytest.raises(ConfigError, match="no source given"):
        probes.anisotropy({})
    with pytest.raises(ConfigError, match="same rows"):
        probes.information_imbalance(x, x[:20])
    with pytest.raises(UnknownNameError, match="scale n1"):
        probes.intrinsic_dimension(x, scales=(1,)).plot(n1=3)
    with pytest.raises(ConfigError, match=r"lengths must lie in 2\.\.10"):
        probes.length_profile(model, ids, lengths=(20,))
    with pytest.raises(NotEnoughDataError, match="two texts"):
        probes.length_profile(model, ids[:1])
    with pytest.raises(UnknownNameError, match="control"):
        probes.length_profile(model, ids, controls=("twin",))
    with pytest.raises(ConfigError, match="no tokenizer"):
        probes.aligned_distances(model, [("a", "b")])
    with pytest.raises(NotEnoughDataError, match="no pair"):
        probes.aligned_distances(model, [])
    with pytest.raises(ConfigError, match="one whole number per input"):
        probes.hash_codes(x, np.zeros(50), x, np.zeros(50))
    with pytest.raises(NotEnoughDataError, match="two classes"):
        probes.hash_codes(x, np.zeros(50, int), x, np.zeros(50, int))
    with pytest.raises(ConfigError, match="one axis"):
        probes.phase_chart([])
    with pytest.raises(MissingDataError, match="no series of checkpoints"):
        probes.checkpoint_stores("othello-none", [ids[0]], "blocks.0.resid_post", "unused")


def test_the_checkpoints_of_atlas_are_one_series(tmp_path) -> None:
    from lensbench.probes import checkpoint_stores, intrinsic_dimension, neighbourhoods
    from lensbench.worlds.atlas import Atlas

    corpus = Atlas(seed=0).sample(60, "heldout", seed=1)
    series = checkpoint_stores("atlas-dense", corpus, "blocks.5.resid_post", tmp_path,
                               revisions=["step64", None])  # fmt: skip
    assert list(series) == ["step64", "final"]
    found = intrinsic_dimension(series, scales=(1,))
    assert list(dict.fromkeys(found.text["source"])) == ["step64", "final"]
    both = neighbourhoods(series, k=10)
    assert both.overlap[0, 1] > 2 * both.chance_overlap
    assert both.overlap[0, 1] < 0.9


def test_all_checkpoints_in_order() -> None:
    from lensbench.probes.geometry.stores import _revisions

    assert _revisions("atlas-dense") == ["step64", "step512", "step1024", None]
