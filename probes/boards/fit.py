"""A softmax probe per square, layer and sense of the board, scored by class.

Steps, numbered in the body:

1. All squares of a site are fitted together on the training games (logistic, one penalty).
2. Test games are scored: accuracy over squares, recall of each class (most squares are empty, so
   accuracy alone flatters), and per square.
3. Beside: the commonest state of each square after that many moves, and the same probes of a
   re-initialised model.
4. Of the relative probes, the direction from mine to yours, and how far the two lie apart along it.
"""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from lensbench import provenance
from lensbench.arguments import positive_number, whole_number
from lensbench.errors import ConfigError, UnknownNameError
from lensbench.probes.boards.data import CLASSES, KINDS, board_data
from lensbench.probes.boards.result import BoardProbes
from lensbench.probes.linear.controls import check_twin
from lensbench.probes.linear.data import SHARES, ProbeData
from lensbench.probes.linear.fit import fold_of
from lensbench.probes.linear.fitting import FitOptions, Fitted, Fold, fit_labels
from lensbench.probes.linear.labels import Label
from lensbench.probes.linear.splits import Split
from lensbench.results import Controls
from lensbench.stats import bootstrap_mean

if TYPE_CHECKING:
    from lensbench.models.base import Model
    from lensbench.worlds.othello.games import Games

_Measured = dict[str, Any]


def board_probes(
    data: "ProbeData | Model",
    *,
    twin: "ProbeData | Model | None" = None,
    games: "Games | None" = None,
    n_games: int = 400,
    kinds: Sequence[str] | str = KINDS,
    l2: float = 1e-3,
    seed: int = 0,
    shares: tuple[float, float, float] = SHARES,
) -> BoardProbes:
    """Probe every square at every layer: empty, mine or yours; and empty, black or white.

    Of a model it plays and reads ``n_games`` (:func:`~lensbench.probes.boards.data.board_data`) and
    reads the same games of a re-initialised twin as well.
    Source: Nanda, Lee & Wattenberg 2023, arXiv:2309.00941 (theirs are trained by AdamW; these are
    the exact minimum of the penalised loss).

    Args:
        data: labelled rows, or a model of the Othello world.
        twin: the same rows of a re-initialised model, or that model.
        games: which games a model is read on.
        n_games: how many are played where none are given.
        kinds: ``relative`` (mine, yours), ``absolute`` (black, white).
        l2: penalty without units, see :mod:`~lensbench.probes.linear.fitting`.
        seed: of games and split.
        shares: of games: train, validation (unused: one penalty), test.

    Raises:
        UnknownNameError: a kind that there is not.
        ConfigError: rows without labels of a board.
        MismatchError: a model that is of no board, or a twin of other games.
        NotEnoughDataError: too few games.

    Example:
        >>> found = probes.board_probes(othello, n_games=40)
    """
    start = time.monotonic()
    wanted = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    if not wanted:
        raise ConfigError(f"say at least one kind: {', '.join(KINDS)}")
    whole_number("seed", seed, least=0)
    for kind in wanted:
        if kind not in KINDS:
            raise UnknownNameError("kind of board", kind, known=KINDS)
    options = FitOptions(l2=(positive_number("l2", l2),))
    table, other = _tables(data, twin, games, n_games, seed)
    squares = _squares(table, wanted)
    measured: dict[str, _Measured] = {}
    weights: dict[str, np.ndarray] = {}
    for suffix, rows in (("", table), (" of twin", other)):
        for site in table.sites if rows is not None else ():
            assert rows is not None
            fold = fold_of(rows, site, seed, shares)
            for kind in wanted:
                labels = [rows.label(f"{kind} {square}") for square in squares]
                fitted = fit_labels(fold, labels, "logistic", options)  # 1
                at = measured.setdefault(kind + suffix, {"accuracy": [], "recall": [], "each": []})
                _score(at, rows, fold, labels, fitted, CLASSES[kind])  # 2
                if kind == "relative" and not suffix:
                    weights |= _directions(site, fold, labels, fitted)  # 4
    split = table.split(seed, shares)
    base = {kind: _majority(table, [table.label(f"{kind} {s}") for s in squares], split)
            for kind in wanted}  # fmt: skip
    best = {name: float(np.max([a[0] for a in m["accuracy"]])) for name, m in measured.items()}
    beside = {k: v for k, v in best.items() if k.endswith("twin")}
    return BoardProbes(
        sites=table.sites, squares=squares, sources=tuple(measured),
        accuracy=np.array([m["accuracy"] for m in measured.values()]),
        recall=np.array([m["recall"] for m in measured.values()]),
        per_square=np.array([m["each"] for m in measured.values()]),
        majority=np.array([base[name.split()[0]] for name in measured]),
        directions={s: weights[s] for s in table.sites if s in weights},
        gaps={s: weights[f"gap {s}"] for s in table.sites if s in weights},
        n_games=len(np.unique(table.docs[split.test])), n_rows=int(split.test.sum()),
        model={k: table.model.get(k) for k in ("name", "fingerprint")},
        config={"l2": l2, "seed": seed, "split": split.how},
        controls=Controls({**beside, **{f"majority {k}": v[0] for k, v in base.items()}},
                          "accuracy, of the twin at its best layer"),
        provenance=provenance.record(
            model=dict(table.model), seed=seed, seconds=time.monotonic() - start
        ),
    )  # fmt: skip


