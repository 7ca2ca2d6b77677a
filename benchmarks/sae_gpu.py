"""One TopK dictionary and a sweep of eight on a GPU: this package beside SAELens and sparsify.

bfloat16 products with float32 weights everywhere: `precision: bf16` here, SAELens with autocast and
torch.compile, sparsify with the autocast and the Triton kernels it has built in. The ceiling of the
encoder is one bfloat16 product of the same shape in the same run. On a machine with a CUDA device::

    LENSBENCH_PEERS=build/peers python -m benchmarks.sae_gpu
"""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import Page, Timings, interleave
from benchmarks.sae_peers import (
    DEAD_REFRESH,
    PACKAGES,
    Job,
    load_peers,
    sae_lens_config,
    sae_lens_sae,
    superposed,
)
from benchmarks.sae_sweep import KS, LRS

SHAPES = ((768, 24576, 32), (2304, 65536, 64), (4096, 131072, 64))
BATCHES = (4096, 8192, 32768)
WIDTHS = {2048: 7.0, 8192: 5.0, 16384: 2.5}
"""Widths of the sweep, and the least ratio to SAELens at each."""
NEVER = 10**9
OURS, THEIRS, SPARSIFY = "lensbench", "SAELens (autocast, compile)", "sparsify"
CEILING, ENCODER = "encoder product alone", "lensbench: encoder (cast, product, selection)"
Step = Callable[[Tensor], Any]


def ours(jobs: list[Job], lrs: list[float], first: Tensor) -> tuple[Step, str]:
    """A step of this package, as ``saes.train`` takes it, and how its engine was chosen."""
    from lensbench.saes.architectures import DictionaryConfig, TopKConfig
    from lensbench.saes.step.encode import Workspace
    from lensbench.saes.step.engines import Stepper, choose
    from lensbench.saes.step.rules.base import Now
    from lensbench.saes.step.start import new_group, scale_of

    configs: list[DictionaryConfig] = [
        TopKConfig(name=f"d{i}", d_sae=job.d_sae, k=job.k, lr=lr, seed=i)
        for i, (job, lr) in enumerate(zip(jobs, lrs, strict=True))
    ]
    group, said = new_group(configs, "s", first, scale_of(first)), list[str]()
    space = Workspace(precision="bf16")
    engine, how = choose(group, first, space)
    stepper, state = Stepper(group, engine, space, said.append), {"step": 0}

    def step(x: Tensor) -> None:
        if state["step"] % DEAD_REFRESH == 0:
            group.refresh_dead([NEVER] * group.n)
        stepper.step(x, lrs, Now(state["step"], NEVER))
        state["step"] += 1

    for _ in range(5):  # compiled, recorded
        step(first)
    return step, "; ".join([how, *said])


def sae_lens(jobs: list[Job], first: Tensor) -> Step:
    """SAELens with autocast and compiled, through ``SAETrainer.step`` or ``MultiSAETrainer``.

    Its multi trainer knows no compilation; its dictionaries are compiled here all the same.
    """
    from sae_lens.training.multi_sae_trainer import MultiSAETrainer

    cfg = replace(sae_lens_config(jobs[0]), device="cuda", autocast=True)
    saes = {f"d{i}": sae_lens_sae(job).to("cuda") for i, job in enumerate(jobs)}
    for sae in saes.values():
        sae.training_forward_pass = torch.compile(sae.training_forward_pass)
    trainer = MultiSAETrainer(
        cfg=cfg, saes=saes, hook_names=dict.fromkeys(saes, "s"), data_provider=iter(())
    )

    def step(x: Tensor) -> None:
        for one in trainer.trainers.values():
            one.step(x)
            one.n_training_steps += 1

    for _ in range(3):
        step(first)
    return step


def sparsify(job: Job, first: Tensor) -> Step:
    """The body of sparsify's ``Trainer.fit`` with torch's fused Adam; AuxK on, as in the others."""
    from sparsify import SparseCoder, SparseCoderConfig

    torch.manual_seed(job.seed)
    config = SparseCoderConfig(num_latents=job.d_sae, k=job.k)
    coder = SparseCoder(job.d_model, config, device="cuda")
    coder.b_dec.data = first.mean(0)
    adam = torch.optim.Adam(coder.parameters(), lr=job.lr, fused=True)
    since = torch.zeros(job.d_sae, dtype=torch.long, device="cuda")

    def step(x: Tensor) -> None:
        dead = since > NEVER
        out = coder(x, dead_mask=dead if bool(dead.any()) else None)
        (out.fvu + out.auxk_loss / 32).backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        torch.nn.utils.clip_grad_norm_(coder.parameters(), 1.0)
        adam.step()
        adam.zero_grad()
        coder.set_decoder_norm_to_unit_norm()
        fired = torch.zeros(job.d_sae, dtype=torch.bool, device="cuda")
        fired[out.latent_indices.flatten()] = True
        since.add_(len(x)).masked_fill_(fired, 0)

    for _ in range(3):
        step(first)
    return step


def encoder(job: Job, first: Tensor) -> tuple[Step, Step]:
    """The product of the encoder alone, and everything up to the selected latents."""
    from lensbench.saes.step.encode import Workspace, top_k_codes
    from lensbench.saes.step.precision import products_in

    weight, bias = torch.randn(job.d_sae, job.d_model, device="cuda"), first.new_zeros(job.d_sae)
    half, narrow, space = weight.bfloat16(), first.bfloat16(), Workspace(precision="bf16")
    out = torch.empty(len(first), job.d_sae, device="cuda", dtype=torch.bfloat16)

    def codes(x: Tensor) -> None:
        with products_in("bf16"):
            top_k_codes(x, weight, bias, job.k, space, screened=False)

    codes(first)
    return lambda _: torch.mm(narrow, half.t(), out=out), codes


