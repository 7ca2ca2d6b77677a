"""Dictionaries that others trained, through ``sae_lens.SAE.from_pretrained``.

``sae_lens:<release>/<id>`` names an entry of SAELens' registry, a hub repository, or a local folder
laid out like one. What our :class:`~lensbench.saes.sae.SAE` can express is rewritten as one and
compared with SAELens' own codes before it is handed out; what it cannot is wrapped or refused.
"""

import json
import warnings
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lensbench.errors import (
    DamagedDataError,
    MismatchError,
    MissingDataError,
    UnknownNameError,
)
from lensbench.models.hub import in_cache, refusal
from lensbench.saes.coder import Activation
from lensbench.saes.sae import SAE
from lensbench.saes.wrapped import WrappedSAE
from lensbench.sites import canonical_name

SCHEME = "sae_lens:"
_ACTIVATIONS: dict[str, Activation] = {
    "standard": "relu",
    "topk": "topk",
    "jumprelu": "threshold",
    "gated": "threshold",
}
_WRAPPED = ("abstopk", "matching_pursuit")
_NEAR, _SHOWN = 0.3, 8
_TOLERANCE, _FLIPS = 1e-4, 1e-4
"""Codes may differ by this share of the largest, in at most this share of places (thresholds)."""


def load_sae_lens(name: str, *, device: torch.device | str = "cpu") -> SAE | WrappedSAE:
    """The dictionary ``<release>/<id>`` (with or without ``sae_lens:``), as float32.

    A name of SAELens' registry means its release in every folder; then comes a local path, relative
    ones from the current folder; then a hub repository. To read a local folder that is called like
    a release of the registry, write ``./<folder>/<id>``.

    ``metadata`` keeps what SAELens knows: hook name, BOS, context size, neuronpedia id, model and
    normalisation. Gated dictionaries become thresholds: with shared weights the gate opens where
    ``z > b_mag - exp(r_mag) * b_gate`` (Rajamanoharan et al. 2024, arXiv:2404.16014).

    Raises:
        UnknownNameError: no such release, or no such id in it; an architecture that reads one site
            and writes another, or needs the whole sequence.
        DamagedDataError: files that SAELens cannot read.
        MissingDataError: neither in the local cache nor to be had from the hub.
        MismatchError: activations are normalised in a way the weights cannot express.
    """
    release, sae_id = _split(name.removeprefix(SCHEME))
    theirs, lookup = _pretrained(release, sae_id)
    theirs.turn_off_forward_pass_hook_z_reshaping()  # heads are flattened before
    theirs.requires_grad_(False)
    kind = theirs.cfg.architecture()
    _refuse(kind, theirs.cfg.normalize_activations, f"{release}/{sae_id}")
    metadata = _metadata(theirs, lookup, release, sae_id)
    if kind in _WRAPPED:
        return WrappedSAE(theirs.to(device=str(device)), metadata)
    ours = _converted(theirs, kind, metadata)
    _check_same_codes(ours, theirs, f"{release}/{sae_id}")
    return ours.to(device)


def _split(name: str) -> tuple[str, str]:
    """Release and id of a name; both may hold slashes."""
    known = _registry()
    found = [r for r in known if name == r or name.startswith(f"{r}/")]
    if found:
        release = max(found, key=len)
        ids, sae_id = list(known[release].saes_map), name[len(release) + 1 :]
        here = f"(This is SAELens' registry; for the folder here write ./{name}.)"
        return release, _known_id(release, sae_id, ids, here if Path(release).is_dir() else "")
    local = _local(Path(name).expanduser())
    if local is not None:
        return local
    first, *rest = name.split("/")
    if len(rest) >= 2 and not get_close_matches(first, known, n=1, cutoff=0.8):
        return f"{first}/{rest[0]}", "/".join(rest[1:])  # a hub repository
    near = get_close_matches(first, known, n=_SHOWN, cutoff=_NEAR)
    raise UnknownNameError(
        "SAELens release",
        first,
        known=near or sorted(known)[:_SHOWN],
        hint=f"(The nearest of {len(known)}; a hub repository is owner/name/id, a local release a "
        f"folder of folders{_folder_like(first)}.)",
    )


