"""Training as a job: resume, kill, stop, damage, wrong sources, what is on disk."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.store_builder import SITE, build

D, BATCH = 12, 32


class Source:
    """Two sites of seeded noise; the position is a number."""

    sites = ("blocks.0.resid_post", "blocks.1.resid_post")

    def __init__(self, *, width: int = D, bad_at: int | None = None, stop_at: int | None = None):
        self._at, self._width, self._bad, self._stop = 0, width, bad_at, stop_at

    def width(self, site: str) -> int:
        assert site in self.sites
        return self._width

    def batches(self, batch_size: int) -> Iterator[dict[str, Tensor]]:
        while self._stop is None or self._at < self._stop:
            rng = torch.Generator().manual_seed(self._at)
            found = {s: torch.randn(batch_size, self._width, generator=rng) for s in self.sites}
            if self._at == self._bad:
                found[self.sites[0]][3, 2] = torch.nan
            self._at += 1
            yield found

    def state_dict(self) -> dict[str, Any]:
        return {"at": self._at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._at = state["at"]


def _sweep(*, steps: int = 40, engine: str = "dense", **changes: Any) -> dict[str, Any]:
    site = {"site": "blocks.0.resid_post"}
    entries = [
        {"architecture": "topk", "d_sae": 64, "k": [3, 5], "lr": 3e-3, "dead_after": 200} | site,
        {"architecture": "batchtopk", "d_sae": 64, "k": 3, "lr": 3e-3} | site,
        {"architecture": "relu", "d_sae": 48, "l1_coefficient": 1.0, "site": Source.sites[1]},
    ]
    train = {"tokens": steps * BATCH, "batch_size": BATCH, "log_every": 7, "engine": engine}
    return {"train": train | {"checkpoint_every": 10} | changes, "sweep": entries}


def _train(source: Any, sweep: Any, **options: Any) -> Any:
    from lensbench import saes

    return saes.train(source, sweep, progress=False, device="cpu", **options)


def _same(a: Any, b: Any) -> bool:
    """Weights, thresholds and history equal bit for bit (times aside)."""
    weights = all((a.weights[n] == b.weights[n]).all() for n in a.weights)
    columns = [c for c in a.history if c != "seconds"]
    return weights and all((a.history[c] == b.history[c]).all() for c in columns)


class StopAfter(Source):
    """Raises Ctrl-C on itself after some batches."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self._left = batches

    def batches(self, batch_size: int) -> Iterator[dict[str, Tensor]]:
        for found in super().batches(batch_size):
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGINT)
            yield found


def test_ctrl_c_writes_a_checkpoint_and_the_resumed_run_is_bit_exact(tmp_path: Path) -> None:
    from lensbench.errors import StoppedError

    whole = _train(Source(), _sweep(), out=tmp_path / "whole")
    with pytest.raises(StoppedError, match="step 23"):
        _train(StopAfter(23), _sweep(), out=tmp_path / "cut")
    status = json.loads((tmp_path / "cut/status.json").read_text())
    assert status["state"] == "stopped"
    assert status["step"] == 23
    resumed = _train(Source(), _sweep(), out=tmp_path / "cut", resume=True)
    assert all(_same(a, b) for a, b in zip(whole, resumed, strict=True))
    other = _train(Source(), _sweep(steps=39))  # control: one step less is not the same
    assert not any(_same(a, b) for a, b in zip(whole, other, strict=True))


