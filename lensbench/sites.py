"""Sites: names of the places in a forward pass where activations are read or written.

A :class:`Site` is a small frozen value. ``SITES`` lists every site name in execution order, with
its axes and whether it may be written; the order of two sites is the order in which a forward pass
reaches them. TransformerLens spellings parse as aliases. Which sites one model has is the model's
to say (``Model.sites()``).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import total_ordering
from typing import Any

from lensbench.errors import ConfigError, UnknownSiteError

RESIDUAL_AXES = "batch pos d_model"
HEAD_AXES = "batch pos head d_head"
PATTERN_AXES = "batch head query key"


@dataclass(frozen=True)
class SiteSpec:
    """What is fixed for a site name on every model: axes, writability, meaning."""

    axes: str
    meaning: str
    layered: bool = True
    writable: bool = True


SITES: dict[str, SiteSpec] = {
    "embed": SiteSpec(RESIDUAL_AXES, "output of the token embedding", layered=False),
    "resid_pre": SiteSpec(RESIDUAL_AXES, "residual stream entering the block"),
    "ln1.scale": SiteSpec("batch pos 1", "denominator of the norm before attention"),
    "attn.q": SiteSpec(HEAD_AXES, "queries, after rotary embedding"),
    "attn.k": SiteSpec(HEAD_AXES, "keys, after rotary embedding (key-value heads)"),
    "attn.v": SiteSpec(HEAD_AXES, "values (key-value heads)"),
    "attn.scores": SiteSpec(PATTERN_AXES, "scaled, masked attention scores before softmax"),
    "attn.pattern": SiteSpec(PATTERN_AXES, "attention probabilities"),
    "attn.z": SiteSpec(HEAD_AXES, "pattern-weighted values, before the output projection"),
    "attn_out": SiteSpec(RESIDUAL_AXES, "what attention adds to the residual stream"),
    "resid_mid": SiteSpec(RESIDUAL_AXES, "residual stream between attention and MLP"),
    "xln.scale": SiteSpec("batch pos 1", "denominator of the norm before cross-attention"),
    "xattn.q": SiteSpec(HEAD_AXES, "cross-attention queries, of the decoder's tokens"),
    "xattn.k": SiteSpec(HEAD_AXES, "cross-attention keys, of the encoder's tokens"),
    "xattn.v": SiteSpec(HEAD_AXES, "cross-attention values, of the encoder's tokens"),
    "xattn.scores": SiteSpec(PATTERN_AXES, "scaled, masked cross-attention scores"),
    "xattn.pattern": SiteSpec(PATTERN_AXES, "cross-attention probabilities"),
    "xattn.z": SiteSpec(HEAD_AXES, "pattern-weighted values of the encoder"),
    "xattn_out": SiteSpec(RESIDUAL_AXES, "what cross-attention adds to the residual stream"),
    "resid_xmid": SiteSpec(RESIDUAL_AXES, "residual stream between cross-attention and MLP"),
    "ln2.scale": SiteSpec("batch pos 1", "denominator of the norm before the MLP"),
    "mlp.in": SiteSpec(RESIDUAL_AXES, "normed state that the MLP (or its experts) reads"),
    "router.logits": SiteSpec(
        "batch pos n_experts", "router's score of every expert, before top-k", writable=False
    ),
    "router.weights": SiteSpec("batch pos slot", "weight of the expert in each slot"),
    "router.indices": SiteSpec("batch pos slot", "expert in each slot (whole numbers)"),
    "experts.out": SiteSpec(
        "batch pos slot d_model", "output of the expert in each slot, before its weight"
    ),
    "experts.shared_out": SiteSpec(RESIDUAL_AXES, "output of the experts that every token uses"),
    "mlp.gate": SiteSpec("batch pos d_mlp", "gate before its activation function"),
    "mlp.up": SiteSpec("batch pos d_mlp", "up projection (ungated: before the activation)"),
    "mlp.post": SiteSpec("batch pos d_mlp", "MLP neurons: act(gate) * up, or act(up)"),
    "mlp_out": SiteSpec(RESIDUAL_AXES, "what the MLP adds to the residual stream"),
    "ssm.in": SiteSpec("batch pos d_inner", "states that enter the convolution and the scan"),
    "ssm.gate": SiteSpec("batch pos d_inner", "gate of the state-space layer, before activation"),
    "ssm.params": SiteSpec("batch pos d_params", "selective parameters: delta (low rank), B and C"),
    "ssm.post": SiteSpec("batch pos d_inner", "gated scan, before the output projection"),
    "ssm_out": SiteSpec(RESIDUAL_AXES, "what the state-space layer adds to the residual stream"),
    "resid_post": SiteSpec(RESIDUAL_AXES, "residual stream leaving the block"),
    "ln_final.scale": SiteSpec("batch pos 1", "denominator of the final norm", layered=False),
    "ln_final": SiteSpec(RESIDUAL_AXES, "normed state that the unembedding reads", layered=False),
    "logits": SiteSpec("batch pos d_vocab", "next-token logits", layered=False),
}
"""Every site name, in execution order."""

SAE_PARTS: dict[str, SiteSpec] = {
    "sae.acts": SiteSpec("batch pos d_sae", "latents of the dictionary read here"),
    "sae.recons": SiteSpec("batch pos d_in", "reconstruction from the latents"),
    "sae.error": SiteSpec("batch pos d_in", "what the dictionary does not reconstruct"),
}
"""Parts of a site that a dictionary splits (``Model.with_saes``): its latents, reconstruction and
error, as in ``blocks.5.resid_post.sae.acts``. Heads are flattened: ``d_in = n_heads * d_head``."""

_RANK = {name: rank for rank, name in enumerate(SITES)}
_PART_RANK = {part: rank for rank, part in enumerate(SAE_PARTS, 1)}
_STACKS = ("", "encoder", "decoder")
_NO_VECTORS = (PATTERN_AXES, "batch pos 1", "batch pos slot", "batch pos slot d_model")

# TransformerLens spellings that are not simply "hook_" + ours.
_ALIASES = {
    "hook_embed": "embed",
    "ln1.hook_scale": "ln1.scale",
    "ln2.hook_scale": "ln2.scale",
    "attn.hook_attn_scores": "attn.scores",
    "attn.hook_rot_q": "attn.q",
    "attn.hook_rot_k": "attn.k",
    "mlp.hook_in": "mlp.in",
    "mlp.hook_pre": "mlp.gate",
    "mlp.hook_pre_linear": "mlp.up",
    "ln_final.hook_scale": "ln_final.scale",
    "ln_final.hook_normalized": "ln_final",
    "hook_out": "resid_post",
    "hook_in": "resid_pre",
}
# Sites whose value TransformerLens gives under no name: its ``ln_final.hook_normalized`` comes
# before the norm's gain.
_OURS_ALONE = re.compile(r"ln_final|logits|xln.*|xattn.*|resid_xmid|router.*|experts.*|ssm.*")
_TRANSFORMER_LENS = {ours: theirs for theirs, ours in reversed(_ALIASES.items()) if "." in theirs}
_BEFORE_ROTATION = ("attn.hook_q", "attn.hook_k")
_SPLIT = re.compile(r"(.+)\.(?:sae\.(acts|recons|error)|hook_sae_(acts_post|recons|error))")
_LAYERED = re.compile(r"(?:(encoder|decoder)\.)?blocks\.(\d+)\.(.+)")
_FREE = re.compile(r"(?:(encoder|decoder)\.)?(ln_final(?:\.scale)?)")


@total_ordering
@dataclass(frozen=True)
class Site:
    """One place in the forward pass; sorts in execution order.

    ``str(Site("resid_post", 7))`` is ``blocks.7.resid_post``; :meth:`parse` is its inverse.

    Raises:
        UnknownSiteError: no site of that name.
        ConfigError: a layer where none belongs, or none where one does.

    Example:
        >>> site = lensbench.Site.parse("blocks.3.resid_post")
        >>> site.name, site.layer, str(site)
        ('resid_post', 3, 'blocks.3.resid_post')
    """

    name: str
    layer: int | None = None
    stack: str = ""

    def __post_init__(self) -> None:
        """Refuse names, layers and stacks that no model has."""
        host, part = _halves(self.name)
        if host not in SITES:
            raise UnknownSiteError(self.name, known=tuple(SITES))
        if part and SITES[host].axes in _NO_VECTORS:
            raise ConfigError(f"site {host!r} holds no vectors that a dictionary could read")
        if self.stack not in _STACKS:
            raise ConfigError(f"stack must be '', 'encoder' or 'decoder', got {self.stack!r}")
        layered = SITES[host].layered
        if layered and self.layer is None:
            raise ConfigError(f"site {self.name!r} needs a layer: write 'blocks.<L>.{self.name}'")
        if self.stack and not layered and not self.name.startswith("ln_final"):
            raise ConfigError(f"site {self.name!r} belongs to no stack; got {self.stack!r}")
        if not layered and self.layer is not None:
            raise ConfigError(f"site {self.name!r} has no layer; got layer {self.layer}")
        if self.layer is not None and self.layer < 0:
            raise ConfigError(f"layer must be >= 0, got {self.layer}")

    @classmethod
    def parse(cls, text: "str | Site") -> "Site":
        """Read ``blocks.3.resid_post`` or a TransformerLens spelling such as ``hook_embed``.

        Parts of a dictionary are read in SAELens' spelling too:
        ``blocks.3.hook_resid_post.hook_sae_acts_post``.
        """
        if isinstance(text, Site):
            return text
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance] - users
            raise ConfigError(
                f"site must be a name such as 'blocks.3.resid_post', or a Site; got {text!r}"
            )
        if (split := _SPLIT.fullmatch(text)) is not None:
            host = cls.parse(split[1])
            part = split[2] or split[3].removesuffix("_post")
            return cls(f"{host.name}.sae.{part}", host.layer, host.stack)
        found = _LAYERED.fullmatch(text)
        if found is not None:
            stack, layer, name = found.groups()
            return cls(_canonical(name), int(layer), stack or "")
        if (free := _FREE.fullmatch(text)) is not None:
            return cls(free[2], None, free[1] or "")
        name = _canonical(text)
        if name in SITES and SITES[name].layered:
            raise ConfigError(f"site {text!r} needs a layer: write 'blocks.<L>.{name}'")
        if name not in SITES:
            hint = "Only capture() knows '*'; name every layer here." if "*" in text else ""
            raise UnknownSiteError(text, known=_spelled_out(), hint=hint)
        return cls(name)

    def __str__(self) -> str:
        """The canonical spelling."""
        prefix = f"{self.stack}." if self.stack else ""
        inside = "" if self.layer is None else f"blocks.{self.layer}."
        return f"{prefix}{inside}{self.name}"

    @property
    def transformer_lens(self) -> str | None:
        """The spelling of TransformerLens, ``blocks.7.hook_resid_post``; None where it has none."""
        if self.stack or _OURS_ALONE.fullmatch(self.name):
            return None
        if self.host is not None:
            theirs = self.host.transformer_lens
            part = self.name.rpartition(".")[2]
            return theirs and f"{theirs}.hook_sae_{part}{'_post' * (part == 'acts')}"
        name = _TRANSFORMER_LENS.get(self.name)
        if name is None:
            *inside, last = self.name.split(".")
            name = ".".join([*inside, f"hook_{last}"])
        return name if self.layer is None else f"blocks.{self.layer}.{name}"

    def __lt__(self, other: "Site") -> bool:
        """Whether a forward pass reaches this site first."""
        return execution_order(self) < execution_order(other)

    @property
    def spec(self) -> SiteSpec:
        """Axes, writability and meaning."""
        host, part = _halves(self.name)
        return SAE_PARTS[part] if part else SITES[host]

    @property
    def host(self) -> "Site | None":
        """The site whose dictionary this is a part of; None for a site of the model itself."""
        host, part = _halves(self.name)
        return Site(host, self.layer, self.stack) if part else None

    @property
    def part(self) -> str:
        """``sae.acts``, ``sae.recons`` or ``sae.error``; empty for a site of the model itself."""
        return _halves(self.name)[1]


def as_sites(named: Any) -> list[Site]:
    """The sites of one name, or of many.

    Raises:
        ConfigError: what is no name of a site.
    """
    if isinstance(named, str | Site) or not isinstance(named, Iterable):
        return [Site.parse(named)]
    return [Site.parse(site) for site in named]  # pyright: ignore[reportUnknownArgumentType]


def execution_order(site: Site) -> tuple[int, int, int, int]:
    """Sort key: stack, then layer (``embed`` before block 0, ``ln_final`` after the last)."""
    name, part = _halves(site.name)
    stack = len(_STACKS) if name == "logits" else _STACKS.index(site.stack)
    layer = (-1 if name == "embed" else 1_000_000) if site.layer is None else site.layer
    return (stack, layer, _RANK[name], _PART_RANK.get(part, 0))


def _halves(name: str) -> tuple[str, str]:
    """Name of the site itself, and of the part of its dictionary ("" for the site)."""
    host, dot, part = name.partition(".sae.")
    return (host, f"sae.{part}") if dot and f"sae.{part}" in SAE_PARTS else (name, "")


def _canonical(name: str) -> str:
    if name in SITES:
        return name
    if name in _BEFORE_ROTATION:
        raise UnknownSiteError(
            name,
            known=tuple(SITES),
            hint=f"TransformerLens' {name} is taken before the rotary embedding, ours after it: "
            f"write {name.replace('hook_', '')} (there: {name.replace('hook_', 'hook_rot_')}).",
        )
    if name in _ALIASES:
        return _ALIASES[name]
    bare = name.replace("hook_", "")
    return bare if bare in SITES else name


def by_layer(sites: Iterable[Site]) -> tuple[str, ...]:
    """Names of the sites, each once, the layer left open: ``blocks.<L>.resid_post``."""
    return tuple(dict.fromkeys(re.sub(r"blocks\.\d+", "blocks.<L>", str(s)) for s in sorted(sites)))


def canonical_name(text: str) -> str:
    """Our spelling of a site, whichever way ``text`` spells it; other names stay as they are."""
    try:
        return str(Site.parse(text))
    except ConfigError:  # a peer's site that has no name here
        return text


def _spelled_out() -> tuple[str, ...]:
    return tuple(f"blocks.<L>.{n}" if s.layered else n for n, s in SITES.items())
