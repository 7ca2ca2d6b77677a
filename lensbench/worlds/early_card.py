"""The card of atlas-early: what atlas-dense's card says, and what its early exits say beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lensbench import io
from lensbench.models.disk import bundled_models
from lensbench.worlds.atlas import Atlas
from lensbench.worlds.card import AIMS, evaluate_model, load_module, sections
from lensbench.worlds.card_page import page, write_page
from lensbench.worlds.exits import continuations, exit_agreement
from lensbench.worlds.words.diversity import continuation_diversity

BESIDE = "atlas-dense"
LOSS_BOUND = 0.05
"""Most nats per token that the last layer may lose against atlas-dense, on either split."""
DISAGREEMENT_BOUND = 1 / 3
"""Most disagreement with the last layer, as a share of atlas-dense's, at ``MIDDLE`` exits."""
MIDDLE = (3, 4)
"""Exit layers (number of layers run) that the bound is about."""
DISTINCT_AIM = 0.9
"""Least distinct-2 of greedy continuations, as a share of the reference text's."""
_LOSSES = {"loss_heldout": "held-out combinations", "loss_fresh": "new documents of training"}


def evaluate_early(
    folder: Path, *, n_docs: int = 3000, n: int = 500, n_exit_docs: int = 1000, seed: int = 9
) -> dict[str, Any]:
    """Every figure of the card, as JSON values; atlas-dense is measured beside it."""
    found = evaluate_model(folder, n_docs=n_docs, n=n, seed=seed)
    dense = bundled_models()[BESIDE]
    recipe = io.read_json(folder / "recipe.json")
    world = Atlas(recipe["world_seed"], recipe["variant"])
    modules = {recipe["model"]: load_module(folder), BESIDE: load_module(dense)}
    return {
        **found,
        "world_distinct_2": world_distinct_2(world, n_docs=n_exit_docs, seed=seed),
        "beside": {key: io.read_json(dense / "evaluation.json")[key] for key in _LOSSES},
        "exits": {
            name: exit_figures(world, module, n_docs=n_exit_docs, seed=seed)
            for name, module in modules.items()
        },
    }


def exit_figures(world: Atlas, module: Any, *, n_docs: int, seed: int) -> dict[str, Any]:
    """Agreement of every exit with the last layer, and how varied greedy continuations are.

    Held-out documents. A position is determined when the world leaves one next word only.
    """
    corpus = world.sample(n_docs, "heldout", seed)
    documents = [corpus.document(i) for i in range(corpus.n_docs)]
    said = [np.asarray(ids[:-1]) for ids in documents]  # EOS predicts nothing
    agree = np.concatenate(exit_agreement(module, said), axis=1)
    inside = np.delete(np.arange(len(corpus.tokens)), corpus.offsets[1:] - 1)
    sure = corpus.entropy[inside] < 1e-9
    prompts, reference = halves(documents)
    n, eos = max(map(len, reference)), (world.index["[EOS]"],)
    greedy = continuations(module, prompts, n, stop_ids=eos)
    sampled = continuations(module, prompts, n, stop_ids=eos, temperature=1.0, seed=seed)
    return {
        "n_docs": n_docs,
        "agreement": agree.mean(1).tolist(),
        "agreement_determined": agree[:, sure].mean(1).tolist(),
        "agreement_undetermined": agree[:, ~sure].mean(1).tolist(),
        "share_determined": float(sure.mean()),
        "distinct_2": distinct_2(greedy, reference),
        "distinct_2_sampled": distinct_2(sampled, reference),
    }


def world_distinct_2(world: Atlas, *, n_docs: int, seed: int) -> float:
    """``distinct_2`` of the world's own most probable continuations: what greedy text can have."""
    corpus = world.sample(n_docs, "heldout", seed)
    prompts, reference = halves([corpus.document(i) for i in range(corpus.n_docs)])
    mixture = world.reference("heldout")
    own: list[list[int]] = []
    for prompt, rest in zip(prompts, reference, strict=True):
        words = [world.vocab[t] for t in prompt[1:]]
        said = mixture.continued(words, len(rest), stop="[EOS]")
        own.append([world.index[word] for word in said])
    return distinct_2(own, reference)


