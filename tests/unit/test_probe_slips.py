"""Slips that users of probes make get words, and no interval is made of rounding."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from lensbench.errors import ConfigError

N = 120
DOCS = np.repeat(np.arange(30), 4)


def rows(labels: Any = None, x: Any = None, **given: Any) -> Any:
    from lensbench.probes import ProbeData

    drawn = np.random.default_rng(0).normal(size=(N, 8))
    table = {"a": drawn[:, 0] > 0} if labels is None else labels
    return ProbeData.from_arrays(
        drawn if x is None else x, table, docs=DOCS, tokens=np.arange(N) % 7, **given
    )


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({"a": [1, "x", None] * 40}, "mixes int and str"),
        ([1] * N, "mapping or a frame"),
        (3, "mapping or a frame"),
        ({"a": [[1, 2], [3]] * 60}, "several lengths"),
    ],
)
def test_labels_of_no_form_are_refused_in_words(labels: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        rows(labels)


def test_missing_texts_of_pandas_are_rows_without_a_label() -> None:
    found = rows(pd.DataFrame({"a": pd.array(["u", "v", None] * 40, dtype="string")}))
    assert found.labels[0].known.sum() == 80


@pytest.mark.parametrize("seed", [-1, 1.5, "x"])
def test_seeds_that_are_none_are_refused(seed: Any) -> None:
    from lensbench.probes import fit_probe

    with pytest.raises(ConfigError, match="seed must be a whole number"):
        fit_probe(rows(), seed=seed)


@pytest.mark.parametrize("shares", [(np.nan, 0.2, 0.2), (np.inf, 0.2, 0.2), "abc", (0, 0.5, 0.5)])
def test_shares_that_are_none_are_refused(shares: Any) -> None:
    from lensbench.probes import fit_probe

    with pytest.raises(ConfigError, match="shares must be three numbers"):
        fit_probe(rows(), shares=shares)


@pytest.mark.parametrize("name", ["seeds", "sites", "labels"])
def test_a_sweep_or_code_of_nothing_is_refused(name: str) -> None:
    from lensbench.probes import codelength, probe_sweep

    for call in (probe_sweep, codelength):
        with pytest.raises(ConfigError, match=f"{name} needs at least one"):
            call(rows(), **{name: []})


def test_no_penalty_is_refused_and_one_number_does() -> None:
    from lensbench.probes import codelength

    with pytest.raises(ConfigError, match="l2 needs at least one"):
        codelength(rows(), codes="online", l2=())
    one = codelength(rows(), codes="online", l2=0.1).columns["bits"]
    assert one == codelength(rows(), codes="online", l2=(0.1,)).columns["bits"]


def test_activations_that_are_all_alike_have_codelengths_and_erase_nothing() -> None:
    from lensbench.probes import codelength, erasure_check, fit_eraser

    data = rows(x=np.ones((N, 8)))
    found = codelength(data, codes=("variational", "online"), epochs=2)
    assert np.isfinite(found.columns["bits"]).all()
    assert (found.columns["bits"] >= found.columns["entropy_bits"]).all()
    assert (fit_eraser(data).moved, fit_eraser(data).rank) == (0, 0)
    assert (erasure_check(data, "a").moved == 0).all()


def test_labels_known_on_different_rows_are_not_erased_together() -> None:
    from lensbench.probes import erasure_check, fit_eraser

    one, two = (np.array(np.arange(N) % 2 == 0, object) for _ in range(2))
    one[:60], two[60:] = None, None
    with pytest.raises(ConfigError, match="does not vary on the 0 training rows"):
        fit_eraser(rows({"a": one, "b": two}))
    with pytest.raises(ConfigError, match="at least one label"):
        fit_eraser(rows(), [])
    with pytest.raises(ConfigError, match="at least one eraser"):
        erasure_check(rows(), "a", methods=[])


def test_angles_want_names_and_a_seed() -> None:
    from lensbench.probes import subspace_angles

    weights = np.eye(8)
    with pytest.raises(ConfigError, match="by name"):
        subspace_angles([weights[:2], weights[1:3]])  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="seed"):
        subspace_angles({"a": weights[:2], "b": weights[1:3]}, seed=-1)


def test_resamples_of_equal_numbers_have_no_r_squared() -> None:
    """Where the drawn documents hold one number only, R^2 has no value: not -10^15."""
    from lensbench.probes import probe_sweep

    values = np.repeat(np.r_[np.full(27, 0.1), 0.2, 0.3, 0.7], 4)
    found = probe_sweep(rows({"v": values}, kinds={"v": "numeric"}), methods="ridge", seeds=[1])
    for name in ("low", "selectivity_low"):
        assert found.columns[name][0] > -1e6, name


def test_a_control_that_is_constant_is_told_as_nan() -> None:
    from lensbench.probes import anisotropy

    x = np.random.default_rng(0).normal(size=(60, 5))
    found = anisotropy({"x": x}, controls={"c": {"x": np.ones((60, 5))}})
    assert np.isnan(found.controls.values["c"])


@pytest.mark.parametrize("many", [100, 50])
def test_codes_of_arrays_want_a_label_per_row(many: int) -> None:
    from lensbench.errors import MismatchError
    from lensbench.probes import store_codes

    x = np.random.default_rng(0).normal(size=(60, 5))
    with pytest.raises(MismatchError, match=f"{many} labels"):
        store_codes({"x": x}, np.arange(many) % 3, sites="x", max_rows=40)


def test_board_probes_refuse_a_twin_of_other_games_and_no_kind() -> None:
    from lensbench.errors import MismatchError
    from lensbench.probes import ProbeData, board_probes

    rng = np.random.default_rng(0)
    words = np.array(["empty", "mine", "yours"])[rng.integers(0, 3, N)]
    given: list[Any] = [
        ProbeData.from_arrays(
            rng.normal(size=(N, 8)), {"relative a1": words}, docs=DOCS, tokens=np.arange(N) % modulo
        )
        for modulo in (7, 5)
    ]
    with pytest.raises(MismatchError, match="other tokens"):
        board_probes(given[0], twin=given[1], kinds="relative")
    with pytest.raises(ConfigError, match="at least one kind"):
        board_probes(given[0], kinds=())
    with pytest.raises(ConfigError, match="seed"):
        board_probes(given[0], kinds="relative", seed=-1)


@pytest.mark.parametrize("task", ["analogy", "pattern", "association", "question"])
def test_no_held_out_target_is_trained_on_under_another_order(task: str) -> None:
    """Binding commutes: a pair the other way round is the same hypervector."""
    from lensbench.probes.hd.atlas import atlas_prompts

    dealt = atlas_prompts(task, "pair", n_train=2000, n_test=200)
    trained = {frozenset(pair) for pairs in dealt.train.pairs for pair in pairs}
    for side in (dealt.validation, dealt.test):
        assert not trained & {frozenset(pairs[-1]) for pairs in side.pairs}


def test_one_training_prompt_and_a_seed_that_is_none_are_refused() -> None:
    from lensbench.probes.hd.atlas import atlas_prompts

    with pytest.raises(ConfigError, match="n_train must be a whole number of at least 2"):
        atlas_prompts(n_train=1)
    seed: Any = "a"
    with pytest.raises(ConfigError, match="seed must be a whole number"):
        atlas_prompts(seed=seed)


@pytest.mark.parametrize("text", ["--5", "²", "0,--1"])
def test_positions_that_are_no_numbers_are_names(text: str) -> None:
    from lensbench.app.workflows.probing import _positions

    assert _positions((text,)) == text
    assert _positions(("0, -1",)) == [0, -1]
    assert _positions(("first", "-1", text)) == ["first", -1, text]


def test_a_control_of_a_stores_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their rows would be one line of the figure, or one would take the other's place."""
    from lensbench.app.workflows import shapes

    monkeypatch.setattr(shapes, "open_store", lambda path: path)
    for stores, beside in ((("a/x",), ("a/x",)), (("a/x",), ("b/y", "b/y"))):
        with pytest.raises(ConfigError, match="is named twice"):
            shapes.measure(shapes.ShapeAsk(stores, controls=beside))
