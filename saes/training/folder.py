"""Writing the folder of a run: what exists before work starts, what grows, what is replaced."""

import json
import time
from pathlib import Path
from typing import Any

import yaml

from lensbench import io, process, provenance
from lensbench.errors import ConfigError, MismatchError
from lensbench.saes.configs import DictionaryConfig, SweepConfig
from lensbench.saes.runs import (
    CONFIG_FILE,
    METRICS_FILE,
    STATUS_FILE,
    SWEEP_FILE,
    WAIT,
    how_to_resume,
    read_history,
    read_status,
)
from lensbench.saes.training.sinks import require

HEARTBEAT = 5.0
"""Seconds between two heartbeats."""
FREE = (
    *("log_every", "keep", "checkpoint_every", "read_ahead", "in_memory", "sinks"),
    *("parallel", "rank_timeout"),
)
"""Settings of ``train`` that a resumed run may change."""


class RunFolder:
    """The folder of one run; without a path nothing is written."""

    def __init__(self, path: Path | None, names: list[str]) -> None:
        self.path, self.names = path, names
        self._status: dict[str, Any] = {}
        self._beaten = 0.0

    def of(self, name: str) -> Path:
        """Folder of a dictionary (only where there is a path)."""
        assert self.path is not None
        return self.path / name

    def elsewhere(self) -> dict[str, list[dict[str, float]]]:
        """The newest lines of dictionaries that other processes train, by name."""
        return {}

    def all(self) -> list[Path]:
        """Folders of all dictionaries, in order."""
        return [self.of(name) for name in self.names]

    def settings(self) -> dict[str, dict[str, Any]]:
        """What :meth:`open` wrote of every dictionary."""
        return {name: io.read_json(self.of(name) / CONFIG_FILE) for name in self.names}

    def open(
        self,
        sweep: SweepConfig,
        configs: list[DictionaryConfig],
        card: dict[str, Any],
        *,
        resume: bool,
    ) -> None:
        """Make the folder, or check that it belongs to this sweep.

        Raises:
            ConfigError: there is a run already and ``resume`` is off.
            MismatchError: it was started with another config, or on another model.
            BackendUnavailableError: a sink whose package is not installed.
        """
        require(sweep.train.sinks, self.path)
        if self.path is None:
            return
        if (self.path / SWEEP_FILE).is_file():
            if not resume:
                raise ConfigError(
                    f"{self.path} already holds a run; {how_to_resume(self.path)}, or choose "
                    "another folder"
                )
            self.check(sweep)
            self._check_model(card)
        else:
            text = yaml.safe_dump(sweep.to_dict(), sort_keys=False)
            io.write_text(self.path / SWEEP_FILE, text)
        self.status("starting", 0, sweep.train.steps, 0, {})
        record = provenance.record(
            model=card, note=f"lensbench.saes.train in {self.path.name}"
        ).to_dict()
        io.write_json(self.path / "provenance.json", record)
        for config in configs:
            io.write_json(self.of(str(config.name)) / CONFIG_FILE, config.to_dict())

    def status(
        self,
        state: str,
        step: int,
        steps: int,
        tokens: int,
        states: dict[str, str],
        note: str = "",
        wait: float = 0.0,
    ) -> None:
        """Replace ``status.json``."""
        if self.path is None:
            return
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        began = self._status.get("started", now)
        self._status = {
            "state": state,
            "step": step,
            "steps": steps,
            "tokens": tokens,
            "started": began,
            "heartbeat": now,
            **process.of_this(),
            "message": note,
            WAIT: wait,
            "dictionaries": {n: states.get(n, state) for n in self.names},
        }
        io.write_json(self.path / STATUS_FILE, self._status)
        self.beaten()

    def beaten(self) -> None:
        """A heartbeat was written now."""
        self._beaten = time.monotonic()

    def due(self) -> bool:
        """Whether it is time for a heartbeat."""
        return self.path is not None and time.monotonic() - self._beaten >= HEARTBEAT

    def log(self, text: str) -> None:
        """Append a line to ``log.txt``."""
        if self.path is not None:
            stamp = time.strftime("%H:%M:%SZ", time.gmtime())
            io.append_text(self.path / "log.txt", f"{stamp} {text}\n")

    def metrics(self, name: str, line: dict[str, float]) -> None:
        """Append a line to a dictionary's ``metrics.jsonl``."""
        if self.path is not None:
            io.append_text(self.of(name) / METRICS_FILE, json.dumps(line) + "\n")

    def rewind(self, name: str, step: int) -> list[dict[str, float]]:
        """Drop logged lines after ``step``; return those that stay."""
        lines = read_history(self.of(name), up_to=step)
        text = "".join(json.dumps(line) + "\n" for line in lines)
        io.write_text(self.of(name) / METRICS_FILE, text)
        return lines

    def finished(self) -> bool:
        """Whether the run in this folder is complete."""
        if self.path is None or not (self.path / STATUS_FILE).is_file():
            return False
        return read_status(self.path)["state"] == "finished"

    def _check_model(self, card: dict[str, Any]) -> None:
        assert self.path is not None
        path = self.path / "provenance.json"
        old = io.read_json(path).get("model", {}) if path.is_file() else {}
        known, now = old.get("fingerprint"), card.get("fingerprint")
        if known and now and known != now:
            raise MismatchError(
                f"{self.path} was started on activations of {old.get('name')} ({known}); this "
                f"source holds those of {card.get('name')} ({now}). Resume with the run's own store"
            )

    def check(self, sweep: SweepConfig) -> None:
        """Raise MismatchError if the folder was started with another config."""
        assert self.path is not None
        changed = differences(SweepConfig.from_yaml(self.path / SWEEP_FILE), sweep)
        if changed:
            raise MismatchError(
                f"{self.path} was started with another config: {'; '.join(changed)}. Resume with "
                f"its own ({SWEEP_FILE}), or choose another folder"
            )


def differences(old: SweepConfig, new: SweepConfig) -> list[str]:
    """Settings in which two sweeps differ, in words; what a resumed run may change is left out."""
    return _differences(_comparable(old.to_dict()), _comparable(new.to_dict()))


def _comparable(sweep: dict[str, Any]) -> dict[str, Any]:
    train = {k: v for k, v in sweep["train"].items() if k not in FREE}
    entries = {str(c.name): c.to_dict() for c in SweepConfig.parse(sweep).expand()}
    return {"train": train, "sweep": entries, "source": sweep["source"]}


def _differences(old: Any, new: Any, where: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = dict.fromkeys([*old, *new])
        return [
            line
            for key in keys
            for line in _differences(old.get(key), new.get(key), f"{where}.{key}".lstrip("."))
        ]
    return [] if old == new else [f"{where} was {old!r} and is now {new!r}"]
