"""Reading a model from a bundled folder, a local folder in hub format, or the hub and its cache.

Weights are read from safetensors by transformers. A model's own code is never run.
"""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from lensbench.errors import (
    BackendUnavailableError,
    DamagedDataError,
    LensbenchError,
    MissingDataError,
    ModelError,
)
from lensbench.models.families import architecture_of
from lensbench.models.hub import check_hub


def bundled_models() -> dict[str, Path]:
    """Models that come with lensbench, by name."""
    root = Path(str(files("lensbench") / "data" / "models"))
    checkout = Path(__file__).resolve().parents[2] / "data" / "models"
    root = root if root.is_dir() else checkout
    found = sorted(root.glob("*/config.json")) if root.is_dir() else []
    return {path.parent.name: path.parent for path in found}


def read_model(
    source: str, revision: str | None, dtype: torch.dtype, device_map: Any, tokenizer: Any
) -> tuple[Any, Any]:
    """The module and its tokenizer (None where there is none).

    Raises:
        MissingDataError: no such revision, or a folder that is no model.
        DamagedDataError: a weight file that cannot be read.
        ModelError: a model that brings code of its own.
        BackendUnavailableError: weights quantised by a package that is not installed.
    """
    from safetensors import SafetensorError

    folder = bundled_models().get(source) or (Path(source) if Path(source).is_dir() else None)
    where, told = str(folder or source), {}
    if folder is not None:
        where = str(revision_folder(folder, revision))
    else:
        check_hub(source, revision, [*bundled_models()])
        told.update({} if revision is None else {"revision": revision})
    options = {} if device_map is None else {"device_map": device_map}
    try:
        module = _quiet_load(where, told, dtype=dtype, use_safetensors=True, **options)
    except SafetensorError as error:
        raise DamagedDataError(f"a weight file of {where} is damaged: {error}") from error
    except ImportError as error:
        reason = str(error).strip().splitlines()[0]
        raise BackendUnavailableError(
            f"{source} needs a package that is not installed here: {reason}"
        ) from error
    except LensbenchError:
        raise
    except (OSError, ValueError) as error:
        raise _explain(source, folder, error) from error
    return module, tokenizer if tokenizer is not None else _tokenizer(str(folder or source), told)


def _quiet_load(where: str, told: dict[str, Any], **options: Any) -> Any:
    """``from_pretrained`` without its progress bar: stderr is for our own progress."""
    import transformers
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    told = {**told, "trust_remote_code": False}
    try:
        config = transformers.AutoConfig.from_pretrained(where, **told)
        opener = getattr(transformers, f"AutoModelFor{architecture_of(config).auto}")
        return opener.from_pretrained(where, config=config, **told, **options)
    finally:
        if shown:
            logging.enable_progress_bar()


def _explain(source: str, folder: Path | None, error: Exception) -> Exception:
    reason = str(error).splitlines()[0]
    if "trust_remote_code" in str(error) or _brings_code(folder):
        return ModelError(
            f"{source} brings Python code of its own that would have to be run to open it. "
            "lensbench never runs a model's code: it could do anything on this machine, and its "
            "sites could not be vouched for. Convert it to an architecture of transformers, or "
            "open it yourself and pass the module: load_model(module)"
        )
    if folder is not None:
        return MissingDataError(
            f"{folder} is not a model lensbench can load: {reason} A folder needs config.json and "
            "model.safetensors as saved by save_pretrained."
        )
    return MissingDataError(f"the hub's {source} cannot be loaded: {reason}")


def _brings_code(folder: Path | None) -> bool:
    if folder is None or not (folder / "config.json").is_file():
        return False
    try:
        told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError:  # no JSON: that is what the error is about
        return False
    return isinstance(told, dict) and bool(told.get("auto_map"))


def revision_folder(folder: Path, revision: str | None) -> Path:
    """Where a revision of a bundled or local model lies.

    Raises:
        MissingDataError: it has none of that name; says which there are.
    """
    if revision is None:
        return folder
    found = folder / "revisions" / revision
    if (found / "config.json").is_file():
        return found
    known = sorted(p.parent.name for p in (folder / "revisions").glob("*/config.json"))
    raise MissingDataError(
        f"{folder.name} has no revision {revision!r}; it has: {', '.join(known) or 'none'}"
    )


def _tokenizer(where: str, told: dict[str, Any]) -> Any:
    """The tokenizer beside the weights, or None: models without one still take token ids."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(where, trust_remote_code=False, **told)
    except (OSError, ValueError, KeyError, TypeError):
        return None
