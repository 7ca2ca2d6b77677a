"""Text to eight dictionaries: the model's forward and eight TopK steps, beside SAELens.

GPT-2-small shape with random weights, output of block 8, width 8192, 16 x 128 tokens a step, one
thread, float32. Ours is a live source (shuffled, early stop) feeding the sweep. SAELens' side is
its ActivationsStore's ``get_activations`` (early stop) feeding the body of MultiSAETrainer.fit; its
mixing buffer is left out, which favours it.
"""

import argparse

import torch

from benchmarks.harness import Page, interleave, threads
from benchmarks.peers import gpt2, sae_lens_store
from benchmarks.sae_peers import PACKAGES, load_peers
from benchmarks.sae_sweep import ours, theirs

LAYER, WIDTH, D_MODEL, ROWS, CONTEXT = 8, 8192, 768, 16, 128


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    threads(1)
    load_peers()
    import copy

    import lensbench

    ids = torch.randint(0, 50000, (8 * ROWS, CONTEXT), generator=torch.Generator().manual_seed(1))
    hf = gpt2()
    model = lensbench.load_model(copy.deepcopy(hf), certify=False)
    source = lensbench.live_source(
        model, ids, [f"blocks.{LAYER}.resid_post"], batch_size=ROWS, buffer_rows=ROWS * CONTEXT
    )
    stream = source.batches(ROWS * CONTEXT)
    first = next(stream)[f"blocks.{LAYER}.resid_post"]
    step, how = ours(WIDTH, first, None)
    peer_step = theirs(WIDTH, ROWS * CONTEXT, D_MODEL)
    peer_acts = sae_lens_store(hf, LAYER, ids)
    turn = {"at": 0}

    def lensbench_case() -> None:
        step(next(stream)[f"blocks.{LAYER}.resid_post"])

    def sae_lens_case() -> None:
        turn["at"] = (turn["at"] + ROWS) % len(ids)
        batch = ids[turn["at"] : turn["at"] + ROWS]
        peer_step(peer_acts(batch).reshape(-1, D_MODEL))

    times = interleave(
        {"lensbench": lensbench_case, "SAELens multi": sae_lens_case}, rounds=args.rounds, warmup=1
    )
    page = Page("sae-text", "Text to eight dictionaries", PACKAGES)
    page.text(__doc__ or "")
    page.text(f"Engine chosen at start-up: {how}.")
    page.table(times.table("lensbench"))
    ratio = times.ratio("SAELens multi", "lensbench").median
    page.claim("SAELens multi / lensbench", ratio, 2.5, at_most=False)
    page.write()


if __name__ == "__main__":
    main()
