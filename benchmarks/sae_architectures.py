"""One training step of every architecture at L0 64: this package beside SAELens and another.

d_model 512, d_sae 8192, batch 2048, float32, one thread. Dictionaries start with biases (or
thresholds) that let 64 latents per token through and a learning rate that moves nothing, so that
every step costs what it costs at that L0. Prints and writes a page.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import Page, interleave, threads
from benchmarks.sae_peers import PACKAGES, Job, load_peers, sae_lens_config, superposed
from lensbench.saes.architectures import ARCHITECTURES, FixedK
from lensbench.saes.step.engines import Stepper
from lensbench.saes.step.rules.base import Now
from lensbench.saes.step.start import new_group, scale_of

L0, STILL, PREFIXES = 64, 1e-12, (1 / 16, 1 / 8, 1 / 4, 1 / 2)
LIMIT = 1.5
MEASURED = ("batchtopk", "matryoshka", "jumprelu", "gated", "relu", "p_anneal", "tied")
CLAIMED = ("matryoshka", "jumprelu", "gated")


def ours(kind: str, job: Job, first: Tensor) -> Callable[[Tensor], Any]:
    """A step of one architecture, dictionary by dictionary, dense encoder."""
    cls: Any = ARCHITECTURES[kind]
    fixed = issubclass(cls, FixedK)
    config = cls(name=kind, d_sae=job.d_sae, lr=STILL, **({"k": L0} if fixed else {}))
    group = new_group([config], "s", first, scale_of(first))
    if not fixed:
        own = group.own(0)
        pre = (first[:512] * group.scale - own["b_dec"]) @ own["W_enc"].t()
        cut = float(torch.topk(pre.flatten(), L0 * len(pre), sorted=False)[0].min())
        if kind == "jumprelu":
            own["threshold"].fill_(cut / job.d_model**0.5)
        else:
            own["b_enc"].fill_(-cut)
    stepper, state = Stepper(group, "dense"), {"step": 0}

    def step(x: Tensor) -> None:
        stepper.step(x, [STILL], Now(state["step"], job.steps))
        state["step"] += 1
        l0 = float(group.sums[0, 2])
        assert state["step"] > 1 or 0.5 * L0 < l0 < 2 * L0, f"{kind}: L0 {l0}"

    return step


def sae_lens(kind: str, job: Job) -> Callable[[Tensor], Any] | None:
    """The same through ``SAETrainer.step``; None for what SAELens does not train."""
    import sae_lens as lib
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(0)
    size = {"d_in": job.d_model, "d_sae": job.d_sae}
    widths = [round(share * job.d_sae) for share in (*PREFIXES, 1)]
    made: dict[str, Callable[[], Any]] = {
        "batchtopk": lambda: lib.BatchTopKTrainingSAE(lib.BatchTopKTrainingSAEConfig(**size, k=L0)),
        "matryoshka": lambda: lib.MatryoshkaBatchTopKTrainingSAE(
            lib.MatryoshkaBatchTopKTrainingSAEConfig(**size, k=L0, matryoshka_widths=widths)
        ),
        "jumprelu": lambda: lib.JumpReLUTrainingSAE(lib.JumpReLUTrainingSAEConfig(**size)),
        "gated": lambda: lib.GatedTrainingSAE(lib.GatedTrainingSAEConfig(**size)),
        "relu": lambda: lib.StandardTrainingSAE(lib.StandardTrainingSAEConfig(**size)),
    }
    if kind not in made:
        return None
    trainer = SAETrainer(cfg=sae_lens_config(job), sae=made[kind](), data_provider=iter(()))

    def step(x: Tensor) -> None:
        trainer.step(x)
        trainer.n_training_steps += 1

    return step


def dictionary_learning(kind: str, job: Job) -> Callable[[Tensor], Any] | None:
    """The same through ``Trainer.update``; None for what that library does not train."""
    from dictionary_learning import trainers as lib
    from dictionary_learning.trainers.jumprelu import JumpReluTrainer
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
    from dictionary_learning.trainers.p_anneal import PAnnealTrainer

    shares = [a - b for a, b in zip((*PREFIXES, 1.0), (0.0, *PREFIXES), strict=True)]
    made: dict[str, tuple[Any, dict[str, Any]]] = {
        "batchtopk": (lib.BatchTopKTrainer, {"k": L0}),
        "matryoshka": (MatryoshkaBatchTopKTrainer, {"k": L0, "group_fractions": shares}),
        "jumprelu": (JumpReluTrainer, {"target_l0": float(L0)}),
        "gated": (lib.GatedSAETrainer, {}),
        "relu": (lib.StandardTrainer, {}),
        "p_anneal": (PAnnealTrainer, {"anneal_start": 1 << 30, "steps": 1 << 31}),
    }
    if kind not in made:
        return None
    trainer_class, changes = made[kind]
    common = {"steps": job.steps, "activation_dim": job.d_model, "dict_size": job.d_sae,
              "layer": 0, "lm_name": "none", "lr": job.lr, "device": "cpu", "seed": 0}  # fmt: skip
    trainer = trainer_class(**(common | changes))
    state = {"step": 0}

    def step(x: Tensor) -> None:
        trainer.update(state["step"], x)
        state["step"] += 1

    return step


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-page", action="store_true")
    args = parser.parse_args()
    threads(1)
    load_peers()
    job = Job(d_model=512, d_sae=8192, k=L0, batch=2048, steps=100_000, lr=3e-4)
    data = superposed(job.d_model, 4 * job.batch, seed=1).split(job.batch)
    page = Page("sae-architectures", "One step of every architecture at L0 64", PACKAGES)
    page.text(__doc__ or "")
    limits: list[tuple[str, float]] = []
    for kind in MEASURED:
        steps = {"lensbench": ours(kind, job, data[0])}
        for name, make in (("SAELens", sae_lens), ("dictionary_learning", dictionary_learning)):
            if (found := make(kind, job)) is not None:
                steps[name] = found
        for step in steps.values():
            step(data[0])
            step(data[1])
        turn = {"at": 0}

        def advance(turn: dict[str, int] = turn) -> None:
            turn["at"] = (turn["at"] + 1) % len(data)

        cases = {
            name: (lambda step=step, turn=turn: step(data[turn["at"]]))
            for name, step in steps.items()
        }
        times = interleave(cases, rounds=args.rounds, before=advance)
        page.heading(kind)
        page.table(times.table("lensbench"))
        for row in times.table("lensbench"):
            print(kind, row, flush=True)
        peers = [times.ratio(name, "lensbench").median for name in steps if name != "lensbench"]
        if kind in CLAIMED:
            limits.append((kind, min(peers)))
    page.heading("Limits")
    for kind, ratio in limits:
        page.claim(f"{kind}: fastest peer / ours", ratio, LIMIT, at_most=False)
    if not args.no_page:
        page.write()


if __name__ == "__main__":
    main()
