"""Positions as an axis of a sweep, on text where it is known which token says what.

Thresholds and seeds stood here before the first run: a planted position reads above 0.9, one where
nothing was put has 0.5 within its interval; a sweep over positions is the separate sweeps, within
1e-5 of their weights.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lensbench import results
from lensbench.errors import ConfigError, NotEnoughDataError, UnknownNameError
from tests import store_builder

SITE, N = "blocks.0.resid_post", 800


def labels(seed: int = 0) -> dict[str, np.ndarray]:
    """Of documents: what the last token knows, what the first knows; odd marks every second row."""
    rng = np.random.default_rng(seed)
    return {"late": rng.random(N // 2) < 0.5, "early": rng.random(N // 2) < 0.5,
            "odd": np.arange(N) % 2 == 1}  # fmt: skip


def planted_store(folder: Path) -> Any:
    """Two stored rows of each document, its tokens 0 and 2 (see the builder), at two sites."""
    rng = np.random.default_rng(1)
    given, values = labels(), {}
    for n in (0, 1):
        x = rng.normal(size=(N, 8)).astype(np.float32)
        x[1::2, 0] += 6 * given["late"]
        x[0::2, 1] += 6 * given["early"]
        values[f"blocks.{n}.resid_post"] = x
    return store_builder.build(folder, values, [N // 2, N // 2])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return planted_store(tmp_path_factory.mktemp("positions"))


@pytest.fixture(scope="module")
def swept(store: Any) -> Any:
    from lensbench.probes import probe_data, probe_sweep

    data = probe_data(store, labels(), names=["late", "early"], positions=["first", -1])
    return probe_sweep(data, positions="each", seeds=2)


def test_each_position_reads_what_was_planted_there_and_nothing_else(swept: Any) -> None:
    frame = swept.to_frame().set_index(["label", "position"]).sort_index()
    for label, here, away in (("late", "-1", "first"), ("early", "first", "-1")):
        assert (frame.loc[(label, here), "score"] > 0.9).all()
        nothing = frame.loc[(label, away)]
        assert ((nothing["low"] < 0.5) & (nothing["high"] > 0.5)).sum() >= 3  # of 4 intervals
        assert (nothing["score"] < 0.62).all()
    assert (frame["shuffled_labels"] < 0.65).all()
    assert (frame["n"] == N // 2 / 5).all()  # a fifth of the documents, at each


def test_a_sweep_over_positions_is_the_sweeps_of_each_position(store: Any, swept: Any) -> None:
    from lensbench.probes import probe_data, probe_sweep

    for asked in ("first", -1):
        one = probe_data(store, labels(), names=["late", "early"], positions=asked)
        alone = probe_sweep(one, seeds=2)
        for label in ("late", "early"):
            for seed in (0, 1):
                a = swept.probe(label, SITE, seed=seed, position=asked)
                b = alone.probe(label, SITE, seed=seed)
                np.testing.assert_allclose(a.weights, b.weights, atol=1e-5)
                np.testing.assert_allclose(a.bias, b.bias, atol=1e-5)
        frame = swept.to_frame()
        mine = frame[frame["position"] == str(asked)].reset_index(drop=True)
        for column in ("score", "low", "high", "shuffled_labels", "n_train", "n"):
            np.testing.assert_allclose(mine[column], alone.to_frame()[column])


def test_a_store_is_read_once_for_all_positions(tmp_path: Path, monkeypatch: Any) -> None:
    from lensbench.probes import probe_data, probe_sweep

    store = planted_store(tmp_path)
    asked: list[tuple[str, int]] = []
    plain = type(store).rows

    def counted(self: Any, site: str, indices: Any) -> np.ndarray:
        asked.append((site, len(indices)))
        return plain(self, site, indices)

    monkeypatch.setattr(type(store), "rows", counted)
    data = probe_data(store, labels(), names=["late", "early"], positions=["first", -1, "odd"])
    sweep = probe_sweep(data, positions="each", methods=("logistic", "ridge"), seeds=2)
    assert len(sweep) == 2 * 3 * 2 * 2 * 2
    assert asked == [(site, N) for site in store.sites]


def ragged(n: int = 200, **options: Any) -> Any:
    """Documents of two tokens, every fourth of three; y is in all of them."""
    from lensbench.probes import ProbeData

    rng = np.random.default_rng(2)
    docs = np.repeat(np.arange(n), np.where(np.arange(n) % 4 == 0, 3, 2))
    y = rng.random(n) < 0.5
    x = rng.normal(size=(len(docs), 4))
    x[:, 0] += 5 * y[docs]
    return ProbeData.from_arrays(x, {"y": y}, docs=docs, tokens=docs % 5, **options)


def test_documents_without_a_position_are_left_out_there_and_counted() -> None:
    from lensbench.probes import probe_sweep

    found = probe_sweep(ragged(), positions=[0, 2, "last"], seeds=[4])
    assert found.positions == ("0", "2", "last")
    assert found.documents_at == (200, 50, 200)
    frame = found.to_frame().set_index("position")
    rows = frame["n_train"] + frame["n_test"]
    assert frame["n_train"]["0"] == 120  # 0.6 of all documents
    assert rows["2"] <= 50
    assert (frame["score"] > 0.9).all()
    assert found.summary()["documents @2"] == 50
    assert found.n_documents == 200


def test_a_document_is_on_the_same_side_at_every_position() -> None:
    from lensbench.probes.linear.sweep_plan import planned

    plan = planned(
        ragged(), None, None, [0, 1, 2], "ridge", [7], (), "accuracy", (0.6, 0.2, 0.2), 0, {}
    )
    side: dict[int, set[int]] = {}
    for part in plan.parts:
        for doc, where in zip(part.data.docs, part.splits[0].part, strict=True):
            side.setdefault(int(doc), set()).add(int(where))
    assert len(side) == 200
    assert all(len(sides) == 1 for sides in side.values())


def test_too_few_of_a_class_at_a_position_names_the_position() -> None:
    from lensbench.probes import probe_sweep

    few = ragged(60, min_per_class=10)  # 15 documents have a third token
    with pytest.raises(NotEnoughDataError, match=r"position '2' \(15 rows of 15 documents\)"):
        probe_sweep(few, "y", positions=[0, 2])
    assert probe_sweep(few, "y", positions=[0, 1]).positions == ("0", "1")
    with pytest.raises(ConfigError, match=r"position '2'.*no label can be fitted"):
        probe_sweep(few, positions=[0, 2])


def test_slips_in_positions_are_told(store: Any) -> None:
    from lensbench.probes import probe_data, probe_sweep

    data = ragged()
    for asked, error, told in (
        ("lst", UnknownNameError, "Did you mean 'last'"), ([], ConfigError, "at least one"),
        ([9], ConfigError, "no document has a token 9"), ("each", ConfigError, "positions='each'"),
        ([1.5], ConfigError, "positions must be"), ([[0, 1]], ConfigError, "a whole number or"),
    ):  # fmt: skip
        with pytest.raises(error, match=told):
            probe_sweep(data, positions=asked)
    ends = probe_data(store, labels(), names="late", positions="last")
    with pytest.raises(ConfigError, match="rows 'last' only, so position 'first'"):
        probe_sweep(ends, positions="first")


def test_positions_are_in_the_frame_the_pictures_and_on_disk(swept: Any, tmp_path: Path) -> None:
    assert results.load(swept.save(tmp_path)) == swept
    assert list(swept.to_frame()["position"].unique()) == ["first", "-1"]
    assert len(swept.mean()) == 2 * 2 * 2
    assert {"mean_score @first", "documents @-1"} <= set(swept.summary())
    grid = swept.plot("late")
    assert "by position: late" in grid.layout.title.text
    assert list(grid.layout.yaxis.ticktext) == ["first", "-1"]
    assert "mean of 2 labels" in swept.plot().layout.title.text.replace("<br>", " ")
    assert "@-1" in swept.plot("late", position=-1).layout.title.text
    assert swept.plot(position="first").data
    with pytest.raises(UnknownNameError, match="position"):
        swept.plot(position="middle")
    with pytest.raises(UnknownNameError, match="position"):
        swept.probe("late", SITE, position=3)
    assert swept.probe("late", SITE, position=-1).config["positions"] == "-1"


def test_sweeps_saved_before_there_were_positions_still_open() -> None:
    from lensbench.probes import probe_sweep

    new = probe_sweep(ragged(), "y", n_boot=0)
    assert replace(new, at=new.at[:, :4]) == new


def test_a_split_by_groups_says_so_and_resamples_them() -> None:
    from lensbench.probes import probe_sweep

    docs = np.repeat(np.arange(200), np.where(np.arange(200) % 4 == 0, 3, 2))
    groups = docs % 40
    by_group = probe_sweep(ragged(groups=groups), "y")
    assert by_group.unit == "groups and documents"
    assert by_group.n_units == 40
    assert by_group.to_frame().attrs["units"]["n"] == "test groups and documents"
    assert by_group.to_frame()["n"][0] == 8
    assert "joined by groups to 40" in by_group.plot().layout.title.subtitle.text
    plain = probe_sweep(ragged(), "y")
    assert (plain.unit, plain.n_units) == ("documents", 200)
    assert plain.to_frame()["n"][0] == 40
