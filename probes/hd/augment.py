"""More rows to train on: states that stand for one concept, as the published training has them.

1. Take the training prompts whose last layer already says the right word: the token that the model
   itself puts first is the target.
2. Of each word, keep the prompt that says it with the highest probability.
3. The raw state of the last layer at that prompt's last token is one more input; what it should be
   encoded as is the hypervector of the word alone, bound to nothing.

Source: arXiv:2509.25045, the augmentation of its ingestion.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench.probes.hd.memory import ItemMemory

Augment = Literal["none", "single_concepts"]
AUGMENTS: tuple[Augment, ...] = ("none", "single_concepts")


def single_concepts(
    memory: ItemMemory,
    last_layer: Float[Tensor, "prompts d_model"],
    said: Sequence[str],
    prob: Float[np.ndarray, " prompts"],
    targets: Sequence[str],
) -> tuple[Float[Tensor, "words d_model"], Int[Tensor, " words"]]:
    """Rows and the concept numbers they stand for; none where the model gets nothing right."""
    best: dict[str, int] = {}
    for row, (word, target) in enumerate(zip(said, targets, strict=True)):  # 1
        if word == target and (word not in best or prob[row] > prob[best[word]]):  # 2
            best[word] = row
    return last_layer[list(best.values())], torch.tensor(memory.indices(list(best)))  # 3
