"""Quality at equal tokens and equal L0: every architecture beside SAELens and dictionary_learning.

Same rows in the same order, same width, same batch, warm-up (5 %) and decay (20 %), one thread. The
data and the start are drawn anew for each of three seeds. Each trainer has its own best
learning rate of a grid, the same for all, chosen on the first seed; the grid was moved up once,
after ReLU had shown 0.001 to be hopeless in so few steps. Where one rate only was tried, it is the
one that was best for every trainer of a sister architecture (TopK for JumpReLU, BatchTopK for
Matryoshka, ReLU for Gated and p_anneal); story-llama keeps the rates of superposition. Of
dictionary_learning's two ReLU trainers the better one, April, is run on story-llama.

**L0.** Where it is not set but found (relu, jumprelu, gated, p_anneal) it must lie within 2 % of
the target: the setting named `dial` is searched, at most six trainings, then interpolated between
the two nearest runs in log L0. `trainings` counts what three seeds at the best learning rate took
(three is the least). TopK keeps k at most. BatchTopK and Matryoshka fire above a threshold after
training; the L0 of the saved dictionary is in `L0 as saved`, and all other columns are for one
threshold set anew on training rows, alike for all libraries, so that k latents fire.

**Intervals** are 95 % Student intervals of the log ratio (or the difference) over seeds, which
share their rows; with three seeds they are wide. **MMCS**: superposition: mean over true atoms of
the largest cosine with a latent; `found` is the share of atoms with 0.9 or more. Story-llama, which
has no known truth: mean over latents of the largest cosine with a latent of another seed. The
control is a dictionary of random directions at the same L0 with the scale of least error.

Limits, written before the first run: FVU at most 1.01 times the best peer's (as in sae_quality.py),
MMCS at least the best peer's less 0.005.
"""

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.harness import Page, threads
from benchmarks.sae_equal_search import Trained, World, control, train_all
from benchmarks.sae_equal_trainers import DL, OURS, SET, Dial, trainers
from benchmarks.sae_peers import load_peers
from lensbench.worlds.matching import cosines
from lensbench.worlds.superposition import SuperpositionWorld

SEEDS = (0, 1, 2)
T_95 = 4.302653
"""Student's t for two degrees of freedom."""
PACKAGES = ("torch", "numpy", "sae-lens", "dictionary-learning")
STORY_TRAIN = 252
"""Documents of story-llama to train on; others are held out."""
RATES = {
    **dict.fromkeys(("relu", "topk"), (1e-2, 3e-3, 3e-2)),
    "batchtopk": (1e-2, 3e-3),
    **dict.fromkeys(("matryoshka", "jumprelu"), (1e-2,)),
    **dict.fromkeys(("gated", "p_anneal"), (3e-2,)),
}
"""Those of one value are what was best for every trainer of the nearest architecture above."""
FVU_LIMIT, MMCS_LIMIT = 1.01, -0.005


def superposition(keep: Path) -> World:
    """256 atoms in 64 dimensions, about 6 at a time, power law of 1/2, noise 0.05, an offset."""
    config = {"d_model": 64, "n_atoms": 256, "l0": 6.0, "profile": "power_law", "exponent": 0.5,
              "noise": 0.05, "offset": 1.0}  # fmt: skip
    world = SuperpositionWorld(config)
    drawn: dict[int, Tensor] = {}

    def order(seed: int) -> Tensor:
        if seed not in drawn:
            drawn[seed] = world.sample(400 * 512, seed=100 + seed).activations
        return drawn[seed]

    held = world.sample(16_384, seed=99).activations

    def rates(kind: str, library: str) -> tuple[float, ...]:
        del library
        return RATES[kind]

    return World("superposition", order, held, 256, 6.0, 512, rates, world.atoms, keep)


