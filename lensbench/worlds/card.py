"""The model card of a bundled model: every figure measured on the files that are shipped."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lensbench import io
from lensbench.stats import Interval
from lensbench.worlds.atlas import Atlas
from lensbench.worlds.card_page import interval, page, write_page
from lensbench.worlds.measure import (
    accuracy,
    accuracy_by_wording,
    before_key,
    floor_gap,
    induction_scores,
    io_patching,
    surprise_before,
)
from lensbench.worlds.scoring import token_losses

AIMS = {
    "facts": 0.95,
    "recall": 0.95,
    "ioi": 0.95,
    "induction": 0.95,
    "agreement": 0.95,
    "comparison": 0.90,
    "analogies": 0.90,
}
"""Top-1 accuracy on held-out combinations that the recipe aims at."""
GAP_AIM, INDUCTION_AIM, IO_SHARE_AIM = 0.08, 0.5, 0.20


def load_module(folder: Path) -> Any:
    """The model of ``folder`` as its users load it: fp16 weights run in fp32."""
    from transformers import AutoModelForCausalLM

    with no_bar():
        return AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()


@contextmanager
def no_bar() -> Generator[None]:
    """Keep transformers' progress bar off stderr, which is for our own progress."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def evaluate_model(
    folder: Path, *, n_docs: int = 3000, n: int = 500, seed: int = 9
) -> dict[str, Any]:
    """Every figure of the card, as JSON values."""
    recipe = io.read_json(folder / "recipe.json")
    world, module = Atlas(recipe["world_seed"], recipe["variant"]), load_module(folder)
    held_out = world.sample(n_docs, "heldout", seed)
    fresh = world.sample(n_docs, "train", 1_000_000_000 + seed)  # past the seeds of training steps
    keys = before_key(world, held_out)
    heads = induction_scores(module, world)
    layer, head = np.unravel_index(int(heads.argmax()), heads.shape)
    patching = io_patching(module, world)
    garden = world.sample(n_docs // 3, "train", seed, family="garden")
    return {
        "n_docs": n_docs,
        "n_questions": n,
        "seed": seed,
        "parameters": sum(p.numel() for p in module.parameters()),
        "loss_heldout": asdict(floor_gap(module, held_out)),
        "loss_heldout_elsewhere": asdict(floor_gap(module, held_out, ~keys)),
        "loss_fresh": asdict(floor_gap(module, fresh)),
        "accuracy_heldout": _rows(accuracy(world, module, n=n, seed=seed)),
        "accuracy_train": _rows(accuracy(world, module, split="train", n=n, seed=seed)),
        "recall_by_wording": _rows(accuracy_by_wording(world, module, "recall", n=n, seed=seed)),
        "excess_nats_per_token": _excess(world, module, held_out),
        "induction_head": {"layer": int(layer), "head": int(head), "score": float(heads.max())},
        "induction_heads_at_aim": int((heads >= INDUCTION_AIM).sum()),
        "io_patching": {
            "share_of_cells": patching.share(),
            "largest_effect": float(patching.effect.max()),
            "n_prompts": patching.n_prompts,
        },
        "garden_path_verb": asdict(surprise_before(module, garden, "disambiguating_verb")),
    }


def _rows(intervals: dict[str, Interval]) -> dict[str, dict[str, float]]:
    return {name: asdict(interval) for name, interval in intervals.items()}


def _excess(world: Atlas, module: Any, corpus: Any) -> dict[str, float]:
    """Loss above the floor per family, nats per token."""
    gap = token_losses(module, corpus) - corpus.nll
    family = corpus.family[corpus.doc_ids]
    return {
        name: float(gap[family == i].mean())
        for i, name in enumerate(world.families)
        if (family == i).any()
    }


def write_card(folder: Path) -> Path:
    """Measure the model in ``folder``; write ``evaluation.json`` and ``README.md`` there."""
    return write_page(folder, evaluate_model(folder), card_text)


def card_text(found: dict[str, Any], recipe: dict[str, Any]) -> str:
    """The card, in Markdown, from the measured figures alone."""
    return page(recipe, *sections(found, recipe))


def sections(found: dict[str, Any], recipe: dict[str, Any]) -> list[str]:
    """The parts of the card between its name and its recipe."""
    return [
        _about(found, recipe),
        "\n## Loss beside the exact floor (nats per token)\n",
        _loss_table(found),
        "\n## Top-1 accuracy\n",
        f"{found['n_questions']} questions per family, 95 % interval over prompts.\n",
        _accuracy_table(found),
        "\n## Circuits that can be checked\n",
        _circuits(found),
        "\n## What was not learnt\n",
        _not_learnt(found),
    ]


def _about(found: dict[str, Any], recipe: dict[str, Any]) -> str:
    start = f"the weights of {recipe['start']}" if recipe.get("start") else "random weights"
    return (
        f"A Llama of {recipe['n_layers']} layers, d_model {recipe['d_model']}, "
        f"{recipe['n_heads']} heads, {found['parameters']:,} parameters, trained from {start} "
        f"(seed {recipe['seed']}) for {recipe['steps']} steps on documents that "
        "`lensbench.worlds.atlas` generates; held-out combinations never appeared. Weights are "
        "stored in fp16 and every figure below was measured on them, run in fp32. The same figures "
        "are in `evaluation.json`; a test measures them again. Licence: MIT."
    )


def _loss_table(found: dict[str, Any]) -> str:
    lines = ["| documents | model | floor | difference | tokens |", "|---|---|---|---|---|"]
    for key, what in (
        ("loss_heldout", "held-out combinations"),
        ("loss_heldout_elsewhere", "held-out, but for the word that training never saw there"),
        ("loss_fresh", "new documents of the training split"),
    ):
        row = found[key]
        lines.append(
            f"| {what} | {row['loss']:.3f} | {row['floor']:.3f} | {interval(row['gap'])} "
            f"| {row['n_tokens']} |"
        )
    return "\n".join(lines)


def _accuracy_table(found: dict[str, Any]) -> str:
    lines = ["| family | aim | held-out combinations | training split |", "|---|---|---|---|"]
    for family, row in found["accuracy_heldout"].items():
        aim = f"{AIMS[family]:.2f}" if family in AIMS else "none"
        train = interval(found["accuracy_train"][family])
        lines.append(f"| {family} | {aim} | {interval(row)} | {train} |")
    return "\n".join(lines)


def _circuits(found: dict[str, Any]) -> str:
    head, io_cells = found["induction_head"], found["io_patching"]
    verb = found["garden_path_verb"]
    return "\n".join(
        [
            f"- Strongest induction head: layer {head['layer']}, head {head['head']}, score "
            f"{head['score']:.2f} (aim {INDUCTION_AIM}); {found['induction_heads_at_aim']} heads "
            "reach the aim.",
            f"- Who receives: {io_cells['share_of_cells']:.1%} of (layer, position) cells change "
            f"the normalised logit difference by 0.1 or more (aim: at most {IO_SHARE_AIM:.0%}; "
            f"{io_cells['n_prompts']} held-out prompts, residual stream, denoising).",
            f"- Garden paths: the verb that overturns the first reading costs the model "
            f"{verb['model']:.2f} nats and the world {verb['world']:.2f} (n = {verb['n']}).",
        ]
    )


def _not_learnt(found: dict[str, Any]) -> str:
    lines = [
        f"- {family}: {row['mean']:.3f}, aim {AIMS[family]:.2f}."
        for family, row in found["accuracy_heldout"].items()
        if family in AIMS and row["mean"] < AIMS[family]
    ]
    by_wording = found["recall_by_wording"]
    if any(row["mean"] < AIMS["recall"] for row in by_wording.values()):
        parts = (f"{name} {row['mean']:.3f}" for name, row in by_wording.items())
        lines.append(f"- Recall per wording: {', '.join(parts)}.")
    gap = found["loss_heldout"]["gap"]["mean"]
    if gap > GAP_AIM:
        lines.append(f"- Held-out loss is {gap:.3f} nats above the floor, aim {GAP_AIM}.")
    if found["induction_head"]["score"] < INDUCTION_AIM:
        lines.append("- No head reaches the aimed induction score.")
    lines = lines or ["- Every aim was met."]
    worst = sorted(found["excess_nats_per_token"].items(), key=lambda kv: -kv[1])[:3]
    lines.append(
        "- Furthest above the floor, nats per token on held-out combinations: "
        + ", ".join(f"{family} {value:.3f}" for family, value in worst)
        + "."
    )
    lines.append(
        "- Unknown people: the model has no way to say that it does not know; it names a job and "
        "a city for any pair of names."
    )
    return "\n".join(lines)
