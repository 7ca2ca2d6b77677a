"""Eight TopK dictionaries on one stream: this package's sweep beside SAELens' MultiSAETrainer.

k 16, 24, 32, 32, 48, 64, 32, 32; eight learning rates; eight seeds. Batch 2048, d_model 512,
float32, one thread; one shared batch per step. SAELens takes one learning rate for all.
"""

import argparse
from collections.abc import Callable
from typing import Any

from torch import Tensor

from benchmarks.harness import Page, interleave, threads
from benchmarks.sae_peers import (
    DEAD_REFRESH,
    PACKAGES,
    Job,
    load_peers,
    sae_lens_config,
    sae_lens_sae,
    superposed,
)
from lensbench.saes.architectures import TopKConfig
from lensbench.saes.step.encode import Workspace
from lensbench.saes.step.engines import Stepper, choose
from lensbench.saes.step.rules.base import Now
from lensbench.saes.step.start import new_group, scale_of

KS = (16, 24, 32, 32, 48, 64, 32, 32)
LRS = (1e-4, 2e-4, 3e-4, 4e-4, 5e-4, 6e-4, 8e-4, 1e-3)
NEVER = 10**9


def ours(width: int, first: Tensor, engine: str | None) -> tuple[Callable[[Tensor], Any], str]:
    """A step of the sweep, and how its engine was chosen."""
    configs = [
        TopKConfig(name=f"d{i}", d_sae=width, k=k, lr=lr, seed=i)
        for i, (k, lr) in enumerate(zip(KS, LRS, strict=True))
    ]
    group, space = new_group([*configs], "s", first, scale_of(first)), Workspace()
    how = "given"
    if engine is None:
        engine, how = choose(group, first, space)
    stepper = Stepper(group, engine, space)  # pyright: ignore[reportArgumentType] - a name
    state = {"step": 0}

    def step(x: Tensor) -> None:
        if state["step"] % DEAD_REFRESH == 0:
            group.refresh_dead([NEVER] * group.n)
        stepper.step(x, list(LRS), Now(state["step"], NEVER))
        state["step"] += 1

    return step, how


def theirs(width: int, batch: int, d_model: int = 512) -> Callable[[Tensor], Any]:
    """A step of SAELens' MultiSAETrainer: the body of its ``fit`` without the progress bar."""
    from sae_lens.training.multi_sae_trainer import MultiSAETrainer

    jobs = [Job(d_model, width, k, batch, 1000, 3e-4, seed=i) for i, k in enumerate(KS)]
    saes = {f"d{i}": sae_lens_sae(job) for i, job in enumerate(jobs)}
    trainer = MultiSAETrainer(
        cfg=sae_lens_config(jobs[0]),
        saes=saes,
        hook_names=dict.fromkeys(saes, "s"),
        data_provider=iter(()),
    )

    def step(x: Tensor) -> None:
        for one in trainer.trainers.values():
            one.step(x)
            one.n_training_steps += 1

    return step


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--widths", type=int, nargs="+", default=[2048, 8192])
    args = parser.parse_args()
    threads(1)
    load_peers()
    page = Page("sae-sweep", "Eight TopK dictionaries on one stream", PACKAGES)
    page.text(__doc__ or "")
    for width in args.widths:
        data = superposed(512, 4 * 2048, seed=1).split(2048)
        chosen, how = ours(width, data[0], None)
        dense, _ = ours(width, data[0], "dense")
        peer = theirs(width, 2048)
        steps = {"lensbench (chosen)": chosen, "lensbench (dense)": dense, "SAELens multi": peer}
        for name, step in steps.items():
            for i in range(8 if name.startswith("lensbench") else 1):
                step(data[i % len(data)])
        turn = {"at": 0}

        def advance(turn: dict[str, int] = turn, n: int = len(data)) -> None:
            turn["at"] = (turn["at"] + 1) % n

        cases = {
            name: (lambda step=step, data=data, turn=turn: step(data[turn["at"]]))
            for name, step in steps.items()
        }
        times = interleave(cases, rounds=args.rounds, before=advance, warmup=0)
        page.heading(f"Width {width}")
        page.text(f"Chosen at start-up: {how}.")
        page.table(times.table("lensbench (chosen)"))
        limit = 3.3 if width == 2048 else 4.7
        for name in ("lensbench (chosen)", "lensbench (dense)"):
            ratio = times.ratio("SAELens multi", name).median
            page.claim(f"width {width}: SAELens multi / {name}", ratio, limit, at_most=False)
        page.lines.append("")
    page.write()


if __name__ == "__main__":
    main()