def _folder_like(name: str) -> str:
    """Say which folder of the current one a misspelt local release may have meant."""
    here = [path.name for path in Path().iterdir() if path.is_dir()]
    near = get_close_matches(name, here, n=1)
    return f"; a folder here with a similar name: {near[0]}/" if near else ""


def _local(path: Path) -> tuple[str, str] | None:
    """Release folder and id, where the name is a path into a folder of dictionaries.

    Raises:
        MissingDataError: the path holds no dictionaries.
        UnknownNameError: it does, but not this one.
    """
    release = next((p for p in (path, *path.parents) if p.is_dir() and p.name), None)
    if release is None or (path / "cfg.json").is_file():
        if release is None and path.is_absolute():
            raise MissingDataError(f"no release of dictionaries in {path}")
        return None if release is None else (str(path.parent.absolute()), path.name)
    sae_id = path.relative_to(release)
    depths = [len(sae_id.parts)] if sae_id.parts else [1, 2, 3]
    found = [p.parent for n in depths for p in release.glob("*/" * n + "cfg.json")]
    if not found and path.is_absolute():
        raise MissingDataError(f"no release of dictionaries in {release}")
    ids = sorted(str(p.relative_to(release)) for p in found)
    place = str(release.absolute())  # SAELens takes a name without a slash for one of its registry
    if ids and not sae_id.parts:
        hint = f"(A folder of {len(ids)}: add one of them, {release}/{ids[0]}.)"
        raise UnknownNameError("single dictionary", place, known=ids[:_SHOWN], hint=hint)
    return (place, _known_id(place, str(sae_id), ids)) if ids else None


def _known_id(release: str, sae_id: str, ids: list[str], hint: str = "") -> str:
    if sae_id in ids:
        return sae_id
    near = get_close_matches(sae_id, ids, n=_SHOWN, cutoff=_NEAR)
    hint = hint or (f"(The nearest of {len(ids)}.)" if len(ids) > _SHOWN else "")
    kind = f"dictionary of release {release!r}"
    raise UnknownNameError(kind, sae_id, known=near or ids[:_SHOWN], hint=hint)


def _registry() -> Mapping[str, Any]:
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    return get_pretrained_saes_directory()


