"""How long training waits for its data, by where the data come from.

One TopK dictionary on activations of width 768. A store of float16 rows, streamed, read ahead by a
thread, and held in the memory of the device; on a GPU also a model of GPT-2-small shape with random
weights, its block 6, through a mixing buffer, with and without reading ahead. The share is what a
run reports itself (``wait_fraction``): an upper bound of what faster data could save. Without
reading ahead, all reading is waiting. Cases take turns in an order drawn anew each round.
"""

import argparse
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import Page, Spread, device_name, threads
from benchmarks.peers import gpt2

D, SITE, LIVE, LIMIT = 768, "blocks.0.resid_post", "blocks.6.resid_post", 0.05


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    args = parser.parse_args()
    gpu = device_name() != "cpu"
    if not gpu:
        threads(1)
    width, batch = (24576, 8192) if gpu else (2048, 2048)
    with tempfile.TemporaryDirectory() as folder:
        cases = _cases(Path(folder), gpu=gpu, batch=batch)
        shares: dict[str, list[float]] = {name: [] for name in cases}
        seconds: dict[str, list[float]] = {name: [] for name in cases}
        order = random.Random(0)
        for turn in range(-1, args.rounds):
            names = list(cases)
            order.shuffle(names)
            for name in names:
                out = Path(folder) / f"{name}-{turn}"
                share, taken = _run(*cases[name], width, batch, args.steps, out)
                if turn >= 0:
                    shares[name].append(share)
                    seconds[name].append(taken)
    page = Page("sae-streaming", "Waiting for data")
    page.text(__doc__ or "")
    page.text(f"d_sae {width}, k 32, batch {batch}, {args.steps} steps, {args.rounds} rounds.")
    held = seconds["store, in memory"]
    rows = [["case", "share of time waiting, median (quartiles)", "time x that of rows in memory"]]
    for name in cases:
        ratio = Spread.of([a / b for a, b in zip(seconds[name], held, strict=True)])
        rows.append([name, Spread.of(shares[name]).show(), ratio.show()])
    page.table(rows)
    for name in ("store, in memory", "store, read ahead"):
        page.claim(f"share of waiting, {name}", Spread.of(shares[name]).median, LIMIT)
    page.write()


def _cases(folder: Path, *, gpu: bool, batch: int) -> dict[str, tuple[Any, str, dict[str, Any]]]:
    import lensbench
    from tests.store_builder import build

    n = 60 * batch
    values = np.random.default_rng(0).normal(size=(n, D)).astype(np.float32)
    store = build(folder / "store", {SITE: values}, [n // 4] * 4, dtype="float16")
    stream = {"in_memory": False}
    stored: dict[str, tuple[Any, str, dict[str, Any]]] = {
        "store, streamed": (lambda: store, SITE, stream | {"read_ahead": 0}),
        "store, read ahead": (lambda: store, SITE, stream | {"read_ahead": 2}),
        "store, in memory": (lambda: store, SITE, {"in_memory": True}),
    }
    if not gpu:
        return stored
    model = lensbench.load_model(gpt2().to("cuda", torch.bfloat16), certify=False)
    ids = torch.randint(0, 50000, (4096, 128), generator=torch.Generator().manual_seed(1))

    def live() -> Any:
        return lensbench.live_source(model, ids, LIVE, batch_size=16, mixing=4 * batch)

    return stored | {
        "model, mixed": (live, LIVE, {"read_ahead": 0}),
        "model, mixed, read ahead": (live, LIVE, {"read_ahead": 2}),
    }


def _run(
    source: Any, site: str, how: dict[str, Any], width: int, batch: int, steps: int, out: Path
) -> tuple[float, float]:
    """Share of waiting and seconds of one run."""
    from lensbench import saes

    train = {"tokens": steps * batch, "batch_size": batch, "engine": "dense", "log_every": steps}
    entry = {"architecture": "topk", "d_sae": width, "k": 32, "site": site}
    run = saes.train(source(), {"train": train | how, "sweep": [entry]}, out=out, progress=False)[0]
    status = json.loads((out / "status.json").read_text(encoding="utf-8"))
    return float(status["wait_fraction"]), float(run.history["seconds"][-1])


if __name__ == "__main__":
    main()
