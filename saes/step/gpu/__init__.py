"""What runs only on a GPU: sparse products and selection in Triton, and CUDA graphs.

Triton is imported when a kernel is first wanted. :func:`runs_triton` says where that is; everything
else in :mod:`lensbench.saes.step` asks it and goes on with plain torch where the answer is no.
"""

import os
from functools import lru_cache
from importlib.util import find_spec

import torch


@lru_cache
def runs_triton(device: torch.device) -> bool:
    """Whether kernels are compiled for ``device``: CUDA, Triton installed, not its interpreter."""
    interpreting = os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")
    return device.type == "cuda" and not interpreting and find_spec("triton") is not None