def _tables(
    data: "ProbeData | Model",
    twin: "ProbeData | Model | None",
    games: "Games | None",
    n_games: int,
    seed: int,
) -> tuple[ProbeData, ProbeData | None]:
    from lensbench.worlds.controls import reinitialised_twin

    if isinstance(data, ProbeData):
        if twin is not None and not isinstance(twin, ProbeData):
            raise ConfigError("rows need a twin of rows: board_data(twin, the same games)")
        return data, None if twin is None else check_twin(data, twin)
    own = board_data(data, games, n_games=n_games, seed=seed)
    if isinstance(twin, ProbeData):
        return own, check_twin(own, twin)
    again = reinitialised_twin(data, seed) if twin is None else twin
    return own, board_data(again, games, n_games=n_games, seed=seed)


def _squares(data: ProbeData, kinds: Sequence[str]) -> tuple[str, ...]:
    names = [label.name for label in data.labels]
    found = [n.split(" ", 1)[1] for n in names if n.startswith(f"{kinds[0]} ")]
    missing = [f"{k} {s}" for k in kinds for s in found if f"{k} {s}" not in names]
    if not found or missing:
        raise ConfigError(
            "board probes need a label such as 'relative c4' per square and kind; "
            + (f"missing: {', '.join(missing[:3])}" if missing else f"there are {names[:3]}")
        )
    return tuple(found)


def _numbers(label: Label, classes: Sequence[str]) -> Int[np.ndarray, " classes"]:
    """Where a label's classes stand among the board's (a middle square is never empty)."""
    return np.array([list(classes).index(name) for name in label.classes])


def _score(
    at: _Measured,
    data: ProbeData,
    fold: Fold,
    labels: Sequence[Label],
    fitted: Sequence[Fitted],
    classes: Sequence[str],
) -> None:
    test = fold.split.test
    x = fold.x[fold.mask(test)].double()
    right = np.zeros((int(test.sum()), len(labels)))
    hits, seen = np.zeros(len(classes)), np.zeros(len(classes))
    for j, (label, one) in enumerate(zip(labels, fitted, strict=True)):
        out = (x @ one.theta[:-1].double() + one.theta[-1].double()).cpu().numpy()
        said = (out[:, 0] > 0).astype(int) if out.shape[1] == 1 else out.argmax(1)
        true = label.values[test]
        right[:, j] = said == true
        place = _numbers(label, classes)[true]
        hits += np.bincount(place, weights=right[:, j], minlength=len(classes))
        seen += np.bincount(place, minlength=len(classes))
    mean = bootstrap_mean(right.mean(1), data.docs[test])
    at["accuracy"].append((mean.mean, mean.low, mean.high))
    at["recall"].append(np.where(seen > 0, hits / np.maximum(seen, 1), np.nan))
    at["each"].append(right.mean(0))


def _majority(data: ProbeData, labels: Sequence[Label], split: Split) -> tuple[float, float, float]:
    """Accuracy of the commonest state of the square at that place, counted in training (3)."""
    right = np.zeros((int(split.test.sum()), len(labels)))
    for j, label in enumerate(labels):
        counts = np.zeros((int(data.places.max()) + 1, len(label.classes)))
        np.add.at(counts, (data.places[split.train], label.values[split.train]), 1)
        said = counts.argmax(1)[data.places[split.test]]
        right[:, j] = said == label.values[split.test]
    mean = bootstrap_mean(right.mean(1), data.docs[split.test])
    return mean.mean, mean.low, mean.high


def _directions(
    site: str, fold: Fold, labels: Sequence[Label], fitted: Sequence[Fitted]
) -> dict[str, Float[np.ndarray, "..."]]:
    """Unit directions from mine to yours, and the distance of their means along them (4)."""
    train = fold.x[fold.mask(fold.split.train)].double()
    found, gaps = np.zeros((len(labels), len(fold.basis.mean))), np.zeros(len(labels))
    for j, (label, one) in enumerate(zip(labels, fitted, strict=True)):
        w, _ = fold.basis.back(one.theta)
        if len(w) == 1:  # two classes: mine, yours
            step = w[0]
        else:
            step = w[label.classes.index("yours")] - w[label.classes.index("mine")]
        unit = step / max(float(np.linalg.norm(step)), 1e-300)
        along = (train @ (fold.basis.axes.T.double().cpu() @ _tensor(unit))).cpu().numpy()
        values = label.values[fold.split.train]
        means = [along[values == label.classes.index(c)].mean() for c in ("mine", "yours")]
        found[j], gaps[j] = unit, means[1] - means[0]
    return {site: found, f"gap {site}": gaps}


def _tensor(values: Float[np.ndarray, " width"]) -> Any:
    import torch

    return torch.from_numpy(values)
