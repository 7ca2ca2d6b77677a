"""Asking transformers what it would call every block with, without running one."""

import inspect
from typing import Any

import torch
from torch import Tensor

from lensbench.models.past import cache_of
from lensbench.models.ranges.calls import Recording
from lensbench.models.session import ACTIVE


def record(module: Any, owner: object, real: Tensor) -> Recording:
    """Arguments of every block for tokens of which ``real [rows, tokens]`` are no padding."""
    rows, tokens = real.shape
    recording: Any = Recording(owner, rows, tokens)
    base = module.base_model
    options: dict[str, Any] = {"attention_mask": real.long(), "past_key_values": cache_of({}, 0)}
    if "position_ids" in inspect.signature(base.forward).parameters:
        options["position_ids"] = (real.long().cumsum(1) - 1).clamp_min(0)
    token = ACTIVE.set(recording)
    try:
        with torch.inference_mode():
            base(input_ids=torch.zeros_like(real, dtype=torch.long), use_cache=True, **options)
    finally:
        ACTIVE.reset(token)
    return recording