def story(keep: Path, best: dict[tuple[str, str], float]) -> World | None:
    """Residual stream after block 2 of story-llama on TinyStories, first positions left out.

    ``best`` holds the learning rates that were best on superposition.
    """
    import lensbench

    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("LENSBENCH_SHARED", default))
    if not (folder / "story-llama" / "config.json").is_file():
        return None
    model = lensbench.load_model(folder / "story-llama", certify=False)
    text = (folder / "tinystories.txt").read_text(encoding="utf-8")
    site, context, documents = "blocks.2.resid_post", 256, STORY_TRAIN + 128
    ids: list[list[int]] = []
    for document in text.split("<|endoftext|>"):
        one = model.tokenizer(document.strip(), truncation=True, max_length=context)["input_ids"]
        ids += [one] if len(one) == context else []
        if len(ids) == documents:
            break
    parts = [
        model.run(torch.tensor(ids[i : i + 32]), capture=[site], logits="none").acts[site][:, 1:]
        for i in range(0, len(ids), 32)
    ]
    x = torch.cat([part.reshape(-1, part.shape[-1]) for part in parts]).float()
    n = STORY_TRAIN * (context - 1)
    train, held = x[:n], x[n:]

    def order(seed: int) -> Tensor:
        return train[torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))]

    def rates(kind: str, library: str) -> tuple[float, ...]:
        return (best[kind, library],)

    return World("story-llama", order, held, 512, 8.0, 256, rates, None, keep)


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean and 95 % Student interval."""
    mean, half = float(np.mean(values)), T_95 * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return mean, mean - half, mean + half


def between_seeds(world: World, found: Trained) -> None:
    """MMCS between the dictionaries of the seeds; written into their runs."""
    paths = [world.decoders(str(m.run["key"])) for m in found.seeds]
    decoders = [load_file(path)["W_dec"] for path in paths]
    for i, m in enumerate(found.seeds):
        others = [cosines(decoders[i], d).amax(1).mean() for j, d in enumerate(decoders) if j != i]
        m.run["mmcs"] = float(np.mean(others))


def shown(found: Trained, name: str, digits: int = 4) -> str:
    """Mean and range over seeds."""
    values = found.values(name)
    mean, low, high = (f"{v:.{digits}f}" for v in (np.mean(values), min(values), max(values)))
    return f"{mean} ({low} to {high})"


def row(library: str, dial: Dial, found: Trained, kind: str, truth: bool) -> list[str]:
    """One line of an architecture's table."""
    how = sorted({m.how for m in found.seeds})
    recovered = [f"{np.mean(found.values('recovered')):.3f}"] if truth else []
    return [
        library,
        f"{found.lr:g}",
        "k" if kind in SET else dial.name,
        str(sum(m.trainings for m in found.seeds)),
        shown(found, "saved_l0", 2),
        shown(found, "l0", 2) + ("" if how == ["run"] else f", {' and '.join(how)}"),
        shown(found, "fvu"),
        f"{np.mean(found.values('dead')):.3f}",
        shown(found, "mmcs", 3),
        *recovered,
    ]


def compare(kind: str, found: dict[str, Trained]) -> dict[str, Any] | None:
    """Ours beside the best peer, by FVU and by MMCS."""
    usable = {n: t for n, t in found.items() if all(m.how != "not matched" for m in t.seeds)}
    peers = [n for n in usable if n != OURS]
    if OURS not in usable or not peers:
        return None
    mine = usable[OURS]
    best = min(peers, key=lambda n: float(np.mean(usable[n].values("fvu"))))
    near = max(peers, key=lambda n: float(np.mean(usable[n].values("mmcs"))))
    pairs = zip(mine.values("fvu"), usable[best].values("fvu"), strict=True)
    gaps = zip(mine.values("mmcs"), usable[near].values("mmcs"), strict=True)
    ratio = tuple(float(np.exp(v)) for v in interval([np.log(a / b) for a, b in pairs]))
    gap = interval([a - b for a, b in gaps])
    return {"kind": kind, "best": best, "near": near, "ratio": ratio, "gap": gap}


def verdict(low: float, high: float, even: float, *, less: bool) -> str:
    """What the interval says: better, worse, or cannot tell."""
    if low <= even <= high:
        return "no difference shown"
    return "better" if (high < even) == less else "worse"


