"""Activation codes: exact redundancy of random codes, known classes, and digits."""

from functools import cache

import numpy as np
import pytest


def test_redundancy_of_random_codes_is_its_exact_expectation() -> None:
    from lensbench.probes import expected_redundancy, redundancy

    rng = np.random.default_rng(0)
    assert expected_redundancy(12, 2000) == pytest.approx(0.2087, abs=5e-5)
    drawn = [redundancy(rng.random((2000, 12)) < 0.5) for _ in range(5)]
    assert np.mean(drawn) == pytest.approx(0.2087, abs=0.008)
    assert redundancy(rng.random((2000, 30)) < 0.5) == 0
    assert expected_redundancy(30, 2000) < 1e-6
    # by hand: two draws from two codes coincide half of the time, so one in four is redundant
    assert expected_redundancy(1, 2) == pytest.approx(0.25)
    assert expected_redundancy(39, 10**6) == pytest.approx(expected_redundancy(40, 10**6) * 2, 1e-3)
    assert expected_redundancy(5000, 100) == 0
    # control: bits that know of one another share codes more often
    half = rng.random((2000, 6)) < 0.5
    assert redundancy(np.concatenate([half, half], 1)) > 0.9


def test_one_hot_classes_are_read_without_error_and_shuffled_labels_are_not() -> None:
    from lensbench.probes import hash_codes

    rng = np.random.default_rng(1)
    y, z = rng.integers(0, 10, 300), rng.integers(0, 10, 200)
    found = hash_codes(np.eye(10)[y], y, np.eye(10)[z], z)
    summary = found.summary()
    for name in ("kmeans_greedy", "kmeans_hungarian", "kmeans_train", "knn", "logistic"):
        assert summary[name] == 1
    assert summary["knn_shuffled_labels"] < 0.3
    assert summary["redundancy"] == pytest.approx(1 - 10 / 200)
    assert found.text["regime"] == ("under-expressive",)


def test_greedy_names_can_repeat_and_best_assignment_cannot() -> None:
    from lensbench.probes.geometry.codes import greedy_accuracy, hungarian_accuracy

    clusters = np.array([0, 0, 0, 1, 1, 1, 1])
    y = np.array([5, 5, 5, 5, 5, 5, 7])
    assert greedy_accuracy(clusters, y) == pytest.approx(6 / 7)  # both clusters are called 5
    assert hungarian_accuracy(clusters, y) == pytest.approx(4 / 7)


def test_bits_that_never_change_are_dropped_over_both_sets() -> None:
    from lensbench.probes.geometry.codes import varying

    train = np.array([[1, 0, 1, 0], [1, 0, 1, 0]], bool)
    test = np.array([[1, 1, 1, 0]], bool)
    a, b = varying(train, test)
    assert a.shape == (2, 1)
    assert b.tolist() == [[True]]


@cache
def digits():
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    x, y = data.data[order] / 16, data.target[order]
    return x[:1200], y[:1200], x[1200:], y[1200:]


def trained(width, steps):
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    x, y, *_ = digits()
    net = MLPClassifier((width,), max_iter=steps, learning_rate_init=1e-2, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        net.fit(x, y)
    return net


@cache
def chart():
    from lensbench.probes import hash_codes, hidden_units, phase_chart

    x, y, z, w = digits()
    tables = []
    for width in (2, 6, 16, 64, 256):
        net, raw = trained(width, 40), trained(width, 1)
        rng = np.random.default_rng(width)
        for part in (raw.coefs_, raw.intercepts_):  # weights as they are drawn, never trained
            part[0] = rng.uniform(-1, 1, part[0].shape) * (6 / (64 + width)) ** 0.5
        pair = [(hidden_units(n, x), hidden_units(n, z)) for n in (net, raw)]
        tables.append(
            hash_codes(*_with(pair[0], y, w), controls={"untrained": pair[1]}, source="trained",
                       at=width, axis="width")
        )  # fmt: skip
    return phase_chart(tables)


def _with(pair, y, w):
    return pair[0], y, pair[1], w


def sides(first=0, last=64):
    """Rows of the trained networks and of the untrained ones, by width."""
    for name in ("trained", "untrained"):
        frame = chart().part(source=name).sort_values("width")
        yield frame[(frame["width"] >= first) & (frame["width"] <= last)]


@pytest.mark.slow
def test_wider_digit_networks_go_through_all_three_regimes() -> None:
    frame, _ = sides(last=256)
    assert (np.diff(frame["redundancy"]) < 0).all()
    assert frame["regime"].iloc[0] == "under-expressive"
    assert list(dict.fromkeys(frame["regime"])) == [
        "under-expressive", "critically expressive", "sufficiently expressive"
    ]  # fmt: skip
    assert frame["knn"].iloc[-1] > frame["knn"].iloc[0] + 0.3
    assert (frame["knn_shuffled_labels"] < 0.25).all()
    # independent bits of the same rates share codes less often than real ones
    assert (frame["redundancy"] >= frame["redundancy_independent"]).all()


@pytest.mark.slow
@pytest.mark.xfail(reason="width 64: redundancy .102, KNN .827, logistic .849 on test codes")
def test_codes_of_64_trained_units_are_sufficient_for_digits() -> None:
    frame, _ = sides()
    assert frame["regime"].iloc[-1] == "sufficiently expressive"
    assert frame["knn"].iloc[-1] > 0.9
    assert frame["logistic"].iloc[-1] > 0.9


@pytest.mark.slow
@pytest.mark.xfail(
    reason="one network per width, and rounding of the machine that trains it decides: held at "
    "every width where it was written; elsewhere .566 against .578 at width 64"
)
def test_trained_codes_cluster_by_class_more_than_untrained_ones() -> None:
    own, raw = sides()
    assert (own["kmeans_hungarian"].to_numpy() > raw["kmeans_hungarian"].to_numpy()).all()
    assert (own["kmeans_greedy"].to_numpy() > raw["kmeans_greedy"].to_numpy()).all()


@pytest.mark.slow
@pytest.mark.xfail(
    reason="logistic accuracy on codes, trained and untrained: .427 and .521 at width 16, .849 and "
    ".859 at 64 (without the batch norm that the paper has)"
)
def test_trained_codes_are_read_better_by_a_linear_map_than_untrained_ones() -> None:
    own, raw = sides(first=6)
    assert (own["logistic"].to_numpy() > raw["logistic"].to_numpy()).all()


def test_hidden_units_are_those_of_the_network() -> None:
    from lensbench.probes import hidden_units

    net = trained(6, 1)
    x = digits()[0][:50]
    units = hidden_units(net, x)["layer 0"]
    scores = units @ net.coefs_[1] + net.intercepts_[1]
    assert (scores.argmax(1) == net.predict(x)).all()
