"""Three libraries behind one call: train a dictionary on these rows and give it as it was saved.

``TRAINERS[architecture][library]`` holds a :class:`Dial` (what is turned to move L0, where the
search begins) and a function. A peer is driven through its own trainer class, saved through its own
code, and read back; settings that are not named here are its defaults. Every library gets rows in
the units that it normalises to itself: SAELens ``sqrt(d_model) / mean |x|``, dictionary_learning
``1 / rms |x|``, lensbench by what ``saes.train`` does.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lensbench import io, saes
from lensbench.saes.formats import load
from lensbench.saes.from_sae_lens import load_sae_lens
from lensbench.saes.sae import SAE

OURS, LENS, DL, APRIL = "lensbench", "SAELens", "dictionary_learning", "dictionary_learning (April)"
PREFIXES = (1 / 16, 1 / 8, 1 / 4, 1 / 2)
WARMUP, DECAY, DEAD = 0.05, 0.2, 0.1


@dataclass(frozen=True)
class Task:
    """One dictionary to train; ``x`` is in training order and in the source's units."""

    x: Tensor
    d_sae: int
    l0: float
    batch: int
    lr: float
    seed: int
    dial: float

    @property
    def steps(self) -> int:
        """Number of updates."""
        return len(self.x) // self.batch

    def share(self, of_run: float) -> int:
        """A share of the run in steps, 1 or more."""
        return max(1, round(of_run * self.steps))

    def batches(self, scale: float) -> tuple[Tensor, ...]:
        """Whole batches in order, times ``scale``."""
        return (self.x[: self.steps * self.batch] * scale).split(self.batch)


@dataclass(frozen=True)
class Dial:
    """What moves L0: its name, where a search begins, and whether more of it means more latents."""

    name: str
    start: float
    rising: bool = False


Make = Callable[[Task], tuple[SAE, float]]
"""Trains; gives the saved dictionary and the factor to its units."""


def ours(kind: str, task: Task) -> tuple[SAE, float]:
    """``saes.train``, as a user calls it."""
    aim = {"k": round(task.l0)} if kind in SET else {"target_l0": task.dial}
    entry = {"architecture": kind, "d_sae": task.d_sae, "lr": task.lr, "seed": task.seed, **aim}
    train = {"tokens": task.steps * task.batch, "batch_size": task.batch, "engine": "dense",
             "warmup": WARMUP, "decay": DECAY}  # fmt: skip
    sweep = {"train": train, "sweep": [entry]}
    return saes.train(task.batches(1.0), sweep, device="cpu", progress=False)[0].sae, 1.0


def sae_lens(kind: str, task: Task) -> tuple[SAE, float]:
    """``SAETrainer.step`` over every batch, then ``save_inference_model``."""
    import sae_lens as lib
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    d_model = task.x.shape[1]
    scale = d_model**0.5 / float(task.x.norm(dim=1).mean())
    size: dict[str, Any] = {"d_in": d_model, "d_sae": task.d_sae}
    widths = [round(share * task.d_sae) for share in (*PREFIXES, 1)]
    l1 = {"l1_coefficient": task.dial, "l1_warm_up_steps": task.share(WARMUP)}
    l0 = {"l0_coefficient": task.dial, "l0_warm_up_steps": task.share(WARMUP)}
    k = {"k": round(task.l0)}
    names: dict[str, tuple[str, dict[str, Any]]] = {
        "relu": ("Standard", l1),
        "gated": ("Gated", l1),
        "jumprelu": ("JumpReLU", l0),
        "topk": ("TopK", k),
        "batchtopk": ("BatchTopK", k),
        "matryoshka": ("MatryoshkaBatchTopK", {**k, "matryoshka_widths": widths}),
    }
    name, more = names[kind]
    torch.manual_seed(task.seed)
    config = getattr(lib, f"{name}TrainingSAEConfig")(**size, **more)
    sae = getattr(lib, f"{name}TrainingSAE")(config)
    settings = SAETrainerConfig(
        total_training_samples=task.steps * task.batch,
        train_batch_size_samples=task.batch,
        lr=task.lr,
        lr_end=0.0,
        lr_warm_up_steps=task.share(WARMUP),
        lr_decay_steps=task.share(DECAY),
        dead_feature_window=task.share(DEAD),
    )
    trainer = SAETrainer(cfg=settings, sae=sae, data_provider=iter(()))
    for rows in task.batches(scale):
        trainer.step(rows)
        trainer.n_training_steps += 1
    with tempfile.TemporaryDirectory() as folder:
        sae.save_inference_model(f"{folder}/release/one")
        saved = load_sae_lens(f"{folder}/release/one")
    assert isinstance(saved, SAE)
    return saved, scale


