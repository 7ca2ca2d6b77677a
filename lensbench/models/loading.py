"""From a name, a folder, a hub id or a model in memory to a :class:`Model`.

Bundled models lie in ``lensbench/data/models``; a local folder is read in hub format; anything
else is asked of the hub (or its offline cache). Weights are read from safetensors by transformers;
remote code is never run.
"""

import hashlib
import json
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from lensbench.devices import as_device
from lensbench.errors import ConfigError, DamagedDataError, MissingDataError, UnknownNameError
from lensbench.models.base import Model, ModelCard
from lensbench.models.families import architecture_of, shape_of
from lensbench.models.hub import check_hub

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_SAMPLE = 1 << 18  # numbers hashed per tensor in models of more than _WHOLE parameters
_WHOLE = 50_000_000
AUTO_CERTIFY = 20_000_000
"""Models of up to this many parameters are certified when they are loaded."""


def bundled_models() -> dict[str, Path]:
    """Models that come with lensbench, by name."""
    root = Path(str(files("lensbench") / "data" / "models"))
    checkout = Path(__file__).resolve().parents[2] / "data" / "models"
    root = root if root.is_dir() else checkout
    found = sorted(root.glob("*/config.json")) if root.is_dir() else []
    return {path.parent.name: path.parent for path in found}


def load_model(
    x: Any,
    *,
    revision: str | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    device_map: Any = None,
    backend: Literal["native", "nnsight"] = "native",
    tokenizer: Any = None,
    certify: bool | None = None,
) -> Model:
    """Open a model for capture and intervention.

    ``x`` is a bundled name (``"atlas-dense"``), a local folder in hub format, a hub id, or a
    transformers causal language model in memory (which is put into eval mode and gets hooks; its
    weights and modules stay as they are). ``dtype`` is float32 for what is read from disk; one in
    memory keeps its own. ``revision`` names a hub revision, or a checkpoint such
    as ``step512`` in the ``revisions`` folder of a local or bundled model. ``backend="nnsight"``
    reaches the same sites through nnsight traces of a twin that shares the weights. ``certify``
    runs the certificate; None means yes for models of up to 20 M parameters.

    Raises:
        UnknownNameError: no such bundled model, folder or hub id, family, dtype or back end.
        MissingDataError: no such revision.
        DamagedDataError: a weight file that cannot be read.
        ModelError: the certificate fails.
    """
    if backend not in ("native", "nnsight"):
        raise UnknownNameError("back end", str(backend), known=["native", "nnsight"])
    if isinstance(x, Model):
        return x
    if isinstance(x, nn.Module):
        known = str(getattr(x.config, "_name_or_path", "") or type(x).__name__)
        name = Path(known).name if Path(known).is_dir() else known
        module, source = _in_memory(x, dtype), ""
    else:
        source = str(x)
        module, tokenizer = _from_disk(
            source, revision, _dtype(dtype or "float32"), device_map, tokenizer
        )
        name = Path(source).name if Path(source).is_dir() else source
    if device is not None and device_map is None:
        module.to(as_device(device))
    return _finish(module, (name, revision, source), tokenizer, certify, backend)


def _finish(
    module: Any,
    called: tuple[str, str | None, str],
    tokenizer: Any,
    certify: bool | None,
    backend: str,
) -> Model:
    if backend == "native":
        from lensbench.models.huggingface import NativeModel as Opened
    else:
        from lensbench.models.nnsight.model import NnsightModel as Opened

    main = architecture_of(module.config).main  # refuse before hashing the weights
    name, revision, source = called
    card = ModelCard(
        name=name,
        family=str(module.config.model_type),
        revision=revision,
        dtype=str(next(module.parameters()).dtype).removeprefix("torch."),
        fingerprint=fingerprint(module),
        source=source,
        backend=backend,
        **vars(shape_of(module.config, main)),
    )
    model = Opened(module, card, tokenizer)
    if certify is None:
        certify = sum(p.numel() for p in module.parameters()) <= AUTO_CERTIFY
    if certify:
        model.certify().require()
    return model


