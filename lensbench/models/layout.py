"""What a model has: its sites, their widths, and the checks of what a user asks of it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from lensbench.errors import ConfigError, UnknownNameError, UnknownSiteError
from lensbench.models.families import Family, family_of, shape_of
from lensbench.models.session import ATTENTION_KEYS
from lensbench.padding import PaddingTokens
from lensbench.plan import Plan
from lensbench.sites import SITES, Site
from lensbench.tokens import Tokens, TokensLike, as_tokens


class Layout:
    """Sites and sizes of one transformers model, and the refusal of what does not fit them."""

    def __init__(self, module: Any, tokenizer: Any) -> None:
        self.family: Family = family_of(module.config)
        self.shape = shape_of(module.config)
        self.embedding: nn.Embedding = module.get_input_embeddings()
        self.kind = str(module.config.model_type)
        self._padding = PaddingTokens.of(tokenizer)
        absent = {"resid_mid"} if self.family.parallel else set[str]()
        if self.family.gate is None and not self.family.fused:
            absent.add("mlp.gate")
        if not getattr(module, "_supports_attention_backend", False):
            absent |= ATTENTION_KEYS - {"attn.z"}  # z is read at the output projection
        self.sites = self._list_sites(absent)
        self._known = frozenset(self.sites)

    def _list_sites(self, absent: set[str]) -> tuple[Site, ...]:
        found: list[Site] = []
        for name, spec in SITES.items():
            if name not in absent:
                layers = range(self.shape.n_layers)
                found += [Site(name, i) for i in layers] if spec.layered else [Site(name)]
        return tuple(sorted(found))

    def known(self, site: str | Site) -> Site:
        """The site, if this model has it; UnknownSiteError says what it has instead."""
        parsed = Site.parse(site)
        if parsed in self._known:
            return parsed
        if parsed.layer is not None and parsed.layer >= self.shape.n_layers:
            why = f"This model has layers 0..{self.shape.n_layers - 1}."
        else:
            why = f"A {self.kind} model does not have it."
        names = {s.name if s.layer is None else f"blocks.<L>.{s.name}" for s in self._known}
        raise UnknownSiteError(str(parsed), known=sorted(names), hint=why)

    def wanted(self, capture: str | Site | Sequence[str | Site], logits: str) -> list[Site]:
        """The sites to capture, one or many; an unknown mode of logits is refused with them."""
        if logits not in ("all", "last", "none"):
            raise UnknownNameError("mode of logits", logits, known=("all", "last", "none"))
        named = [capture] if isinstance(capture, (str, Site)) else capture
        return [self.known(s) for s in named]

    def width(self, site: str | Site) -> int:
        """Size of the last axis; 0 where it is the number of keys."""
        name = self.known(site).name
        if name in ("attn.scores", "attn.pattern"):
            return 0
        if name.endswith(".scale"):
            return 1
        if name.startswith("attn."):
            return self.shape.d_head
        if name == "embed":
            return int(self.embedding.weight.shape[1])
        kind = name.split(".")[0]
        return {"mlp": self.shape.d_mlp, "logits": self.shape.d_vocab}.get(kind, self.shape.d_model)

    def check_plan(self, plan: Plan) -> None:
        """Refuse sites and layers this model has not."""
        for edit in plan.edits:
            self.known(edit.site)
        last = self.shape.n_layers - 1
        if plan.skips and max(plan.skips) > last:
            raise ConfigError(
                f"the plan skips layer {max(plan.skips)}; this model has layers 0..{last}"
            )
        if plan.stop is not None and plan.stop > last + 1:
            raise ConfigError(
                f"the plan stops before layer {plan.stop}; this model has layers 0..{last}"
            )

    def batch(self, tokens: TokensLike, device: torch.device) -> Tokens:
        """Token ids of any usual form on ``device``; refuse ids and lengths out of range."""
        batch = as_tokens(tokens, pad_id=self._padding.own)
        if batch.mask is None:
            self._padding.refuse_bare(batch.ids)
        batch = batch.to(device)
        low, high = (int(t) for t in batch.ids.aminmax())
        if low < 0 or high >= self.shape.d_vocab:
            wrong = low if low < 0 else high
            raise ConfigError(f"token id {wrong} is outside the vocabulary of {self.shape.d_vocab}")
        if self.shape.n_ctx and batch.n_pos > self.shape.n_ctx:
            raise ConfigError(
                f"{batch.n_pos} tokens are more than the context of {self.shape.n_ctx}"
            )
        return batch
