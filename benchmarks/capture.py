"""Capture against hand-written hooks, nnsight, TransformerLens and SAELens' activation store.

``python -m benchmarks.capture [tiny middle all]`` times the parts named (all of them by default)
with one thread, interleaved in one process, and writes a page.
"""

import copy
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import peers
from benchmarks.harness import Page, Timings, interleave, threads

PACKAGES = ("torch", "transformers", "numpy", "nnsight", "transformer-lens", "sae-lens")
ROUNDS = 15
Case = Callable[[], Any]


def over(capture: peers.Capture, batches: list[torch.Tensor]) -> Case:
    """A case: capture every batch, keep nothing."""

    def case() -> None:
        for ids in batches:
            capture(ids)

    return case


def to_disk(model: Any, sites: list[str], batches: list[torch.Tensor], folder: Path) -> Case:
    """A case: ``lensbench.capture`` of the same batches into a new store, fsync included."""
    import lensbench

    ids = torch.cat(batches)

    def case() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        lensbench.capture(
            model,
            ids,
            sites,
            out=folder,
            layout="pad",
            context=ids.shape[1],
            batch_size=len(batches[0]),
        )

    return case


def agree(captures: dict[str, peers.Capture], ids: torch.Tensor) -> None:
    """Stop unless all captures give the same activations."""
    first: Any = None
    for name, capture in captures.items():
        found = capture(ids)
        found = torch.stack([x.float() for x in found]) if isinstance(found, list) else found
        first = found if first is None else first
        difference = float((found - first).abs().max())
        if difference > 1e-4:
            raise SystemExit(f"{name} differs by {difference}")
        print(f"{name}: max difference {difference:.1e}", file=sys.stderr)


def middle(hf: Any, layer: int, ids: torch.Tensor) -> dict[str, peers.Capture]:
    """One site in the middle, stopping there."""
    import nnsight

    import lensbench

    model = lensbench.load_model(copy.deepcopy(hf), certify=False)
    return {
        "hook and stop by hand": peers.hook_and_stop(copy.deepcopy(hf), layer),
        "nnsight": peers.nnsight_stop(nnsight.NNsight(copy.deepcopy(hf)), layer),
        "TransformerLens": peers.transformer_lens_stop(peers.hooked_transformer(hf), layer),
        "SAELens store": peers.sae_lens_store(copy.deepcopy(hf), layer, ids),
        "lensbench run": peers.lensbench_run(model, [f"blocks.{layer}.resid_post"]),
    }


def everything(hf: Any) -> dict[str, peers.Capture]:
    """The output of every block (the peers run on to the logits, as they always do)."""
    import nnsight

    import lensbench

    n = hf.config.n_layer
    model = lensbench.load_model(copy.deepcopy(hf), certify=False)
    plain = copy.deepcopy(hf)

    def hidden_states(ids: torch.Tensor) -> list[torch.Tensor]:
        with torch.no_grad():
            return list(plain(input_ids=ids, output_hidden_states=True).hidden_states[1:-1])

    def but_last(capture: peers.Capture) -> peers.Capture:
        # hidden_states[-1] has been normed; compare the blocks that all of them give plainly
        return lambda ids: capture(ids)[: n - 1]

    sites = [f"blocks.{i}.resid_post" for i in range(n)]
    return {
        "output_hidden_states": hidden_states,
        "nnsight": but_last(peers.nnsight_all(nnsight.NNsight(copy.deepcopy(hf)), n)),
        "TransformerLens": but_last(peers.transformer_lens_all(peers.hooked_transformer(hf))),
        "lensbench run": but_last(peers.lensbench_run(model, sites)),
    }


def bare(hf: Any) -> peers.Capture:
    """The model's own forward, with nothing captured."""

    def forward(ids: torch.Tensor) -> None:
        with torch.no_grad():
            hf(input_ids=ids)

    return forward