def _in_memory(module: nn.Module, dtype: str | torch.dtype | None) -> nn.Module:
    """The module itself, which is not cast behind its owner's back.

    Raises:
        ConfigError: another dtype was asked for.
    """
    own = next(module.parameters()).dtype
    if dtype is not None and _dtype(dtype) != own:
        raise ConfigError(
            f"the model in memory is {str(own).removeprefix('torch.')}, not {dtype}; cast it "
            "yourself (model.to(...)), or load it from its folder"
        )
    return module


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in _DTYPES:
        raise UnknownNameError("dtype", dtype, known=sorted(_DTYPES))
    return _DTYPES[dtype]


def _from_disk(
    source: str, revision: str | None, dtype: torch.dtype, device_map: Any, tokenizer: Any
) -> tuple[Any, Any]:
    from safetensors import SafetensorError

    folder = bundled_models().get(source) or (Path(source) if Path(source).is_dir() else None)
    where, options = str(folder or source), {}
    if folder is not None:
        where = str(_revision_folder(folder, revision))
    else:
        check_hub(source, revision, [*bundled_models()])
        options.update({} if revision is None else {"revision": revision})
    if device_map is not None:
        options["device_map"] = device_map
    try:
        module = _quiet_load(where, dtype=dtype, use_safetensors=True, **options)
    except SafetensorError as error:
        raise DamagedDataError(f"a weight file of {where} is damaged: {error}") from error
    except (OSError, ValueError) as error:
        raise _explain(source, folder, error) from error
    return module, tokenizer if tokenizer is not None else _tokenizer(
        str(folder or source), options
    )


def _quiet_load(where: str, **options: Any) -> Any:
    """``from_pretrained`` without its progress bar: stderr is for our own progress."""
    import transformers
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        told = {k: v for k, v in options.items() if k == "revision"}
        config = transformers.AutoConfig.from_pretrained(where, **told)
        opener = getattr(transformers, f"AutoModelFor{architecture_of(config).auto}")
        return opener.from_pretrained(where, config=config, **options)
    finally:
        if shown:
            logging.enable_progress_bar()


def _explain(source: str, folder: Path | None, error: Exception) -> Exception:
    if folder is not None:
        reason = str(error).splitlines()[0]
        return MissingDataError(
            f"{folder} is not a model lensbench can load: {reason} A folder needs config.json and "
            "model.safetensors as saved by save_pretrained."
        )
    return MissingDataError(f"the hub's {source} cannot be loaded: {str(error).splitlines()[0]}")


def _revision_folder(folder: Path, revision: str | None) -> Path:
    if revision is None:
        return folder
    found = folder / "revisions" / revision
    if (found / "config.json").is_file():
        return found
    known = sorted(p.parent.name for p in (folder / "revisions").glob("*/config.json"))
    raise MissingDataError(
        f"{folder.name} has no revision {revision!r}; it has: {', '.join(known) or 'none'}"
    )


def _tokenizer(where: str, options: dict[str, Any]) -> Any:
    """The tokenizer beside the weights, or None: models without one still take token ids."""
    from transformers import AutoTokenizer

    kept = {k: v for k, v in options.items() if k == "revision"}
    try:
        return AutoTokenizer.from_pretrained(where, **kept)
    except (OSError, ValueError, KeyError, TypeError):
        return None


_NO_COMPUTATION = frozenset(
    "architectures dtype torch_dtype transformers_version use_cache return_dict id2label label2id "
    "problem_type output_attentions output_hidden_states chunk_size_feed_forward is_decoder".split()
)
"""Entries of a transformers config that change no number."""


def _computation(config: Any) -> str:
    """The computing part of a config, as canonical JSON."""
    told = {
        key: value
        for key, value in config.to_dict().items()
        if not key.startswith("_") and not key.endswith("token_id") and key not in _NO_COMPUTATION
    }
    return json.dumps(told, sort_keys=True, default=str)


def fingerprint(module: nn.Module) -> str:
    """16 hex digits of all weights and of the settings that decide what is computed with them.

    Names, shapes, dtypes and values; rotary base, windows, caps, norms and whatever else the config
    says about the computation. Models of more than 50 M parameters are sampled: every tensor gives
    evenly spaced values, so that a changed tensor shows and loading stays quick.
    """
    digest = hashlib.sha256(_computation(module.config).encode())
    whole = sum(p.numel() for p in module.parameters()) <= _WHOLE
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        flat = tensor.detach().reshape(-1)
        if not whole and flat.numel() > _SAMPLE:
            flat = flat[:: flat.numel() // _SAMPLE]
        digest.update(flat.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
