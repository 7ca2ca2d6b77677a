"""What a plan does to text it should leave alone: KL, loss and answers on neutral prompts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lensbench.interventions.experts.behaviour import answers
from lensbench.interventions.experts.rows import Rows, batch_of, batches
from lensbench.models.base import Model
from lensbench.plan import Plan
from lensbench.tokens import as_tokens

LOGITS_AT_ONCE = 16_000_000
"""Most logits held of one run: 64 MB in float32."""


@dataclass(frozen=True)
class Collateral:
    """Per plan and neutral prompt; the first plan is the clean run."""

    kl: np.ndarray
    """``[plans, prompts]``: mean over tokens of KL(clean || edited), nats."""
    loss: np.ndarray
    """``[plans, prompts]``: mean of -log p of the prompt's own next tokens, nats."""
    changed: np.ndarray
    """``[plans, prompts]``: the greedy answer differs from the clean one."""
    n_predicted: np.ndarray
    """``[prompts]``: tokens that have one before them."""


def collateral(
    model: Model, rows: Rows, plans: Sequence[Plan], new_tokens: int, batch_size: int
) -> Collateral:
    """Measure every plan (the first changes nothing) on prompts it should leave alone."""
    shape = (len(plans), len(rows))
    kl, loss = np.zeros(shape), np.full(shape, np.nan)
    longest = max(len(row) for row in rows)
    fits = max(1, LOGITS_AT_ONCE // (longest * model.card.d_vocab))
    for part in batches(len(rows), min(batch_size, fits)):
        some, here = [rows[i] for i in part], list(part)
        clean = _log_probs(model, some, plans[0])
        for number, plan in enumerate(plans):
            run = clean if number == 0 else _log_probs(model, some, plan)
            kl[number, here], loss[number, here] = _measures(some, clean, run)
    said = [answers(model, rows, plan, new_tokens, batch_size) for plan in plans]
    changed = np.array([[a != b for a, b in zip(one, said[0], strict=True)] for one in said])
    return Collateral(kl, loss, changed, np.array([len(row) - 1 for row in rows]))


def _log_probs(model: Model, rows: Rows, plan: Plan) -> Tensor:
    logits = model.run(batch_of(model, rows), plan).logits
    assert logits is not None
    return logits.float().log_softmax(-1)


def _measures(rows: Rows, clean: Tensor, run: Tensor) -> tuple[np.ndarray, np.ndarray]:
    tokens = as_tokens(rows).to(clean.device)
    real = tokens.real
    kl = (clean.exp() * (clean - run)).sum(-1).masked_fill(~real, 0).sum(1) / real.sum(1)
    nll = -run[:, :-1].gather(-1, tokens.ids[:, 1:, None])[..., 0]
    known = real[:, :-1] & real[:, 1:]
    mean = torch.where(known, nll, 0).sum(1) / known.sum(1)  # NaN for a prompt of one token
    return kl.clamp_min(0).double().cpu().numpy(), mean.double().cpu().numpy()
