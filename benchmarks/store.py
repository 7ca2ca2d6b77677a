"""Writing and reading activations on disk, against numpy.save and SAELens' cached store.

``python -m benchmarks.store [folder]`` writes 4 shards of 65536 x 768 float16 (96 MiB each) per
case and round under ``folder`` (default: a temporary folder), everything fsynced.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from benchmarks.harness import Page, interleave, threads
from lensbench.store import ActivationStore, open_store
from lensbench.store.folder import open_folder
from lensbench.store.manifest import Manifest, SiteEntry
from lensbench.store.writer import ShardTokens, StoreWriter, begin, finish

SHARDS, ROWS, WIDTH, CONTEXT, ROUNDS = 4, 65536, 768, 128, 11
SITE = "blocks.6.resid_post"
MIB = SHARDS * ROWS * WIDTH * 2 / 2**20


def sync(path: Path) -> None:
    """Flush one file, or every file under a folder, to the disk."""
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())


def write_numpy(folder: Path, data: list[np.ndarray]) -> None:
    """``numpy.save``, one file per shard, fsynced."""
    folder.mkdir(parents=True)
    for i, shard in enumerate(data):
        np.save(folder / f"{i}.npy", shard)
        sync(folder / f"{i}.npy")


def write_store(folder: Path, data: list[np.ndarray], ids: np.ndarray) -> None:
    """Our store: activations, tokens, documents, checksums, manifest; fsynced by itself."""
    place = open_folder(folder)
    settings = {"dtype": "float16", "batch_size": 16}
    header = Manifest({"fingerprint": "m"}, {"fingerprint": None}, {"fingerprint": "t"}, settings)
    writer = StoreWriter(place, begin(place, header, {SITE: SiteEntry((WIDTH,), "d_model")}))
    every = np.ones_like(ids, dtype=bool)
    docs = np.repeat(np.arange(len(ids))[:, None], ids.shape[1], axis=1)
    for i, shard in enumerate(data):
        tokens = ShardTokens(ids, every, every, docs + i * len(ids), len(ids))
        writer.submit(i, tokens, {SITE: torch.from_numpy(shard)})
    writer.close()
    finish(place, len(data), {})


def write_sae_lens(folder: Path, data: list[np.ndarray], ids: np.ndarray) -> None:
    """SAELens' own shard maker and ``save_to_disk``, then fsync; its last step (a move) not."""
    from datasets import Array2D, Features, Sequence, Value
    from sae_lens.cache_activations_runner import CacheActivationsRunner

    features: dict[str, Any] = {SITE: Array2D(shape=(CONTEXT, WIDTH), dtype="float16")}
    features["token_ids"] = Sequence(Value(dtype="int32"), length=CONTEXT)
    runner: Any = SimpleNamespace(
        cfg=SimpleNamespace(hook_name=SITE, n_seq_in_buffer=len(ids), d_in=WIDTH),
        context_size=CONTEXT,
        features=Features(features),
    )
    for i, shard in enumerate(data):
        pair = (torch.from_numpy(shard), torch.from_numpy(ids.reshape(-1)))
        made = CacheActivationsRunner._create_shard(runner, pair)
        made.save_to_disk(str(folder / f"shard_{i:05d}"), num_shards=1)
        sync(folder / f"shard_{i:05d}")


def writing(page: Page, root: Path) -> None:
    """Wall-clock seconds to write everything."""
    import datasets

    datasets.disable_progress_bars()
    rng = np.random.default_rng(0)
    data = [rng.normal(size=(ROWS, WIDTH)).astype(np.float16) for _ in range(SHARDS)]
    ids = rng.integers(0, 50257, (ROWS // CONTEXT, CONTEXT)).astype(np.int32)

    def clean() -> None:
        shutil.rmtree(root, ignore_errors=True)
        os.sync()

    found = interleave(
        {
            "numpy.save": lambda: write_numpy(root / "npy", data),
            "lensbench store": lambda: write_store(root / "store", data, ids),
            "SAELens cached store": lambda: write_sae_lens(root / "sae", data, ids),
        },
        rounds=ROUNDS,
        clock="wall",
        before=clean,
    )
    page.heading(f"Writing {SHARDS} x {ROWS} x {WIDTH} float16 ({MIB:.0f} MiB), all fsynced")
    page.table(found.table("numpy.save", unit_scale=1, unit="s"))
    speeds = [
        [name, f"{MIB / found.spread(name).median:.0f}", f"{MIB / min(found.seconds[name]):.0f}"]
        for name in found.seconds
    ]
    page.table([["case", "MiB/s, median", "MiB/s, best"], *speeds])
    save = found.ratio("numpy.save", "lensbench store").median
    sae = found.ratio("SAELens cached store", "lensbench store").median
    page.claim("speed of the store over numpy.save", save, 0.7, at_most=False)
    page.claim("speed of the store over SAELens' cached store", sae, 4, at_most=False)
    page.lines.append("")


def reading(page: Page, root: Path) -> None:
    """CPU seconds to gather rows and to draw training batches, with the files in the page cache."""
    rng = np.random.default_rng(1)
    data = [rng.normal(size=(ROWS, WIDTH)).astype(np.float16) for _ in range(SHARDS)]
    ids = rng.integers(0, 50257, (ROWS // CONTEXT, CONTEXT)).astype(np.int32)
    shutil.rmtree(root, ignore_errors=True)
    write_store(root / "store", data, ids)
    store: ActivationStore = open_store(root / "store")
    memory = np.concatenate(data)
    picks = rng.integers(0, len(memory), 4096)
    if not np.array_equal(store.rows(SITE, picks), memory[picks].astype(np.float32)):
        raise SystemExit("the store gives other rows than were written")
    batches = store.source(SITE).batches(4096)
    next(batches)
    found = interleave(
        {
            "numpy array in memory, to float32": lambda: memory[picks].astype(np.float32),
            "store.rows": lambda: store.rows(SITE, picks),
            "store.source, next shuffled batch": lambda: next(batches),
        },
        rounds=15,
        calls=8,
        clock="wall",
    )
    page.heading("Reading 4096 rows of 768 as float32, files in the page cache")
    page.table(found.table("numpy array in memory, to float32"))


def main() -> None:
    """Write and read under the folder given."""
    threads(1)
    page = Page("store", "Activation store: writing and reading", ("torch", "numpy", "sae-lens"))
    page.text(
        "Wall-clock seconds, because a disk is waited for; cases interleaved in an order drawn "
        "anew each round, the disk flushed and the folder emptied before each (unmeasured); "
        f"{ROUNDS} rounds after one warm-up; median and quartiles. The store also writes token "
        "ids, documents and checksums, and checks every number for NaN."
    )
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        writing(page, Path(folder) / "w")
        reading(page, Path(folder) / "r")
    page.write()


if __name__ == "__main__":
    main()
