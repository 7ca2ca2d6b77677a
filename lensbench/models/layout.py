"""What a model has: its sites, their widths, and the checks of what a user asks of it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lensbench.errors import ConfigError, UnknownNameError, UnknownSiteError
from lensbench.models.families import Architecture, architecture_of, shape_of
from lensbench.models.inventory import sites_of, width_of
from lensbench.padding import PaddingTokens
from lensbench.plan import Plan, as_plan
from lensbench.router_ops import RouterOp
from lensbench.sites import Site, as_sites
from lensbench.tokens import Tokens, TokensLike, as_tokens


class Layout:
    """Sites and sizes of one transformers model, and the refusal of what does not fit them."""

    def __init__(self, module: Any, tokenizer: Any) -> None:
        self.config: Any = module.config
        self.architecture: Architecture = architecture_of(self.config)
        self.shapes = {s: shape_of(self.config, s) for s in self.architecture.stacks}
        self.shape = self.shapes[self.architecture.main]
        self._read_by = next(iter(self.shapes.values()))  # the stack that the text goes into
        self.family = self.architecture.stacks[self.architecture.main]
        self.embedding: nn.Embedding = module.get_input_embeddings()
        self.kind = str(self.config.model_type)
        self._padding = PaddingTokens.of(tokenizer)
        self.sites = sites_of(module, self.architecture)
        self._known = frozenset(self.sites)

    def known(self, site: str | Site) -> Site:
        """The site, if this model has it; UnknownSiteError says what it has instead."""
        parsed = Site.parse(site)
        if parsed in self._known:
            return parsed
        known = [str(one) for one in self.sites]
        raise UnknownSiteError(str(parsed), known=known, hint=self._why_not(parsed))

    def _why_not(self, site: Site) -> str:
        if site.stack not in self.shapes and site.name != "embed":
            stacks = " and ".join(f"{s}.blocks.<L>" if s else "blocks.<L>" for s in self.shapes)
            return f"The sites of a {self.kind} model are named {stacks}."
        shape = self.shapes.get(site.stack, self.shape)
        if site.layer is not None and site.layer >= shape.n_layers:
            return f"This model has layers 0..{shape.n_layers - 1}."
        if site.host in self._known:
            return (
                f"No dictionary is spliced in at {site.host}: run the model that "
                "model.with_saes([...]) gives."
            )
        elsewhere = sorted(
            s.layer for s in self._known if s.name == site.name and s.layer is not None
        )
        if elsewhere:
            return f"Of this model's layers, those that have it are {elsewhere}."
        by_hand = not self.architecture.interface and site.name.startswith("attn.")
        if by_hand and replace(site, name="attn.z") in self._known:
            return (
                f"The attention of {self.kind} does not go through transformers' attention "
                "interface, so only attn.z of it can be reached."
            )
        return f"A {self.kind} model does not have it."

    def wanted(self, capture: str | Site | Sequence[str | Site], logits: str) -> list[Site]:
        """The sites to capture, one or many; an unknown mode of logits is refused with them."""
        if logits not in ("all", "last", "none"):
            raise UnknownNameError("mode of logits", logits, known=("all", "last", "none"))
        return [self.known(s) for s in as_sites(capture)]

    def width(self, site: str | Site) -> int:
        """Size of the last axis; 0 where it is the number of keys."""
        known = self.known(site)
        shape = self.shapes.get(known.stack, self.shape)
        return width_of(known, shape, int(self.embedding.weight.shape[1]))

    def check_plan(self, plan: Plan) -> None:
        """Refuse sites and layers this model has not, and what is no plan."""
        plan = as_plan(plan)
        for edit in plan.edits:
            site = self.known(edit.site)
            if isinstance(edit.op, RouterOp):
                shape = self.shapes.get(site.stack, self.shape)
                edit.op.check(str(site), shape.n_experts, shape.top_k)
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
        elif self.architecture.right_padded:
            batch = self._on_the_right(batch, ours=not isinstance(tokens, Tokens))
        batch = self._with_decoder(batch).to(device)
        self._check_ids(batch.ids, self._read_by.d_vocab)
        if batch.decoder_ids is not None:
            self._check_ids(batch.decoder_ids, self.shape.d_vocab)
        return batch

    def _check_ids(self, ids: Tensor, d_vocab: int) -> None:
        low, high = (int(t) for t in ids.aminmax())
        if low < 0 or high >= d_vocab:
            wrong = low if low < 0 else high
            raise ConfigError(f"token id {wrong} is outside the vocabulary of {d_vocab}")
        if self.shape.n_ctx and ids.shape[1] > self.shape.n_ctx:
            raise ConfigError(
                f"{ids.shape[1]} tokens are more than the context of {self.shape.n_ctx}; shorten "
                f"the text by {ids.shape[1] - self.shape.n_ctx}"
            )

    def _on_the_right(self, batch: Tokens, *, ours: bool) -> Tokens:
        """The same rows with their padding on the right."""
        real = batch.real
        if bool(real[:, 0].all()):
            return batch
        if not ours:
            raise ConfigError(
                f"padding on the left: {self.kind} counts positions from the first column; pad on "
                "the right, or pass a list of unpadded lists"
            )
        order = real.long().argsort(dim=1, descending=True, stable=True)
        return replace(batch, ids=batch.ids.gather(1, order), mask=real.gather(1, order))

    def _with_decoder(self, batch: Tokens) -> Tokens:
        """Give a decoder its start token where it was given nothing; refuse ids for no decoder."""
        if not self.architecture.two_stacks:
            if batch.decoder_ids is not None:
                raise ConfigError(f"decoder_ids were given, but a {self.kind} model has no decoder")
            return batch
        given = batch.decoder_ids
        if given is None:
            start = self.config.decoder_start_token_id
            if start is None:
                raise ConfigError(
                    "the model's config names no decoder_start_token_id; pass "
                    "Tokens(ids, mask, decoder_ids)"
                )
            return replace(batch, decoder_ids=torch.full((batch.n_rows, 1), int(start)))
        if given.ndim != 2 or given.shape[0] != batch.n_rows or given.shape[1] == 0:
            raise ConfigError(
                f"decoder_ids must be [batch, pos] with {batch.n_rows} rows, got "
                f"{list(given.shape)}"
            )
        return batch