def test_a_killed_run_resumes_bit_for_bit(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "import torch; torch.set_num_threads(1)\n"
        "from tests.unit.test_saes_training import Source, _sweep, _train\n"
        "class Killed(Source):\n"
        "    def batches(self, n):\n"
        "        for i, b in enumerate(super().batches(n)):\n"
        "            if i == 26: os.kill(os.getpid(), signal.SIGKILL)\n"
        "            yield b\n"
        "_train(Killed(), _sweep(), out=sys.argv[2])\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, str(root), str(tmp_path / "cut")], check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "cut/status.json").is_file()
    whole = _train(Source(), _sweep())
    resumed = _train(Source(), _sweep(), out=tmp_path / "cut", resume=True)
    assert all(_same(a, b) for a, b in zip(whole, resumed, strict=True))
    history = (tmp_path / "cut" / resumed[0].name / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in history] == [7, 14, 21, 28, 35, 40]


def test_folder_has_the_documented_files_and_opens_again(tmp_path: Path) -> None:
    from lensbench import saes
    from lensbench.errors import MissingDataError

    runs = _train(Source(), _sweep(), out=tmp_path / "run", model_card={"name": "tiny"})
    top = {p.name for p in (tmp_path / "run").iterdir() if p.is_file()}
    assert top == {"sweep.yaml", "status.json", "provenance.json", "log.txt"}
    one = tmp_path / "run" / runs[0].name
    assert {p.name for p in one.iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "checkpoints",
        "result",
    }
    assert {p.name for p in (one / "checkpoints").iterdir()} == {"step_20", "step_30"}  # keep=2
    assert [p for p in (tmp_path / "run").rglob("*") if p.suffix in (".pt", ".pkl", ".pth")] == []
    again = saes.open_runs(tmp_path / "run")
    assert again == runs
    assert again[0].sae.metadata["model"] == {"name": "tiny"}
    frame = again[0].to_frame()
    assert set(frame["metric"]) >= {"fvu", "l0", "dead_fraction"}
    assert again[0].plot().data
    loaded = saes.load(one / "result")
    assert torch.equal(loaded.W_dec, again[0].sae.W_dec)
    with pytest.raises(MissingDataError, match="no run in"):
        saes.open_runs(tmp_path)


def test_a_run_killed_before_its_first_checkpoint_starts_afresh(tmp_path: Path) -> None:
    from lensbench.errors import NonFiniteError

    with pytest.raises(NonFiniteError, match="no checkpoint yet"):
        _train(Source(bad_at=8), _sweep(), out=tmp_path)
    again = _train(Source(), _sweep(), out=tmp_path, resume=True)
    assert all(_same(a, b) for a, b in zip(again, _train(Source(), _sweep()), strict=True))
    lines = (tmp_path / again[0].name / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [7, 14, 21, 28, 35, 40]


def test_status_exists_before_the_first_batch(tmp_path: Path) -> None:
    seen: list[str] = []

    class Watching(Source):
        def batches(self, batch_size: int) -> Iterator[dict[str, Tensor]]:
            seen.append(json.loads((tmp_path / "run/status.json").read_text())["state"])
            yield from super().batches(batch_size)

    _train(Watching(), _sweep(steps=2), out=tmp_path / "run")
    assert seen == ["starting"]


def test_a_second_run_in_a_folder_and_another_config_are_refused(tmp_path: Path) -> None:
    from lensbench.errors import ConfigError, MismatchError

    _train(Source(), _sweep(steps=12), out=tmp_path)
    with pytest.raises(ConfigError, match="already holds a run"):
        _train(Source(), _sweep(steps=12), out=tmp_path)
    with pytest.raises(MismatchError, match=r"train.tokens was 384 and is now 416"):
        _train(Source(), _sweep(steps=13), out=tmp_path, resume=True)
    again = _train(Source(), _sweep(steps=12, log_every=3), out=tmp_path, resume=True)
    assert [r.status for r in again] == ["finished"] * 4


def test_resume_needs_a_source_that_knows_its_place(tmp_path: Path) -> None:
    from lensbench.errors import ConfigError, DataError

    sweep = {
        "train": {"tokens": 20 * BATCH, "batch_size": BATCH, "checkpoint_every": 4},
        "sweep": [{"architecture": "topk", "d_sae": 32, "k": 2}],
    }

    def tensors(n: int) -> Iterator[Tensor]:
        for i in range(n):
            yield torch.randn(BATCH, D, generator=torch.Generator().manual_seed(i))

    with pytest.raises(DataError, match="ended after 10 batches"):
        _train(tensors(10), sweep, out=tmp_path)
    with pytest.raises(ConfigError, match="no state_dict"):
        _train(tensors(30), sweep, out=tmp_path, resume=True)
    with pytest.raises(ConfigError, match="needs the folder"):
        _train(tensors(30), sweep, resume=True)
    assert _train(list(tensors(5)), sweep)[0].status == "finished"  # a list starts over


def test_sources_of_another_width_or_site_are_refused(tmp_path: Path) -> None:
    from lensbench.errors import ConfigError, MismatchError, StoppedError, UnknownSiteError

    with pytest.raises(StoppedError):
        _train(StopAfter(12), _sweep(), out=tmp_path)
    with pytest.raises(MismatchError, match="13 wide in this source"):
        _train(Source(width=13), _sweep(), out=tmp_path, resume=True)
    sweep = _sweep()
    sweep["sweep"][0]["site"] = "blocks.7.resid_post"
    with pytest.raises(UnknownSiteError, match=r"blocks.0.resid_post"):
        _train(Source(), sweep)
    del sweep["sweep"][0]["site"]
    with pytest.raises(ConfigError, match="names no site and the source has 2"):
        _train(Source(), sweep)
    with pytest.raises(ConfigError, match="is one site"):
        _train([torch.zeros(BATCH, D)], _sweep())
    flat = {"train": _sweep()["train"], "sweep": [{"architecture": "topk", "d_sae": 32, "k": 2}]}
    with pytest.raises(MismatchError, match="batch of 5 rows"):
        _train([torch.zeros(5, D)], flat)
    with pytest.raises(ConfigError, match="cannot read activations"):
        _train(3, flat)


@pytest.mark.parametrize("bad_at", [0, 17])
def test_nan_activations_stop_the_run_and_name_the_checkpoint(bad_at: int, tmp_path: Path) -> None:
    from lensbench.errors import NonFiniteError

    with pytest.raises(NonFiniteError, match=f"in step {bad_at + 1} ") as caught:
        _train(Source(bad_at=bad_at), _sweep(), out=tmp_path)
    assert ("step_10" in str(caught.value)) == (bad_at > 10)
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "failed"


def test_a_dictionary_that_diverges_is_reported_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lensbench import saes
    from lensbench.errors import NonFiniteError

    sweep = _sweep()
    alone = _train(Source(), sweep)[0]
    sweep["sweep"].append({**sweep["sweep"][0], "k": 3, "lr": 1e38, "name": "wild"})
    runs = saes.train(Source(), sweep, out=tmp_path, device="cpu")
    assert "wild diverged by step" in capsys.readouterr().err
    assert [r.status for r in runs] == ["finished"] * 4 + ["diverged"]
    assert _same(runs[0], alone)
    sweep["sweep"] = sweep["sweep"][-1:]
    with pytest.raises(NonFiniteError, match="every dictionary diverged"):
        _train(Source(), sweep)


def test_damage_in_a_checkpoint_is_found(tmp_path: Path) -> None:
    from lensbench.errors import DamagedDataError, StoppedError

    with pytest.raises(StoppedError):
        _train(StopAfter(12), _sweep(), out=tmp_path)
    path = next(tmp_path.glob("*-topk-64-k3*/checkpoints/step_12/state.safetensors"))
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(DamagedDataError, match="step_12"):
        _train(Source(), _sweep(), out=tmp_path, resume=True)


def test_an_unfinished_checkpoint_is_ignored(tmp_path: Path) -> None:
    from lensbench.errors import StoppedError

    with pytest.raises(StoppedError):
        _train(StopAfter(12), _sweep(), out=tmp_path)
    (path,) = tmp_path.glob("*-topk-64-k3*/checkpoints/step_12/state.json")
    path.unlink()  # as if killed before the last file was renamed
    resumed = _train(Source(), _sweep(), out=tmp_path, resume=True)
    assert _same(resumed[0], _train(Source(), _sweep())[0])


@pytest.mark.parametrize("engine", ["dense", "screened", "stacked"])
def test_a_dictionary_alone_equals_the_same_one_in_a_sweep(engine: str) -> None:
    together = _train(Source(), _sweep(engine=engine))
    sweep = _sweep(engine=engine)
    sweep["sweep"] = [{**sweep["sweep"][0], "k": 5}]
    (alone,) = _train(Source(), sweep)
    neighbour, same = together[0], together[1]
    assert same.config["k"] == alone.config["k"] == 5
    for name, value in alone.weights.items():
        assert abs(value - same.weights[name]).max() < 1e-6
    assert abs(alone.weights["W_enc"] - neighbour.weights["W_enc"]).max() > 1e-3


def test_forecast_counts_and_probes() -> None:
    from lensbench import saes
    from lensbench.saes.configs import SweepConfig

    sweep = SweepConfig.parse(_sweep())
    plan = saes.plan_memory(sweep, D)
    assert plan.parameters == 3 * (2 * 64 * D + 64 + D) + 2 * 48 * D + 48 + D
    found = saes.dry_run(Source(), sweep, device="cpu")
    assert found.memory == plan
    assert found.seconds == pytest.approx(40 * found.seconds_per_step)
    assert found.seconds_per_step > 0
    assert any("time" in line for line in found.lines())


def test_a_store_trains_by_itself_and_heartbeat_moves(tmp_path: Path) -> None:
    class Store:
        sites = Source.sites

        def source(self, sites: list[str]) -> Source:
            assert sites == sorted(Source.sites)
            return Source()

    started = time.time()
    runs = _train(Store(), _sweep(steps=3), out=tmp_path)
    assert [r.site for r in runs] == [Source.sites[0]] * 3 + [Source.sites[1]]
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["state"] == "finished"
    assert status["heartbeat"] >= time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started))


