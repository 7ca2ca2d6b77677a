"""A dictionary at a site of a model: which one it is, and whether it fits."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from lensbench.belonging import check_model, trained_on
from lensbench.errors import ConfigError, MismatchError
from lensbench.models.base import Model
from lensbench.protocols import Codec
from lensbench.sites import HEAD_AXES, Site

ErrorMode: TypeAlias = Literal["keep", "drop"]
"""What becomes of the part of the activation that the dictionary does not reconstruct."""


@dataclass(frozen=True, eq=False)
class Splice:
    """A dictionary, its site, and whether what it does not reconstruct is kept."""

    name: str
    site: Site
    codec: Codec
    error: ErrorMode = "keep"
    _placed: dict[torch.device, Codec] = field(default_factory=dict[torch.device, Codec])

    def on(self, device: torch.device) -> Codec:
        """The dictionary where the activations are."""
        weights = getattr(self.codec, "W_dec", None)
        move = getattr(self.codec, "to", None)
        if weights is None or weights.device == device or move is None:
            return self.codec
        if device not in self._placed:
            self._placed[device] = move(device)
        return self._placed[device]

    def encode(self, x: Tensor) -> Tensor:
        """Latents ``[batch, pos, d_sae]`` of a value of the site (heads are flattened)."""
        flat = x.flatten(2)
        return self.on(x.device).encode(flat.flatten(0, 1)).unflatten(0, flat.shape[:2])

    def decode(self, acts: Tensor) -> Tensor:
        """Reconstruction ``[batch, pos, d_in]``."""
        return self.on(acts.device).decode(acts.flatten(0, 1)).unflatten(0, acts.shape[:2])

    def part(self, x: Tensor, name: str) -> Tensor:
        """One part of a value that nothing edits; latents alone cost no reconstruction."""
        return self.encode(x) if name == "sae.acts" else self.parts(x)[name]

    def parts(self, x: Tensor) -> dict[str, Tensor]:
        """Latents, reconstruction and error of a value that nothing edits."""
        acts = self.encode(x)
        recons = self.decode(acts)
        error = x.flatten(2).to(recons.dtype) - recons
        return {"sae.acts": acts, "sae.recons": recons, "sae.error": error}


def read_splices(model: Model, saes: Any, error: str) -> list[Splice]:
    """The dictionaries of ``model.with_saes``, each checked against the model.

    Raises:
        ConfigError: no dictionary, one without a site, or two at one site.
        MismatchError: a dictionary of another model, site or width.
    """
    if error not in ("keep", "drop"):
        raise ConfigError(f"error must be 'keep' or 'drop', got {error!r}")
    if isinstance(saes, Mapping):
        given = [(x, Site.parse(site)) for site, x in saes.items()]
    else:
        given = [(x, None) for x in (saes if isinstance(saes, Sequence) else [saes])]
    if not given:
        raise ConfigError("with_saes got no dictionary; pass [sae, ...] or {site: sae}")
    return [_read(model, x, site, "keep" if error == "keep" else "drop") for x, site in given]


def _read(model: Model, x: Any, asked: Site | None, error: ErrorMode) -> Splice:
    codec = getattr(x, "codec", None) or getattr(x, "coder", None) or getattr(x, "sae", None) or x
    if (role := getattr(codec, "role", "sae")) != "sae":
        raise MismatchError(
            f"got a {role}, which does not write the one site that it reads; with_saes splices "
            "sparse autoencoders. What it writes goes in by a plan: edit(site, Replace(values))"
        )
    if not isinstance(codec, Codec):
        raise ConfigError(
            f"got a {type(x).__name__} where a dictionary belongs; it needs encode, decode, d_sae"
        )
    own = getattr(x, "site", None) or getattr(codec, "site", None)
    told = {**getattr(codec, "metadata", {}), **getattr(codec, "config", {})}
    name = str(getattr(x, "name", None) or told.get("name") or "the dictionary")
    site = _site(name, own, asked)
    known = {str(s) for s in model.sites()}
    if str(site) not in known:
        model.width(site)  # says what the model has instead
        raise ConfigError(f"model {model.card.name!r} has no site {site}")
    on_purpose = getattr(x, "codec", None) is not None  # a Dictionary says only what it was given
    trained = trained_on(getattr(x if on_purpose else codec, "metadata", {}))
    if on_purpose and getattr(x, "model", ""):
        trained["fingerprint"] = x.model
    check_model(name, trained, vars(model.card), "the one it is spliced into")
    reads, has = _width(codec), site_width(model, site)
    if reads != has:
        raise MismatchError(
            f"{name} reads vectors of {reads}, but {site} of {model.card.name} has {has}"
        )
    return Splice(name, site, codec, error)


def _site(name: str, own: Any, asked: Site | None) -> Site:
    if asked is None and not own:
        raise ConfigError(f"{name} does not say which site it reads; pass {{site: sae}}")
    site = asked or Site.parse(str(own))
    if own and asked and Site.parse(str(own)) != asked:
        raise MismatchError(f"{name} was trained at {own}, not at {asked}")
    if site.part or "d_sae" in site.spec.axes:
        raise ConfigError(f"{site} is part of a dictionary; name the site that it reads")
    Site(f"{site.name}.sae.acts", site.layer, site.stack)  # refuses patterns and scales
    return site


def _width(codec: Codec) -> int:
    known = getattr(codec, "d_model", None)
    return int(known) if known else int(codec.decode(torch.zeros(1, codec.d_sae)).shape[-1])


def site_width(model: Model, site: Site) -> int:
    """Numbers per token of a site, its heads flattened."""
    width = model.width(site)
    if site.spec.axes != HEAD_AXES:
        return width
    keyed = site.name.endswith((".k", ".v"))
    return width * (model.card.n_kv_heads if keyed else model.card.n_heads)


def fingerprint_of(codec: Any) -> str:
    """16 hex digits of a dictionary: its class, its numbers and the values of its tensors.

    Names and metadata do not count: a dictionary saved, loaded or renamed is the same one.
    """
    state: dict[str, Any] = {**vars(codec), **getattr(codec, "state_dict", dict)()}
    digest = hashlib.sha256(type(codec).__name__.encode())
    for name in sorted(state):
        value = state[name]
        if isinstance(value, Tensor):
            array = value.detach().cpu().float().contiguous()
            digest.update(f"{name} {tuple(array.shape)}".encode())
            digest.update(array.numpy().tobytes())
        elif isinstance(value, (int, float, str)):
            digest.update(f"{name} {value!r}".encode())
    return digest.hexdigest()[:16]
