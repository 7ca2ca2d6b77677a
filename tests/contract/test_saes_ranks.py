"""Several ranks train what one process does: by members, by rows of a batch, by latents.

Real processes meet on 127.0.0.1. Ranks that add numbers up do so in another order than one process;
after 40 steps no weight (decoder rows have length 1) may differ by more than ``CLOSE``, no logged
number by more than ``CLOSE_LOG`` of its size. A learning rate 1 % higher is well beyond both.
"""

import json
import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import torch

from tests.ranks_jobs import (
    BATCH,
    SITES,
    D,
    Source,
    free_port,
    harmed,
    kept_with_ties,
    one_that_never_comes,
    run,
    sweep,
    train,
    trained,
)
from tests.unit.test_saes_training import _same

CLOSE, CLOSE_LOG = 1e-5, 1e-4
ALONE: dict[str, Any] = {}


def _alone(**changes: Any) -> Any:
    """The same in one process; trained once."""
    key = json.dumps(changes, sort_keys=True)
    if key not in ALONE:
        ALONE[key] = train(Source(), sweep(**changes))
    return ALONE[key]


def _off(a: Any, b: Any) -> tuple[float, float]:
    """Largest difference of weights, and of logged numbers relative to their size."""
    weights = max(float(np.abs(a.weights[n] - b.weights[n]).max()) for n in a.weights)
    names = ("loss", "fvu", "l0", "dead_fraction", "grad_norm")
    logs = [
        np.abs(a.history[n] - b.history[n]) / np.maximum(np.abs(a.history[n]), 1e-3) for n in names
    ]
    return weights, max(float(log.max()) for log in logs)


def _close(a: Any, b: Any) -> bool:
    weights, logs = _off(a, b)
    return a.name == b.name and weights < CLOSE and logs < CLOSE_LOG


def _opened(out: Path) -> Any:
    from lensbench import saes

    return saes.open_runs(out)


# --- the same result


def test_members_of_a_sweep_come_out_bit_for_bit(tmp_path: Path) -> None:
    assert run(2, trained, sweep(), tmp_path, (), {}) == ["", ""]
    runs = _opened(tmp_path)
    assert all(_same(a, b) for a, b in zip(_alone(), runs, strict=True))
    assert [r.name for r in runs] == [r.name for r in _alone()]
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["state"] == "finished"
    assert set(status["dictionaries"].values()) == {"finished"}
    other = _opened_by_rank(tmp_path, 1)
    assert 0 < len(other) < len(runs)  # both had work


def _opened_by_rank(out: Path, rank: int) -> dict[str, str]:
    return json.loads((out / f"ranks/rank-{rank}.json").read_text())["dictionaries"]


def test_more_ranks_than_dictionaries_is_no_error(tmp_path: Path) -> None:
    one = {"architecture": "topk", "d_sae": 32, "k": 2, "site": SITES[0]}
    config = sweep(entries=[one], steps=12)
    assert run(2, trained, config, tmp_path, (), {}) == ["", ""]
    assert _same(_opened(tmp_path)[0], train(Source(), config)[0])
    assert "no dictionary is left for this rank" in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize(
    ("mode", "world"),
    [
        ("data", 2),
        ("width", 2),
        pytest.param("data", 4, marks=pytest.mark.slow),
        pytest.param("width", 3, marks=pytest.mark.slow),
        pytest.param("width", 4, marks=pytest.mark.slow),
    ],
)
def test_a_divided_step_is_that_of_one_process(mode: str, world: int, tmp_path: Path) -> None:
    assert run(world, trained, sweep(parallel=mode), tmp_path, (), {}) == [""] * world
    runs, alone = _opened(tmp_path), _alone()
    assert all(_close(a, b) for a, b in zip(alone, runs, strict=True))
    # The world has what is hard to divide: dead latents and a batch that ranks cannot halve.
    assert max(r.history["dead_fraction"].max() for r in runs) > 0.02
    assert world != 4 or BATCH % world


