"""Peak memory at 2048 tokens with one attention pattern captured, against TransformerLens' bridge.

``python -m benchmarks.long_context`` starts one process per case (see ``benchmarks.memory``): build
a GPT-2-small shape with random weights and a context of 2048, warm up on a few tokens, reset the
kernel's peak counter, capture the pattern of layer 5, read the peak. Linux only.
"""

import json
import subprocess
import sys
import warnings
from typing import Any

from benchmarks.harness import Page, Spread
from benchmarks.memory import peak_of

LENGTH, LAYER, REPEATS = 2048, 5, 3
OURS = ("lensbench run, last logits", "lensbench run, all logits", "lensbench run, stopped")
BRIDGE = ("bridge", "bridge, stopped")
BARE = "bare forward, last logits (sdpa)"
CASES = (BARE, *OURS, *BRIDGE)


def network() -> Any:
    """GPT-2 small with 2048 positions, random weights, on sdpa."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(n_positions=LENGTH, attn_implementation="sdpa")).eval()


def bridge_of(hf: Any) -> Any:
    """The bridge a TransformerLens user builds around a module in memory."""
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    hf.set_attn_implementation("eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return build_bridge_from_module(hf, "GPT2LMHeadModel", hf_config=hf.config, tokenizer=None)


def capture_of(name: str) -> Any:
    """A callable from ids to the pattern ``[batch, head, query, key]`` of one layer."""
    import torch

    import lensbench

    hf = network()
    if name in BRIDGE:
        bridge, hook = bridge_of(hf), f"blocks.{LAYER}.attn.hook_pattern"
        stop = {"stop_at_layer": LAYER + 1} if "stopped" in name else {}

        def cached(ids: torch.Tensor) -> Any:
            with torch.no_grad():
                return bridge.run_with_cache(ids, names_filter=[hook], **stop)[1][hook]

        return cached
    if name in OURS:
        model, site = lensbench.load_model(hf, certify=False), f"blocks.{LAYER}.attn.pattern"
        mode = "none" if "stopped" in name else "all" if "all" in name else "last"
        return lambda ids: model.run(ids, capture=site, logits=mode).acts[site]

    def bare(ids: torch.Tensor) -> Any:
        with torch.no_grad():
            return hf(input_ids=ids, use_cache=False, logits_to_keep=1).logits

    return bare


def one_case(name: str) -> float:
    """Extra MiB at the peak; the pattern itself (192 MiB) is held, so it counts."""
    import torch

    from benchmarks import peers

    torch.set_num_threads(1)
    capture = capture_of(name)
    warm = capture(peers.tokens(1, 8, seed=4))
    assert name == BARE or tuple(warm.shape) == (1, 12, 8, 8)
    kept: list[Any] = []
    extra = peak_of(lambda: kept.append(capture(peers.tokens(1, LENGTH, seed=3))))
    assert name == BARE or tuple(kept[0].shape) == (1, 12, LENGTH, LENGTH)
    return extra


def measure(name: str) -> Spread:
    """Median over several processes."""
    found: list[float] = []
    for _ in range(REPEATS):
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.long_context", name]
        out = subprocess.run(command, capture_output=True, text=True, check=True)
        found.append(json.loads(out.stdout.splitlines()[-1]))
    print(name, found, file=sys.stderr, flush=True)
    return Spread.of(found)


def main() -> None:
    """Measure everything and write the page; or, as a child, print one number."""
    if len(sys.argv) > 1:
        print(json.dumps(one_case(sys.argv[1])))
        return
    page = Page(
        "long-context",
        "One attention pattern at 2048 tokens: memory",
        ("torch", "transformers", "transformer-lens"),
    )
    page.text(
        f"GPT-2-small shape, random weights, 1 x {LENGTH} tokens, pattern of layer {LAYER} "
        "captured. Peak resident memory over what was resident before the measured call, MiB; "
        f"every case in a process of its own, {REPEATS} times; median (quartiles). The pattern "
        "itself is 192 MiB of it. The bridge always makes all logits (393 MiB), every layer runs "
        "on eager attention; `stopped` ends a run after the layer."
    )
    extra = {name: measure(name) for name in CASES}
    head = ["case", "extra MiB", "x bridge", "x bridge, stopped"]
    rows = [
        [n, x.show(digits=0), *(f"{x.median / extra[b].median:.2f}" for b in BRIDGE)]
        for n, x in extra.items()
    ]
    page.table([head, *rows])
    ratio = extra[OURS[0]].median / extra[BRIDGE[0]].median
    page.claim("extra memory of a run with one pattern captured over the bridge's", ratio, 0.25)
    page.write()


if __name__ == "__main__":
    main()
