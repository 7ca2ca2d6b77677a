"""Fine-tuning a model of the atlas to refuse questions about people it was not told of."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from lensbench import io
from lensbench.stats import bootstrap_mean
from lensbench.worlds.atlas import Atlas
from lensbench.worlds.atlas.world import BOS
from lensbench.worlds.atlas_task import packed_loss, tensors_of
from lensbench.worlds.batches import pack
from lensbench.worlds.card_page import interval, page, write_page
from lensbench.worlds.refusing import PEOPLE_SPLITS, PeopleSplit, RefusingAtlas
from lensbench.worlds.refusing_recipe import RefusingTrainConfig
from lensbench.worlds.scoring import QUESTIONED, accuracy_by_family, next_log_probs
from lensbench.worlds.starting import folder_of, start_of


class RefusingTask:
    """The :class:`~lensbench.worlds.task.Task` of the sibling."""

    def __init__(self, config: RefusingTrainConfig) -> None:
        from lensbench.models.weights import fingerprint

        self.config = config
        self.world = Atlas(config.world_seed)
        self.asked = RefusingAtlas(self.world)
        self.folder = folder_of(config.start)
        # Other weights to start from are another run.
        self.speaks = " ".join((*self.world.vocab, fingerprint(self.new_model())))

    def new_model(self) -> Any:
        """The model it starts from, in fp32; see :func:`~lensbench.worlds.starting.start_of`."""
        return start_of(self.config.start, self.config, len(self.world.vocab))

    def loss(self, model: Any, step: int) -> Tensor:
        """Cross entropy of the next token of the same document."""
        config, index = self.config, self.world.index
        spoken = self.asked.documents(config.seed * 100_000_000 + step, config.rehearsal)
        ids = ([index[BOS], *(index[w] for w in words)] for words in spoken)
        batch = pack(ids, config.rows, config.n_ctx)
        return packed_loss(model, *tensors_of(batch, next(model.parameters()).device))

    def scores(self, model: Any) -> dict[str, float]:
        """Share of right next words, by split and whether the person is known."""
        return {name: float(hits.mean()) for name, hits in answered(self.asked, model).items()}

    def save_tokenizer(self, folder: Path) -> Path:
        """The word-level tokenizer of the world."""
        return self.world.save_tokenizer(folder)

    def write_card(self, folder: Path) -> Path:
        """What it refuses and what it still knows, measured on the files."""
        return write_page(folder, evaluate_model(folder), card_text)


def answered(asked: RefusingAtlas, model: Any) -> dict[str, np.ndarray]:
    """Hits (bool per question) by split and class; ``refused`` of known people, which is wrong."""
    was_training, found = model.training, dict[str, np.ndarray]()
    model.eval()
    for split in PEOPLE_SPLITS:
        said, prompts = _said(asked, model, split)
        for name, mine in (("known", prompts.known), ("unknown", ~prompts.known)):
            found[f"{split}_{name}"] = (said == prompts.answers)[mine]
        found[f"{split}_known_refused"] = (said == asked.refusal)[prompts.known]
    model.train(was_training)
    return found


def _said(asked: RefusingAtlas, model: Any, split: PeopleSplit) -> tuple[np.ndarray, Any]:
    prompts, index = asked.prompts(split), asked.world.index
    ids = [[index[BOS], *(index[w] for w in text.split())] for text in prompts.texts]
    return np.array([p[-1].argmax() for p in next_log_probs(model, ids)]), prompts


def evaluate_model(folder: Path, *, n: int = 200, seed: int = 9) -> dict[str, Any]:
    """Every figure of the card, as JSON values."""
    from lensbench.worlds.card import load_module

    recipe, module = io.read_json(folder / "recipe.json"), load_module(folder)
    asked = RefusingAtlas(Atlas(recipe["world_seed"]))
    before = load_module(folder_of(recipe["start"]))
    people = {
        k: asdict(bootstrap_mean(v.astype(float))) for k, v in answered(asked, module).items()
    }
    return {
        "people": people,
        "families": accuracy_by_family(asked.world, module, n=n, seed=seed),
        "families_before": accuracy_by_family(asked.world, before, n=n, seed=seed),
        "n": n,
        "seed": seed,
    }


def card_text(found: dict[str, Any], recipe: dict[str, Any]) -> str:
    """The card, in Markdown, from the measured figures alone."""
    told = {
        "train_known": "known, asked about in fine-tuning: right",
        "train_known_refused": "the same: refused",
        "train_unknown": "unknown, asked about in fine-tuning: refused",
        "heldout_known": "known, never asked about: right",
        "heldout_known_refused": "the same: refused",
        "heldout_unknown": "unknown, never asked about: refused",
    }
    people = [f"| {text} | {interval(found['people'][key])} |" for key, text in told.items()]
    families = [
        f"| {name} | {found['families_before'][name]:.3f} | {found['families'][name]:.3f} |"
        for name in QUESTIONED
    ]
    return page(
        recipe,
        f"`{recipe['start']}`, fine-tuned for {recipe['steps']} steps to answer questions about "
        "people it knows and to say `[UNK]` of others, with the atlas's own sentences among them. "
        "Licence: MIT.",
        "\n## Questions about people (share, 95 % interval)\n",
        "\n".join(["| people | share |", "|---|---|", *people]),
        f"\n## Right next words before and after, {found['n']} held-out questions each\n",
        "\n".join(["| family | before | after |", "|---|---|---|", *families]),
    )