def test_a_store_that_is_repeated_is_said_wherever_training_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lensbench import saes

    rows = np.random.default_rng(0).normal(size=(400, 6)).astype(np.float32)
    store = build(tmp_path / "acts", {SITE: rows}, [200, 200])

    def sweep(steps: int) -> dict[str, Any]:
        entry = {"architecture": "topk", "d_sae": 8, "k": 2, "site": SITE}
        train = {"tokens": steps * 100, "batch_size": 100, "checkpoint_every": 10}
        return {"train": train, "sweep": [entry]}

    for source in (store, store.source(SITE)):
        saes.train(source, sweep(24), device="cpu")
        said = [t for t in capsys.readouterr().err.splitlines() if "warning" in t]
        assert len(said) == 1, said
        assert "400 stored tokens" in said[0]
        assert "6.0 epochs" in said[0]
    saes.train(store, sweep(24), device="cpu", out=tmp_path / "run", progress=False)
    assert not capsys.readouterr().err  # silence was asked for; the folder keeps the line
    assert "6.0 epochs" in (tmp_path / "run" / "log.txt").read_text()
    saes.train(store, sweep(7), device="cpu")  # control: less than two epochs
    assert "epochs" not in capsys.readouterr().err


def test_the_summary_says_over_how_many_steps_it_is_a_mean(tmp_path: Path) -> None:
    for every, last in ((5, 2), (12, 12), (50, 12)):
        for run in _train(Source(), _sweep(steps=12, log_every=every), out=tmp_path / str(every)):
            assert run.window == last
    from dataclasses import replace

    assert replace(run, history={}).window == 0
