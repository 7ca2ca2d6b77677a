"""SAELens' format (6.0 or later), which is also ours: ``cfg.json``, ``sae_weights.safetensors``.

``sae_lens.SAE.load_from_disk`` reads what :func:`write` writes and gives the same codes. A
threshold dictionary (BatchTopK after training) is written as ``jumprelu``, as SAELens itself does.
The site is written as TransformerLens spells it (``blocks.3.hook_resid_post``), so that SAELens can
splice the dictionary into its models, and once more as we do; a site with a head axis is marked
``hook_z``, which makes SAELens flatten the heads first.
"""

from pathlib import Path
from typing import Any, Literal

from lensbench import io
from lensbench.errors import ConfigError, MismatchError, UnknownNameError
from lensbench.saes.coder import Activation, SparseCoder
from lensbench.saes.formats import sae_lens_transcoders as transcoders
from lensbench.saes.formats.parts import (
    Tensors,
    bias_of_centred,
    read_config,
    take,
    to_numpy,
    unit_decoder,
    whole,
)
from lensbench.saes.sae import SAE
from lensbench.saes.transcoder import Transcoder
from lensbench.sites import HEAD_AXES, Site, canonical_name

CONFIG_FILE, WEIGHTS_FILE = "cfg.json", "sae_weights.safetensors"
FORMAT_VERSION = "6.54.12"
"""Version of SAELens whose file format is written (it converts files without a version)."""
_LAYOUT = {
    "W_enc": ("d_model", "d_sae"),
    "b_enc": ("d_sae",),
    "W_dec": ("d_sae", "d_model"),
    "b_dec": ("d_model",),
}
_TO_SAELENS: dict[Activation, str] = {
    "topk": "topk",
    "relu": "standard",
    "threshold": "jumprelu",
}
_FROM_SAELENS: dict[str, Activation] = {name: ours for ours, name in _TO_SAELENS.items()}


def write(sae: SparseCoder, folder: Path) -> None:
    """Write ``cfg.json`` and ``sae_weights.safetensors``.

    Raises:
        MismatchError: a crosscoder, or a TopK transcoder: SAELens has neither.
    """
    if isinstance(sae, Transcoder):
        config = transcoders.config_of(sae, FORMAT_VERSION)
        io.write_arrays(folder / WEIGHTS_FILE, transcoders.arrays(sae))
        io.write_json(folder / CONFIG_FILE, config)
        return
    if not isinstance(sae, SAE):
        raise MismatchError(f"SAELens has no {sae.role}s; write it as 'lensbench'")
    arrays = {n: to_numpy(getattr(sae, n)) for n in ("W_enc", "b_enc", "W_dec", "b_dec")}
    if sae.threshold is not None:
        arrays["threshold"] = to_numpy(sae.threshold)
    io.write_arrays(folder / WEIGHTS_FILE, arrays)
    io.write_json(folder / CONFIG_FILE, saelens_config(sae))


def read(folder: Path) -> SparseCoder:
    """The SAE or transcoder in ``folder``.

    ``rescale_acts_by_decoder_norm`` and ``apply_b_dec_to_input`` are folded into the weights, so
    that the codes are the same.

    Raises:
        MissingDataError: a file is not there.
        DamagedDataError: not readable, or a tensor is absent or of the wrong shape.
        UnknownNameError: an architecture that cannot be read here.
        MismatchError: activations are normalised in a way the weights cannot express.
    """
    config = read_config(folder / CONFIG_FILE)
    path = folder / WEIGHTS_FILE
    _refuse_scaling(config)
    if str(config.get("architecture")) in transcoders.ARCHITECTURES:
        return transcoders.read(config, path)
    activation = _activation(config)
    layout = _LAYOUT | ({"threshold": ("d_sae",)} if activation == "threshold" else {})
    found = io.read_tensors(path)
    tensors = take(found, layout, path, ignored=found)
    _fold(tensors, config)
    metadata = dict(config.get("metadata") or {})
    d_sae = len(tensors["b_enc"])
    return SAE(
        **tensors,
        activation=activation,
        k=whole(config.get("k"), "k", folder / CONFIG_FILE, d_sae)
        if activation == "topk"
        else None,
        config=dict(metadata.pop("lensbench_config", None) or {}),
        metadata=_with_site(metadata),
    )


def _with_site(metadata: dict[str, Any]) -> dict[str, Any]:
    """Metadata of a file with the site as we spell it; ``hook_name`` stays as it was written."""
    rest = {k: v for k, v in metadata.items() if k != "lensbench_site"}
    site = metadata.get("lensbench_site") or metadata.get("hook_name")
    return {"site": canonical_name(str(site)) if site else None} | rest


def _hook_of(sae: SAE) -> tuple[str | None, Literal["none", "hook_z"]]:
    """What TransformerLens calls the site, and how SAELens is to flatten it, to splice it in.

    A name that others wrote for this very site is kept: it may be one of several.
    """
    given, site = sae.metadata.get("hook_name"), sae.site
    try:
        known = Site.parse(site) if site else None
    except ConfigError:  # not one of our sites: its own name is the best there is
        known = None
    if known is None:
        return given or site, "none"
    theirs = given != site and canonical_name(str(given)) == str(known)
    hook = given if given and theirs else known.transformer_lens or str(known)
    return hook, "hook_z" if known.spec.axes == HEAD_AXES else "none"


def _activation(config: dict[str, Any]) -> Activation:
    architecture = str(config.get("architecture"))
    if architecture not in _FROM_SAELENS:
        raise UnknownNameError(
            "readable architecture",
            architecture,
            known=(*_FROM_SAELENS, *transcoders.ARCHITECTURES),
            hint="SAELens itself reads more: load('sae_lens:' + the folder).",
        )
    return _FROM_SAELENS[architecture]


def _refuse_scaling(config: dict[str, Any]) -> None:
    if (scaling := config.get("normalize_activations", "none")) not in ("none", None):
        raise MismatchError(
            f"this dictionary expects activations scaled by {scaling!r}; fold the scale into the "
            "weights with SAELens (fold_activation_norm_scaling_factor) and save it again"
        )


def _fold(tensors: Tensors, config: dict[str, Any]) -> None:
    """Rewrite the weights so that neither option of SAELens is needed any more."""
    if not config.get("apply_b_dec_to_input", True):
        bias = bias_of_centred(tensors["b_enc"], tensors["b_dec"], tensors["W_enc"])
        tensors["b_enc"] = bias
    if config.get("rescale_acts_by_decoder_norm", False):
        unit_decoder(tensors)


def saelens_config(sae: SAE) -> dict[str, Any]:
    """What SAELens writes as ``cfg.json`` beside such weights: its config of this dictionary."""
    hook, reshaped = _hook_of(sae)
    metadata = {
        "sae_lens_version": FORMAT_VERSION,
        "sae_lens_training_version": None,
        **{k: v for k, v in sae.metadata.items() if k != "site"},
        "hook_name": hook,
        "lensbench_site": sae.site,
        "lensbench_config": sae.config,
    }
    body: dict[str, Any] = {
        "architecture": _TO_SAELENS[sae.activation],
        "d_in": sae.d_model,
        "d_sae": sae.d_sae,
        "dtype": to_numpy(sae.W_dec[:0]).dtype.name,
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": reshaped,
        "metadata": metadata,
    }
    if sae.activation == "topk":
        body |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    return body
