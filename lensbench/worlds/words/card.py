"""The card of a model of the words language: every figure measured on the files that are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lensbench import io
from lensbench.worlds.card import load_module
from lensbench.worlds.card_page import interval, page, write_page
from lensbench.worlds.exits import continuations, exit_agreement
from lensbench.worlds.words.acceptance import acceptance_by_position
from lensbench.worlds.words.diversity import continuation_diversity
from lensbench.worlds.words.language import Words
from lensbench.worlds.words.scoring import texts, words_loss

_PROMPT = 24
"""Tokens of a prompt, at most half of a text."""


def evaluate_model(folder: Path, *, n_docs: int = 100, seed: int = 9) -> dict[str, Any]:
    """Every figure of the card, as JSON values."""
    recipe, module = io.read_json(folder / "recipe.json"), load_module(folder)
    world = Words(recipe["world_seed"])
    documents = texts(world, n_docs, width=recipe["width"], seed=seed)
    return {
        "n_docs": n_docs,
        "seed": seed,
        "parameters": sum(p.numel() for p in module.parameters()),
        "entropy_per_symbol": world.entropy_per_symbol,
        "loss": asdict(words_loss(world, module, documents)),
        "exits": exit_rows(world, module, documents),
        "continuations": continuation_figures(world, module, documents),
    }


def exit_rows(world: Words, module: Any, documents: Sequence[np.ndarray]) -> list[dict[str, float]]:
    """Per exit layer, agreement with the last layer at all, determined and other positions."""
    agree = exit_agreement(module, documents)
    rows: list[dict[str, float]] = []
    for layer in range(len(agree[0])):
        # What is said at t is about token t + 1.
        moved = [np.r_[False, one[layer, :-1]] for one in agree]
        frame = acceptance_by_position(world, documents, moved)
        found = dict(zip(frame["position"], frame["acceptance"], strict=True))
        rows.append({kind: float(found[kind]) for kind in ("all", "determined", "undetermined")})
    return rows


def continuation_figures(
    world: Words, module: Any, documents: Sequence[np.ndarray]
) -> dict[str, Any]:
    """How varied greedy continuations are beside the text, and beside the best possible ones."""
    given = min(_PROMPT, len(documents[0]) // 2)
    prompts = [ids[:given].tolist() for ids in documents]
    reference = [ids[given:].tolist() for ids in documents]
    own = continuations(module, prompts, len(reference[0]))
    bayes = [world.continued(prompt, len(reference[0])) for prompt in prompts]
    said = [world.next_symbol([*a, *b]).possible.all() for a, b in zip(prompts, own, strict=True)]
    found: dict[str, Any] = {"possible": float(np.mean(said)), "n_prompt": given,
                             "n_tokens": len(reference[0])}  # fmt: skip
    for name, side in (("model", own), ("bayes", bayes)):
        frame = continuation_diversity(side, reference)
        for key, column in ((name, "ratio"), (f"{name}_per_text", "ratio_per_text")):
            rows = zip(frame["n"], frame[column], strict=True)
            found[key] = {str(n): float(share) for n, share in rows}
    return found


def write_card(folder: Path) -> Path:
    """Measure the model in ``folder``; write ``evaluation.json`` and ``README.md`` there."""
    return write_page(folder, evaluate_model(folder), card_text)


def card_text(found: dict[str, Any], recipe: dict[str, Any]) -> str:
    """The card, in Markdown, from the measured figures alone."""
    how = "the last layer alone" if recipe["plain"] else "the LayerSkip recipe"
    said = found["continuations"]
    return page(
        recipe,
        f"A Llama of {recipe['n_layers']} layers, d_model {recipe['d_model']}, "
        f"{found['parameters']:,} parameters, trained from random weights (seed {recipe['seed']}) "
        f"by {how} on texts of the words language (`lensbench.worlds.words`, seed "
        f"{recipe['world_seed']}). Licence: MIT.",
        "\n## Loss beside the exact floor (nats per symbol)\n",
        _loss_table(found["loss"]),
        f"\nIn the long run the language has {found['entropy_per_symbol']:.4f} nats per symbol; "
        "the first word of a text costs more.",
        "\n## Agreement of early exits with the last layer\n",
        _exit_table(found["exits"]),
        "\n## Greedy continuations\n",
        f"{said['n_tokens']} symbols after {said['n_prompt']}; {said['possible']:.1%} of them are "
        f"texts of the language. Distinct-2 beside that of the real text: {said['model']['2']:.3f} "
        f"(single texts: {said['model_per_text']['2']:.3f}); Bayes-optimal continuations "
        f"{said['bayes']['2']:.3f} ({said['bayes_per_text']['2']:.3f}).",
    )


def _loss_table(row: dict[str, Any]) -> str:
    return (
        "| model | floor | difference | first choice is best | symbols |\n"
        "|---|---|---|---|---|\n"
        f"| {row['loss']:.4f} | {row['floor']:.4f} | {interval(row['gap'])} "
        f"| {interval(row['best'])} | {row['n_symbols']} |"
    )


def _exit_table(exits: list[dict[str, float]]) -> str:
    lines = [f"| exit layer | {' | '.join(str(e) for e in range(1, len(exits) + 1))} |",
             "|---" * (len(exits) + 1) + "|"]  # fmt: skip
    lines += [
        f"| {kind} positions | {' | '.join(f'{row[kind]:.3f}' for row in exits)} |"
        for kind in exits[0]
    ]
    return "\n".join(lines)
