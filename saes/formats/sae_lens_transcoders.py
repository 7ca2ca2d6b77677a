"""SAELens' transcoders: ``transcoder``, ``skip_transcoder``, ``jumprelu_transcoder`` and both.

They read ``x @ W_enc + b_enc``, without ``b_dec``; ``W_skip`` is ``[d_out, d_in]`` on disk. SAELens
has no TopK transcoder. Source: SAELens 6.54.
"""

from pathlib import Path
from typing import Any

from lensbench import io
from lensbench.errors import MismatchError
from lensbench.saes.coder import Activation
from lensbench.saes.formats.parts import take, to_numpy
from lensbench.saes.transcoder import Transcoder
from lensbench.sites import Site, canonical_name

_LAYOUT = {
    "W_enc": ("d_in", "d_sae"),
    "b_enc": ("d_sae",),
    "W_dec": ("d_sae", "d_out"),
    "b_dec": ("d_out",),
}
ARCHITECTURES: dict[str, tuple[Activation, bool]] = {
    "transcoder": ("relu", False),
    "skip_transcoder": ("relu", True),
    "jumprelu_transcoder": ("threshold", False),
    "jumprelu_skip_transcoder": ("threshold", True),
}
"""Activation, and whether there is a skip connection, by SAELens' name."""


def read(config: dict[str, Any], weights: Path) -> Transcoder:
    """A transcoder, from its ``cfg.json`` and the path of its weights."""
    activation, skip = ARCHITECTURES[str(config["architecture"])]
    layout = dict(_LAYOUT)
    if activation == "threshold":
        layout["threshold"] = ("d_sae",)
    if skip:
        layout["W_skip"] = ("d_out", "d_in")
    found = io.read_tensors(weights)
    tensors: dict[str, Any] = dict(take(found, layout, weights, ignored=found))
    if skip:
        tensors["W_skip"] = tensors["W_skip"].t().contiguous()
    metadata = dict(config.get("metadata") or {})
    own = dict(metadata.pop("lensbench_config", None) or {})
    ends = metadata.pop("lensbench_sites", None) or (
        metadata.get("hook_name"),
        metadata.get("hook_name_out"),
    )
    site, target = (canonical_name(str(end)) if end else None for end in ends)
    return Transcoder(
        **tensors,
        activation=activation,
        config=own,
        metadata={"site": site, "target": target} | metadata,
    )


def arrays(coder: Transcoder) -> dict[str, Any]:
    """Weights as SAELens names and turns them."""
    found = {name: to_numpy(t) for name, t in coder.tensors().items()}
    if "W_skip" in found:
        found["W_skip"] = found["W_skip"].T.copy()
    return found


def config_of(coder: Transcoder, version: str) -> dict[str, Any]:
    """Its ``cfg.json``.

    Raises:
        MismatchError: TopK, which SAELens' transcoders do not have.
    """
    kind = (coder.activation, coder.W_skip is not None)
    names = {told: name for name, told in ARCHITECTURES.items()}
    if kind not in names:
        raise MismatchError(
            f"SAELens has no {coder.activation} transcoder; write it as 'sparsify' or 'lensbench'"
        )
    hooks = [_hook(end) for end in (coder.site, coder.target)]
    kept = {k: v for k, v in coder.metadata.items() if k not in ("site", "target")}
    metadata = {
        "sae_lens_version": version,
        "sae_lens_training_version": None,
        **kept,
        "hook_name": hooks[0],
        "hook_name_out": hooks[1],
        "lensbench_sites": [coder.site, coder.target],
        "lensbench_config": coder.config,
    }
    return {
        "architecture": names[kind],
        "d_in": coder.d_in,
        "d_out": coder.d_out,
        "d_sae": coder.d_sae,
        "dtype": to_numpy(coder.W_dec[:0]).dtype.name,
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": metadata,
    }


def _hook(site: str | None) -> str | None:
    """As TransformerLens spells it, where it has a name for it."""
    if site is None or canonical_name(site) != site:
        return site
    try:
        return Site.parse(site).transformer_lens or site
    except ValueError:
        return site
