"""Stores of two models over one text, read together."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.store_builder import SITE, build

N, WIDTHS = 400, (4, 6)


def _values(seed: int, width: int, n: int = N) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((n, width)).astype(np.float32)
    values[:, 0] = np.arange(n)
    return values


@pytest.fixture
def stores(tmp_path: Path) -> dict[str, Any]:
    """The same rows in shards of other sizes."""
    sizes = ([200, 200], [100, 300])
    return {
        name: build(tmp_path / name, {SITE: _values(i, WIDTHS[i])}, sizes[i])
        for i, name in enumerate(("base", "tuned"))
    }


def _paired(stores: dict[str, Any]) -> Any:
    from lensbench.store import pair_stores

    return pair_stores(stores)


def test_rows_of_one_token_come_together_for_any_shards(tmp_path: Path) -> None:
    whole = {SITE: _values(0, 4)}
    same = {n: build(tmp_path / n, whole, s) for n, s in (("a", [400]), ("b", [400]))}
    paired = _paired(same)
    source = paired.source(paired.sites, seed=3)
    batch = next(source.batches(64))
    assert torch.equal(batch[f"a:{SITE}"], batch[f"b:{SITE}"])
    assert not torch.equal(batch[f"a:{SITE}"][:, 0], torch.arange(64.0))  # shuffled
    state = source.state_dict()
    stream = source.batches(64)
    following = next(stream)
    other = paired.source(paired.sites, seed=0)
    other.load_state_dict(state)
    again = next(other.batches(64))
    assert all(torch.equal(again[s], following[s]) for s in paired.sites)


def test_stores_of_other_tokens_are_refused(tmp_path: Path, stores: dict[str, Any]) -> None:
    from lensbench.errors import MismatchError

    # Shards of other sizes were built with other token ids by the helper.
    with pytest.raises(MismatchError, match=r"token_ids differ, first in row|doc_ids differ"):
        _paired(stores)
    short = build(tmp_path / "short", {SITE: _values(0, 4, 100)}, [100])
    with pytest.raises(MismatchError, match="400 and 100 rows"):
        _paired({"base": stores["base"], "short": short})


@pytest.mark.parametrize("what", ["token_ids", "positions", "doc_ids"])
def test_each_column_that_places_a_row_is_compared(tmp_path: Path, what: str) -> None:
    from dataclasses import replace

    from lensbench.store.pairs import _difference

    index = build(tmp_path / "s", {SITE: _values(0, 4)}, [400]).index()
    moved = getattr(index, what).copy()
    moved[7] += 1
    assert _difference(index, index) is None
    assert _difference(index, replace(index, **{what: moved})) == f"{what} differ, first in row 7"


def test_names_and_sites_are_checked(tmp_path: Path) -> None:
    from lensbench.errors import ConfigError, UnknownSiteError

    whole = {SITE: _values(0, 4)}
    same = {n: build(tmp_path / n, whole, [400]) for n in ("a", "b")}
    with pytest.raises(ConfigError, match="two stores or more"):
        _paired({"a": same["a"]})
    with pytest.raises(ConfigError, match="cannot name a store"):
        _paired({"a": same["a"], "b:c": same["b"]})
    paired = _paired(same)
    assert paired.width(f"a:{SITE}") == 4
    with pytest.raises(UnknownSiteError, match="model:site"):
        paired.source([SITE])
    with pytest.raises(UnknownSiteError, match=f"b:{SITE}"):
        paired.source([f"c:{SITE}"])


def test_a_crosscoder_of_two_models_trains_and_resumes(tmp_path: Path) -> None:
    from lensbench import saes

    values = _values(0, 4)
    same = {n: build(tmp_path / n, {SITE: values + i}, [400]) for i, n in enumerate("ab")}
    paired = _paired(same)
    sites = [f"a:{SITE}", f"b:{SITE}"]
    train = {"tokens": 64 * 30, "batch_size": 64, "checkpoint_every": 10}
    sweep = {
        "train": train,
        "sweep": [{"architecture": "batchtopk", "d_sae": 16, "k": 2, "sites": sites}],
    }
    (run,) = saes.train(paired, sweep, out=tmp_path / "r", device="cpu", progress=False)
    assert run.role == "crosscoder"
    assert run.site == "+".join(sites)
    (back,) = saes.open_runs(tmp_path / "r")
    assert torch.equal(back.coder.W_dec, run.coder.W_dec)
    assert set(back.coder.split(back.coder.b_dec)) == set(sites)
    report = saes.compare_sites(back)
    assert sum(v for k, v in report.summary().items() if "cosine" not in k) <= 16
    assert len(report.plot().data) >= 1


def test_sites_of_unequal_widths_must_be_wanted() -> None:
    from lensbench import saes
    from lensbench.errors import MismatchError

    data = [{"a": torch.randn(32, 4), "b": torch.randn(32, 6)} for _ in range(4)]
    entry = {"architecture": "topk", "d_sae": 16, "k": 2, "sites": ["a", "b"]}
    train = {"tokens": 96, "batch_size": 32}
    with pytest.raises(MismatchError, match=r"differ in width: a \(4\), b \(6\)"):
        saes.train(data, {"train": train, "sweep": [entry]}, device="cpu", progress=False)
    entry |= {"unequal_widths": True}
    (run,) = saes.train(data, {"train": train, "sweep": [entry]}, device="cpu", progress=False)
    assert run.coder.widths == (4, 6)


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"sites": ["a", "b"], "site": "a"}, "not both"),
        ({"sites": ["a", "a"]}, "lists one twice"),
        ({"sites": ["a"]}, "sites"),
        ({"site": "a", "target": "a"}, "leave it out"),
        ({"skip_connection": True}, "needs a target"),
        ({"architecture": "tied", "site": "a", "target": "b"}, "cannot be a transcoder"),
        ({"architecture": "p_anneal", "sites": ["a", "b"]}, "cannot be a crosscoder"),
    ],
)
def test_ends_that_do_not_fit_are_refused(entry: dict[str, Any], why: str) -> None:
    from lensbench.errors import ConfigError
    from lensbench.saes.configs import SweepConfig

    base = {"architecture": "topk", "d_sae": 64, "k": 4}
    if entry.get("architecture", "topk") != "topk":
        base = {"d_sae": 64}
    with pytest.raises(ConfigError, match=why):
        SweepConfig.parse({"train": {"tokens": 4096}, "sweep": [base | entry]})
