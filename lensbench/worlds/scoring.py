"""What a model of the atlas knows: accuracy per family, and its loss beside the exact floor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lensbench.worlds.atlas import Atlas, Corpus
from lensbench.worlds.atlas.world import Questions, Split

QUESTIONED = (
    "facts", "recall", "ioi", "induction", "agreement", "comparison", "analogies", "letters",
    "dictionary", "people",
)  # fmt: skip


@torch.no_grad()
def next_log_probs(
    model: Any, documents: Sequence[Sequence[int] | np.ndarray], *, batch: int = 128
) -> list[np.ndarray]:
    """Log p of every next token: one [len, d_vocab] array per document (right-padded)."""
    out: list[np.ndarray] = [np.zeros(0)] * len(documents)
    order = sorted(range(len(documents)), key=lambda i: len(documents[i]))
    device = next(model.parameters()).device
    for at in range(0, len(order), batch):
        some = order[at : at + batch]
        width = max(len(documents[i]) for i in some)
        ids = torch.zeros((len(some), width), dtype=torch.long)
        for row, i in enumerate(some):
            ids[row, : len(documents[i])] = torch.as_tensor(np.asarray(documents[i]))
        logits = model(input_ids=ids.to(device), use_cache=False).logits.float()
        logp = logits.log_softmax(-1).cpu().numpy()
        for row, i in enumerate(some):
            out[i] = logp[row, : len(documents[i])]
    return out


def answer_hits(model: Any, questions: Questions) -> np.ndarray:
    """Bool per question: the top-1 next token is the answer."""
    logp = next_log_probs(model, questions.prompts)
    return np.array([p[-1].argmax() for p in logp]) == questions.answers


def accuracy_by_family(
    world: Atlas, model: Any, *, n: int = 200, split: Split = "heldout", seed: int = 0
) -> dict[str, float]:
    """Top-1 accuracy per family on ``n`` questions of ``split``."""
    was_training = model.training
    model.eval()
    scores = {
        family: float(answer_hits(model, world.questions(family, n, split, seed)).mean())
        for family in QUESTIONED
    }
    model.train(was_training)
    return scores


def token_losses(model: Any, corpus: Corpus) -> np.ndarray:
    """-log p(next token) per token in nats, aligned with ``corpus.nll`` (0 at EOS)."""
    documents = [corpus.document(i) for i in range(corpus.n_docs)]
    losses = np.zeros(len(corpus.tokens))
    for i, logp in enumerate(next_log_probs(model, documents)):
        ids = documents[i]
        start = corpus.offsets[i]
        losses[start : start + len(ids) - 1] = -logp[np.arange(len(ids) - 1), ids[1:]]
    return losses
