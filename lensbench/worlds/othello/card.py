"""The card of an Othello model: every figure measured on the files that are shipped."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from lensbench import io
from lensbench.worlds.card import load_module
from lensbench.worlds.card_page import interval, page, write_page
from lensbench.worlds.controls import reinitialised_twin
from lensbench.worlds.othello.games import OPENING, random_games
from lensbench.worlds.othello.reading import board_accuracy
from lensbench.worlds.othello.scoring import Legality, chance_levels, legality

AIM = 0.98
"""Share of legal top-1 moves on held-out games that the recipe aims at."""


def evaluate_model(folder: Path, *, n_games: int = 2000, seed: int = 9) -> dict[str, Any]:
    """Every figure of the card, as JSON values."""
    recipe, module = io.read_json(folder / "recipe.json"), load_module(folder)
    size = int(recipe["size"])
    held = random_games(n_games, size=size, seed=seed, split="heldout")
    fresh = random_games(n_games, size=size, seed=seed, split="train")
    twin = reinitialised_twin(module, seed=1)
    few = (random_games(400, size=size, seed=seed + 1), random_games(200, size=size, seed=seed + 2))
    return {
        "n_games": n_games,
        "seed": seed,
        "parameters": sum(p.numel() for p in module.parameters()),
        "heldout": _row(legality(module, held)),
        "heldout_after_opening": _row(legality(module, held, from_move=OPENING)),
        "fresh": _row(legality(module, fresh)),
        "reinitialised": _row(legality(twin, held[:200])),
        "chance": {name: asdict(x) for name, x in chance_levels(held).items()},
        "board": {
            name: {
                "layers": [asdict(x) for x in found.layers],
                "majority": asdict(found.majority),
            }
            for name, found in (
                ("trained", board_accuracy(module, *few)),
                ("reinitialised", board_accuracy(twin, *few)),
            )
        },
    }


def _row(found: Legality) -> dict[str, Any]:
    return {**asdict(found), "by_move": [x if x == x else None for x in found.by_move]}


def write_card(folder: Path) -> Path:
    """Measure the model in ``folder``; write ``evaluation.json`` and ``README.md`` there."""
    return write_page(folder, evaluate_model(folder), card_text)


def card_text(found: dict[str, Any], recipe: dict[str, Any]) -> str:
    """The card, in Markdown, from the measured figures alone."""
    return page(
        recipe,
        _about(found, recipe),
        "\n## Legal moves\n",
        _legal_table(found),
        "\n" + _verdict(found),
        "\n## What never seeing the board scores\n",
        _chance(found),
        "\n## The board in the residual stream\n",
        _board(found),
    )


def _about(found: dict[str, Any], recipe: dict[str, Any]) -> str:
    size, games = recipe["size"], recipe["steps"] * recipe["rows"]
    return (
        f"A GPT-2 of {recipe['n_layers']} layers, d_model {recipe['d_model']}, "
        f"{recipe['n_heads']} heads, {found['parameters']:,} parameters, trained from random "
        f"weights (seed {recipe['seed']}) on {games:,} transcripts of uniformly random legal games "
        f"on a {size}x{size} board, played afresh for every step. {_targets(recipe)} It never "
        "saw a board or a rule. One opening in sixteen (of six moves) never appeared in training: "
        "held-out games are those that begin with one. A transcript is `[BOS]`, squares such as "
        "`c2`, `[EOS]`; a side without a move is passed over without a token. Weights are stored "
        "in fp16 and every figure was measured on them, run in fp32; they are in "
        "`evaluation.json` too, and a test measures them again. Licence: MIT."
    )


def _targets(recipe: dict[str, Any]) -> str:
    """What the loss compared predictions with."""
    at, steps = recipe["expected_from"], recipe["steps"]
    played = "the move that was played"
    expected = (
        "the generator's own distribution, uniform over legal moves (the same mean loss without "
        "the noise of the draw, so lists of legal moves were seen as targets)"
    )
    if at >= steps:
        return f"The target was {played}; it never saw a list of legal moves."
    if at == 0:
        return f"The target was {expected}."
    return f"The target was {played} in the first {at:,} of {steps:,} steps, then {expected}."


def _legal_table(found: dict[str, Any]) -> str:
    lines = [
        "95 % intervals over games. The floor is the mean log of the number of legal moves, which "
        "is what the generator itself costs; both in nats per move.\n",
        "| games | most probable move is legal | probability on legal moves | loss | floor "
        "| positions |",
        "|---|---|---|---|---|---|",
    ]
    for key, what in (
        ("heldout", "held-out openings"),
        ("heldout_after_opening", f"the same, from move {OPENING + 1} on (prefix never seen)"),
        ("fresh", "new games of the training split"),
        ("reinitialised", "control: random weights, held-out openings"),
    ):
        row = found[key]
        lines.append(
            f"| {what} | {interval(row['top1'])} | {interval(row['mass'])} | {row['loss']:.3f} "
            f"| {row['floor']:.3f} | {row['n_positions']} |"
        )
    return "\n".join(lines)


def _verdict(found: dict[str, Any]) -> str:
    row = found["heldout"]
    met = "met" if row["top1"]["mean"] >= AIM else "MISSED"
    known = [(x, t) for t, x in enumerate(row["by_move"]) if x is not None]
    worst, at = min(known)
    return (
        f"Aim: {AIM:.0%} of the most probable moves legal on held-out games: {met} "
        f"({row['top1']['mean']:.2%}). Worst after {at} moves: {worst:.1%}. The end of a finished "
        f"game is the most probable token in {row['ends']:.1%} of held-out games."
    )


def _chance(found: dict[str, Any]) -> str:
    about = {
        "square": "a uniformly random square",
        "unplayed square": "a uniformly random empty square",
        "move number": "the empty square that is most often legal at this move number",
    }
    return "\n".join(
        ["| predictor | legal |", "|---|---|"]
        + [f"| {about[name]} | {interval(row)} |" for name, row in found["chance"].items()]
    )


def _board(found: dict[str, Any]) -> str:
    trained, twin = found["board"]["trained"], found["board"]["reinitialised"]
    lines = [
        "Share of squares a ridge regression on `resid_post` names rightly as mine, yours or "
        "empty (of the side to move), on games it was not fitted on; the majority per square and "
        f"move number scores {interval(trained['majority'])}.\n",
        "| layer | this model | random weights |",
        "|---|---|---|",
    ]
    for layer, (a, b) in enumerate(zip(trained["layers"], twin["layers"], strict=True)):
        lines.append(f"| {layer} | {interval(a)} | {interval(b)} |")
    return "\n".join(lines)
