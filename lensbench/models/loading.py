"""From a name, a folder, a hub id or a model in memory to a :class:`Model`.

Bundled models lie in ``lensbench/data/models``; a local folder is read in hub format; anything
else is asked of the hub (or its offline cache). Weights are read from safetensors by transformers;
remote code is never run.
"""

from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from lensbench.devices import as_device
from lensbench.errors import ConfigError, UnknownNameError
from lensbench.models.base import Model, ModelCard
from lensbench.models.disk import bundled_models, read_model
from lensbench.models.families import architecture_of, shape_of
from lensbench.models.transformer_lens.tool import is_transformer_lens
from lensbench.models.weights import fingerprint

__all__ = ["bundled_models", "fingerprint", "load_model"]

_DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
AUTO_CERTIFY = 20_000_000
"""Models of up to this many parameters are certified when they are loaded."""


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
    remote: bool | str = False,
    vllm: bool = False,
    engine: Mapping[str, Any] | None = None,
) -> Model:
    """Open a model for capture and intervention.

    ``x`` is a bundled name (``"atlas-dense"``), a local folder in hub format, a hub id, or a
    transformers causal language model in memory (which is put into eval mode and gets hooks; its
    weights and modules stay as they are), or a ``HookedTransformer`` or ``TransformerBridge`` of
    TransformerLens, which is used as it is. ``dtype`` is float32 for what is read from disk; one in
    memory keeps its own. ``revision`` names a hub revision, or a checkpoint such
    as ``step512`` in the ``revisions`` folder of a local or bundled model. ``backend="nnsight"``
    reaches the same sites through nnsight traces of a twin that shares the weights. ``certify``
    runs the certificate; None means yes for models of up to 20 M parameters. With ``remote=True``
    the model ``x`` of NDIF runs plans on its server (an address names another one), with
    ``vllm=True`` in a vLLM engine; ``engine`` are their options.

    Raises:
        ConfigError: ``x`` names no model and is none.
        UnknownNameError: no such bundled model, folder or hub id, family, dtype or back end.
        MissingDataError: no such revision.
        BackendUnavailableError: no nnsight, API key, server or vLLM.
        DamagedDataError: a weight file that cannot be read.
        ModelError: the certificate fails.

    Example:
        >>> model = lensbench.load_model("atlas-dense")  # or a folder, a hub id, a model in memory
        >>> model.card.n_layers, model.card.d_model
        (6, 128)
    """
    if backend not in ("native", "nnsight"):
        known, name = ["native", "nnsight"], str(backend)
        raise UnknownNameError("back end", name, known=known, hint=_other(name))
    _refuse_no_model(x)
    if remote or vllm:
        from lensbench.models.nnsight.engines import open_engine

        return open_engine(x, revision, backend, remote=remote, vllm=vllm, options=engine or {})
    if isinstance(x, Model):
        return x if backend in ("native", x.card.backend) else _through_nnsight(x)
    if is_transformer_lens(x):
        from lensbench.models.transformer_lens.model import open_transformer_lens

        given = {"revision": revision, "dtype": dtype, "device": device, "device_map": device_map}
        given["backend"] = None if backend == "native" else backend
        return open_transformer_lens(x, tokenizer, certify, given)
    if isinstance(x, nn.Module):
        known = str(getattr(x.config, "_name_or_path", "") or type(x).__name__)
        name = Path(known).name if Path(known).is_dir() else known
        module, source = _in_memory(x, dtype), ""
    else:
        source = str(x)
        module, tokenizer = read_model(
            source, revision, _dtype(dtype or "float32"), device_map, tokenizer
        )
        name = Path(source).name if Path(source).is_dir() else source
    if device is not None and device_map is None:
        module.to(as_device(device))
    return _finish(module, (name, revision, source), tokenizer, certify, backend)


def _refuse_no_model(x: Any) -> None:
    """Refuse what names no model, before a folder or the hub is asked for it."""
    if isinstance(x, (Model, PathLike)) or is_transformer_lens(x):
        return
    if x.strip() if isinstance(x, str) else isinstance(x, nn.Module) and hasattr(x, "config"):
        return
    raise ConfigError(
        "pass a bundled name such as 'atlas-dense', a folder, a hub id, or a transformers model in "
        f"memory; got {type(x).__name__ if isinstance(x, nn.Module) else repr(x)}"
    )


def _other(backend: str) -> str:
    if "lens" not in backend.lower():
        return ""
    return (
        "A HookedTransformer or TransformerBridge is passed itself: load_model(that). Of our model "
        "lensbench.models.transformer_lens.to_transformer_lens(model) makes one."
    )


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


def _through_nnsight(model: Any) -> Model:
    """The module of a native model, reached through nnsight."""
    from lensbench.models.nnsight.model import NnsightModel

    if model.card.backend == "transformer_lens":
        raise ConfigError("nnsight opens transformers models; pass the module itself")
    return NnsightModel(model.module, replace(model.card, backend="nnsight"), model.tokenizer)


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