def measure(makers: dict[str, Callable[[], Step]], data: list[Tensor], args: Any) -> Any:
    """Timings of the cases that fit in memory together, and what to say of the others."""
    steps, notes = dict[str, Step](), list[str]()
    for name, make in makers.items():
        try:
            steps[name] = make()
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            notes.append(f"{name}: does not fit in memory beside the others.")
    turn = {"at": 0}

    def timed(step: Step) -> Callable[[], None]:
        def case() -> None:
            for _ in range(args.steps):
                turn["at"] = (turn["at"] + 1) % len(data)
                step(data[turn["at"]])
            torch.cuda.synchronize()

        return case

    cases = {name: timed(step) for name, step in steps.items()}
    times = interleave(cases, rounds=args.rounds, clock="wall", before=torch.cuda.synchronize)
    each = {name: [s / args.steps for s in seconds] for name, seconds in times.seconds.items()}
    return Timings(each, "wall"), notes


def one_dictionary(page: Page, shape: tuple[int, int, int], batch: int, args: Any) -> None:
    """A table and the limits of one shape."""
    d_model, d_sae, k = shape
    job = Job(d_model=d_model, d_sae=d_sae, k=k, batch=batch, steps=1000, lr=1e-4)
    data = list(superposed(d_model, 2 * batch, seed=1).cuda().split(batch))
    told: list[str] = []

    def mine() -> Step:
        step, how = ours([job], [job.lr], data[0])
        told.append(f"{OURS}: {how}.")
        return step

    makers: dict[str, Callable[[], Step]] = {
        OURS: mine,
        THEIRS: lambda: sae_lens([job], data[0]),
        SPARSIFY: lambda: sparsify(job, data[0]),
        CEILING: lambda: encoder(job, data[0])[0],
        ENCODER: lambda: encoder(job, data[0])[1],
    }
    times, notes = measure(makers, data, args)
    page.heading(f"d_model {d_model}, d_sae {d_sae}, k {k}, batch {batch}")
    page.text(*told, *notes)
    if OURS not in times.seconds:
        return
    page.table(times.table(OURS))
    for peer, limit in ((THEIRS, 2.0), (SPARSIFY, 1.5)):
        if peer in times.seconds:
            ratio = times.ratio(peer, OURS).median
            page.claim(f"{peer} / ours", ratio, limit, at_most=False)
    if {CEILING, ENCODER} <= set(times.seconds):
        share = times.ratio(CEILING, ENCODER).median
        page.claim("encoder: share of the ceiling", share, 0.6, at_most=False)
    page.lines.append("")


def sweep(page: Page, width: int, limit: float, batch: int, args: Any) -> None:
    """Eight dictionaries of mixed k; SAELens gives all of them one learning rate."""
    jobs = [Job(512, width, k, batch, 1000, 3e-4, seed=i) for i, k in enumerate(KS)]
    data = list(superposed(512, 4 * batch, seed=1).cuda().split(batch))
    told: list[str] = []

    def mine() -> Step:
        step, how = ours(jobs, list(LRS), data[0])
        told.append(f"{OURS}: {how}.")
        return step

    makers = {OURS: mine, THEIRS: lambda: sae_lens(jobs, data[0])}
    times, notes = measure(makers, data, args)
    page.heading(f"Eight dictionaries of width {width}, d_model 512, batch {batch}")
    page.text(*told, *notes)
    if set(makers) <= set(times.seconds):
        page.table(times.table(OURS))
        ratio = times.ratio(THEIRS, OURS).median
        page.claim(f"width {width}: SAELens multi / ours", ratio, limit, at_most=False)
    page.lines.append("")


def refusal() -> str | None:
    """Why nothing can be measured here; None where it can."""
    if not torch.cuda.is_available():
        return "no CUDA device: this page is measured on a GPU only; nothing was written"
    if "LENSBENCH_PEERS" not in os.environ:
        return (
            "LENSBENCH_PEERS is not set: make the folder as benchmarks/sae_peers.py says, then\n"
            "LENSBENCH_PEERS=build/peers python -m benchmarks.sae_gpu; nothing was written"
        )
    return None


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=10, help="steps per measurement")
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--shapes", type=int, nargs="+", default=[0, 1, 2], help="which of three")
    parser.add_argument("--widths", type=int, nargs="+", default=list(WIDTHS))
    args = parser.parse_args()
    reason = refusal()
    if reason is not None:
        sys.exit(reason)
    os.environ.setdefault("SPARSIFY_DISABLE_TRITON", "0")  # load_peers turns it off, for a CPU
    load_peers()
    page = Page("sae-gpu", "TopK dictionaries on a GPU", (*PACKAGES, "triton"))
    page.text(__doc__ or "")
    for index in args.shapes:
        for batch in args.batches:
            one_dictionary(page, SHAPES[index], batch, args)
            torch.cuda.empty_cache()
    for width in args.widths:
        sweep(page, width, WIDTHS.get(width, 1.0), 4096, args)
        torch.cuda.empty_cache()
    page.write()


if __name__ == "__main__":
    main()
