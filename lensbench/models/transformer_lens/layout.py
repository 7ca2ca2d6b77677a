"""Which of our sites a TransformerLens model has, and at which of its hook points.

Many hook names of TransformerLens exist and never fire, and some fire with another shape than the
model's heads (DeepSeek's ``hook_z``). So names are not trusted: the model is run once on a few
tokens, and a site is what fired there in the right shape. Others are withheld, with the reason.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lensbench.errors import ConfigError
from lensbench.models.base import Shape
from lensbench.models.families import Architecture, Family
from lensbench.models.layout import Layout
from lensbench.padding import PaddingTokens
from lensbench.plan import Plan
from lensbench.sites import HEAD_AXES, PATTERN_AXES, Site

_ROWS, _POS = 2, 3
_FREE = {
    "embed": ("hook_embed", "embed.hook_out"),
    "ln_final.scale": ("ln_final.hook_scale",),
}
_LAYERED = {
    "ln1.scale": ("ln1.hook_scale",),
    "attn.v": ("attn.hook_v",),
    "attn.scores": ("attn.hook_attn_scores",),
    "attn.pattern": ("attn.hook_pattern",),
    "attn.z": ("attn.hook_z",),
    "attn_out": ("hook_attn_out",),
    "resid_mid": ("hook_resid_mid",),
    "ln2.scale": ("ln2.hook_scale",),
    "mlp.post": ("mlp.hook_post",),
    "mlp_out": ("hook_mlp_out",),
}
_BLOCK = ("resid_pre", "resid_post")
"""Read and written at the block itself, which a plan may also skip."""


@dataclass(frozen=True)
class Point:
    """A hook point of TransformerLens that shows one site."""

    name: str
    hook: Any
    flat: bool
    """Batch and position share one axis there."""


class LensLayout(Layout):
    """Sites and sizes of a HookedTransformer or a TransformerBridge.

    Raises:
        ConfigError: not a decoder with one stack of blocks.
    """

    def __init__(self, root: Any, tokenizer: Any) -> None:
        self.config: Any = root.cfg
        self.is_bridge = "TransformerBridge" in {c.__name__ for c in type(root).__mro__}
        self.kind = str(_first(root.cfg, "architecture", "original_architecture", "model_name"))
        self._refuse_others(root)
        self.architecture = Architecture(
            stacks={"": Family(blocks="blocks", final_norm="ln_final")}
        )
        self.shape = self._read_by = _shape(root.cfg)
        self.shapes, self.family = {"": self.shape}, self.architecture.stacks[""]
        self._padding = PaddingTokens.of(tokenizer)
        self.points: dict[Site, Point] = {}
        self.withheld: dict[Site, str] = {}
        """Why a site that one may expect is not to be had."""
        self.read_only: dict[Site, str] = {}
        """Why a site that can be read is not written."""
        self.gives_tuple = False
        self._widths: dict[Site, int] = {}
        self._measure(root)
        self._settle()

    def withhold(self, site: Site, why: str) -> None:
        """Take a site away, with the reason that whoever asks for it will read."""
        self.withheld[site] = why
        self.points.pop(site, None)
        self._settle()

    def check_plan(self, plan: Plan) -> None:
        """Refuse sites and layers this model has not, and sites where an edit would do nothing.

        Raises:
            ConfigError: a site that can only be read.
        """
        super().check_plan(plan)
        for edit in plan.edits:
            if edit.site in self.read_only:
                raise ConfigError(f"{edit.site} can only be read: {self.read_only[edit.site]}")

    def width(self, site: str | Site) -> int:  # noqa: D102 - documented in base
        return self._widths[self.known(site)]

    def _settle(self) -> None:
        whole = [Site(name, layer) for layer in range(self.shape.n_layers) for name in _BLOCK]
        self.sites = tuple(sorted([*whole, Site("logits"), *self.points]))
        self._known = frozenset(self.sites)

    def _why_not(self, site: Site) -> str:
        if site in self.withheld:
            return self.withheld[site]
        if site.name.startswith(("router.", "experts.")) and self.shape.n_experts:
            return (
                "TransformerLens hands out no routing; load the transformers model itself, "
                "load_model(module), to read or change it."
            )
        return super()._why_not(site)

    def _refuse_others(self, root: Any) -> None:
        own: Any = getattr(getattr(root, "original_model", None), "config", None)
        two = bool(getattr(own, "is_encoder_decoder", False))
        masked = self.kind.endswith(("ForMaskedLM", "ForPreTraining"))
        if two or masked or not hasattr(root, "blocks"):
            raise ConfigError(
                f"TransformerLens' {self.kind} is no decoder with one stack of blocks; load the "
                "transformers model itself, load_model(module), which has all its sites"
            )

    def _measure(self, root: Any) -> None:
        """Run once with every candidate watched, and keep what fires in the right shape."""
        found: dict[str, Tensor] = {}
        hooks: dict[str, Any] = dict(root.hook_dict)
        names = dict(_candidates(hooks, self.shape.n_layers, rotary=self._rotary, root=root))
        with _Watching(
            hooks, [n for n in names.values() if n in hooks], found, root.blocks[0]
        ) as b:
            device = next(root.parameters()).device
            with torch.no_grad():
                root(
                    torch.arange(_ROWS * _POS, device=device).view(_ROWS, _POS) % self.shape.d_vocab
                )
        self.gives_tuple = b[0]
        for site, name in names.items():
            value = found.get(name)
            if value is None:
                self.withheld[site] = f"TransformerLens' {name} never fires on this model."
            elif (why := self._misshapen(site, value)) is not None:
                self.withheld[site] = f"TransformerLens' {name} {why}"
            else:
                self.points[site] = Point(
                    name, hooks[name], value.ndim < len(site.spec.axes.split())
                )
                self._widths[site] = 0 if site.spec.axes == PATTERN_AXES else value.shape[-1]
        for layer in range(self.shape.n_layers):
            self._widths |= {Site(name, layer): self.shape.d_model for name in _BLOCK}
            self._check_scores(layer, found, names)
        self._widths[Site("logits")] = self.shape.d_vocab

    @property
    def _rotary(self) -> bool:
        return "rotary" in str(getattr(self.config, "positional_embedding_type", ""))

    def _misshapen(self, site: Site, value: Tensor) -> str | None:
        n_heads = self.heads(site)
        wanted: tuple[int, ...] = (_ROWS, _POS)
        if site.spec.axes == HEAD_AXES:
            wanted = (_ROWS, _POS, n_heads)
        elif site.spec.axes == PATTERN_AXES:
            wanted = (_ROWS, n_heads, _POS, _POS)
        elif value.ndim == 2 and value.shape[0] == _ROWS * _POS:
            return None
        if tuple(value.shape[: len(wanted)]) == wanted:
            return None
        return (
            f"has shape {list(value.shape)} on {_ROWS} x {_POS} tokens; with {n_heads} heads it "
            f"should begin {list(wanted)}, so its heads are not the model's."
        )

    def _check_scores(self, layer: int, found: dict[str, Tensor], names: dict[Site, str]) -> None:
        """Scores whose softmax is not the pattern are not what they are called."""
        scores, pattern = Site("attn.scores", layer), Site("attn.pattern", layer)
        if scores not in self.points or pattern not in self.points:
            return
        weights = found[names[scores]].float().softmax(-1)
        told = found[names[pattern]].float()  # sinks take a share, so rows may sum to less
        if not torch.allclose(weights, told / told.sum(-1, keepdim=True), atol=1e-3):
            del self.points[scores]
            self.withheld[scores] = f"TransformerLens' {names[scores]} is not what softmax reads."
            # Then its attention is the module's own, and what it shows comes after the fact.
            why = f"what TransformerLens shows as {names[pattern]} is a copy; edits do nothing."
            self.read_only[pattern] = why

    def heads(self, site: Site) -> int:
        """Heads at an attention site."""
        return self.shape.n_kv_heads if site.name in ("attn.k", "attn.v") else self.shape.n_heads


class _Watching:
    """Hooks that note what fires, and whether a block gives a tuple; gone at the end."""

    def __init__(
        self, hooks: dict[str, Any], names: list[str], found: dict[str, Tensor], block: Any
    ):
        self._added = [(hooks[n], add_hook(hooks[n], _keep(found, n))) for n in names]
        self._block, self._tuple = block, [False]

    def __enter__(self) -> list[bool]:
        def note(module: Any, args: Any, out: Any) -> None:
            del module, args
            self._tuple[0] = isinstance(out, tuple)

        self._handle = self._block.register_forward_hook(note)
        return self._tuple

    def __exit__(self, *_: object) -> None:
        self._handle.remove()
        for hook, handle in self._added:
            remove_hook(hook, handle)


def add_hook(point: Any, function: Any) -> Any:
    """Add one hook of ours, beside the user's; give back what :func:`remove_hook` takes."""
    point.add_hook(function)
    return point.fwd_hooks[-1]


