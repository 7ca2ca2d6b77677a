"""Train a model of a world: resumable, stoppable, files in the hub's format."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lensbench.errors import StoppedError
from lensbench.stopping import stop_requested
from lensbench.worlds import folder
from lensbench.worlds.atlas import Atlas
from lensbench.worlds.batches import IGNORE, Batch, batch_at
from lensbench.worlds.optimiser import MuonAdam
from lensbench.worlds.recipe import WorldTrainConfig

Progress = Callable[[dict[str, Any]], None]


def train_world(config: WorldTrainConfig, progress: Progress | None = None) -> Path:
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


def _train_one(config: WorldTrainConfig, progress: Progress) -> Path:
    torch.set_num_threads(config.threads)
    device = _device(config)
    world = Atlas(config.world_seed, config.variant)
    model = new_model(config, len(world.vocab)).to(device)
    optimiser = MuonAdam(model, muon_lr=config.muon_lr, adam_lr=config.adam_lr)
    start = folder.restore(config, world, optimiser)
    update, log = _Update(config, world, model, optimiser), _Log(config, world, model, progress)
    kept = set(config.kept_steps())
    with stop_requested() as stop:
        for done in range(start + 1, config.steps + 1):
            loss = update(done)
            if done in kept:
                folder.save_model(config, world, model, config.out / "revisions" / f"step{done}")
            if done % config.state_every == 0 or done == config.steps or stop():
                folder.save_state(config, world, optimiser, done)
            if stop():
                raise StoppedError(
                    f"stopped after step {done} of {config.steps}; the same command with --resume "
                    f"goes on from {config.out}"
                )
            log(done, loss)
    folder.save_model(config, world, model, config.out)
    if config.card:
        from lensbench.worlds.card import write_card

        write_card(config.out)
    return config.out


class _Update:
    """One step of the optimiser on the batch of that step."""

    def __init__(
        self, config: WorldTrainConfig, world: Atlas, model: Any, optimiser: MuonAdam
    ) -> None:
        self._config, self._world, self._model = config, world, model
        self._optimiser = optimiser
        self._loss = torch.compile(_loss) if config.compile else _loss
        self._device = next(model.parameters()).device

    def __call__(self, done: int) -> float:
        """Take step number ``done`` (from 1) and return its loss in nats."""
        config, step = self._config, done - 1
        batch = batch_at(
            self._world,
            step,
            seed=config.seed,
            rows=config.rows,
            width=config.n_ctx,
            pool=config.pool(step),
        )
        loss = self._loss(self._model, *_tensors(batch, self._device))
        loss.backward()
        nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimiser.step(done, config.scale(step))
        return loss.item()


class _Log:
    """Says the running loss every 50 steps and the accuracies every ``evaluate_every``."""

    def __init__(
        self, config: WorldTrainConfig, world: Atlas, model: Any, progress: Progress
    ) -> None:
        self._config, self._world, self._model = config, world, model
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
            row = {"step": done, "loss": self._running, **_quick_scores(self._world, self._model)}
            _append(self._config.out / "metrics.jsonl", row)
            self._progress(row)


def new_model(config: WorldTrainConfig, d_vocab: int) -> Any:
    """A freshly initialised ``LlamaForCausalLM``."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(config.seed)
    # Plain attention: the fused CPU kernel took half of a step at these widths (measured).
    settings: dict[str, Any] = {**config.llama(d_vocab), "attn_implementation": "eager"}
    return LlamaForCausalLM(LlamaConfig(**settings))


def _device(config: WorldTrainConfig) -> torch.device:
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(config.device)


def _tensors(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    arrays = (batch.tokens, batch.targets, batch.positions, batch.mask())
    tokens, targets, positions, mask = (torch.from_numpy(a).to(device) for a in arrays)
    # A padding query sees itself, so that no row of scores is empty.
    eye = torch.eye(mask.shape[-1], dtype=torch.bool, device=device)
    return tokens, targets, positions, mask | eye


def _loss(
    model: nn.Module, tokens: Tensor, targets: Tensor, positions: Tensor, mask: Tensor
) -> Tensor:
    additive = torch.zeros_like(mask, dtype=torch.bfloat16).masked_fill(~mask, -3e4)
    with torch.autocast(tokens.device.type, torch.bfloat16):
        out = model(
            input_ids=tokens, position_ids=positions, attention_mask=additive, use_cache=False
        )
    return nn.functional.cross_entropy(
        out.logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORE
    )


def _quick_scores(world: Atlas, model: Any) -> dict[str, float]:
    from lensbench.worlds.scoring import accuracy_by_family

    return accuracy_by_family(world, model, n=100, seed=1)


def _append(path: Path, row: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
