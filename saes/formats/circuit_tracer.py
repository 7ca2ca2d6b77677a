"""circuit-tracer's transcoders: ``layer_<L>.safetensors``, one ``config.yaml`` for all; read only.

``W_enc`` is ``[d_sae, d_in]`` and ``W_skip [d_out, d_in]`` on disk. A threshold in the file makes
it JumpReLU; else it is ReLU, if the config does not say otherwise: nothing in a file tells TopK
from ReLU, so without a config it is refused. Its TopK keeps negative values and is refused too.

Source: safety-research/circuit-tracer, ``transcoder/single_layer_transcoder.py``.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from lensbench import io
from lensbench.errors import DamagedDataError, MismatchError, MissingDataError
from lensbench.saes.formats.parts import take
from lensbench.saes.transcoder import Transcoder
from lensbench.sites import canonical_name

CONFIG_FILE, SUFFIX = "config.yaml", ".safetensors"
_LAYOUT = {
    "W_enc": ("d_sae", "d_in"),
    "b_enc": ("d_sae",),
    "W_dec": ("d_sae", "d_out"),
    "b_dec": ("d_out",),
    "W_skip": ("d_out", "d_in"),
    "activation_function.threshold": ("d_sae",),
}
_OPTIONAL = ("W_skip", "activation_function.threshold")


def read(path: Path) -> Transcoder:
    """The transcoder in the file ``path``; its layer is the number in the name.

    Raises:
        MissingDataError: no such file; or no config, where the file does not say what it is.
        DamagedDataError: not readable; tensors absent, unknown or misshapen.
        MismatchError: TopK, a cross-layer transcoder, or a config that contradicts the file.
    """
    tensors = take(io.read_tensors(path), _LAYOUT, path, optional=_OPTIONAL)
    threshold = tensors.pop("activation_function.threshold", None)
    config = _config(path)
    _refuse(config, path, jumps=threshold is not None)
    weights: dict[str, Any] = {n: t for n, t in tensors.items() if n.startswith(("b_", "W_dec"))}
    for name in {"W_enc", "W_skip"} & set(tensors):
        weights[name] = tensors[name].t().contiguous()
    layer = re.search(r"(\d+)$", path.stem)
    about: dict[str, Any] = {"source_format": "circuit_tracer"}
    for ours, theirs in (("site", "feature_input_hook"), ("target", "feature_output_hook")):
        hook = config.get(theirs)
        about[ours] = canonical_name(f"blocks.{layer[1]}.{hook}") if hook and layer else None
    if config.get("model_name"):
        about["model_name"] = config["model_name"]
    return Transcoder(
        **weights,
        threshold=threshold,
        activation="relu" if threshold is None else "threshold",
        metadata=about,
    )


def _config(path: Path) -> dict[str, Any]:
    place = path.parent / CONFIG_FILE
    if not place.is_file():
        return {}
    try:
        config = yaml.safe_load(place.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DamagedDataError(f"{place} is not valid YAML: {error}") from error
    if not isinstance(config, dict):
        raise DamagedDataError(f"{place} must hold a mapping, not a {type(config).__name__}")
    return {str(name): value for name, value in config.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def _refuse(config: dict[str, Any], path: Path, *, jumps: bool) -> None:
    if not config and not jumps:
        raise MissingDataError(
            f"no {CONFIG_FILE} beside {path}, which alone says whether its codes are ReLU or TopK; "
            "put that of its release there"
        )
    kind, activation = config.get("model_kind", "transcoder_set"), config.get("activation")
    if kind != "transcoder_set":
        raise MismatchError(f"{path} is a {kind}; of circuit-tracer a transcoder_set is read")
    if activation == "topk":
        raise MismatchError(f"{path} is TopK and keeps negative codes; codes here are not below 0")
    if activation == "relu" and jumps:
        raise MismatchError(f"{path} has thresholds, and {CONFIG_FILE} beside it says relu")