def halves(documents: Sequence[np.ndarray]) -> tuple[list[list[int]], list[list[int]]]:
    """The first half of every document, as a prompt, and the rest, as its reference."""
    cuts = [(len(ids) + 1) // 2 for ids in documents]
    pairs = list(zip(documents, cuts, strict=True))
    return [ids[:k].tolist() for ids, k in pairs], [ids[k:].tolist() for ids, k in pairs]


def distinct_2(own: list[list[int]], reference: list[list[int]]) -> float:
    """Distinct-2 of continuations as a share of that of the text."""
    return float(continuation_diversity(own, reference, orders=(2,))["ratio"].iloc[0])


def verdicts(found: dict[str, Any]) -> dict[str, tuple[str, float, float, bool]]:
    """The gates fixed before the run: what, measured, bound, met."""
    mine, dense = found["exits"]["atlas-early"], found["exits"][BESIDE]
    gates: dict[str, tuple[str, float, float, bool]] = {}
    for key, what in _LOSSES.items():
        lost = found[key]["loss"] - found["beside"][key]["loss"]
        gates[key] = (f"loss above {BESIDE}'s, {what}", lost, LOSS_BOUND, lost <= LOSS_BOUND)
    for family, aim in AIMS.items():
        got = found["accuracy_heldout"][family]["mean"]
        gates[family] = (f"accuracy, {family}, held-out combinations", got, aim, got >= aim)
    for layer in MIDDLE:
        share = (1 - mine["agreement"][layer - 1]) / (1 - dense["agreement"][layer - 1])
        gates[f"exit_{layer}"] = (
            f"disagreement at exit layer {layer} as a share of {BESIDE}'s",
            share, DISAGREEMENT_BOUND, share <= DISAGREEMENT_BOUND,
        )  # fmt: skip
    ratio = mine["distinct_2"]
    gates["distinct_2"] = ("distinct-2 of continuations as a share of the text's", ratio,
                           DISTINCT_AIM, ratio >= DISTINCT_AIM)  # fmt: skip
    return gates


def write_card(folder: Path) -> Path:
    """Measure the model in ``folder``; write ``evaluation.json`` and ``README.md`` there."""
    return write_page(folder, evaluate_early(folder), card_text)


def card_text(found: dict[str, Any], recipe: dict[str, Any]) -> str:
    """The card, in Markdown, from the measured figures alone."""
    skip = recipe["layer_skip"]
    return page(
        recipe,
        f"The sizes, world and text of {BESIDE}, trained by the LayerSkip recipe "
        f"(`lensbench.worlds.layer_skip`: p_max {skip['p_max']}, e_scale {skip['e_scale']}, "
        f"{skip['curriculum']} curriculum, R = {skip['rotation']}) on one exit that all layers "
        "share, so that early layers already say what the last one will.\n",
        *sections(found, recipe),
        "\n## Early exits\n",
        _exit_table(found),
        "\n" + _diversity(found),
        "\n## Bounds fixed before the run\n",
        _bounds(found),
    )


def _exit_table(found: dict[str, Any]) -> str:
    exits = found["exits"]
    n = len(exits[BESIDE]["agreement"])
    lines = [
        "Share of tokens of held-out documents at which the most probable token after that many "
        "layers is the last layer's. Determined: the world leaves one next word only "
        f"({exits[BESIDE]['share_determined']:.0%} of the tokens).\n",
        f"| exit layer | {' | '.join(str(e) for e in range(1, n + 1))} |",
        "|---" * (n + 1) + "|",
    ]
    for name, row in exits.items():
        for key in ("agreement", "agreement_determined", "agreement_undetermined"):
            what = ", ".join((name, *key.split("_")[1:]))
            lines.append(f"| {what} | {' | '.join(f'{x:.3f}' for x in row[key])} |")
    return "\n".join(lines)


def _diversity(found: dict[str, Any]) -> str:
    told = [
        f"{name} {row['distinct_2']:.3f} (sampled: {row['distinct_2_sampled']:.3f})"
        for name, row in found["exits"].items()
    ]
    return (
        "Distinct-2 of greedy continuations of half documents, as a share of the distinct-2 of "
        f"their real second halves: {', '.join(told)}; the world's own most probable words "
        f"{found['world_distinct_2']:.3f}, since where several words can follow, greedy decoding "
        "says the same one each time."
    )


def _bounds(found: dict[str, Any]) -> str:
    lines = ["| what | measured | bound | met |", "|---|---|---|---|"]
    lines += [
        f"| {what} | {got:.3f} | {bound:.3f} | {'yes' if met else 'NO'} |"
        for what, got, bound, met in verdicts(found).values()
    ]
    return "\n".join(lines)