def test_a_learning_rate_one_percent_higher_is_not_close() -> None:
    entry = {"architecture": "topk", "d_sae": 64, "k": 3, "dead_after": 200, "site": SITES[0]}
    a, b = (train(Source(), sweep(entries=[entry | {"lr": r}]))[0] for r in (3e-3, 3.03e-3))
    weights, logs = _off(a, b)
    assert weights > 10 * CLOSE
    assert logs > CLOSE_LOG


@pytest.mark.slow
def test_every_architecture_divides_by_rows(tmp_path: Path) -> None:
    site = {"site": SITES[0]}
    entries = [
        {"architecture": "matryoshka", "d_sae": 64, "k": 3, "prefixes": [0.25]} | site,
        {"architecture": "gated", "d_sae": 48, "target_l0": 4} | site,
        {"architecture": "jumprelu", "d_sae": 48, "target_l0": 4} | site,
        # Below p = 0.9 the slope at zero is so steep that rows of a batch in another order, in
        # one process, move the weights by a hundredth after 40 steps: nothing to compare.
        {"architecture": "p_anneal", "d_sae": 48, "target_l0": 4, "p_end": 0.9} | site,
        {"architecture": "tied", "d_sae": 48, "target_l0": 4} | site,
    ]
    entries += [
        {"architecture": "topk", "d_sae": 48, "k": 4, "target": SITES[1], "skip_connection": True}
        | site,
        {"architecture": "batchtopk", "d_sae": 48, "k": 4, "sites": list(SITES)},
    ]
    config = sweep(entries=entries, parallel="data")
    assert run(2, trained, config, tmp_path, (), {}) == ["", ""]
    alone = train(Source(), config)
    assert all(_close(a, b) for a, b in zip(alone, _opened(tmp_path), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["members", "data", "width"])
def test_an_engine_that_is_measured_is_the_same_on_all_ranks(mode: str, tmp_path: Path) -> None:
    config = sweep(parallel=mode, engine="auto")
    assert run(2, trained, config, tmp_path, (), {}) == ["", ""]
    assert all(_close(a, b) for a, b in zip(_alone(), _opened(tmp_path), strict=True))


def test_ties_across_ranks_keep_exactly_k(tmp_path: Path) -> None:
    assert run(2, kept_with_ties, tmp_path) == ["", ""]
    found = [torch.load(tmp_path / f"{r}.pt", weights_only=True) for r in range(2)]
    kept = torch.cat([f["kept"] for f in found], 1)
    values = torch.cat([f["values"] for f in found], 1)
    assert kept.sum(1).tolist() == [3, 3, 3]
    for row, mask in zip(values, kept, strict=True):
        assert sorted(row[mask].tolist()) == sorted(row.tolist())[-3:]


def test_ranks_start_from_the_decoder_of_one_process() -> None:
    from lensbench.saes.distributed import width
    from lensbench.saes.step.start import _unit_rows

    for d_sae, d_model in ((9000, 3), (4097, 5), (64, 12), (8195, 7)):
        whole = _unit_rows(3, d_sae, d_model)
        cuts = [0, d_sae // 3, d_sae - 2, d_sae]
        spans = [slice(a, b) for a, b in pairwise(cuts)]
        parts = [width.decoder_rows(3, d_sae, d_model, span) for span in spans]
        assert (torch.cat(parts) == whole).all()
    assert not (width.decoder_rows(4, 64, 12, slice(0, 64)) == _unit_rows(3, 64, 12)).all()


def test_work_is_spread_by_cost() -> None:
    from lensbench.saes.distributed.members import spread

    assert spread([8, 1, 1, 1, 1, 4], 2) == [[0], [1, 2, 3, 4, 5]]
    assert spread([1, 1, 1], 2) == [[0, 2], [1]]
    assert spread([3], 3) == [[0], [], []]


# --- kills and stops


@pytest.mark.parametrize(
    ("mode", "world"),
    [
        ("members", 2),
        ("data", 2),
        pytest.param("members", 3, marks=pytest.mark.slow),
        pytest.param("width", 3, marks=pytest.mark.slow),
    ],
)
def test_a_killed_rank_ends_the_job_and_another_number_goes_on(
    mode: str, world: int, tmp_path: Path
) -> None:
    config = sweep(parallel=mode, rank_timeout=3.0)
    said = run(world, trained, config, tmp_path, (1, 26, signal.SIGKILL), {})
    assert said.pop(1) == "SIGKILL"
    assert all(s.startswith("RankError") and "rank 1 no longer answers" in s for s in said)
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "failed"
    resumed = train(Source(), config, out=tmp_path, resume=True)  # by one process
    close = _same if mode == "members" else _close
    assert all(close(a, b) for a, b in zip(_alone(), resumed, strict=True))
    assert "resumed at step 20" in (tmp_path / "log.txt").read_text()


def test_a_kill_inside_a_divided_checkpoint_leaves_the_one_before(tmp_path: Path) -> None:
    config = sweep(parallel="width", rank_timeout=3.0)
    # Four dictionaries: the sixth shard of rank 1 is its second one of step 20.
    said = run(2, harmed, config, tmp_path, 1, 6, signal.SIGKILL)
    assert said[1] == "SIGKILL"
    assert "rank 1 no longer answers" in said[0]
    resumed = train(Source(), config, out=tmp_path, resume=True)
    assert "resumed at step 10 " in (tmp_path / "log.txt").read_text()
    assert all(_close(a, b) for a, b in zip(_alone(), resumed, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["members", "data", "width"])
def test_as_many_ranks_resume_bit_for_bit(mode: str, tmp_path: Path) -> None:
    config = sweep(parallel=mode, rank_timeout=3.0)
    assert run(2, trained, config, tmp_path / "whole", (), {}) == ["", ""]
    run(2, trained, config, tmp_path / "cut", (0, 26, signal.SIGKILL), {})
    copytree(tmp_path / "cut", tmp_path / "more")
    assert run(2, trained, config, tmp_path / "cut", (), {"resume": True}) == ["", ""]
    assert "resumed at step 20" in (tmp_path / "cut/log.txt").read_text()
    pairs = zip(_opened(tmp_path / "whole"), _opened(tmp_path / "cut"), strict=True)
    assert all(_same(a, b) for a, b in pairs)
    assert run(3, trained, config, tmp_path / "more", (), {"resume": True}) == ["", "", ""]
    close = _same if mode == "members" else _close
    assert all(close(a, b) for a, b in zip(_alone(), _opened(tmp_path / "more"), strict=True))


@pytest.mark.slow
def test_ranks_go_on_with_what_one_process_began(tmp_path: Path) -> None:
    from lensbench.errors import StoppedError

    with pytest.raises(StoppedError, match="step 24"):
        train(Source(0, 23, signal.SIGINT), sweep(), out=tmp_path / "one")
    for mode in ("members", "data", "width"):
        copytree(tmp_path / "one", tmp_path / mode)
        config = sweep(parallel=mode)
        assert run(2, trained, config, tmp_path / mode, (), {"resume": True}) == ["", ""]
        assert all(_close(a, b) for a, b in zip(_alone(), _opened(tmp_path / mode), strict=True))


@pytest.mark.parametrize(
    "mode", ["width", *(pytest.param(m, marks=pytest.mark.slow) for m in ("members", "data"))]
)
def test_sigterm_in_a_checkpoint_stops_all_after_it(mode: str, tmp_path: Path) -> None:
    config = sweep(parallel=mode, rank_timeout=3.0)
    rank = 0 if mode == "data" else 1  # one that writes
    said = run(2, harmed, config, tmp_path, rank, 2, signal.SIGTERM)
    kinds = {text.partition(":")[0] for text in said}
    if mode == "members":  # the other one learns of it at its next checkpoint
        assert said[1].startswith("StoppedError")
        assert "rank 1 ended with StoppedError" in said[0]
    else:
        assert kinds == {"StoppedError"}
        assert all("step 11 " in text for text in said)
        steps = {p.parent.name for p in tmp_path.glob("*/checkpoints/*/state.json")}
        assert steps == {"step_10", "step_11"}
    resumed = train(Source(), config, out=tmp_path, resume=True)
    assert all(_close(a, b) for a, b in zip(_alone(), resumed, strict=True))


@pytest.mark.parametrize("rank", [0, 1])  # the first keeps the store, and must wait to be asked
def test_what_ends_one_rank_is_told_by_the_others(rank: int, tmp_path: Path) -> None:
    said = run(2, trained, sweep(parallel="data"), tmp_path, (rank, 5, None), {})
    assert said[rank] == "RuntimeError: the disk is full"
    assert f"rank {rank} ended with RuntimeError: the disk is full" in said[1 - rank]


# --- refusals


def test_what_cannot_be_divided_is_refused(tmp_path: Path) -> None:
    gated = {"architecture": "gated", "d_sae": 48, "target_l0": 4, "site": SITES[0]}
    said = run(2, trained, sweep(entries=[gated], parallel="width"), tmp_path / "a", (), {})
    assert "is gated; train.parallel: width divides topk, batchtopk, relu" in said[0]
    coder = {"architecture": "topk", "d_sae": 48, "k": 4, "site": SITES[0], "target": SITES[1]}
    said = run(2, trained, sweep(entries=[coder], parallel="width"), tmp_path / "a", (), {})
    assert "is a transcoder; train.parallel: width divides SAEs" in said[0]
    whole = {"architecture": "topk", "d_sae": 48, "k": 4, "site": SITES[0], "objective": "kl"}
    said = run(2, trained, sweep(entries=[whole], parallel="data"), tmp_path / "a", (), {})
    assert "is trained end to end (kl)" in said[0]
    said = run(2, trained, sweep(parallel="data", engine="stacked"), tmp_path / "b", (), {})
    assert "stacked selects within one process" in said[0]
    assert not (tmp_path / "a").exists()


def test_ranks_need_a_common_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    from lensbench.errors import ConfigError

    env = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="MASTER_PORT not set"):
        train(Source(), sweep())
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    with pytest.raises(ConfigError, match="meet in its folder"):
        train(Source(), sweep())
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(ConfigError, match="RANK is 2 and WORLD_SIZE 2"):
        train(Source(), sweep())


def test_a_rank_that_never_comes_is_told(tmp_path: Path) -> None:
    said = run(2, one_that_never_comes, tmp_path / "run")
    assert "ranks of the job did not find one another in 1 s" in said[0]
    assert not (tmp_path / "run").exists()


# --- the command


@pytest.mark.slow
def test_torchrun_and_the_command_give_one_listing(tmp_path: Path) -> None:
    import yaml

    from tests.store_builder import SITE, build

    rng = np.random.default_rng(0)
    build(tmp_path / "acts", {SITE: rng.normal(size=(4096, D)).astype(np.float32)}, [4096])
    config = {
        "source": {"store": str(tmp_path / "acts")},
        "train": {"tokens": 40 * 64, "batch": 64, "engine": "dense", "read_ahead": 2},
        "sweep": [{"architecture": "topk", "d_sae": 32, "k": [2, 3, 4]}],
    }
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(config))
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
            *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}"),
            *("--local-addr", "127.0.0.1", "-m", "lensbench", "train", "sae"),
            *("--config", str(tmp_path / "sweep.yaml"), "--out", str(tmp_path / "run")),
        ],
        env=os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        cwd=root, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [done.stdout.count(f"topk-32-k{k}") for k in (2, 3, 4)] == [1, 1, 1]
    assert done.stderr.count("3 dictionaries into") == 1
