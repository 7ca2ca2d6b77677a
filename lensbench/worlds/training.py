"""Train a bundled model of a world: resumable, detachable, files in the hub's format."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lensbench import io
from lensbench.errors import MismatchError
from lensbench.worlds.atlas import Atlas
from lensbench.worlds.batches import IGNORE, Batch, batch_at
from lensbench.worlds.optimiser import MuonAdam
from lensbench.worlds.recipe import WorldTrainConfig

Progress = Callable[[dict[str, Any]], None]


def train_world(config: WorldTrainConfig, progress: Progress | None = None) -> Path:
    """Train ``config.seeds`` models and return the folder of the first.

    Every folder holds ``config.json model.safetensors tokenizer.json``, ``revisions/step<N>/`` for
    the kept steps, ``metrics.jsonl`` and a resumable ``state/``. A killed run goes on with
    ``resume=True`` and gives the weights an unbroken run gives.
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
    start = _restore(config, optimiser) if config.resume else 0
    loss_of = torch.compile(_loss) if config.compile else _loss
    kept, running, clock = set(config.kept_steps()), 0.0, time.monotonic()
    for step in range(start, config.steps):
        batch = batch_at(
            world,
            step,
            seed=config.seed,
            rows=config.rows,
            width=config.n_ctx,
            pool=config.pool(step),
        )
        loss = loss_of(model, *_tensors(batch, device))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step(step + 1, config.scale(step))
        running = loss.item() if step == start else 0.98 * running + 0.02 * loss.item()
        done = step + 1
        if done in kept:
            save_model(config, world, model, config.out / "revisions" / f"step{done}")
        if done % config.state_every == 0 or done == config.steps:
            _save_state(config, optimiser, done)
        if done % 50 == 0 or done == config.steps:
            progress(
                {
                    "step": done,
                    "steps": config.steps,
                    "loss": running,
                    "seconds": time.monotonic() - clock,
                }
            )
        if (config.evaluate_every and done % config.evaluate_every == 0) or done == config.steps:
            row = {"step": done, "loss": running, **_quick_scores(world, model)}
            _append(config.out / "metrics.jsonl", row)
            progress(row)
    save_model(config, world, model, config.out)
    if config.card:
        from lensbench.worlds.card import write_card

        write_card(config.out)
    return config.out


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


def save_model(config: WorldTrainConfig, world: Atlas, model: Any, folder: Path) -> Path:
    """Write ``model`` in the hub's format, weights in fp16 (they are run in fp32)."""
    weights = {
        name: p.detach().cpu().half().contiguous()
        for name, p in model.state_dict().items()
        if name != "lm_head.weight"  # tied to the embedding
    }
    _write_tensors(folder / "model.safetensors", weights, {"format": "pt"})
    settings = model.config.to_dict()
    settings.update(dtype="float32", architectures=["LlamaForCausalLM"])
    settings.pop("_name_or_path", None)
    io.write_json(folder / "config.json", settings)
    io.write_json(
        folder / "generation_config.json",
        {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0, "do_sample": False},
    )
    io.write_json(
        folder / "recipe.json",
        json.loads(config.model_dump_json(exclude={"out", "resume", "card"})),
    )
    world.save_tokenizer(folder)
    return folder


def _write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    from safetensors.torch import save_file

    with io.atomic_path(path) as temp:
        save_file(tensors, str(temp), metadata=metadata)


def _save_state(config: WorldTrainConfig, optimiser: MuonAdam, step: int) -> None:
    """One file holds weights, optimiser and step, so that the three can never disagree."""
    weights = {f"weight.{name}": p.detach().cpu() for name, p in optimiser.params.items()}
    state = {f"state.{name}": t.cpu() for name, t in optimiser.state.items()}
    meta = {"step": str(step), "steps": str(config.steps), "recipe": _identity(config)}
    _write_tensors(config.out / "state" / "state.safetensors", {**weights, **state}, meta)


def _restore(config: WorldTrainConfig, optimiser: MuonAdam) -> int:
    """Load the last state; 0 where there is none.

    Another number of steps is allowed while both learning rates are still flat: up to there the
    two runs are the same run.

    Raises:
        MismatchError: the folder holds a run with another recipe.
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
        if meta["recipe"] != _identity(config) or not same_length:
            raise MismatchError(
                f"{config.out} holds a run with another recipe; choose another --out or repeat "
                f"its settings: {meta['steps']} steps, {meta['recipe']}"
            )
        for name, p in optimiser.params.items():
            p.copy_(file.get_tensor(f"weight.{name}"))
        for name, t in optimiser.state.items():
            t.copy_(file.get_tensor(f"state.{name}"))
    return done


def _identity(config: WorldTrainConfig) -> str:
    """The settings that decide the weights, as canonical JSON."""
    free = {
        "out",
        "resume",
        "card",
        "steps",
        "threads",
        "compile",
        "device",
        "seeds",
        "save_steps",
        "evaluate_every",
        "state_every",
    }
    return json.dumps(json.loads(config.model_dump_json(exclude=free)), sort_keys=True)


def _quick_scores(world: Atlas, model: Any) -> dict[str, float]:
    from lensbench.worlds.scoring import accuracy_by_family

    return accuracy_by_family(world, model, n=100, seed=1)


def _append(path: Path, row: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
