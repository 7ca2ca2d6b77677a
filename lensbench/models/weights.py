"""What tells one model from another: a fingerprint of its weights and of what it computes."""

import hashlib
import json
from typing import Any

import torch
from torch import Tensor, nn

_SAMPLE = 1 << 18  # numbers hashed per tensor in models of more than _WHOLE parameters
_WHOLE = 50_000_000
_NO_COMPUTATION = frozenset(
    "architectures dtype torch_dtype transformers_version use_cache return_dict id2label label2id "
    "problem_type output_attentions output_hidden_states chunk_size_feed_forward is_decoder".split()
)
"""Entries of a transformers config that change no number."""


def fingerprint(module: nn.Module) -> str:
    """16 hex digits of all weights and of the settings that decide what is computed with them.

    Names, shapes, dtypes and values; rotary base, windows, caps, norms and whatever else the config
    says about the computation. Models of more than 50 M parameters are sampled: every tensor gives
    evenly spaced values, so that a changed tensor shows and loading stays quick.
    """
    digest = hashlib.sha256(_computation(module.config).encode())
    whole = sum(p.numel() for p in module.parameters()) <= _WHOLE
    for name, value in sorted(_state(module).items()):
        if not isinstance(value, Tensor):  # what a quantiser keeps beside its tensors
            digest.update(f"{name} {value}".encode())
            continue
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        flat = value.detach().reshape(-1)
        if not whole and flat.numel() > _SAMPLE:
            flat = flat[:: flat.numel() // _SAMPLE]
        digest.update(flat.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _state(module: nn.Module) -> dict[str, Any]:
    """Every weight, those too that a ``device_map`` keeps on the CPU or on the disk."""
    if not any(p.is_meta for p in module.parameters()):
        return dict(module.state_dict())
    from accelerate.utils.modeling import get_state_dict_offloaded_model

    return get_state_dict_offloaded_model(module)


def _computation(config: Any) -> str:
    """The computing part of a config, as canonical JSON."""
    told = {
        key: value
        for key, value in config.to_dict().items()
        if not key.startswith("_") and not key.endswith("token_id") and key not in _NO_COMPUTATION
    }
    # A dtype in memory and its name in a file are one and the same.
    return json.dumps(told, sort_keys=True, default=lambda x: str(x).removeprefix("torch."))


def input_device(embedding: nn.Module) -> torch.device:
    """Where ids go in: the embedding's device, or where it is run when it is offloaded."""
    weight: Any = embedding.weight
    run_on = getattr(getattr(embedding, "_hf_hook", None), "execution_device", None)
    if not weight.is_meta or run_on is None:
        return weight.device
    return torch.device("cuda", run_on) if isinstance(run_on, int) else torch.device(run_on)


def quantised(config: Any) -> str:
    """``"int8"`` for bitsandbytes' LLM.int8(), ``"yes"`` for other quantisers, else empty."""
    told: Any = getattr(config, "quantization_config", None)
    if told is None:
        return ""
    told = told if isinstance(told, dict) else told.to_dict()
    return "int8" if told.get("load_in_8bit") else "yes"