def dictionary_learning(kind: str, task: Task, *, april: bool = False) -> tuple[SAE, float]:
    """``Trainer.update`` over every batch, then the state dict as its ``trainSAE`` writes it."""
    from dictionary_learning import trainers as lib
    from dictionary_learning.trainers.jumprelu import JumpReluTrainer
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
    from dictionary_learning.trainers.p_anneal import PAnnealTrainer
    from dictionary_learning.trainers.standard import StandardTrainer, StandardTrainerAprilUpdate

    scale = 1 / float(task.x.square().sum(1).mean().sqrt())
    shares = [a - b for a, b in zip((*PREFIXES, 1.0), (0.0, *PREFIXES), strict=True)]
    penalty = {"sparsity_warmup_steps": task.share(WARMUP)}
    k = {"k": round(task.l0)}
    cut = {**k, "threshold_beta": 0.99, "threshold_start_step": task.share(WARMUP)}
    anneal = {"sparsity_function": "Lp^p", "p_end": 0.2, "anneal_start": task.share(0.1),
              "anneal_end": task.share(0.9)}  # fmt: skip
    standard = StandardTrainerAprilUpdate if april else StandardTrainer
    made: dict[str, tuple[Any, dict[str, Any]]] = {
        "relu": (standard, penalty | {"l1_penalty": task.dial}),
        "gated": (lib.GatedSAETrainer, penalty | {"l1_penalty": task.dial}),
        "p_anneal": (PAnnealTrainer, penalty | anneal | {"initial_sparsity_penalty": task.dial}),
        "jumprelu": (JumpReluTrainer, penalty | {"target_l0": task.dial}),
        "topk": (lib.TopKTrainer, k),
        "batchtopk": (lib.BatchTopKTrainer, cut),
        "matryoshka": (MatryoshkaBatchTopKTrainer, cut | {"group_fractions": shares}),
    }
    trainer_class, more = made[kind]
    torch.manual_seed(task.seed)
    trainer = trainer_class(
        steps=task.steps,
        activation_dim=task.x.shape[1],
        dict_size=task.d_sae,
        layer=0,
        lm_name="none",
        lr=task.lr,
        warmup_steps=task.share(WARMUP),
        decay_start=task.steps - task.share(DECAY),
        seed=task.seed,
        device="cpu",
        **more,
    )
    trainer.dead_feature_threshold = max(1, round(DEAD * len(task.x)))
    for step, rows in enumerate(task.batches(scale)):
        trainer.update(step, rows)
    return _read(trainer.ae, k["k"] if kind == "topk" else None), scale


def _read(ae: Any, k: int | None) -> SAE:
    with tempfile.TemporaryDirectory() as folder:
        state = {n: v.detach().clone().contiguous() for n, v in ae.state_dict().items()}
        torch.save(state, f"{folder}/ae.pt")
        config = {"dict_class": type(ae).__name__, "k": k}
        io.write_json(Path(folder) / "config.json", {"trainer": config, "buffer": {}})
        found = load(Path(folder))
    assert isinstance(found, SAE)
    return found


def recut(sae: SAE, x: Tensor, l0: float) -> SAE:
    """The same dictionary with all thresholds moved alike, so that ``l0`` latents fire on ``x``."""
    assert sae.threshold is not None
    over = [sae.pre_activations(rows) - sae.threshold for rows in x.split(4096)]
    margins = torch.cat([m.flatten() for m in over])
    shift = float(margins.topk(round(l0 * len(x)), sorted=False).values.min())
    return replace(sae, threshold=(sae.threshold + shift).clamp(min=0.0))


SET = ("topk", "batchtopk", "matryoshka")
"""Architectures whose L0 is set; of the last two, held-out L0 depends on a threshold."""


def trainers(l0: float, d_model: int) -> dict[str, dict[str, tuple[Dial, Make]]]:
    """Architecture to library to what moves its L0 and how it is trained."""
    size = (d_model / l0) ** 0.5
    """Activation of one of ``l0`` equal latents, at mean square norm ``d_model``."""
    steered, still = Dial("target_l0", l0, rising=True), Dial("k", l0)
    l1_lens, l1_dl = Dial("l1_coefficient", 0.3 * size), Dial("l1_penalty", 0.3 * l0**-0.5)
    dials: dict[str, dict[str, Dial]] = {
        "relu": {OURS: steered, LENS: l1_lens, DL: l1_dl, APRIL: l1_dl},
        **{kind: {OURS: still, LENS: still, DL: still} for kind in SET},
        "jumprelu": {
            OURS: steered,
            LENS: Dial("l0_coefficient", 0.1 * size**2),
            DL: Dial("target_l0", l0, rising=True),
        },
        "gated": {OURS: steered, LENS: l1_lens, DL: l1_dl},
        "p_anneal": {OURS: steered, DL: Dial("initial_sparsity_penalty", l1_dl.start)},
    }
    return {
        kind: {library: (dial, _bound(kind, library)) for library, dial in row.items()}
        for kind, row in dials.items()
    }


def _bound(kind: str, library: str) -> Make:
    if library == OURS:
        return lambda task: ours(kind, task)
    if library == LENS:
        return lambda task: sae_lens(kind, task)
    return lambda task: dictionary_learning(kind, task, april=library == APRIL)
