"""A residual patching sweep over (layer, position) beside TransformerLens and nnsight.

``python -m benchmarks.patching``: one prompt pair of 32 tokens, 12 layers, one thread, CPU time,
cases interleaved in one process, ratios within rounds. The clean run is captured beforehand by
every library alike; each case gives the last logits under every patch and is checked against the
others. At d_model 768 every fourth position is patched (96 of 384 runs), as a whole sweep of the
slowest peer takes minutes.
"""

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks import peers
from benchmarks.harness import Page, Timings, interleave, threads
from lensbench.ops import Set
from lensbench.plan import Edit, Plan
from lensbench.sites import Site

OURS, LENS, LENS_PATCHING = "lensbench run_many", "TransformerLens loop", "TransformerLens patching"
TRACES, INVOKES = "nnsight, a trace per patch", "nnsight, batched invokes"
PACKAGES = ("torch", "transformers", "transformer-lens", "nnsight")
LAYERS, POSITIONS = 12, 32
LIMITS = {
    768: {LENS: 3.0, TRACES: 2.3, INVOKES: 1.4},
    64: {LENS_PATCHING: 14.0, TRACES: 7.0, INVOKES: 2.0},
}
"""How many times faster than each peer the sweep has to be."""
GAP = 2e-6
"""Largest difference of a logit, over the largest logit."""


def ours(
    hf: Any, clean: Tensor, corrupted: Tensor, where: Sequence[tuple[int, int]], size: int
) -> Callable[[], Tensor]:
    """Every patch a row of one batch."""
    import lensbench

    model = lensbench.load_model(copy.deepcopy(hf), certify=False)
    sites = [Site("resid_pre", layer) for layer in range(LAYERS)]
    acts = model.run(clean, capture=sites, logits="none").acts

    def sweep() -> Tensor:
        plans = [
            Plan((Edit(sites[layer], Set(acts[sites[layer]][0, p]), positions=(p,)),))
            for layer, p in where
        ]
        out = model.run_many(corrupted, plans, logits="last", batch_size=size).logits
        assert out is not None
        return out[:, -1]

    return sweep


def lens_loop(
    hooked: Any, clean: Tensor, corrupted: Tensor, where: Sequence[tuple[int, int]]
) -> Callable[[], Tensor]:
    """``run_with_hooks`` once per patch, as ``transformer_lens.patching`` does."""
    _, cache = hooked.run_with_cache(clean, names_filter=lambda n: n.endswith("hook_resid_pre"))

    def sweep() -> Tensor:
        found: list[Tensor] = []
        for layer, p in where:
            name = f"blocks.{layer}.hook_resid_pre"

            def patch(x: Tensor, hook: Any, p: int = p, name: str = name) -> Tensor:
                del hook
                x[:, p] = cache[name][:, p]
                return x

            found.append(hooked.run_with_hooks(corrupted, fwd_hooks=[(name, patch)])[:, -1])
        return torch.cat(found)

    return sweep


def lens_patching(hooked: Any, clean: Tensor, corrupted: Tensor) -> Callable[[], Tensor]:
    """``patching.get_act_patch_resid_pre`` itself; its metric keeps all last logits."""
    from transformer_lens import patching

    _, cache = hooked.run_with_cache(clean, names_filter=lambda n: n.endswith("hook_resid_pre"))

    def sweep() -> Tensor:
        found: list[Tensor] = []

        def metric(logits: Tensor) -> Tensor:
            found.append(logits[:, -1])
            return logits[0, -1, 0]

        patching.get_act_patch_resid_pre(hooked, corrupted, cache, metric)
        return torch.cat(found)

    return sweep


def traces(
    hf: Any, clean: Tensor, corrupted: Tensor, where: Sequence[tuple[int, int]]
) -> Callable[[], Tensor]:
    """One nnsight trace per patch."""
    import nnsight

    wrapped = nnsight.NNsight(copy.deepcopy(hf))
    states = hf(input_ids=clean, use_cache=False, output_hidden_states=True).hidden_states

    def sweep() -> Tensor:
        found: list[Tensor] = []
        for layer, p in where:
            with wrapped.trace(corrupted, use_cache=False):
                wrapped.transformer.h[layer].input[:, p] = states[layer][:, p]
                kept = wrapped.output.logits[:, -1].save()
            found.append(kept)
        return torch.cat(found)

    return sweep


