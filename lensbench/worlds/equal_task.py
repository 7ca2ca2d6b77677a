"""Training on a dictionary of three equally frequent languages, and the card of its model."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from lensbench import io
from lensbench.stats import bootstrap_mean
from lensbench.worlds.atlas import Atlas, Corpus
from lensbench.worlds.atlas import lexicon as lex
from lensbench.worlds.atlas.world import Split
from lensbench.worlds.atlas_task import AtlasTask
from lensbench.worlds.card_page import interval, page, write_page
from lensbench.worlds.scoring import answer_hits, token_losses

FAMILY = "dictionary"
AIM = 0.95
"""Top-1 accuracy on held-out words in every direction that the recipe aims at."""
LANGUAGES: tuple[str, ...] = ("English", "French", "German")
DIRECTIONS = tuple((a, b) for a in LANGUAGES for b in LANGUAGES if a != b)


class EqualTask(AtlasTask):
    """The :class:`~lensbench.worlds.task.Task` of the dictionary in three equal languages."""

    family = FAMILY

    def scores(self, model: Any) -> dict[str, float]:
        """Top-1 accuracy on held-out words, by direction."""
        was_training = model.training
        model.eval()
        hits = hits_by_direction(self.world, model, "heldout", n=600, seed=1)
        model.train(was_training)
        return {name: float(found.mean()) for name, found in hits.items()}

    def write_card(self, folder: Path) -> Path:
        """What it translates, its loss beside the floor, and how often each language speaks."""
        return write_page(folder, evaluate_model(folder), card_text)


def words_by_language() -> dict[str, frozenset[str]]:
    """Words that only one language says: nouns of the dictionary, articles, verbs, endings.

    The wordings around a word (``The ... word for ... is``, names of languages) are the same for
    all three and belong to none.
    """
    return {
        "English": frozenset((*lex.FRENCH, *lex.ENDINGS["English"], "the", "and", "are")),
        "French": frozenset(
            (*lex.FRENCH.values(), *lex.ENDINGS["French"], "le", "la", "et", "sont")
        ),
        "German": frozenset(
            (*lex.GERMAN.values(), *lex.ENDINGS["German"], "der", "die", "das", "und", "sind")
        ),
    }


def language_shares(world: Atlas) -> dict[str, float]:
    """Expected share of each language among the words of :func:`words_by_language`, exact.

    Over the dictionary family as it is trained; the shares add up to 1. A template says as many
    words of a language every time, so one sentence of each is counted, times its probability.
    """
    mixture, rng = world.mixture("train", family=FAMILY), random.Random(0)
    said: dict[str, float] = dict.fromkeys(LANGUAGES, 0.0)
    for template, prior in zip(mixture.templates, mixture.priors, strict=True):
        words = mixture.speak(template, rng)
        for name, own in words_by_language().items():
            said[name] += prior * sum(word in own for word in words)
    return {name: n / sum(said.values()) for name, n in said.items()}


def hits_by_direction(
    world: Atlas, model: Any, split: Split, *, n: int, seed: int
) -> dict[str, np.ndarray]:
    """Is the most probable next word the translation? Bool per question, by direction."""
    asked = world.questions(FAMILY, n, split, seed)
    facts = {t.name: t.facts for t in world.templates}
    ways = np.array([f"{facts[t]['source']}-{facts[t]['target']}" for t in asked.templates])
    hits = answer_hits(model, asked)
    return {f"{a}-{b}": hits[ways == f"{a}-{b}"] for a, b in DIRECTIONS}


def floor(world: Atlas, corpus: Corpus) -> Float[np.ndarray, " tokens"]:
    """-log p of the next token in nats when only the dictionary speaks (0 at EOS); exact.

    ``corpus.nll`` is the floor of a world in which the other families might be speaking too.
    """
    split = "world" if corpus.spec["split"] == "heldout" else corpus.spec["split"]
    mixture = world.mixture(split, family=FAMILY)
    found = np.zeros(len(corpus.tokens))
    for i in range(corpus.n_docs):
        words = corpus.words(i)[1:]
        told = [p.probs[w] for p, w in zip(mixture.trace(words), words, strict=True)]
        found[corpus.offsets[i] : corpus.offsets[i] + len(words)] = -np.log(told)
    return found


def evaluate_model(
    folder: Path, *, n_docs: int = 2000, n: int = 3000, seed: int = 9
) -> dict[str, Any]:
    """Every figure of the card, as JSON values."""
    from lensbench.worlds.card import load_module
    from lensbench.worlds.controls import reinitialised_twin

    recipe, module = io.read_json(folder / "recipe.json"), load_module(folder)
    world, twin = Atlas(recipe["world_seed"], recipe["variant"]), reinitialised_twin(module, seed=0)
    fresh = world.sample(n_docs, "train", 1_000_000_000 + seed, family=FAMILY)
    found: dict[str, Any] = {
        "n_docs": n_docs,
        "n_questions": n,
        "seed": seed,
        "parameters": sum(p.numel() for p in module.parameters()),
        "language_shares": language_shares(world),
        "loss_fresh": _loss(world, module, fresh),
    }
    asked: Iterable[tuple[str, Any, Split]] = (
        ("accuracy_heldout", module, "heldout"),
        ("accuracy_train", module, "train"),
        ("accuracy_twin", twin, "heldout"),
    )
    for key, model, split in asked:
        hits = hits_by_direction(world, model, split, n=n, seed=seed)
        found[key] = {way: asdict(bootstrap_mean(h.astype(float))) for way, h in hits.items()}
    return found


def _loss(world: Atlas, module: Any, corpus: Corpus) -> dict[str, Any]:
    """Mean loss per predicted token beside the floor, nats; documents resampled."""
    keep = np.ones(len(corpus.tokens), dtype=bool)
    keep[corpus.offsets[1:] - 1] = False  # EOS predicts nothing
    losses, least = token_losses(module, corpus)[keep], floor(world, corpus)[keep]
    gap = asdict(bootstrap_mean(losses - least, corpus.doc_ids[keep]))
    return {"loss": float(losses.mean()), "floor": float(least.mean()), "gap": gap}


def card_text(found: dict[str, Any], recipe: dict[str, Any]) -> str:
    """The card, in Markdown, from the measured figures alone."""
    columns = {"accuracy_heldout": "held-out", "accuracy_train": "training split",
               "accuracy_twin": "held-out, random weights"}  # fmt: skip
    rows = [
        f"| {way} | {' | '.join(interval(found[key][way]) for key in columns)} |"
        for way in found["accuracy_heldout"]
    ]
    loss, least = found["loss_fresh"], min(r["mean"] for r in found["accuracy_heldout"].values())
    shares = ", ".join(f"{name} {share:.3f}" for name, share in found["language_shares"].items())
    return page(
        recipe,
        f"A Llama of {recipe['n_layers']} layers, d_model {recipe['d_model']}, "
        f"{recipe['n_heads']} heads, {found['parameters']:,} parameters, trained from random "
        f"weights (seed {recipe['seed']}) for {recipe['steps']} steps on the dictionary family of "
        "the equal atlas (`Atlas(variant='equal')`): words translated in all six directions and "
        "small sentences, each language as often as the others. It has atlas-dense's tokenizer and "
        "knows none of its other families. Weights are stored in fp16 and every figure was "
        "measured on them, run in fp32; they are in `evaluation.json` too, and a test measures "
        "them again. Licence: MIT.",
        f"\nShare of each language among the words that only one of them says: {shares}. The "
        "wordings around a word are the same English ones for every language.",
        "\n## Translations (top-1 accuracy, 95 % interval over prompts)\n",
        f"{found['n_questions']} questions a column. Held-out: a word in a wording in which "
        "training never asked for it in this direction.\n",
        "\n".join([f"| direction | {' | '.join(columns.values())} |", "|---" * 4 + "|", *rows]),
        f"\nAim, every direction: {AIM} held-out, "
        f"{'met' if least >= AIM else 'MISSED'} (least: {least:.3f}).",
        "\n## Loss beside the exact floor (nats per token)\n",
        f"New documents of the training split: {loss['loss']:.3f}, floor {loss['floor']:.3f}, "
        f"difference {interval(loss['gap'])}.",
    )
