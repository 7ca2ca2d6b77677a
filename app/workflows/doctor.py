"""Versions, bundled models, and the certificate of one model."""

from typing import Any

from lensbench import provenance
from lensbench.app.workflows.models import open_model


def examine(model: str | None = None, revision: str | None = None) -> dict[str, Any]:
    """Facts about this installation; with ``model``, the outcome of every check on it.

    Raises:
        LensbenchError: the model cannot be found or read.
    """
    import torch

    from lensbench.models.loading import bundled_models

    now = provenance.record()
    found: dict[str, Any] = {
        "versions": {"python": now.python, **now.versions},
        "bundled": [{"name": n, "folder": str(p)} for n, p in bundled_models().items()],
        "cuda": torch.cuda.is_available(),
        "threads": torch.get_num_threads(),
    }
    if model is not None:
        found["certificate"] = _certificate(model, revision)
    return found


def _certificate(name: str, revision: str | None) -> dict[str, Any]:
    model: Any = open_model(name, revision, certify=False)
    certificate = model.certify()
    return {
        "model": certificate.model,
        "fingerprint": certificate.fingerprint,
        "passed": certificate.passed,
        "checks": certificate.checks,
        "sites": len(model.sites()),
    }
