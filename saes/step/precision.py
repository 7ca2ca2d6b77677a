"""In which numbers dense products are taken: float32, or bfloat16 with float32 sums.

What ``torch.autocast`` does, without what it breaks here: results come back as float32, so errors,
losses and moments are float32 throughout, and parameters stay float32 ("master weights"). Only the
factors of a product are rounded, each by at most ``2^-9`` of itself.
"""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

import torch
from torch import Tensor

Precision = Literal["float32", "bf16"]
_current: ContextVar[Precision] = ContextVar("precision", default="float32")


@contextmanager
def products_in(precision: Precision) -> Generator[None, None, None]:
    """Dense products inside are taken in ``precision``, and summed in float32."""
    before, token = (
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction,
        _current.set(precision),
    )
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        _current.reset(token)
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = before


def in_bf16() -> bool:
    """Whether products are taken in bfloat16 now."""
    return _current.get() == "bf16"


def mm(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` as float32; of three axes too, matrix by matrix."""
    return (a.bfloat16() @ b.bfloat16()).float() if in_bf16() else a @ b


def addmm(start: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``start + a @ b`` as float32; of three axes too."""
    if in_bf16():
        return start + mm(a, b)
    return torch.addmm(start, a, b) if a.ndim == 2 else torch.baddbmm(start, a, b)
