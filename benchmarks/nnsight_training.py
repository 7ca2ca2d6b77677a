"""Training a dictionary with nnsight imported beside training it without.

One TopK dictionary (d_model 256, d_sae 2048, k 16, batch 1024, float32, one thread). What an
import does is done to a process, so each case has one of its own; they take turns, in random order
in every round, and report their CPU time. Two processes of one program differ by some per cent
(where their memory lies), so every case is started anew several times, and one runs twice.
nnsight is imported as lensbench does it (torch's ``Tensor.backward`` put back) and as a user does.
"""

import argparse
import subprocess
import sys
import time
from typing import IO

import torch

from benchmarks.harness import Page, Timings, interleave, threads

CASES = {
    "without nnsight": "none",
    "without, again": "none",
    "opened by lensbench": "ours",
    "import nnsight": "theirs",
}
_STEPS = 20


def worker(case: str) -> None:
    """Train ``_STEPS`` steps for every line on stdin; answer with their CPU seconds."""
    threads(1)
    if case == "ours":
        from lensbench.models.nnsight import tool

        tool.load()
    elif case == "theirs":
        __import__("nnsight")
    from benchmarks.sae_peers import Job, lensbench

    job = Job(d_model=256, d_sae=2048, k=16, batch=1024, steps=100_000, lr=3e-4)
    data = torch.randn(8, job.batch, job.d_model, generator=torch.Generator().manual_seed(0))
    trainer = lensbench(job, data[0], "dense")
    for _ in sys.stdin:
        start = time.process_time()
        for i in range(_STEPS):
            trainer.step(data[i % len(data)])
        sys.stdout.write(f"{time.process_time() - start}\n")
        sys.stdout.flush()


def asked(process: "subprocess.Popen[str]") -> float:
    """CPU seconds of one turn of a worker."""
    into: IO[str] | None = process.stdin
    out: IO[str] | None = process.stdout
    assert into is not None
    assert out is not None
    into.write("go\n")
    into.flush()
    return float(out.readline())


def measured(rounds: int, seed: int) -> dict[str, list[float]]:
    """CPU seconds per step of every case, from processes started for it."""
    command = [sys.executable, "-m", "benchmarks.nnsight_training", "--worker"]
    workers = {
        name: subprocess.Popen(
            [*command, case], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name, case in CASES.items()
    }
    taken: dict[str, list[float]] = {name: [] for name in CASES}

    def turn(name: str) -> None:
        taken[name].append(asked(workers[name]) / _STEPS)

    cases = {name: (lambda name=name: turn(name)) for name in CASES}
    interleave(cases, rounds=rounds, warmup=1, seed=seed)  # for the order: workers tell the time
    for process in workers.values():
        process.terminate()
        process.wait()
    return {name: values[1:] for name, values in taken.items()}


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", choices=sorted(set(CASES.values())))
    parser.add_argument("--rounds", type=int, default=7, help="rounds per start of the processes")
    parser.add_argument("--starts", type=int, default=5)
    args = parser.parse_args()
    if args.worker:
        worker(args.worker)
        return
    parts = [measured(args.rounds, seed) for seed in range(args.starts)]
    seconds = {name: [s for part in parts for s in part[name]] for name in CASES}
    times = Timings(seconds, "cpu")
    page = Page("nnsight-training", "Training a dictionary with nnsight imported", ("nnsight",))
    page.text(__doc__ or "")
    page.table(times.table("without nnsight"))
    for name in list(CASES)[2:]:
        page.claim(f"{name} / without", times.ratio(name, "without nnsight").median, 1.02)
    page.write()


if __name__ == "__main__":
    main()
