"""The folder of a model in training: weights in the hub's format, and the state to go on from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from torch import Tensor

from lensbench import io
from lensbench.errors import MismatchError
from lensbench.worlds.optimiser import Optimiser
from lensbench.worlds.recipe import TrainConfig
from lensbench.worlds.task import Task

_TIED = {"lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
"""Names that repeat the embedding."""


def save_model(task: Task, model: Any, folder: Path) -> Path:
    """Write ``model`` in the hub's format, weights in fp16 (they are run in fp32)."""
    weights = {
        name: p.detach().cpu().half().contiguous()
        for name, p in model.state_dict().items()
        if name not in _TIED
    }
    _write_tensors(folder / "model.safetensors", weights, {"format": "pt"})
    settings = model.config.to_dict()
    settings.update(dtype="float32", architectures=[type(model).__name__])
    settings.pop("_name_or_path", None)
    io.write_json(folder / "config.json", settings)
    io.write_json(
        folder / "generation_config.json",
        {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0, "do_sample": False},
    )
    io.write_json(
        folder / "recipe.json",
        json.loads(task.config.model_dump_json(exclude={"out", "resume", "card"})),
    )
    task.save_tokenizer(folder)
    return folder


def _write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    from safetensors.torch import save_file

    with io.atomic_path(path) as temp, io.saving():
        save_file(tensors, str(temp), metadata=metadata)


def save_state(config: TrainConfig, speaks: str, optimiser: Optimiser, step: int) -> None:
    """One file holds weights, optimiser and step, so that the three can never disagree."""
    weights = {f"weight.{name}": p.detach().cpu() for name, p in optimiser.params.items()}
    state = {f"state.{name}": t.cpu() for name, t in optimiser.state.items()}
    meta = {"step": str(step), "steps": str(config.steps), "recipe": _identity(config, speaks)}
    _write_tensors(config.out / "state" / "state.safetensors", {**weights, **state}, meta)


def restore(config: TrainConfig, speaks: str, optimiser: Optimiser) -> int:
    """Load the last state of ``config.out``; 0 where there is none.

    Another number of steps is allowed while both learning rates are still flat: up to there the
    two runs are the same run.

    Raises:
        MismatchError: the folder holds a run with another recipe, or ``resume`` is off.
    """
    from safetensors import safe_open

    path = config.out / "state" / "state.safetensors"
    if not path.is_file():
        return 0
    with safe_open(str(path), "pt") as file, torch.no_grad():
        meta = file.metadata()
        done = int(meta["step"])
        before = config.model_copy(update={"steps": int(meta["steps"])})
        same_length = before.steps == config.steps or (
            before.is_flat(done) and config.is_flat(done)
        )
        if not config.resume:
            raise MismatchError(
                f"{config.out} already holds a run at step {done} of {meta['steps']}; add --resume "
                "to go on with it, or choose another --out"
            )
        if meta["recipe"] != _identity(config, speaks) or not same_length:
            raise MismatchError(
                f"{config.out} holds a run with another recipe; choose another --out or repeat "
                f"its settings: {meta['steps']} steps, {meta['recipe']}"
            )
        for name, p in optimiser.params.items():
            p.copy_(file.get_tensor(f"weight.{name}"))
        for name, t in optimiser.state.items():
            t.copy_(file.get_tensor(f"state.{name}"))
    return done


_FREE = {
    *("out", "resume", "card", "steps", "threads", "compile", "device", "seeds"),
    *("save_steps", "evaluate_every", "state_every"),
}


def _identity(config: TrainConfig, speaks: str) -> str:
    """The settings that decide the weights, and what the world can say, as canonical JSON."""
    settings = json.loads(config.model_dump_json(exclude=_FREE))
    return json.dumps({**settings, "speaks": f"{crc32(speaks.encode()):08x}"}, sort_keys=True)