def invokes(
    hf: Any, clean: Tensor, corrupted: Tensor, where: Sequence[tuple[int, int]], size: int
) -> Callable[[], Tensor]:
    """``size`` invokes in one nnsight trace: one batch, each row with its own patch."""
    import nnsight

    wrapped = nnsight.LanguageModel(copy.deepcopy(hf), tokenizer=_tokenizer(hf.config.vocab_size))
    states = hf(input_ids=clean, use_cache=False, output_hidden_states=True).hidden_states

    def part(chosen: Sequence[tuple[int, int]]) -> Tensor:
        kept: list[Any] = []
        with wrapped.trace(use_cache=False) as tracer:
            for layer, p in chosen:
                with tracer.invoke(corrupted):
                    wrapped.transformer.h[layer].input[:, p] = states[layer][:, p]
                    kept.append(wrapped.output.logits[:, -1].save())
        return torch.cat(kept)

    def sweep() -> Tensor:
        return torch.cat([part(where[i : i + size]) for i in range(0, len(where), size)])

    return sweep


def _tokenizer(n: int) -> Any:
    """A tokenizer that is never asked to tokenise; nnsight batches only where it has one."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({str(i): i for i in range(n)}, unk_token="0"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="0", unk_token="0")


def cases(
    shape: tuple[int, int, int, int], every: int, *, patching: bool, size: int
) -> dict[str, Callable[[], Tensor]]:
    """All libraries on one set of weights, checked to agree."""
    hf = peers.gpt2(*shape)
    both = peers.tokens(2, POSITIONS, vocab=shape[-1])
    clean, corrupted = both[:1], both[1:]
    where = [(layer, p) for layer in range(LAYERS) for p in range(0, POSITIONS, every)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hooked = peers.hooked_transformer(hf)
    found = {
        OURS: ours(hf, clean, corrupted, where, 64),
        LENS: lens_loop(hooked, clean, corrupted, where),
        TRACES: traces(hf, clean, corrupted, where),
        INVOKES: invokes(hf, clean, corrupted, where, size),
    }
    if patching:
        found[LENS_PATCHING] = lens_patching(hooked, clean, corrupted)
    first = found[OURS]()
    for name, case in found.items():
        gap = float((case() - first).abs().max() / first.abs().max())
        print(name, "differs by", gap, flush=True)
        assert gap < GAP * (1 if "nnsight" in name or name == OURS else 10), (name, gap)
    return found


def report(page: Page, timings: Timings, d_model: int) -> None:
    """Ratios to ours, and whether they reach what is asked."""
    page.table(
        [
            ["case", "time / ours, median (quartiles over rounds)"],
            *[
                [name, timings.ratio(name, OURS).show(digits=2)]
                for name in timings.seconds
                if name != OURS
            ],
        ]
    )
    for name, limit in LIMITS[d_model].items():
        page.claim(
            f"d {d_model}: {name} / ours", timings.ratio(name, OURS).median, limit, at_most=False
        )
    page.lines.append("")


def main() -> None:
    """Measure both widths and write the page."""
    threads()
    page = Page("patching", "Residual patching sweep over every layer and position", PACKAGES)
    page.text(__doc__ or "")
    with torch.no_grad():
        page.heading("12 layers, d_model 64, vocabulary 512, 384 patches")
        tiny = cases((LAYERS, 64, 4, 512), 1, patching=True, size=32)
        report(page, interleave(tiny, rounds=7, warmup=1), 64)
        page.heading("12 layers, d_model 768, vocabulary 50257, 96 patches")
        large = cases((LAYERS, 768, 12, 50257), 4, patching=False, size=8)
        report(page, interleave(large, rounds=5, warmup=0), 768)
    page.write()


if __name__ == "__main__":
    main()
