"""Dictionaries of a run to the hub, and one of the hub into a folder."""

from pathlib import Path
from typing import Any

from lensbench import saes
from lensbench.app.workflows.runs import all_runs
from lensbench.errors import ConfigError
from lensbench.saes.coder import SparseCoder


def push(run: Path, repo: str, names: tuple[str, ...] = (), **options: Any) -> dict[str, Any]:
    """Upload the finished dictionaries of ``run`` (or those named); options as of ``push_to_hub``.

    Raises:
        ConfigError: a name that the run has not; what ``push_to_hub`` refuses.
    """
    runs = all_runs(run)
    known = [one.name for one in runs]
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"{run} has no {', '.join(unknown)}; it has {', '.join(known)}")
    chosen = [one for one in runs if not names or one.name in names]
    url = saes.push_to_hub(chosen, repo, **options)
    return {"repository": repo, "dictionaries": len(chosen), "commit": url}


def pull(name: str, out: Path, format: str | None = None) -> dict[str, Any]:
    """Load a dictionary by its name on the hub and save it, in our format, into ``out``.

    Raises:
        ConfigError: ``out`` holds something; what ``saes.load`` refuses.
    """
    if out.is_dir() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty; choose another folder")
    wanted: Any = format
    sae = saes.load(name if name.startswith("hf://") else f"hf://{name}", format=wanted)
    if not isinstance(sae, SparseCoder):
        raise ConfigError(f"{name} cannot be written in our format; use it through saes.load")
    saes.save(sae, out)
    target = getattr(sae, "target", None)
    site = f"{sae.site or 'unknown'}{f'>{target}' if target else ''}"
    return {"dictionary": str(out), "site": site, "d_sae": sae.d_sae}
