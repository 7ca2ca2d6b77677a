from pathlib import Path

import numpy as np
import pytest
from pydantic import Field

from lensbench import io
from lensbench.config import Config
from lensbench.errors import ConfigError, DamagedDataError, DataError, MissingDataError
from lensbench.stats import bootstrap_mean, bootstrap_sums, wilson


class Sample(Config):
    rate: float = Field(gt=0)
    width: int = 4


def interrupted(path) -> None:
    with io.atomic_path(path) as temp:
        temp.write_text("half")
        raise KeyboardInterrupt


def into_a_full_disk(path) -> None:
    with io.atomic_path(path) as temp:
        temp.unlink()
        temp.symlink_to("/dev/full")
        temp.write_text("x" * 100)


def test_an_interrupted_write_leaves_the_old_file(tmp_path) -> None:
    path = tmp_path / "a.json"
    io.write_json(path, {"x": 1})
    with pytest.raises(KeyboardInterrupt):
        interrupted(path)
    assert io.read_json(path) == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_a_clear_error(tmp_path) -> None:
    with pytest.raises(DataError, match="No space left"):
        into_a_full_disk(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_folder_is_a_clear_error(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write"):
        io.write_text(tmp_path / "file" / "a.txt", "x")


def test_a_device_a_pipe_or_a_folder_is_never_replaced(tmp_path) -> None:
    import os
    import stat

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, kind in ((pipe, "no regular file"), (tmp_path, "a folder")):
        with pytest.raises(DataError, match=kind):
            io.write_text(path, "x")
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert [p.name for p in tmp_path.iterdir()] == ["pipe"]


def test_arrays_round_trip_and_damage(tmp_path) -> None:
    path = tmp_path / "a.safetensors"
    io.write_arrays(path, {"x": np.arange(4)[::-1]})
    assert io.read_arrays(path)["x"].tolist() == [3, 2, 1, 0]
    path.write_bytes(path.read_bytes()[:10])
    with pytest.raises(DamagedDataError):
        io.read_arrays(path)
    with pytest.raises(MissingDataError):
        io.read_json(tmp_path / "none.json")
    with pytest.raises(ValueError, match="JSON compliant"):
        io.write_json(tmp_path / "nan.json", float("nan"))


def test_configs_name_field_rule_value_and_the_nearest_key(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'widht'.*Did you mean 'width'"):
        Sample.parse({"rate": 1, "widht": 2})
    with pytest.raises(ConfigError, match=r"rate: .*above 0 \(got -1\)"):
        Sample.parse({"rate": -1})
    assert (
        Sample(rate=1).fingerprint()
        == Sample(rate=1.0).fingerprint()
        != Sample(rate=2).fingerprint()
    )
    (tmp_path / "bad.yaml").write_text("rate: [1")
    with pytest.raises(ConfigError, match="not valid YAML"):
        Sample.from_yaml(tmp_path / "bad.yaml")
    (tmp_path / "good.yaml").write_text("rate: 2.5")
    assert Sample.from_yaml(tmp_path / "good.yaml").rate == 2.5
    with pytest.raises(MissingDataError):
        Sample.from_yaml(tmp_path / "none.yaml")


def test_the_bootstrap_covers_the_truth_and_tokens_would_not() -> None:
    # 40 documents with a shared effect each, 50 tokens per document; true mean 0.
    rng = np.random.default_rng(0)
    hits = {"documents": 0, "tokens": 0}
    for trial in range(200):
        effect = rng.normal(size=40)
        values = (effect[:, None] + rng.normal(size=(40, 50))).ravel()
        groups = np.repeat(np.arange(40), 50)
        for name, units in (("documents", groups), ("tokens", None)):
            interval = bootstrap_mean(values, units, n_boot=200, seed=trial)
            hits[name] += interval.low <= 0 <= interval.high
    assert hits["documents"] / 200 > 0.88
    assert hits["tokens"] / 200 < 0.5  # control: resampling tokens is far too sure
    assert bootstrap_mean(values, groups).n == 40


def test_one_unit_says_nothing_of_the_spread() -> None:
    one = bootstrap_mean(np.array([1.0, 2.0, 6.0]), np.array([7, 7, 7]))
    assert (one.mean, one.n) == (3.0, 1)
    assert np.isnan(one.low)
    assert np.isnan(one.high)
    assert str(one) == "3.000 [no interval] n=1"
    two = bootstrap_mean(np.array([1.0, 2.0, 6.0]), np.array([7, 7, 8]))
    assert two.low < two.mean < two.high  # control: from two units on there is one
    assert str(two) == f"3.000 [{two.low:.3f}, {two.high:.3f}] n=2"


def test_a_measure_of_totals_is_drawn_by_whole_documents() -> None:
    rng = np.random.default_rng(3)
    tokens = rng.integers(5, 40, 60)
    hits = rng.binomial(tokens, rng.beta(2, 2, (2, 60))).astype(float)
    share, low, high = bootstrap_sums(np.divide, hits, tokens)
    assert share == pytest.approx(hits.sum(-1) / tokens.sum())
    residual = hits - share[:, None] * tokens  # the ratio's standard error, linearised
    error = np.sqrt((residual**2).sum(-1)) / tokens.sum()
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.1)
    _, low, high = bootstrap_sums(np.divide, hits[:, :1], tokens[:1])
    assert np.isnan(low).all()
    assert np.isnan(high).all()


def test_the_bootstrap_refuses_nan_and_nothing() -> None:
    with pytest.raises(ConfigError, match="1 of 2 values are not finite"):
        bootstrap_mean(np.array([1.0, np.nan]))
    with pytest.raises(ConfigError, match="at least one"):
        bootstrap_mean(np.array([]))


@pytest.mark.illtyped
@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"n_boot": 0}, "n_boot"), ({"n_boot": 2.5}, "n_boot"), ({"level": 95}, "level"),
     ({"level": 0}, "level"), ({"level": 1.0}, "level"), ({"level": float("nan")}, "level"),
     ({"level": "0.9"}, "level"), ({"seed": -1}, "seed"), ({"groups": [1, 2]}, "groups"),
     ({"values": np.ones((2, 2))}, "one axis"), ({"values": ["a", "b", "c"]}, "real numbers"),
     ({"values": 3.0}, "one axis")],
    ids=str,
)  # fmt: skip
def test_a_bootstrap_refuses_arguments_that_are_none(wrong, words) -> None:
    given = {"values": np.array([1.0, 2.0, 3.0]), **wrong}
    with pytest.raises(ConfigError, match=words):
        bootstrap_mean(given.pop("values"), **given)


@pytest.mark.illtyped
@pytest.mark.parametrize(
    ("hits", "n", "more"),
    [(0.5, 1, {}), (3, 2, {}), (-1, 2, {}), (1, -2, {}), (True, 2, {}), (1, 2.0, {}),
     (1, "2", {}), (1, 2, {"level": 95}), (1, 2, {"level": 0}), (0, 0, {"level": -1})],
    ids=str,
)  # fmt: skip
def test_a_share_refuses_counts_and_levels_that_are_none(hits, n, more) -> None:
    with pytest.raises(ConfigError, match="got"):
        wilson(hits, n, **more)


def test_a_share_of_no_trials_is_nan_and_says_so() -> None:
    none = wilson(0, 0)
    assert np.isnan([none.mean, none.low, none.high]).all()
    assert str(none) == "nan [no interval] n=0"
    assert wilson(np.int64(1), np.int64(2)) == wilson(1, 2)
    assert wilson(1, 2, level=0.5).high < wilson(1, 2).high
