"""The other libraries at work on the same model and dictionary: what each did, with its number.

Every line is a job that ran just now. A library that is not installed is called absent, not left
out; one that disagrees is a finding, so its number is shown as it is.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lensbench.models.loading import bundled_models
from lensbench.sites import Site

if TYPE_CHECKING:
    from lensbench.models import Model
    from lensbench.saes import SAE

ROWS = 8
"""Rows of the one batch on which the libraries are compared."""


@dataclass(frozen=True)
class Witness:
    """One batch and what lensbench computed on it."""

    model: "Model"
    name: str
    site: str
    ids: Tensor
    resid: Tensor
    sae: "SAE"
    sae_folder: Path


def witness(model: "Model", name: str, site: str, ids: Tensor, run: Any) -> Witness:
    """Run the batch once here."""
    from lensbench.saes.runs import RESULT_FOLDER

    resid = model.run(ids, capture=[site], logits="none").acts[site]
    return Witness(model, name, site, ids, resid, run.sae, Path(run.folder) / RESULT_FOLDER)


def cross_checks(seen: Witness) -> list[dict[str, str]]:
    """One row per library: package, version, what it did."""
    checks: list[tuple[str, Callable[[Witness], str]]] = [
        ("transformer-lens", _transformer_lens),
        ("nnsight", _nnsight),
        ("sae-lens", _sae_lens),
    ]
    return [_row(package, check, seen) for package, check in checks]


def versions_row(package: str, job: str) -> dict[str, str]:
    """A row for a package whose job was done elsewhere."""
    return {"package": package, "version": _version(package), "job": job}


def _row(package: str, check: Callable[[Witness], str], seen: Witness) -> dict[str, str]:
    try:
        job = check(seen)
    except ImportError as error:
        job = f"absent: {error}"
    return versions_row(package, job)


def _transformer_lens(seen: Witness) -> str:
    """TransformerLens loads the same files itself and captures the same batch."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformers.utils import logging as hub_logging

    hub_logging.disable_progress_bar()
    logging.getLogger("transformer_lens").setLevel(logging.ERROR)
    folder = str(bundled_models().get(seen.name, Path(seen.name)))
    bridge = TransformerBridge.boot_transformers(folder, device="cpu", dtype=torch.float32)
    site = Site.parse(seen.site)
    with torch.no_grad():
        _, cache = bridge.run_with_cache(seen.ids)
    theirs = cache[f"blocks.{site.layer}.hook_{site.name}"]
    return f"captured {seen.site} of one batch: {_gap(theirs, seen.resid)}"


def _nnsight(seen: Witness) -> str:
    """Nnsight traces the very module that lensbench runs."""
    from nnsight import NNsight

    module: Any = getattr(seen.model, "module", None)
    traced: Any = NNsight(module)
    layer = Site.parse(seen.site).layer
    with torch.no_grad(), traced.trace(seen.ids):
        output = traced.model.layers[layer].output.save()
    theirs = output[0] if isinstance(output, tuple) else output
    return f"traced {seen.site} of the same batch: {_gap(theirs, seen.resid)}"


def _sae_lens(seen: Witness) -> str:
    """SAELens reads the dictionary that lensbench trained and encodes the same activations."""
    from sae_lens import SAE as Theirs

    x = seen.resid.reshape(-1, seen.resid.shape[-1])
    loaded = Theirs.load_from_disk(str(seen.sae_folder), device="cpu")
    with torch.no_grad():
        theirs = loaded.encode(x)
    return f"re-loaded a dictionary and encoded {len(x)} tokens: {_gap(theirs, seen.sae.encode(x))}"


def _gap(theirs: Tensor, ours: Tensor) -> str:
    gap = float((theirs.float() - ours.float()).abs().max())
    return f"largest difference {gap:.1e} (values up to {float(ours.abs().max()):.3g})"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
