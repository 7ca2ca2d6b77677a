"""What the layers of a trained model already say: agreement of every exit with the last layer.

Figures for model cards. Curves over a store, and what skipping costs, are in
``lensbench.interventions.acceleration``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from lensbench.models import load_model
from lensbench.models.base import Model
from lensbench.sites import Site


def exit_agreement(
    module: Any, documents: Sequence[np.ndarray], *, batch: int = 64
) -> list[Bool[np.ndarray, "layers tokens"]]:
    """Per document: does the most probable token after layer l, through the shared exit, agree?

    agree[l, t] = [argmax lm_head(norm(h_{l+1}[t])) = argmax logits[t]]; row l is exit layer l + 1,
    so the last row is true everywhere. ``module`` is a model or a transformers model; documents are
    token ids of any lengths.
    """
    model: Model = module if isinstance(module, Model) else load_model(module, certify=False)
    sites = [Site("resid_post", layer) for layer in range(model.n_layers)]
    found: list[np.ndarray] = [np.zeros((0, 0), bool)] * len(documents)
    order = sorted(range(len(documents)), key=lambda i: len(documents[i]))
    for at in range(0, len(order), batch):
        some = order[at : at + batch]
        width = max(len(documents[i]) for i in some)
        ids = torch.zeros((len(some), width), dtype=torch.long)  # past the end nothing is read
        for row, i in enumerate(some):
            ids[row, : len(documents[i])] = torch.as_tensor(np.asarray(documents[i]))
        out = model.run(ids, capture=sites, logits="none")
        said = torch.stack([model.unembed(out.acts[site]).argmax(-1) for site in sites])
        same = (said == said[-1]).cpu().numpy()
        for row, i in enumerate(some):
            found[i] = same[:, row, : len(documents[i])]
    return found


def mean_agreement(
    module: Any, documents: Sequence[np.ndarray], *, batch: int = 64
) -> Float[np.ndarray, " layers"]:
    """Share of tokens at which each exit agrees with the last layer, 0 to 1."""
    return np.concatenate(exit_agreement(module, documents, batch=batch), axis=1).mean(1)


def continuations(
    module: Any,
    prompts: Sequence[Sequence[int]],
    n: int,
    *,
    stop_ids: Sequence[int] = (),
    temperature: float = 0.0,
    seed: int = 0,
) -> list[list[int]]:
    """Continuations of up to ``n`` tokens, greedy unless ``temperature`` is above 0; order kept."""
    model: Model = module if isinstance(module, Model) else load_model(module, certify=False)
    found: list[list[int]] = [[] for _ in prompts]
    by_length: dict[int, list[int]] = {}
    for i, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(i)
    for places in by_length.values():
        ids = torch.tensor([list(prompts[i]) for i in places])
        said = model.generate(
            ids, max_new_tokens=n, stop_ids=list(stop_ids), temperature=temperature, seed=seed
        )
        for i, new in zip(places, said, strict=True):
            found[i] = [int(t) for t in new]
    return found