def report(page: Page, world: World, all_found: dict[str, dict[str, Trained]]) -> None:
    """One world's part of the page."""
    truth = world.atoms is not None
    page.heading(world.name)
    page.text(
        f"d_model {world.held.shape[1]}, d_sae {world.d_sae}, target L0 {world.l0:g}; "
        f"{len(world.order(0))} training rows in batches of {world.batch}, {len(world.held)} held "
        f"out; seeds {SEEDS}. "
        f"{len(world.runs)} dictionaries were trained in all. Mean (range over seeds)."
    )
    head = ["trainer", "lr", "dial", "trainings", "L0 as saved", "L0", "FVU", "dead", "MMCS"]
    for kind, found in all_found.items():
        page.lines += [f"### {kind}", ""]
        dials = trainers(world.l0, world.held.shape[1])[kind]
        rows = [row(n, dials[n][0], t, kind, truth) for n, t in found.items()]
        page.table([[*head, *(["found"] if truth else [])], *rows])
    chance = control(world.d_sae, world.l0, world.held, world.atoms)
    said = f", MMCS {chance['mmcs']:.3f}, found {chance['recovered']:.3f}" if truth else ""
    page.text(f"Control, random directions: L0 {chance['l0']:.2f}, FVU {chance['fvu']:.4f}{said}.")
    results = [c for kind, found in all_found.items() if (c := compare(kind, found)) is not None]
    page.table(
        [
            ["architecture", "FVU / best peer's", "interval", "", "MMCS minus best peer's",
             "interval", ""],
            *[
                [
                    c["kind"],
                    f"{c['ratio'][0]:.3f} ({c['best']})",
                    f"{c['ratio'][1]:.3f} to {c['ratio'][2]:.3f}",
                    verdict(c["ratio"][1], c["ratio"][2], 1.0, less=True),
                    f"{c['gap'][0]:+.3f} ({c['near']})",
                    f"{c['gap'][1]:+.3f} to {c['gap'][2]:+.3f}",
                    verdict(c["gap"][1], c["gap"][2], 0.0, less=False),
                ]
                for c in results
            ],
        ]
    )  # fmt: skip
    for c in results:
        page.claim(f"{c['kind']}: FVU / best peer's", c["ratio"][0], FVU_LIMIT)
        page.claim(f"{c['kind']}: MMCS minus best's", c["gap"][0], MMCS_LIMIT, at_most=False)
    page.lines.append("")
    if truth:
        by_rate(page, all_found)


def by_rate(page: Page, all_found: dict[str, dict[str, Trained]]) -> None:
    """What the learning rates were chosen by."""
    page.text(
        "FVU of the first seed at the target L0, by learning rate (first look: a line "
        "through the two nearest runs):"
    )
    scores = [(kind, n, t.by_rate) for kind, found in all_found.items() for n, t in found.items()]
    rates = sorted({rate for *_, by in scores for rate in by})
    body = [[k, n, *[f"{by[r]:.4f}" if r in by else "" for r in rates]] for k, n, by in scores]
    page.table([["architecture", "trainer", *[f"{r:g}" for r in rates]], *body])


def main() -> None:
    """Train what is not yet trained, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, default=Path("sae-equal-l0"))
    parser.add_argument("--only", nargs="*", default=[], help="architectures")
    parser.add_argument("--story", nargs="*", default=None, help="architectures on story-llama")
    args = parser.parse_args()
    threads(1)
    load_peers()
    page = Page("sae-equal-l0", "Quality of every architecture at equal L0", PACKAGES)
    page.text(__doc__ or "")
    best: dict[tuple[str, str], float] = {}
    for name in ("superposition", "story-llama"):
        if name == "story-llama" and args.story == []:
            page.text("story-llama: left out of this run (--story).")
            continue
        world = superposition(args.keep) if not best else story(args.keep, best)
        if world is None:
            page.text(f"{name}: left out, its shared data is not here (see LENSBENCH_SHARED).")
            continue
        found: dict[str, dict[str, Trained]] = {}
        truth = world.atoms is not None
        known = trainers(world.l0, world.held.shape[1])
        wanted = args.only or list(known)
        for kind in wanted if truth or not args.story else args.story:
            libraries = known[kind]
            found[kind] = {
                n: train_all(world, kind, n, dial, make, SEEDS)
                for n, (dial, make) in libraries.items()
                if truth or (n, kind) != (DL, "relu")
            }
            if not truth:
                for trained in found[kind].values():
                    between_seeds(world, trained)
        best |= {(kind, n): t.lr for kind, row_ in found.items() for n, t in row_.items()}
        report(page, world, found)
        if left := sorted(set(known) - set(found)):
            page.text(f"Not run here: {', '.join(left)}.")
    page.write()


if __name__ == "__main__":
    main()
