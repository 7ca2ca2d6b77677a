"""One training step of one TopK dictionary: this package beside SAELens and two others.

d_model 512, d_sae 8192, k 32, batch 2048, float32, one thread; with unit-norm decoder, gradient
projection, clip and dead tracking where the library has them. Prints and writes a page.
"""

import argparse

import torch

from benchmarks.harness import Page, interleave, threads
from benchmarks.sae_peers import PACKAGES, PEERS, Job, lensbench, load_peers, superposed


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--warm-steps", type=int, default=20)
    parser.add_argument("--no-page", action="store_true")
    args = parser.parse_args()
    threads(1)
    load_peers()
    job = Job(d_model=512, d_sae=8192, k=32, batch=2048, steps=1000, lr=3e-4)
    data = superposed(job.d_model, 8 * job.batch, seed=1).split(job.batch)
    trainers = {
        "lensbench (screened)": lensbench(job, data[0], "screened"),
        "lensbench (dense)": lensbench(job, data[0], "dense"),
        **{name: make(job, data[0]) for name, make in PEERS.items()},
    }
    for name, trainer in trainers.items():
        warm = args.warm_steps if name.startswith("lensbench") else 3
        for i in range(warm):
            trainer.step(data[i % len(data)])
    turn = {"at": 0}

    def advance() -> None:
        turn["at"] = (turn["at"] + 1) % len(data)

    weight, bias = torch.randn(job.d_sae, job.d_model), torch.zeros(job.d_sae)
    out = torch.empty(job.batch, job.d_sae)
    cases = {
        name: (lambda step=trainer.step: step(data[turn["at"]]))
        for name, trainer in trainers.items()
    }
    cases["encoder forward alone"] = lambda: torch.addmm(
        bias, data[turn["at"]], weight.t(), out=out
    )
    times = interleave(cases, rounds=args.rounds, before=advance)
    if args.no_page:
        for row in times.table("lensbench (dense)"):
            print(row)
        return
    page = Page("sae-step", "One step of one TopK dictionary", PACKAGES)
    page.text(__doc__ or "")
    page.text(
        "`dense` computes every pre-activation in float32. `screened` computes them in bfloat16 "
        "with a proven error bound, and in float32 all that could be among the k largest: the "
        "result is the same (tests/property/test_saes_properties.py), the cost is not. Both are "
        "float32 from there on. `encoder forward alone` is one float32 product into an existing "
        "buffer. At start-up the faster of the two is measured and chosen; without bfloat16 "
        "hardware that is `dense`."
    )
    page.table(times.table("lensbench (dense)"))
    page.heading("Limits")
    for engine in ("dense", "screened"):
        ours = f"lensbench ({engine})"
        for peer, limit in (("SAELens", 4.5), ("dictionary_learning", 4.2), ("sparsify", 1.35)):
            ratio = times.ratio(peer, ours).median
            page.claim(f"{engine}: {peer} / ours", ratio, limit, at_most=False)
        alone = times.ratio(ours, "encoder forward alone").median
        page.claim(f"{engine}: ours / encoder forward alone", alone, 1.8)
    page.write()


if __name__ == "__main__":
    main()
