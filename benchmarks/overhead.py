"""What an empty plan costs over the bare module, and what an empty pass costs in the peers.

``python -m benchmarks.overhead``: one thread, CPU time, cases interleaved in one process, ratios
taken within rounds. The interval is a 95 % percentile bootstrap of the median ratio over rounds.
"""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks import peers
from benchmarks.harness import Page, Timings, interleave, threads

BARE, OURS = "bare module", "lensbench run, empty plan"
PEERS = ("HookedTransformer", "TransformerBridge", "nnsight trace")
PACKAGES = ("torch", "transformers", "transformer-lens", "nnsight")


def interval(timings: Timings, name: str, *, draws: int = 4000) -> tuple[float, float, float]:
    """Median ratio to the bare module with a 95 % bootstrap interval over rounds."""
    pairs = zip(timings.seconds[name], timings.seconds[BARE], strict=True)
    ratios = np.asarray([a / b for a, b in pairs])
    picks = np.random.default_rng(0).integers(0, len(ratios), (draws, len(ratios)))
    low, high = np.quantile(np.median(ratios[picks], axis=1), [0.025, 0.975])
    return float(np.median(ratios)), float(low), float(high)


def cases(
    shape: tuple[int, ...], ids: torch.Tensor, *, others: bool
) -> dict[str, Callable[[], Any]]:
    """Full passes that give all logits, each on weights of its own."""
    import lensbench

    hf = peers.gpt2(*shape)
    model = lensbench.load_model(copy.deepcopy(hf), certify=False)
    found: dict[str, Callable[[], Any]] = {
        BARE: lambda: hf(input_ids=ids, use_cache=False).logits,
        OURS: lambda: model.run(ids).logits,
    }
    if others:
        found |= peer_cases(hf, ids)
    first = found[BARE]()
    for name, case in found.items():
        gap = float((case() - first).abs().max())
        assert gap < 1e-3, (name, gap)
    return found


def peer_cases(hf: Any, ids: torch.Tensor) -> dict[str, Callable[[], Any]]:
    """An empty pass of each peer."""
    import nnsight
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    hooked, plain = peers.hooked_transformer(hf), copy.deepcopy(hf)
    plain.set_attn_implementation("eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bridge = build_bridge_from_module(
            plain, "GPT2LMHeadModel", hf_config=plain.config, tokenizer=None
        )
    wrapped = nnsight.NNsight(copy.deepcopy(hf))

    def trace() -> Any:
        with wrapped.trace(ids, use_cache=False):
            kept = wrapped.output.logits.save()
        return kept  # noqa: RET504 - nnsight binds it when the block is left

    return {
        PEERS[0]: lambda: hooked(ids),
        PEERS[1]: lambda: bridge(ids, use_cache=False),
        PEERS[2]: trace,
    }


def table(page: Page, timings: Timings) -> dict[str, tuple[float, float, float]]:
    """Ratios of every case, and what they are."""
    found = {name: interval(timings, name) for name in timings.seconds}
    rows = [[n, f"{m:.3f} ({a:.3f} to {b:.3f})"] for n, (m, a, b) in found.items()]
    page.table([["case", f"x {BARE}, median (95 % interval)"], *rows])
    return found


def main() -> None:
    """Measure both shapes and write the page."""
    threads()
    page = Page("overhead", "An empty plan over the bare module", PACKAGES)
    page.text(
        "Whole passes with all logits, one thread, process CPU time, interleaved; ratios are taken "
        "within a round. Times themselves say little on a shared machine and are left out."
    )
    with torch.no_grad():
        page.heading("GPT-2-small shape, 2 x 64 tokens")
        small = interleave(
            cases((12, 768, 12, 50257), peers.tokens(2, 64), others=False), rounds=21, warmup=2
        )
        found = table(page, small)
        page.claim("upper end of the interval", found[OURS][2], 1.05)
        page.lines.append("")
        page.heading("2 layers, d_model 64, 4 x 32 tokens")
        tiny = cases((2, 64, 4, 512), peers.tokens(4, 32, vocab=512), others=True)
        found = table(page, interleave(tiny, rounds=31, warmup=3, calls=20))
        for peer in PEERS:
            page.claim(f"overhead over that of {peer}", ratio(found, peer), 1.0)
    page.write()


def ratio(found: dict[str, tuple[float, float, float]], peer: str) -> float:
    """Our overhead (median ratio - 1) over a peer's."""
    return (found[OURS][0] - 1) / (found[peer][0] - 1)


if __name__ == "__main__":
    main()
