"""Train a model of a world: resumable, stoppable, files in the hub's format."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lensbench.errors import StoppedError
from lensbench.stopping import stop_requested
from lensbench.worlds import folder
from lensbench.worlds.optimiser import Optimiser, optimiser_of
from lensbench.worlds.recipe import TrainConfig
from lensbench.worlds.task import Task, task_of

Progress = Callable[[dict[str, Any]], None]


def train_world(config: TrainConfig, progress: Progress | None = None) -> Path:
    """Train ``config.seeds`` models and return the folder of the first.

    Every folder holds ``config.json model.safetensors tokenizer.json``, ``revisions/step<N>/`` for
    the kept steps, ``metrics.jsonl`` and a resumable ``state/``. A killed run goes on with
    ``resume=True`` and gives the weights an unbroken run gives (not with ``compile``).

    Raises:
        MismatchError: the folder holds another run, or this one and ``resume`` is off.
        StoppedError: interrupted; the state of the last step was saved.
    """
    if config.seeds == 1:
        return _train_one(config, progress or _silent)
    folders = [
        _train_one(
            config.model_copy(update={"seed": seed, "seeds": 1, "out": config.out / f"seed{seed}"}),
            progress or _silent,
        )
        for seed in range(config.seed, config.seed + config.seeds)
    ]
    return folders[0]


def _silent(_: dict[str, Any]) -> None:
    return


def _train_one(config: TrainConfig, progress: Progress) -> Path:
    torch.set_num_threads(config.threads)
    task = task_of(config)
    model = task.new_model().to(_device(config))
    optimiser = optimiser_of(config, model)
    start = folder.restore(config, task.speaks, optimiser)
    update, log = _Update(task, model, optimiser), _Log(task, model, progress)
    kept = set(config.kept_steps())
    with stop_requested() as stop:
        for done in range(start + 1, config.steps + 1):
            loss = update(done)
            if done in kept:
                folder.save_model(task, model, config.out / "revisions" / f"step{done}")
            if done % config.state_every == 0 or done == config.steps or stop():
                folder.save_state(config, task.speaks, optimiser, done)
            if stop():
                raise StoppedError(
                    f"stopped after step {done} of {config.steps}; the same command with --resume "
                    f"goes on from {config.out}"
                )
            log(done, loss)
    folder.save_model(task, model, config.out)
    if config.card:
        task.write_card(config.out)
    return config.out


class _Update:
    """One step of the optimiser on the batch of that step."""

    def __init__(self, task: Task, model: Any, optimiser: Optimiser) -> None:
        self._task, self._model, self._optimiser = task, model, optimiser

    def __call__(self, done: int) -> float:
        """Take step number ``done`` (from 1) and return its loss in nats."""
        loss = self._task.loss(self._model, done - 1)
        loss.backward()
        nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimiser.step(done, self._task.config.scale(done - 1))
        return loss.item()


class _Log:
    """Says the running loss every 50 steps and the accuracies every ``evaluate_every``."""

    def __init__(self, task: Task, model: Any, progress: Progress) -> None:
        self._task, self._config, self._model = task, task.config, model
        self._progress, self._clock = progress, time.monotonic()
        self._running: float | None = None

    def __call__(self, done: int, loss: float) -> None:
        """Take the loss of step ``done``."""
        steps, every = self._config.steps, self._config.evaluate_every
        before = loss if self._running is None else self._running
        self._running = 0.98 * before + 0.02 * loss
        last = done == steps
        if done % 50 == 0 or last:
            seconds = time.monotonic() - self._clock
            self._progress(
                {"step": done, "steps": steps, "loss": self._running, "seconds": seconds}
            )
        if (every and done % every == 0) or last:
            row = {"step": done, "loss": self._running, **self._task.scores(self._model)}
            _append(self._config.out / "metrics.jsonl", row)
            self._progress(row)


def _device(config: TrainConfig) -> torch.device:
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(config.device)


def _append(path: Path, row: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
