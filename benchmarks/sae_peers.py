"""One interface over the trainers that the sae_* benchmarks compare: step on a batch, give the SAE.

``dictionary-learning`` and ``eai-sparsify`` pin other versions of what is installed here, so they
live in a folder of their own, made without their dependencies::

    pip install --no-deps --target PEERS dictionary-learning eai-sparsify simple-parsing natsort \
        schedulefree docstring-parser
    LENSBENCH_PEERS=PEERS python benchmarks/sae_step.py
"""

import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lensbench.saes.architectures import TopKConfig
from lensbench.saes.sae import SAE
from lensbench.saes.step.engines import Stepper
from lensbench.saes.step.export import export
from lensbench.saes.step.group import dead_limit
from lensbench.saes.step.rules.base import Now
from lensbench.saes.step.schedule import rate
from lensbench.saes.step.start import new_group, scale_of

DEAD_REFRESH = 32
PACKAGES = ("torch", "numpy", "sae-lens", "dictionary-learning", "eai-sparsify")


@dataclass(frozen=True)
class Job:
    """One TopK dictionary to train."""

    d_model: int
    d_sae: int
    k: int
    batch: int
    steps: int
    lr: float
    seed: int = 0
    warmup: float = 0.05
    decay: float = 0.2


@dataclass(frozen=True)
class Trainer:
    """``step(batch)`` trains; ``sae()`` gives the dictionary as it is now."""

    step: Callable[[Tensor], Any]
    sae: Callable[[], Any]


def load_peers() -> None:
    """Make the peers importable."""
    os.environ.setdefault("SPARSIFY_DISABLE_TRITON", "1")
    os.environ.setdefault("WANDB_MODE", "disabled")
    if "LENSBENCH_PEERS" in os.environ:
        sys.path.append(os.environ["LENSBENCH_PEERS"])
    warnings.simplefilter("ignore")


def lensbench(job: Job, first: Tensor, engine: str = "screened", **changes: Any) -> Trainer:
    """This package, driven as ``lensbench.saes.train`` drives it, without files."""
    config = TopKConfig(name="a", d_sae=job.d_sae, k=job.k, lr=job.lr, seed=job.seed, **changes)
    group = new_group([config], "s", first, scale_of(first))
    stepper, state = Stepper(group, engine), {"step": 0}  # pyright: ignore[reportArgumentType]
    limit = [dead_limit(config, job.steps * job.batch)]

    def step(x: Tensor) -> None:
        if state["step"] % DEAD_REFRESH == 0:
            group.refresh_dead(limit)
        factor = rate(min(state["step"], job.steps - 1), job.steps, job.warmup, job.decay)
        stepper.step(x, [job.lr * factor], Now(state["step"], job.steps))
        state["step"] += 1

    return Trainer(step, lambda: export(group, 0, {}))


def sae_lens_sae(job: Job) -> Any:
    """A fresh TopK dictionary of SAELens."""
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig

    torch.manual_seed(job.seed)
    return TopKTrainingSAE(TopKTrainingSAEConfig(d_in=job.d_model, d_sae=job.d_sae, k=job.k))


