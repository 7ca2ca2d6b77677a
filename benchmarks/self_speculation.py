"""Self-speculative decoding with identical text: ours beside plain decoding and transformers.

``python -m benchmarks.self_speculation [rounds]``: models of the words language (trained here by
their recipe, a few minutes, kept under build/words) and the bundled atlas-early, one thread, CPU
time, cases interleaved in one process, ratios within rounds. Every case decodes the same prompts to
the same length and its tokens are compared with those of plain decoding.
"""

import copy
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import Page, Timings, interleave, threads

ROOT = Path(__file__).resolve().parent.parent
PLAIN, HF = "plain decoding, ours", "plain decoding, transformers"
PACKAGES = ("torch", "transformers")
EXITS = {
    "words": ((2, 4), (2, 6), (2, 10), (3, 6)),
    "atlas-early": ((1, 1), (1, 2), (2, 1), (2, 2), (2, 3)),
}
"""(exit layer, tokens drafted per round)."""
SPEEDUP = {"words": 1.5, "atlas-early": 1.2}
OVER_TRANSFORMERS = 1.3
Case = Callable[[], list[list[int]]]


def words_model(plain: bool = False) -> Path:
    """The folder of a words model, trained on first use."""
    from lensbench.worlds.training import train_world
    from lensbench.worlds.words.recipe import WordsTrainConfig

    out = ROOT / "build" / "words" / ("plain" if plain else "layerskip")
    if not (out / "model.safetensors").exists():
        config = WordsTrainConfig(out=out, width=256, plain=plain, card=False, resume=out.exists())
        train_world(config)
    return out


def words_prompts(n: int) -> list[torch.Tensor]:
    """Beginnings of documents, 24 symbols each."""
    from lensbench.worlds.words import Words

    world = Words(0)
    return [torch.tensor([world.document(24, random.Random(s))[:24]]) for s in range(n)]


def atlas_prompts(n: int) -> list[torch.Tensor]:
    """The first 12 tokens of held-out text, from one document on."""
    from lensbench.worlds.atlas import Atlas

    world = Atlas(0)
    stream = world.documents("heldout", 7)
    found: list[torch.Tensor] = []
    for _ in range(n):
        ids = [2]  # beginning of text
        while len(ids) < 12:
            ids += [world.index[word] for word in next(stream)[1]]
        found.append(torch.tensor([ids[:12]]))
    return found


def ours(
    model: Any, prompts: Sequence[torch.Tensor], n: int, exits: Sequence[tuple[int, int]]
) -> dict[str, Case]:
    """Plain decoding, fixed exits and DEL on our runner."""
    from lensbench.interventions.acceleration import dynamic_exit, fixed_exit, greedy

    cases: dict[str, Case] = {PLAIN: lambda: [list(greedy(model, p, n).new) for p in prompts]}
    for e, g in exits:
        cases[f"exit {e}, draft {g}, ours"] = lambda e=e, g=g: [
            list(fixed_exit(model, p, e, g, n).new) for p in prompts
        ]
    cases["DEL, ours"] = lambda: [list(dynamic_exit(model, p, n).new) for p in prompts]
    return cases


def transformers_cases(
    hf: Any, prompts: Sequence[torch.Tensor], n: int, exits: Sequence[tuple[int, int]]
) -> dict[str, Case]:
    """``generate``, plain and with ``assistant_early_exit``, drafting a fixed number of tokens."""

    def decode(draft: int = 0, **options: Any) -> list[list[int]]:
        config = copy.deepcopy(hf.generation_config)
        config.update(
            max_new_tokens=n, min_new_tokens=n, do_sample=False, pad_token_id=0,
            num_assistant_tokens=draft or None, num_assistant_tokens_schedule="constant",
            assistant_confidence_threshold=0.0,
        )  # fmt: skip
        rows: list[list[int]] = []
        for p in prompts:
            with torch.no_grad():
                mask = torch.ones_like(p)
                out = hf.generate(p, attention_mask=mask, generation_config=config, **options)
            rows.append(out[0, p.shape[1] :].tolist())
        return rows

    cases: dict[str, Case] = {HF: decode}
    for e, g in exits:
        cases[f"exit {e}, draft {g}, transformers"] = lambda e=e, g=g: decode(
            g, assistant_early_exit=e
        )
    return cases


def measure(
    page: Page, name: str, path: str, prompts: Sequence[torch.Tensor], n: int, rounds: int
) -> bool:
    """One model: its table and its claims."""
    import transformers

    import lensbench
    from lensbench.interventions.acceleration import fixed_exit

    model = lensbench.load_model(path, certify=False)
    hf = transformers.AutoModelForCausalLM.from_config(model.module.config).eval()
    hf.load_state_dict(model.module.state_dict())
    for config in (hf.config, hf.generation_config):  # no token ends a text, in any case
        config.eos_token_id = None
    exits = EXITS[name]
    cases = {**ours(model, prompts, n, exits), **transformers_cases(hf, prompts, n, exits)}
    wanted = cases[PLAIN]()
    for case, run in cases.items():
        assert run() == wanted, f"{case} writes another text"
    timings = interleave(cases, rounds=rounds)
    page.heading(f"{name}: {len(prompts)} prompts, {n} new tokens each")
    page.table(timings.table(to=PLAIN))
    rows: list[list[Any]] = [
        ["exit, draft", "acceptance", "tokens per round", "layer-tokens over plain"]
    ]
    for e, g in exits:
        runs = [fixed_exit(model, p, e, g, n) for p in prompts]
        drafted, kept = sum(r.drafted for r in runs), sum(r.accepted for r in runs)
        per_round = sum(len(r.new) for r in runs) / sum(len(r.rounds) for r in runs)
        layers = sum(r.counts.layer_tokens for r in runs)
        full = sum((p.shape[1] + n - 1) * model.n_layers for p in prompts)
        rows.append(
            [f"{e}, {g}", f"{kept / drafted:.3f}", f"{per_round:.2f}", f"{layers / full:.3f}"]
        )
    page.table(rows)
    return claims(page, name, timings, exits)


def claims(page: Page, name: str, timings: Timings, exits: Sequence[tuple[int, int]]) -> bool:
    """Whether the stated limits hold, for the best of our exits and for each beside its twin."""
    mine = [f"exit {e}, draft {g}, ours" for e, g in exits]
    best = timings.fastest(mine)
    speedup = timings.ratio(PLAIN, best).median
    held = [page.claim(f"{name}: speedup of {best} over our own plain decoding", speedup,
                       SPEEDUP[name], at_most=False)]  # fmt: skip
    for e, g in exits:
        twin = f"exit {e}, draft {g}, transformers"
        ratio = timings.ratio(twin, f"exit {e}, draft {g}, ours").median
        text = f"{name}: exit {e}, draft {g}: time of transformers over ours"
        held.append(page.claim(text, ratio, OVER_TRANSFORMERS, at_most=False))
    page.lines.append("")
    return all(held)


def main() -> None:
    """Measure and write the page."""
    threads()
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    page = Page("self-speculation", "Self-speculative decoding, identical text", PACKAGES)
    page.text(
        "Greedy decoding; every case gave the same tokens. transformers drafts with "
        "`assistant_early_exit`, a constant number of tokens and no confidence threshold; it runs "
        "the lower layers again when it checks. DEL chooses exit and length by itself."
    )
    measure(page, "words", str(words_model()), words_prompts(3), 160, rounds)
    measure(page, "atlas-early", "atlas-early", atlas_prompts(8), 48, rounds)
    page.write()


if __name__ == "__main__":
    main()
