"""A folder as someone has it after a year: many runs and stores, and one very wide dictionary.

Everything is what the package itself writes, made small and copied, so that pages open it as they
open any other; ``python -m tests.app.large_root FOLDER`` makes one to look at.
"""

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

SITE = "blocks.1.resid_post"
WIDE, WIDTH = "wide", 65_536
START = 1_700_000_000


def make_large(folder: Path, *, runs: int = 200, stores: int = 50, width: int = WIDTH) -> Path:
    """``runs`` runs of two dictionaries (every second evaluated), ``stores`` stores, one ``wide``.

    The wide dictionary (64 -> ``width``) has an evaluation with densities and labels, and a store
    of its site.
    """
    import lensbench
    from lensbench import saes
    from tests.app.tiny_root import TEXTS, save_tiny

    path = save_tiny(folder / "models" / "tiny", hidden_size=64, intermediate_size=64)
    model = lensbench.load_model(path)
    first = folder / "stores" / "s000"
    store = lensbench.capture(
        model, list(TEXTS) * 2, [SITE], out=first, dtype="float32", layout="pad", context=48
    )
    for i in range(1, stores):
        shutil.copytree(first, folder / "stores" / f"s{i:03d}")
    entry = {"architecture": "topk", "d_sae": 32, "k": [4, 8], "lr": 1e-2, "site": SITE}
    train = {"tokens": 512, "batch_size": 32, "log_every": 4}
    trained = saes.train(
        store, {"train": train, "sweep": [entry]}, out=folder / "runs" / "r000",
        model_card=store.model, progress=False,
    )  # fmt: skip
    names = [run.name for run in trained]
    bare = folder / "runs" / "r000"
    for i in range(1, runs):
        _copied_run(bare, folder / "runs" / f"r{i:03d}", i, names)
    evaluation_of(names, 32).save(bare / "evaluation")
    for i in range(2, runs, 2):
        shutil.copytree(bare / "evaluation", folder / "runs" / f"r{i:03d}" / "evaluation")
    _wide_run(bare, folder / WIDE, trained[0], width)
    return folder


def _copied_run(bare: Path, run: Path, number: int, names: list[str]) -> None:
    """A run that was begun an hour after the one before it, without its weights."""
    leave_out = shutil.ignore_patterns("result", "checkpoints")
    shutil.copytree(bare, run, ignore=leave_out)
    for name in names:
        (run / name / "result").symlink_to(bare / name / "result")
    status = json.loads((run / "status.json").read_text())
    status["state"] = "stopped" if number % 20 == 0 else "finished"
    (run / "status.json").write_text(json.dumps(status))
    os.utime(run / "sweep.yaml", (START + 3600 * number,) * 2)


def _wide_run(bare: Path, run: Path, like: Any, width: int) -> None:
    rng = np.random.default_rng(0)
    shutil.copytree(bare, run, ignore=shutil.ignore_patterns("topk-*", "evaluation"))
    name = f"topk-{width}-k8-lr0.0001-s0"
    rows = rng.normal(size=(width, 64)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    weights = {"W_enc": np.ascontiguousarray(rows.T), "W_dec": rows,
               "b_enc": np.zeros(width, np.float32), "b_dec": np.zeros(64, np.float32)}  # fmt: skip
    one = replace(like, name=name, weights=weights, k=8, folder=str(run / name),
                  config={**like.config, "d_sae": width, "name": name})  # fmt: skip
    one.save(run / name / "result")
    source = next(bare.glob("topk-*"))
    for file in ("config.json", "metrics.jsonl"):
        shutil.copy(source / file, run / name / file)
    status = json.loads((run / "status.json").read_text())
    status["dictionaries"] = {name: "finished"}
    (run / "status.json").write_text(json.dumps(status))
    os.utime(run / "sweep.yaml", (START - 3600,) * 2)
    evaluation_of([name], width, labels=400).save(run / "evaluation")


def evaluation_of(names: list[str], width: int, *, labels: int = 12) -> Any:
    """Made-up numbers in the shape that ``saes.evaluate`` gives them."""
    from lensbench.saes.evaluation.result import SAEEvaluation

    rng = np.random.default_rng(width)
    metrics = ("l0", "fvu", "dead_fraction", "ce_clean", "ce_zero_ablated", "ce_mean_ablated",
               "ce_reconstructed", "ce_recovered_zero")  # fmt: skip
    middle = np.array([8, 0.2, 0.1, 2.0, 9.0, 8.0, 2.2, 0.97])
    values = middle * (1 + 0.05 * rng.random((len(names), len(metrics))))
    values = np.stack([values, values * 0.98, values * 1.02], -1)
    table: dict[str, list[Any]] = {k: [] for k in ("name", "label", "kind", "latent", "f1",
                                                   "f1_low", "f1_high", "f1_random_dictionary",
                                                   "auroc", "n_positive")}  # fmt: skip
    for name in names:
        for i, f1 in enumerate(rng.random(labels)):
            row = (name, f"label {i}", "contextual", int(rng.integers(width)), f1, f1 * 0.9,
                   min(1.0, f1 * 1.1), f1 / 2, 0.7, 40)  # fmt: skip
            for column, value in zip(table.values(), row, strict=True):
                column.append(value)
    return SAEEvaluation(
        names=tuple(names), sites=(SITE,) * len(names), architectures=("topk",) * len(names),
        metrics=metrics, values=values, counts=np.full((len(names), len(metrics)), 100),
        undefined=np.zeros((len(names), len(metrics)), np.int64), n_tokens=20_000,
        n_documents=100, n_scored=4_000, n_sequences=100,
        density={n: np.exp(rng.normal(-7, 2, width)).clip(0, 1) for n in names},
        labels=table, split="scored on other documents than they were chosen on",
        seen=dict.fromkeys(names, "no"),
    )  # fmt: skip


if __name__ == "__main__":
    print(make_large(Path(sys.argv[1])))  # noqa: T201 - the answer of a script
