"""Which units fire, as a hash of the input: how many inputs share a code, and what codes tell.

A code is the concatenation of [unit > 0] over hidden units. For a gated MLP take ``mlp.gate``
(SiLU and GELU are positive where their input is), for a plain one ``mlp.post`` or what goes into
the ReLU: the sign is the same.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError, MismatchError, NotEnoughDataError
from lensbench.probes.geometry.clouds import as_points, distinct

if TYPE_CHECKING:
    from sklearn.neural_network import MLPClassifier

KNN = 9
KMEANS_SEED = 9


def activation_codes(units: Any, *, threshold: float = 0.0) -> Bool[np.ndarray, "rows units"]:
    """[unit > threshold] of every unit; arrays by name (layers) are laid side by side.

    Source: He et al. 2021, arXiv:2101.05490.

    Raises:
        ConfigError, NonFiniteError: no matrices of finite numbers with the same rows.

    Example:
        >>> codes = probes.activation_codes(x)
    """
    parts = units if isinstance(units, Mapping) else {"units": units}
    points = [as_points(part, str(name)) for name, part in parts.items()]
    if len({len(p) for p in points}) != 1:
        raise ConfigError(f"layers need the same rows, got {[len(p) for p in points]}")
    return np.concatenate([p > threshold for p in points], axis=1)


def redundancy(codes: Bool[np.ndarray, "rows bits"]) -> float:
    """Share of inputs that have no code of their own: (n - distinct codes) / n, 0 to 1.

    Source: He et al. 2021, arXiv:2101.05490.

    Example:
        >>> probes.redundancy(probes.activation_codes(x[:, :8]))
    """
    if not len(codes):
        raise NotEnoughDataError("redundancy needs at least one code, got none")
    if codes.shape[1] == 0:  # no bit: one code for all
        return 1 - 1 / len(codes)
    return 1 - n_distinct(codes) / len(codes)


def n_distinct(codes: Bool[np.ndarray, "rows bits"]) -> int:
    """Number of different codes."""
    packed = np.packbits(codes, axis=1)
    keys = np.ascontiguousarray(packed).view(np.dtype((np.void, packed.shape[1])))
    return len(np.unique(keys))


def expected_redundancy(bits: int, n: int) -> float:
    """Redundancy expected of ``n`` codes drawn evenly from all M = 2^bits.

    1 - M (1 - (1 - 1/M)^n) / n, exact. Real codes lie above it: bits are neither even nor
    independent.

    Raises:
        ConfigError: no whole numbers of at least 1 (bits: 0).

    Example:
        >>> probes.expected_redundancy(bits=8, n=1000)
    """
    bits, n = whole_number("bits", bits, least=0), whole_number("n", n, least=1)
    if bits == 0:
        return 1 - 1 / n
    if bits > 1000:  # below the smallest float
        return 0.0
    m = 2.0**bits
    found = 1 + m * np.expm1(n * np.log1p(-1 / m)) / n
    # Where M is far above n, the difference of near equal numbers is lost: the first term is left.
    return float(found) if bits < 40 else (n - 1) / (2 * m)


def varying(
    train: Bool[np.ndarray, "rows bits"], test: Bool[np.ndarray, "more bits"]
) -> tuple[Bool[np.ndarray, "rows kept"], Bool[np.ndarray, "more kept"]]:
    """Both without the bits that are the same for all rows of both."""
    if train.shape[1] != test.shape[1]:
        raise MismatchError(f"codes of {train.shape[1]} and of {test.shape[1]} bits do not belong "
                            "together; use the same units")  # fmt: skip
    ones = train.sum(0) + test.sum(0)
    keep = (ones > 0) & (ones < len(train) + len(test))
    return train[:, keep], test[:, keep]


def categorise(
    train: Bool[np.ndarray, "rows bits"],
    y_train: Int[np.ndarray, " rows"],
    test: Bool[np.ndarray, "more bits"],
    y_test: Int[np.ndarray, " more"],
    *,
    seed: int = KMEANS_SEED,
) -> dict[str, float]:
    """Accuracy on test codes of K-means, KNN (k = 9, Hamming) and one-vs-one logistic regression.

    K-means has as many clusters as classes. ``kmeans_greedy`` and ``kmeans_hungarian`` cluster the
    test codes themselves, as the paper's code does, and name clusters by their most frequent class
    (two may get one name) or one to one by the best assignment; ``kmeans_train`` keeps clusters and
    one-to-one names of the training codes. NaN where no bit is left.
    Source: He et al. 2021, arXiv:2101.05490.

    Raises:
        NotEnoughDataError: fewer than two classes, or fewer training rows than neighbours.
    """
    classes = np.unique(y_train)
    if len(classes) < 2 or len(train) < KNN or len(test) < len(classes):
        raise NotEnoughDataError(
            f"{len(train)} training codes of {len(classes)} classes and {len(test)} test codes; "
            f"two classes, {KNN} training codes and a test code per class are needed"
        )
    if train.shape[1] == 0:
        return dict.fromkeys(SCORES, float("nan"))
    from sklearn.cluster import KMeans
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsOneClassifier
    from sklearn.neighbors import KNeighborsClassifier

    x, z = train.astype(np.float64), test.astype(np.float64)
    means: Any = KMeans
    clusters: Any = lambda points: means(  # noqa: E731 - one line, two uses
        min(len(classes), _distinct_rows(points)), n_init=10, random_state=seed
    ).fit(points)
    own, carried = clusters(z).labels_, clusters(x)
    names = _one_to_one(carried.labels_, y_train)
    said = np.array([names.get(int(c), -1) for c in carried.predict(z)])
    knn: Any = KNeighborsClassifier(KNN, metric="hamming", algorithm="brute").fit(train, y_train)
    straight: Any = OneVsOneClassifier(LogisticRegression(max_iter=5000)).fit(x, y_train)
    return {
        "kmeans_greedy": greedy_accuracy(own, y_test),
        "kmeans_hungarian": hungarian_accuracy(own, y_test),
        "kmeans_train": float((said == y_test).mean()),
        "knn": float((knn.predict(test) == y_test).mean()),
        "logistic": float((straight.predict(z) == y_test).mean()),
    }


SCORES = ("kmeans_greedy", "kmeans_hungarian", "kmeans_train", "knn", "logistic")


def greedy_accuracy(clusters: Int[np.ndarray, " rows"], y: Int[np.ndarray, " rows"]) -> float:
    """Accuracy when every cluster takes its most frequent class; two may take the same."""
    table = _contingency(clusters, y)
    return float(table.max(1).sum() / table.sum())


def hungarian_accuracy(clusters: Int[np.ndarray, " rows"], y: Int[np.ndarray, " rows"]) -> float:
    """Accuracy under the best one-to-one naming of clusters (Kuhn 1955)."""
    from scipy.optimize import linear_sum_assignment

    table = _contingency(clusters, y)
    return float(table[linear_sum_assignment(table, maximize=True)].sum() / table.sum())


def independent_bits(
    codes: Bool[np.ndarray, "rows bits"], seed: int = 0
) -> Bool[np.ndarray, "rows bits"]:
    """Every bit dealt anew over the rows: the same rates, no bit knows of another."""
    return np.random.default_rng(seed).permuted(codes, axis=0)


def hidden_units(classifier: "MLPClassifier", x: Any) -> dict[str, Float[np.ndarray, "rows width"]]:
    """Activations of every hidden layer of a scikit-learn MLP with ReLUs, by layer.

    Raises:
        ConfigError: another activation, or an unfitted classifier.

    Example:
        >>> from sklearn.neural_network import MLPClassifier
        >>> y = (x[:, 0] > 0).numpy()
        >>> classifier = MLPClassifier((8,), tol=0.1).fit(x.numpy(), y)
        >>> units = probes.hidden_units(classifier, x.numpy())
    """
    if classifier.activation != "relu" or not hasattr(classifier, "coefs_"):
        raise ConfigError("hidden units are read from a fitted MLPClassifier(activation='relu')")
    state, found = as_points(x), {}
    weights: Any = list(zip(classifier.coefs_, classifier.intercepts_, strict=True))
    for layer, (weight, bias) in enumerate(weights[:-1]):
        state = np.maximum(state @ weight + bias, 0)
        found[f"layer {layer}"] = state
    return found


def distinct_share(x: Any) -> float:
    """Share of inputs that equal no earlier one; any code's redundancy is at least 1 - this."""
    points = as_points(x)
    return float(distinct(points).mean())


def _contingency(clusters: np.ndarray, y: np.ndarray) -> np.ndarray:
    rows, columns = (np.unique(v, return_inverse=True)[1] for v in (clusters, y))
    table = np.zeros((rows.max() + 1, columns.max() + 1), np.int64)
    np.add.at(table, (rows, columns), 1)
    return table


def _one_to_one(clusters: np.ndarray, y: np.ndarray) -> dict[int, int]:
    from scipy.optimize import linear_sum_assignment

    names, classes = np.unique(clusters), np.unique(y)
    a, b = linear_sum_assignment(_contingency(clusters, y), maximize=True)
    return {int(names[i]): int(classes[j]) for i, j in zip(a, b, strict=True)}


def _distinct_rows(x: np.ndarray) -> int:
    return n_distinct(x > 0.5)
