"""The import of nnsight, in this one place, and what it does to the process.

On import nnsight replaces ``torch.Tensor.backward``, so that ``with loss.backward():`` can be
traced. The replacement looks for a ``with`` on the calling line, so that in the whole process

    with torch.enable_grad(): loss.backward()

written on one line no longer computes any gradient, silently. Where lensbench is the one that
imports nnsight, torch's own method is therefore put back at once, and nnsight's stands in only
while a free-form trace is open. (The ``.save`` that nnsight mounts on every object stays: it costs
nothing and traces are written with it.)
"""

import sys
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from threading import Lock
from typing import Any

import torch

from lensbench.errors import BackendUnavailableError

_LOCK = Lock()
_open_traces = 0


def load() -> Any:
    """The nnsight package; torch's ``backward`` is as it was before.

    Raises:
        BackendUnavailableError: nnsight is not installed.
    """
    known = sys.modules.get("nnsight")  # imported by the user, or by us before
    if known is not None:
        return known
    before = torch.Tensor.backward
    try:
        found = import_module("nnsight")
    except ImportError as error:
        raise BackendUnavailableError(
            f"nnsight cannot be imported ({error}); pip install 'nnsight>=0.8.1,<0.9'"
        ) from error
    torch.Tensor.backward = before
    return found


@contextmanager
def backward_traces() -> Generator[None]:
    """Have nnsight's ``Tensor.backward`` in place while a free-form trace is open."""
    global _open_traces
    patched: Any = import_module("nnsight.intervention.backward")
    with _LOCK:
        users = _open_traces == 0 and torch.Tensor.backward is patched._backward
        if not users:
            _open_traces += 1
            torch.Tensor.backward = patched._backward
    try:
        yield
    finally:
        with _LOCK:
            if not users:
                _open_traces -= 1
                if not _open_traces:
                    torch.Tensor.backward = patched._original_backward