def _pretrained(release: str, sae_id: str) -> tuple[Any, Any]:
    """SAELens' own object, and the registry's entry where there is one."""
    import sae_lens
    from huggingface_hub.errors import HfHubHTTPError
    from safetensors import SafetensorError

    lookup = _registry().get(release)
    repo = str(lookup.repo_id if lookup else release)
    local = Path(repo).is_dir()
    if not local and not in_cache(repo) and (reason := refusal(repo)):
        raise MissingDataError(f"{release}/{sae_id} lies in the hub's {repo}, which {reason}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they warn of is refused, or kept as metadata
            converter = _read_local if local else None
            return sae_lens.SAE.from_pretrained(release, sae_id, converter=converter), lookup
    except (OSError, HfHubHTTPError) as error:
        raise MissingDataError(_cannot(release, sae_id, error)) from error
    except (RuntimeError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DamagedDataError(_cannot(release, sae_id, error)) from error


def _cannot(release: str, sae_id: str, error: Exception) -> str:
    reason = " ".join(str(error).split())[:200]
    return f"{release}/{sae_id} cannot be loaded: {type(error).__name__}: {reason}"


def _read_local(
    repo_id: str, folder_name: str, device: str, force_download: bool, cfg_overrides: Any
) -> tuple[dict[str, Any], dict[str, Tensor], None]:
    """SAELens' loader protocol for a folder of this machine."""
    from sae_lens.loading.pretrained_sae_loaders import sae_lens_disk_loader

    del force_download
    return (*sae_lens_disk_loader(Path(repo_id) / folder_name, device, cfg_overrides), None)


def _refuse(kind: str, normalised: str, name: str) -> None:
    if kind not in (*_ACTIVATIONS, *_WRAPPED):
        why = (
            "It reads one site and writes another."
            if "transcoder" in kind
            else "Its codes depend on the whole sequence, not on one token."
            if kind == "temporal"
            else ""
        )
        known = (*_ACTIVATIONS, *_WRAPPED)
        raise UnknownNameError("usable architecture", kind, known=known, hint=why)
    if normalised not in ("none", None):
        raise MismatchError(
            f"{name} expects activations normalised by {normalised!r}, token by token or with a "
            "scale that SAELens does not list; the weights cannot express that, so it is refused"
        )


def _metadata(theirs: Any, lookup: Any, release: str, sae_id: str) -> dict[str, Any]:
    told = {k: v for k, v in theirs.cfg.metadata.to_dict().items() if _is_json(v)}
    names = [n for n in (told.get("model_name"), getattr(lookup, "model", None)) if n]
    if lookup is not None and not told.get("neuronpedia_id"):
        told["neuronpedia_id"] = lookup.neuronpedia_id.get(sae_id)
    hook = told.get("lensbench_site") or told.get("hook_name")
    return {
        "site": canonical_name(str(hook)) if hook else None,
        **told,
        **({"model": {"name": names[0], "aliases": _aliases(names)}} if names else {}),
        "architecture": theirs.cfg.architecture(),
        "name": sae_id,
        "release": release,
        "sae_id": sae_id,
    }


def _aliases(names: list[str]) -> list[str]:
    """What else the model is called: SAELens speaks of ``gpt2-small``, the hub of ``gpt2``."""
    from transformer_lens.loading_from_pretrained import get_official_model_name

    found = list(names)
    for name in names:
        try:
            found.append(str(get_official_model_name(name)))
        except ValueError:  # TransformerLens does not know the model
            continue
    return sorted(set(found))


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


@torch.no_grad()
def _converted(theirs: Any, kind: str, metadata: dict[str, Any]) -> SAE:
    """The same function in our terms; options of SAELens are folded into the weights."""
    w = {n: p.detach().float().clone() for n, p in theirs.named_parameters()}
    threshold = w.get("threshold")
    if kind == "gated":
        scale = w["r_mag"].exp()
        threshold = w["b_mag"] - scale * w["b_gate"]
        w["W_enc"], w["b_enc"] = w["W_enc"] * scale, w["b_mag"]
    if getattr(theirs.cfg, "rescale_acts_by_decoder_norm", False):
        norm = w["W_dec"].norm(dim=1)
        w["W_enc"], w["b_enc"] = w["W_enc"] * norm, w["b_enc"] * norm
        w["W_dec"] = w["W_dec"] / norm[:, None]
    if not theirs.cfg.apply_b_dec_to_input:  # ours subtracts it always
        w["b_enc"] = w["b_enc"] + w["b_dec"] @ w["W_enc"]
    names = ("W_enc", "b_enc", "W_dec", "b_dec")
    return SAE(
        **{n: w[n] for n in names},
        threshold=threshold,
        activation=_ACTIVATIONS[kind],
        k=int(theirs.cfg.k) if kind == "topk" else None,
        metadata=metadata,
    )


@torch.no_grad()
def _check_same_codes(ours: SAE, theirs: Any, name: str) -> None:
    """Refuse to hand out a rewritten dictionary that codes otherwise than its owner's class."""
    noise = torch.randn(16, ours.d_model, generator=torch.Generator().manual_seed(0))
    x = ours.b_dec + noise * ours.W_dec.norm(dim=1).mean().clamp_min(1.0)
    codes = theirs.encode(x)
    for what, mine, own in (
        ("codes", ours.encode(x), codes),
        ("reconstructions", ours.decode(codes), theirs.decode(codes)),
    ):
        wrong = (mine - own).abs() > _TOLERANCE * own.abs().max().clamp_min(1e-6)
        if float(wrong.float().mean()) > _FLIPS:
            raise MismatchError(
                f"{name}: {what} of the rewritten dictionary differ from those of SAELens' "
                f"{theirs.cfg.architecture()} in {int(wrong.sum())} of {wrong.numel()} places"
            )
