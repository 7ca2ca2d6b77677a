"""Peak memory of capture: against the peers, and against the size of the corpus.

``python -m benchmarks.memory`` starts one process per case: load, warm up on a few tokens, reset
the peak counter of the kernel, do the work, read the peak. Linux only (``/proc/self``).
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.harness import Page, Spread

PEERS = ("bare forward", "output_hidden_states", "nnsight", "TransformerLens")
OURS = ("lensbench run", "lensbench capture to disk")
REPEATS = 7


def resident(key: str) -> float:
    """``VmRSS`` (now) or ``VmHWM`` (peak since the last reset) of this process, MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"no {key} in /proc/self/status")


def peak_of(work: Any) -> float:
    """Extra MiB at the peak of ``work()`` over what was resident before it."""
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    work()
    return resident("VmHWM") - before


def one_case(name: str) -> float:
    """All 12 blocks at GPT-2-small shape, 16 x 128 tokens, in a process of its own."""
    import nnsight
    import torch

    import lensbench
    from benchmarks import peers

    torch.set_num_threads(1)
    hf, ids, warm = peers.gpt2(), peers.tokens(seed=3), peers.tokens(1, 4, seed=4)
    n = hf.config.n_layer
    sites = [f"blocks.{i}.resid_post" for i in range(n)]
    if name == "TransformerLens":
        capture = peers.transformer_lens_all(peers.hooked_transformer(hf))
    elif name == "nnsight":
        capture = peers.nnsight_all(nnsight.NNsight(hf), n)
    elif name == "lensbench run":
        capture = peers.lensbench_run(lensbench.load_model(hf, certify=False), sites)
    elif name == "lensbench capture to disk":
        return to_disk(lensbench.load_model(hf, certify=False), sites, ids, warm)
    else:

        def capture(batch: torch.Tensor) -> Any:
            with torch.no_grad():
                return hf(input_ids=batch, output_hidden_states=name == "output_hidden_states")

    capture(warm)
    kept: list[Any] = []
    return peak_of(lambda: kept.append(capture(ids)))


def to_disk(model: Any, sites: list[str], ids: Any, warm: Any) -> float:
    """The same batch through ``lensbench.capture`` into a store."""
    import lensbench

    def capture(batch: Any, folder: Path) -> None:
        lensbench.capture(
            model, batch, sites, out=folder, layout="pad", context=128, batch_size=len(batch)
        )

    with tempfile.TemporaryDirectory() as folder:
        capture(warm, Path(folder) / "warm")
        return peak_of(lambda: capture(ids, Path(folder) / "store"))


def corpus_case(documents: int) -> float:
    """Capture of a small model over a text file of so many stories, to disk."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    import lensbench
    from benchmarks import peers

    torch.set_num_threads(1)
    words = [f"w{i}" for i in range(500)]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="w0"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="w1")
    model = lensbench.load_model(peers.gpt2(2, 64, 4, 512), tokenizer=tokenizer, certify=False)
    story = " ".join(words[i * 7 % 500] for i in range(200))
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        with text.open("w") as file:
            for _ in range(documents):
                file.write(story + "\n<|endoftext|>\n")
        every = [f"blocks.{i}.{s}" for i in (0, 1) for s in ("resid_mid", "mlp_out", "resid_post")]
        lensbench.capture(model, text, every, out=Path(folder) / "warm", max_tokens=100_000)
        return peak_of(lambda: lensbench.capture(model, text, every, out=Path(folder) / "store"))


def measure(*arguments: str) -> Spread:
    """Median over several processes of one case."""
    found: list[float] = []
    for _ in range(REPEATS):
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.memory", *arguments]
        out = subprocess.run(command, capture_output=True, text=True, check=True)
        found.append(json.loads(out.stdout.splitlines()[-1]))
    print(arguments, found, file=sys.stderr, flush=True)
    return Spread.of(found)


def main() -> None:
    """Measure everything and write the page; or, as a child, print one number."""
    if len(sys.argv) > 1:
        case = sys.argv[2]
        print(json.dumps(corpus_case(int(case)) if sys.argv[1] == "corpus" else one_case(case)))
        return
    page = Page(
        "memory", "Capture: memory", ("torch", "transformers", "nnsight", "transformer-lens")
    )
    page.text(
        "Peak resident memory over what was resident before the measured call, MiB; every case in "
        f"a process of its own, {REPEATS} times; median (quartiles)."
    )
    page.heading("Output of all 12 blocks, GPT-2-small shape, 16 x 128 tokens, one batch")
    extra = {name: measure("case", name) for name in (*PEERS, *OURS)}
    page.table([["case", "extra MiB"], *[[n, s.show(digits=0)] for n, s in extra.items()]])
    for ours in OURS:
        for peer in PEERS[1:]:
            ratio = extra[ours].median / extra[peer].median
            page.claim(f"extra memory of {ours} over {peer}", ratio, 0.45)
    page.lines.append("")
    page.heading("Corpus size: capture of six sites (d_model 64) from a text file to disk")
    sizes = (2_500, 25_000)
    grown = {n: measure("corpus", str(n)) for n in sizes}
    page.table(
        [["documents of 200 words", "extra MiB"], *[[n, grown[n].show(digits=1)] for n in sizes]]
    )
    ratio = grown[sizes[1]].median - grown[sizes[0]].median
    page.claim("MiB more for a corpus ten times as large", ratio, 16)
    page.write()


if __name__ == "__main__":
    main()