def timed(
    captures: dict[str, peers.Capture],
    hf: Any,
    sites: list[str],
    batches: list[torch.Tensor],
    rounds: int,
) -> Timings:
    """All of ``captures``, the bare forward, and capture to disk, over the same batches."""
    import lensbench

    agree(captures, batches[0])
    model = lensbench.load_model(copy.deepcopy(hf), certify=False)
    with tempfile.TemporaryDirectory() as folder:
        disk = to_disk(model, sites, batches, Path(folder) / "store")
        cases = {name: over(capture, batches) for name, capture in captures.items()}
        cases |= {"bare forward": over(bare(hf), batches), "lensbench capture to disk": disk}
        return interleave(cases, rounds=rounds, clock="cpu")


def tiny_part(page: Page) -> None:
    """Where Python is what costs: two layers, d_model 64, 4 x 32 tokens."""
    hf, batches = peers.gpt2(2, 64, 4, 211), [peers.tokens(4, 32, 211, seed=i) for i in range(512)]
    site = ["blocks.0.resid_post"]
    found = timed(middle(hf, 0, batches[0]), hf, site, batches, 2 * ROUNDS + 1)
    page.heading("Two layers, d_model 64, 512 batches of 4 x 32 tokens, output of the first block")
    page.table(found.table("bare forward"))
    for name in ("lensbench run", "lensbench capture to disk"):
        page.claim(f"{name} over bare forward", found.ratio(name, "bare forward").median, 0.65)
    page.lines.append("")


def middle_part(page: Page, hf: Any) -> None:
    """One middle site at GPT-2-small shape."""
    batches = [peers.tokens(seed=1)]
    found = timed(middle(hf, 6, batches[0]), hf, ["blocks.6.resid_post"], batches, ROUNDS)
    page.heading("GPT-2-small shape, 16 x 128 tokens, output of block 6, stopping there")
    page.table(found.table("bare forward", unit_scale=1, unit="s"))
    theirs = [n for n in found.seconds if not n.startswith(("lensbench", "bare"))]
    best = found.fastest(theirs)
    for name in ("lensbench run", "lensbench capture to disk"):
        page.claim(f"{name} over the fastest other ({best})", found.ratio(name, best).median, 1.07)
    page.lines.append("")


def all_part(page: Page, hf: Any) -> None:
    """All twelve blocks at GPT-2-small shape."""
    batches = [peers.tokens(seed=2)]
    sites = [f"blocks.{i}.resid_post" for i in range(hf.config.n_layer)]
    found = timed(everything(hf), hf, sites, batches, ROUNDS)
    page.heading("GPT-2-small shape, 16 x 128 tokens, output of all 12 blocks")
    page.table(found.table("bare forward", unit_scale=1, unit="s"))
    for peer in ("output_hidden_states", "nnsight", "TransformerLens"):
        for name in ("lensbench run", "lensbench capture to disk"):
            ratio = found.ratio(peer, name).median
            page.claim(f"throughput of {name} over {peer}", ratio, 1.4, at_most=False)
    page.lines.append("")


def main() -> None:
    """Run the parts named on the command line."""
    threads(1)
    parts = sys.argv[1:] or ["tiny", "middle", "all"]
    page = Page("-".join(["capture", *sys.argv[1:]]), "Capture: time", PACKAGES)
    page.text(
        "Process CPU seconds, one torch thread, cases interleaved in one process in an order drawn "
        f"anew each round; {ROUNDS} rounds after one warm-up ({2 * ROUNDS + 1} for the small "
        "model); median and quartiles; ratios are taken within a round. Random weights, the same "
        "in all. Before timing, all captures were checked to agree to 1e-4. `lensbench run` "
        "returns tensors as the peers do; `lensbench capture to disk` also lays the text out, "
        "converts to float16, checks for NaN, hashes, writes and fsyncs a new store, and opens it."
    )
    if "tiny" in parts:
        tiny_part(page)
    if {"middle", "all"} & set(parts):
        hf = peers.gpt2()
        if "middle" in parts:
            middle_part(page, hf)
        if "all" in parts:
            all_part(page, hf)
    page.write()


if __name__ == "__main__":
    main()