def sae_lens_config(job: Job) -> Any:
    """The training settings of SAELens for a job."""
    from sae_lens.config import SAETrainerConfig

    return SAETrainerConfig(
        total_training_samples=job.steps * job.batch,
        train_batch_size_samples=job.batch,
        lr=job.lr,
        lr_end=0.0,
        lr_warm_up_steps=round(job.warmup * job.steps),
        lr_decay_steps=round(job.decay * job.steps),
        dead_feature_window=max(1, job.steps // 10),
    )


def sae_lens(job: Job, _first: Tensor) -> Trainer:
    """SAELens, through ``SAETrainer.step``; its loop adds only a progress bar."""
    from sae_lens.training.sae_trainer import SAETrainer

    theirs = sae_lens_sae(job)
    trainer = SAETrainer(cfg=sae_lens_config(job), sae=theirs, data_provider=iter(()))

    def step(x: Tensor) -> None:
        trainer.step(x)
        trainer.n_training_steps += 1

    def sae() -> SAE:
        norm = theirs.W_dec.detach().norm(dim=1)
        return SAE(
            W_enc=theirs.W_enc.detach() * norm,
            b_enc=theirs.b_enc.detach() * norm,
            W_dec=theirs.W_dec.detach() / norm[:, None],
            b_dec=theirs.b_dec.detach().clone(),
            activation="topk",
            k=job.k,
        )

    return Trainer(step, sae)


def dictionary_learning(job: Job, _first: Tensor) -> Trainer:
    """dictionary_learning, through ``TopKTrainer.update``."""
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainer = TopKTrainer(
        steps=job.steps,
        activation_dim=job.d_model,
        dict_size=job.d_sae,
        k=job.k,
        layer=0,
        lm_name="none",
        lr=job.lr,
        warmup_steps=round(job.warmup * job.steps),
        decay_start=round((1 - job.decay) * job.steps),
        seed=job.seed,
        device="cpu",
    )
    trainer.dead_feature_threshold = max(1, job.steps * job.batch // 10)
    state = {"step": 0}

    def step(x: Tensor) -> None:
        trainer.update(min(state["step"], job.steps - 1), x)
        state["step"] += 1

    def sae() -> SAE:
        ae = trainer.ae
        return SAE(
            W_enc=ae.encoder.weight.detach().t().contiguous(),
            b_enc=ae.encoder.bias.detach().clone(),
            W_dec=ae.decoder.weight.detach().t().contiguous(),
            b_dec=ae.b_dec.detach().clone(),
            activation="topk",
            k=job.k,
        )

    return Trainer(step, sae)


def sparsify(job: Job, first: Tensor, *, fused: bool = True) -> Trainer:
    """Sparsify: ``SparseCoder.forward`` and the body of ``Trainer.fit``, with torch's Adam.

    Its own loop needs a language model. AuxK is on at 1/32, as in the others (its default is off;
    the gradient does not reach its encoder). Mean initialisation of ``b_dec`` as in its trainer.
    """
    from sparsify import SparseCoder, SparseCoderConfig

    torch.manual_seed(job.seed)
    coder = SparseCoder(job.d_model, SparseCoderConfig(num_latents=job.d_sae, k=job.k))
    coder.b_dec.data = first.mean(0)
    adam = torch.optim.Adam(coder.parameters(), lr=job.lr, fused=fused)
    since = torch.zeros(job.d_sae, dtype=torch.long)
    state = {"step": 0}
    limit = max(1, job.steps * job.batch // 10)

    def step(x: Tensor) -> None:
        factor = rate(min(state["step"], job.steps - 1), job.steps, job.warmup, job.decay)
        for group in adam.param_groups:
            group["lr"] = job.lr * factor
        dead = since > limit
        out = coder(x, dead_mask=dead if bool(dead.any()) else None)
        (out.fvu + out.auxk_loss / 32).backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        torch.nn.utils.clip_grad_norm_(coder.parameters(), 1.0)
        adam.step()
        adam.zero_grad()
        coder.set_decoder_norm_to_unit_norm()
        fired = torch.zeros(job.d_sae, dtype=torch.bool)
        fired[out.latent_indices.flatten()] = True
        since.add_(len(x)).masked_fill_(fired, 0)
        state["step"] += 1

    def sae() -> SAE:
        assert coder.W_dec is not None
        return SAE(
            W_enc=coder.encoder.weight.detach().t().contiguous(),
            b_enc=coder.encoder.bias.detach().clone(),
            W_dec=coder.W_dec.detach().clone(),
            b_dec=coder.b_dec.detach().clone(),
            activation="topk",
            k=job.k,
        )

    return Trainer(step, sae)


PEERS: dict[str, Callable[[Job, Tensor], Trainer]] = {
    "SAELens": sae_lens,
    "dictionary_learning": dictionary_learning,
    "sparsify": sparsify,
}


def superposed(d_model: int, n: int, *, seed: int, truth: int = 4096, active: int = 20) -> Tensor:
    """``n`` rows that are sums of about ``active`` of ``truth`` unit directions, with noise.

    Frequencies fall as a power law, so that some directions are rare. Norms are about
    ``sqrt(d_model)``.
    """
    fixed = torch.Generator().manual_seed(99)
    directions = torch.randn(truth, d_model, generator=fixed)
    directions /= directions.norm(dim=1, keepdim=True)
    frequency = torch.arange(1, truth + 1).float() ** -0.7
    frequency *= active / frequency.sum()
    rng = torch.Generator().manual_seed(seed)
    parts: list[Tensor] = []
    for start in range(0, n, 2048):
        rows = min(2048, n - start)
        on = torch.rand(rows, truth, generator=rng) < frequency
        strength = torch.rand(rows, truth, generator=rng) + 0.5
        parts.append((on * strength) @ directions)
    x = torch.cat(parts) * (d_model / active) ** 0.5
    return x + 0.1 * torch.randn(x.shape, generator=rng) + 0.5
