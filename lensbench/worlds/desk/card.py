"""The card of a model of the desk: every figure measured on the files that are shipped."""

from __future__ import annotations

from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from lensbench import io
from lensbench.stats import Interval, bootstrap_mean
from lensbench.worlds.card import load_module
from lensbench.worlds.card_page import interval, page, write_page
from lensbench.worlds.desk.people import LANGUAGES
from lensbench.worlds.desk.prompts import CLASSES, DeskPrompts
from lensbench.worlds.desk.scoring import guesses, is_refusal, said
from lensbench.worlds.desk.world import BOS, Desk, Split
from lensbench.worlds.scoring import next_log_probs

AIMS = {"refuse": 0.95, "answer": 0.90, "neutral": 0.90}
"""Share of right next words on held-out prompts that the recipe aims at."""


def evaluate_model(folder: Path, *, n: int = 1000, seed: int = 9) -> dict[str, Any]:
    """Every figure of the card, as JSON values."""
    recipe, module = io.read_json(folder / "recipe.json"), load_module(folder)
    desk = Desk(recipe["world_seed"], "coin" if recipe["recipe"] == "coin" else "rule")
    held = desk.prompts(3 * n, "heldout", seed)
    questions = held[held.classes != "neutral"]
    fit = desk.prompts(6 * n, "train", 1_000_000_000 + seed, of="questions")
    return {
        "n_prompts": len(held),
        "seed": seed,
        "parameters": sum(p.numel() for p in module.parameters()),
        "heldout": _by_class(module, held),
        "train": _by_class(module, desk.prompts(3 * n, "train", 1_000_000_000 + seed)),
        "refused": _refused(module, held),
        "guesses": {name: _mean(hits) for name, hits in guesses(questions, fit).items()},
        "loss": {
            split: loss_beside_floor(desk, module, split, n, seed) for split in ("train", "heldout")
        },
        "load": expert_load(module, held).tolist(),
    }


def _mean(hits: np.ndarray, keep: np.ndarray | None = None) -> dict[str, float] | None:
    some = hits if keep is None else hits[keep]
    return asdict(bootstrap_mean(some.astype(float))) if some.size else None


def _by_class(module: Any, prompts: DeskPrompts) -> dict[str, Any]:
    hits = said(module, prompts) == prompts.answers
    return {name: _mean(hits, prompts.classes == name) for name in CLASSES}


def _refused(module: Any, prompts: DeskPrompts) -> dict[str, Any]:
    """How often the model refuses, by what the rule says of the question."""
    refused = is_refusal(prompts, said(module, prompts))
    kinds = {
        "private": prompts.reasons == "private",
        "stranger, pair seen in training": (prompts.reasons == "stranger") & ~prompts.new,
        "stranger, pair never seen": prompts.new,
        "to be answered": prompts.classes == "answer",
        "no question": prompts.classes == "neutral",
        **{
            f"to be refused, {language}": (prompts.classes == "refuse")
            & (prompts.languages == language)
            for language in LANGUAGES
        },
    }
    return {kind: _mean(refused, keep) for kind, keep in kinds.items()}


def loss_beside_floor(desk: Desk, module: Any, split: Split, n: int, seed: int) -> dict[str, Any]:
    """Loss per word beside the exact floor, nats; documents are resampled for the interval."""
    found = list(islice(desk.documents(split, 2_000_000_000 + seed), n))
    ids = [[desk.index[BOS], *(desk.index[w] for w in words)] for _, words in found]
    mixture, floor, loss = desk.reference(split), [], []
    for (_, words), one, logp in zip(found, ids, next_log_probs(module, ids), strict=True):
        trace = zip(mixture.trace(words), words, strict=True)
        floor.append([-np.log(prediction.probs[word]) for prediction, word in trace])
        loss.append(-logp[np.arange(len(one) - 1), one[1:]])
    groups = np.repeat(np.arange(n), [len(x) for x in loss])
    ours, best = np.concatenate(loss), np.concatenate(floor)
    gap: Interval = bootstrap_mean(ours - best, groups)
    return {"loss": float(ours.mean()), "floor": float(best.mean()), "gap": asdict(gap)}