def remove_hook(point: Any, handle: Any) -> None:
    """Remove that hook alone."""
    handle.hook.remove()
    point.fwd_hooks.remove(handle)


def _keep(found: dict[str, Tensor], name: str) -> Any:
    def hook(x: Any, hook: Any) -> None:
        del hook
        if isinstance(x, Tensor):
            found[name] = x.detach()

    return hook


def _candidates(
    hooks: dict[str, Any], n_layers: int, *, rotary: bool, root: Any
) -> Iterator[tuple[Site, str]]:
    """Sites and the hook name that should show each."""
    for name, spelled in _FREE.items():
        yield Site(name), next((s for s in spelled if s in hooks), spelled[0])
    # A HookedTransformer shows the final norm before its gain; only where the gain is folded away
    # is that what the unembedding reads.
    folded = str(getattr(root.cfg, "normalization_type", "")).endswith("Pre")
    if "ln_final.hook_out" in hooks or folded:
        yield Site("ln_final"), ("ln_final.hook_out" if "ln_final.hook_out" in hooks else
                                 "ln_final.hook_normalized")  # fmt: skip
    for layer in range(n_layers):
        start = f"blocks.{layer}."
        entry = next((h for h in ("mlp.hook_in", "mlp.in.hook_in") if f"{start}{h}" in hooks), None)
        if entry is not None:
            yield Site("mlp.in", layer), f"{start}{entry}"
        elif folded and f"{start}ln2.hook_normalized" in hooks:
            yield Site("mlp.in", layer), f"{start}ln2.hook_normalized"
        for name, (spelled,) in _LAYERED.items():
            if f"{start}{spelled}" in hooks:
                yield Site(name, layer), f"{start}{spelled}"
        for part in ("q", "k") if f"{start}attn.hook_z" in hooks else ():
            turned = "rot_" if rotary else ""  # ours are after the rotation
            yield Site(f"attn.{part}", layer), f"{start}attn.hook_{turned}{part}"
        gated = f"{start}mlp.hook_pre_linear" in hooks
        for name, spelled in (("mlp.gate", "hook_pre"), ("mlp.up", "hook_pre_linear")):
            if gated:
                yield Site(name, layer), f"{start}mlp.{spelled}"
        if not gated and f"{start}mlp.hook_pre" in hooks:
            yield Site("mlp.up", layer), f"{start}mlp.hook_pre"


def _shape(cfg: Any) -> Shape:
    n_heads = int(cfg.n_heads)
    return Shape(
        n_layers=int(cfg.n_layers),
        d_model=int(cfg.d_model),
        n_heads=n_heads,
        n_kv_heads=int(getattr(cfg, "n_key_value_heads", None) or n_heads),
        d_head=int(cfg.d_head),
        d_head_v=int(cfg.d_head),
        d_mlp=int(getattr(cfg, "d_mlp", None) or 0),
        d_vocab=int(cfg.d_vocab),
        n_ctx=int(cfg.n_ctx),
        n_experts=int(getattr(cfg, "num_experts", None) or 0),
        top_k=int(getattr(cfg, "experts_per_token", None) or 0),
    )


def _first(cfg: Any, *names: str) -> Any:
    return next((v for name in names if (v := getattr(cfg, name, None))), "model")
