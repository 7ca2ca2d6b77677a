"""What is installed, on what machine, what is missing and what it costs; a model's certificate."""

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lensbench import provenance
from lensbench.app.workflows.drawing import browser
from lensbench.app.workflows.models import open_model

PARTS: dict[str, str] = {
    "transformer-lens": "models of TransformerLens, to_transformer_lens, parity checks",
    "nnsight": "backend='nnsight', model.trace, remote runs",
    "sae-lens": "dictionaries by sae_lens:release/id, `eval sae --against sae_lens`",
    "streamlit": "the dashboard (`lensbench app`)",
    "plotly": "every figure",
    "triton": "fast kernels for training on a GPU (training works without)",
    "kaleido": "`figure.write_image` in Python (--svg and --png of commands need only Chromium)",
    "wandb": "`train sae --sinks wandb` (metrics are in the run folder without)",
    "tensorboard": "`train sae --sinks tensorboard` (metrics are in the run folder without)",
    "umap-learn": "one more layout of the decoder map",
    "ipykernel": "notebooks",
}
"""Packages that some part needs, and what goes without them."""
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
HUB, WAIT = "https://huggingface.co", 3.0
"""Asked once, with a HEAD request and this many seconds, unless the settings say offline."""


def examine(
    model: str | None = None, revision: str | None = None, *, hub: bool = True
) -> dict[str, Any]:
    """Facts about this installation; with ``model``, the outcome of every check on it.

    ``hub`` off sends nothing anywhere.

    Raises:
        LensbenchError: the model cannot be found or read.
    """
    from lensbench.models.loading import bundled_models

    now = provenance.record()
    found: dict[str, Any] = {
        "versions": {"python": now.python, **now.versions},
        "bundled": [{"name": n, "folder": str(p)} for n, p in bundled_models().items()],
        "parts": [_part(name, use) for name, use in PARTS.items()],
        "machine": _machine(),
        "devices": _devices(),
        "folder": _folder(Path.cwd()),
        "hub": _hub(asked=hub),
        "exports": _exports(),
    }
    found["problems"] = problems(found)
    if model is not None:
        found["certificate"] = _certificate(model, revision)
    return found


def problems(found: dict[str, Any]) -> list[str]:
    """What to mend, most pressing first; empty is best."""
    told: list[str] = []
    if not found["folder"]["writable"]:
        told.append(f"{found['folder']['path']} cannot be written to: give every --out elsewhere")
    if found["folder"]["free_bytes"] < 2**30:
        told.append("less than 1 GiB is free here: a store of a small model may need as much")
    if (memory := found["machine"]["memory_free_bytes"]) is not None and memory < 2 * 2**30:
        told.append("less than 2 GiB of memory is free: close something, or keep to small models")
    told += [f"{row['package']} is absent: {row['for']}" for row in found["parts"]
             if row["version"] is None and row["needed"]]  # fmt: skip
    if found["machine"]["cuda_driver"] and not any(
        row["device"].startswith("cuda") for row in found["devices"]
    ):
        told.append("there is a GPU driver, but this torch sees no GPU: install torch for CUDA")
    return told


def _part(name: str, use: str) -> dict[str, Any]:
    needed = name in ("transformer-lens", "nnsight", "sae-lens", "streamlit", "plotly")
    try:
        return {"package": name, "version": version(name), "needed": needed, "for": use}
    except PackageNotFoundError:
        return {"package": name, "version": None, "needed": needed, "for": use}


def _machine() -> dict[str, Any]:
    import torch

    total, free = _memory()
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": total,
        "memory_free_bytes": free,
        "cuda_build": torch.version.cuda,
        "cuda_driver": _driver(),
    }  # fmt: skip


def _driver() -> str | None:
    """The GPU driver's own words, where there is one."""
    path = Path("/proc/driver/nvidia/version")
    return path.read_text().splitlines()[0] if path.is_file() else None


def _memory() -> tuple[int | None, int | None]:
    """All and free memory in bytes, where the system tells."""
    path = Path("/proc/meminfo")
    if not path.is_file():
        return None, None
    lines = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
    total, free = (int(lines[k].split()[0]) * 1024 for k in ("MemTotal", "MemAvailable"))
    return total, free


def _devices() -> list[dict[str, Any]]:
    import torch

    rows: list[dict[str, Any]] = [{"device": "cpu", "name": platform.processor() or "cpu"}]
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            told = torch.cuda.get_device_properties(i)
            free, total = torch.cuda.mem_get_info(i)
            rows.append({"device": f"cuda:{i}", "name": told.name, "memory_bytes": total,
                         "memory_free_bytes": free,
                         "compute": f"{told.major}.{told.minor}"})  # fmt: skip
    if torch.backends.mps.is_available():
        rows.append({"device": "mps", "name": "Apple GPU"})
    return rows


def _folder(path: Path) -> dict[str, Any]:
    return {"path": str(path), "writable": os.access(path, os.W_OK),
            "free_bytes": shutil.disk_usage(path).free}  # fmt: skip


def _hub(*, asked: bool) -> dict[str, Any]:
    from huggingface_hub import constants

    offline = [name for name in OFFLINE if os.environ.get(name, "") not in ("", "0")]
    cache = Path(constants.HF_HUB_CACHE)
    facts: dict[str, Any] = {
        "offline_settings": offline,
        "cache": str(cache),
        "cached_models": len([*cache.glob("models--*")]) if cache.is_dir() else 0,
    }
    if offline or not asked:
        return {**facts, "reachable": None}
    return {**facts, "reachable": _answers(HUB)}


def _answers(address: str) -> bool:
    from urllib.error import HTTPError, URLError
    from urllib.request import Request, urlopen

    try:
        with urlopen(Request(address, method="HEAD"), timeout=WAIT):
            return True
    except HTTPError:  # it answered, if only to refuse
        return True
    except (URLError, OSError):
        return False


def _exports() -> dict[str, Any]:
    found = browser()
    kaleido = _part("kaleido", "")["version"]
    return {"browser": found, "kaleido": kaleido, "png": bool(found)}


def _certificate(name: str, revision: str | None) -> dict[str, Any]:
    model: Any = open_model(name, revision, certify=False)
    certificate = model.certify()
    return {
        "model": certificate.model,
        "fingerprint": certificate.fingerprint,
        "passed": certificate.passed,
        "checks": certificate.checks,
        "sites": [str(site) for site in model.sites()],
    }