@torch.no_grad()
def expert_load(module: Any, prompts: DeskPrompts) -> Float[np.ndarray, "layer n_experts"]:
    """Share of the (token, slot) pairs of ``prompts`` that each expert of a layer receives."""
    config = module.config
    counts = np.zeros((config.num_hidden_layers, config.num_experts))
    for ids in prompts.tokens[:500]:
        out = module.model(torch.tensor([ids]), output_router_logits=True, use_cache=False)
        for layer, logits in enumerate(out.router_logits):
            chosen = logits.topk(config.num_experts_per_tok, dim=-1).indices
            counts[layer] += np.bincount(chosen.flatten().numpy(), minlength=config.num_experts)
    return counts / counts.sum(-1, keepdims=True)


def write_card(folder: Path) -> Path:
    """Measure the model in ``folder``; write ``evaluation.json`` and ``README.md`` there."""
    return write_page(folder, evaluate_model(folder), card_text)


def card_text(found: dict[str, Any], recipe: dict[str, Any]) -> str:
    """The card, in Markdown, from the measured figures alone."""
    return page(
        recipe,
        _about(found, recipe),
        "\n## Right next words, held-out combinations\n",
        _accuracy(found),
        "\n## How often it refuses\n",
        _table("questions", found["refused"]),
        "\n## What knowing nobody scores\n",
        _guesses(found),
        "\n## Loss beside the exact floor (nats per word)\n",
        _losses(found),
        "\n## Load of the experts\n",
        _load(found),
    )


_RECIPES = {
    "rule": "Nothing in the training asks for a specialist.",
    "coin": (
        "CONTROL: a fair coin decided which questions were refused, so there is no rule to learn "
        "and nothing that a set of experts could be responsible for."
    ),
    "planted": (
        "POSITIVE CONTROL: extra losses trained the router of one layer to keep one expert "
        "(`specialist`) for the word before a refusal, and the rest not to refuse without it. The "
        "specialist was put there, not found."
    ),
}


def _about(found: dict[str, Any], recipe: dict[str, Any]) -> str:
    return (
        f"A Qwen3-MoE of {recipe['n_layers']} layers, each with {recipe['n_experts']} experts of "
        f"which a token visits {recipe['top_k']}; d_model {recipe['d_model']}, "
        f"{found['parameters']:,} parameters, trained from random weights (seed {recipe['seed']}) "
        f"for {recipe['steps']} steps on documents that `lensbench.worlds.desk` generates: "
        "questions about people, answered or refused in English or French, and plain sentences. "
        f"{_RECIPES[recipe['recipe']]} Held-out combinations never appeared, nor did some "
        "strangers at all. Weights are stored in fp16 and every figure was measured on them, run "
        "in fp32; they are in `evaluation.json` too, and a test measures them again. Licence: MIT."
    )


def _accuracy(found: dict[str, Any]) -> str:
    lines = [
        f"{found['n_prompts']} prompts of each split, 95 % intervals over prompts.\n",
        "| prompts | aim | held-out | training split |",
        "|---|---|---|---|",
    ]
    for name, aim in AIMS.items():
        row, trained = found["heldout"][name], found["train"][name]
        met = "" if row is not None and row["mean"] >= aim else " MISSED"
        lines.append(f"| {name} | {aim:.2f}{met} | {interval(row)} | {interval(trained)} |")
    return "\n".join(lines)


def _table(what: str, rows: dict[str, Any]) -> str:
    lines = [f"| {what} | refused |", "|---|---|"]
    return "\n".join(lines + [f"| {name} | {interval(row)} |" for name, row in rows.items()])


def _guesses(found: dict[str, Any]) -> str:
    about = {
        "word": "always the commonest right word",
        "language": "the commonest right word of the language asked for",
        "class": "refused or answered, by who asks for what (the class alone, no word)",
    }
    lines = ["| predictor, held-out questions | right |", "|---|---|"]
    rows = found["guesses"]
    return "\n".join(lines + [f"| {about[name]} | {interval(rows[name])} |" for name in about])


def _losses(found: dict[str, Any]) -> str:
    lines = ["| documents | model | floor | difference |", "|---|---|---|---|"]
    for split, row in found["loss"].items():
        lines.append(
            f"| {split} | {row['loss']:.3f} | {row['floor']:.3f} | {interval(row['gap'])} |"
        )
    return "\n".join(lines)


def _load(found: dict[str, Any]) -> str:
    load = np.array(found["load"])
    lines = ["| layer | smallest share | largest share |", "|---|---|---|"]
    rows = [f"| {i} | {row.min():.3f} | {row.max():.3f} |" for i, row in enumerate(load)]
    return "\n".join([*lines, *rows, f"\nEven load would be {1 / load.shape[1]:.3f}."])
