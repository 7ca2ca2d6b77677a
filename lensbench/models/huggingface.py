"""The native back end: an untouched transformers causal language model behind the waist."""

import copy
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lensbench.errors import ConfigError
from lensbench.models import attention
from lensbench.models.base import Forward, Model, ModelCard, Past
from lensbench.models.families import architecture_of
from lensbench.models.generation import check_settings, generate, stop_set
from lensbench.models.layout import Layout
from lensbench.models.steps import DecodingRule, rule_sites
from lensbench.models.sweep import run_many
from lensbench.models.taps import Taps
from lensbench.models.trunk import Request, Trunk
from lensbench.models.weights import input_device
from lensbench.plan import Plan, as_plans
from lensbench.sites import Site
from lensbench.tokens import Tokens, TokensLike, as_tokens, refuse_surrogates, texts_of
from lensbench.types import LogitsMode

if TYPE_CHECKING:
    from lensbench.models.certificate import Certificate
    from lensbench.models.ranges import LayerRunner

_TAPS: "WeakKeyDictionary[nn.Module, Taps]" = WeakKeyDictionary()
_OWN_ATTENTION: "WeakKeyDictionary[nn.Module, str]" = WeakKeyDictionary()
"""Attention implementation that a module had before ours was put in."""


class NativeModel(Model):
    """A transformers model behind the waist. Made by :func:`lensbench.load_model`."""

    def __init__(self, module: Any, card: ModelCard, tokenizer: Any = None) -> None:
        self.module: Any = module.eval()
        self.card, self.tokenizer = card, tokenizer
        self.layout = Layout(module, tokenizer)
        _open_attention(module)
        if module not in _TAPS:
            opened = self.layout.architecture.interface
            _TAPS[module] = Taps(module, self.layout.architecture, card.n_heads, opened=opened)
        self.taps = _TAPS[module]
        self.trunk = Trunk(module, self.taps, card.n_layers, card.n_ctx)

    def __deepcopy__(self, memo: dict[int, Any]) -> "NativeModel":
        """A model of its own around a copy of the module, with hooks of its own."""
        module = copy.deepcopy(self.module, memo)
        if self.module in _OWN_ATTENTION:
            _OWN_ATTENTION[module] = _OWN_ATTENTION[self.module]
        return NativeModel(module, self.card, self.tokenizer)

    @contextmanager
    def own_attention(self) -> Generator[None]:
        """The module as it came, for comparison (not for use beside other threads)."""
        ours, own = self.module.config._attn_implementation, _OWN_ATTENTION.get(self.module)
        if own is None:  # a family without the interface: its attention was never replaced
            yield
            return
        self.module.set_attn_implementation(own)
        try:
            yield
        finally:
            self.module.set_attn_implementation(ours)

    @property
    def device(self) -> torch.device:
        """Where ids go in."""
        return input_device(self.layout.embedding)

    def certify(self, *, fresh: bool = False) -> "Certificate":
        """Check capture, edits, masks, heads, padding and cache (see models/certificate.py)."""
        from lensbench.models.certificate import certify

        return certify(self, fresh=fresh)

    def run(  # noqa: D102 - documented in base
        self,
        tokens: TokensLike,
        plan: Plan = Plan(),  # noqa: B008
        capture: str | Site | Sequence[str | Site] = (),
        *,
        logits: LogitsMode = "all",
        grad: bool = False,
        past: Past | None = None,
    ) -> Forward:
        sites = self.layout.wanted(capture, logits)
        self.layout.check_plan(plan)
        request = Request(
            batch=self.layout.batch(tokens, self.device),
            plan=plan,
            capture=sites,
            logits=logits,
            grad=grad,
            past=past,
        )
        return self.trunk.forward(request)[0]

    def run_many(  # noqa: D102
        self,
        tokens: TokensLike,
        plans: Sequence[Plan],
        capture: str | Site | Sequence[str | Site] = (),
        *,
        logits: LogitsMode = "all",
        batch_size: int = 64,
    ) -> Forward:
        plans = as_plans(plans)
        for plan in plans:
            self.layout.check_plan(plan)
        sites = self.layout.wanted(capture, logits)
        batch = self.layout.batch(tokens, self.device)
        return run_many(self.trunk, self.n_layers, batch, plans, sites, logits, batch_size)

    def generate(  # noqa: D102
        self,
        tokens: TokensLike,
        plan: Plan = Plan(),  # noqa: B008
        max_new_tokens: int = 32,
        *,
        temperature: float = 0.0,
        seed: int = 0,
        stop_ids: Sequence[int] | None = None,
        choose: DecodingRule | None = None,
    ) -> list[list[int]]:
        if not self.layout.architecture.causal:
            raise ConfigError(
                f"a {self.layout.kind} model is an encoder and generates nothing; run, run_many, "
                "capture and edits work on it"
            )
        prompt = self.layout.batch(tokens, self.device)
        self.layout.check_plan(plan)
        check_settings(max_new_tokens, temperature, seed)
        sites = rule_sites(choose, self.layout)
        length = int(prompt.real.sum(1).max())
        if prompt.decoder_ids is not None:
            length = prompt.decoder_ids.shape[1]
        room = self.card.n_ctx - length
        if self.card.n_ctx and max_new_tokens > room:
            raise ConfigError(
                f"{max_new_tokens} new tokens do not fit; the context has room for {room}"
            )
        if stop_ids is None:
            eos = getattr(self.tokenizer, "eos_token_id", None)
            stop_ids = [] if eos is None else [int(eos)]
        return generate(
            self.trunk,
            prompt,
            plan,
            max_new_tokens,
            temperature=temperature,
            seed=seed,
            stops=stop_set(stop_ids),
            choose=choose,
            capture=sites,
        )

    def run_layers(  # noqa: D102
        self,
        h: Float[Tensor, "batch pos d_model"],
        start: int,
        stop: int,
        past: Past | None = None,
        positions: Int[Tensor, "batch pos"] | None = None,
        *,
        mask: Bool[Tensor, "batch pos"] | None = None,
        grad: bool = False,
    ) -> tuple[Float[Tensor, "batch pos d_model"], Past | None]:
        if self.layout.architecture.two_stacks:
            raise ConfigError(
                f"run_layers runs a single stack; a {self.layout.kind} model has an encoder and a "
                "decoder. Use run with edits at encoder.blocks.<L> or decoder.blocks.<L>"
            )
        if not 0 <= start < stop <= self.n_layers:
            raise ConfigError(f"blocks {start}..{stop} are not a range within 0..{self.n_layers}")
        for name, given in (("positions", positions), ("mask", mask)):
            if given is not None and given.shape != h.shape[:2]:
                raise ConfigError(
                    f"{name} has shape {list(given.shape)}, but h has {list(h.shape[:2])} tokens"
                )
        ids = torch.zeros(h.shape[:2], dtype=torch.long, device=self.device)
        request = Request(
            batch=Tokens(ids, None if mask is None else mask.bool().to(self.device)),
            logits="none",
            grad=grad,
            past=past,
            start=start,
            h=h,
            end=stop,
            positions=None if positions is None else positions.long().to(self.device),
        )
        out, last = self.trunk.forward(request)
        assert last is not None  # block stop-1 is not skipped: the plan is empty
        return last, out.past

    def layers(
        self,
        room: int,
        *,
        rows: int = 1,
        mask: Bool[Tensor, "rows prompt"] | None = None,
        plan: Plan = Plan(),  # noqa: B008
    ) -> "LayerRunner":
        """Blocks to be run range by range, with keys and values of their own lengths.

        ``room`` is the number of tokens that prompt and continuation will have, ``mask`` is False
        under the padding of the prompts (on the left), ``plan`` acts on every token.

        Raises:
            ConfigError: an architecture without keys and values per token, or too much room.
        """
        from lensbench.models.ranges import LayerRunner

        self.layout.check_plan(plan)
        return LayerRunner(self, room, mask, rows, plan)

    def unembed(  # noqa: D102
        self, resid: Float[Tensor, "... d_model"], *, grad: bool = False
    ) -> Float[Tensor, "... d_vocab"]:
        with torch.set_grad_enabled(grad):
            return self.trunk.unembed(resid.to(self.device))

    def tokens(self, text: str | Sequence[str], *, bos: bool = True) -> Tokens:  # noqa: D102
        if self.tokenizer is None:
            raise ConfigError(
                f"model {self.card.name!r} has no tokenizer, so it cannot read text; pass token "
                "ids, or load_model(..., tokenizer=...)"
            )
        texts = texts_of(text)
        for number, one in enumerate(texts):
            refuse_surrogates(one, f"text {number}")
        first = self.tokenizer.bos_token_id
        # An encoder was trained on whole texts between special tokens: [CLS] ... [SEP], ... </s>.
        framed = bos and self.kind != "decoder"
        start = [first] if bos and first is not None and not framed else []
        rows = [start + self.tokenizer(t, add_special_tokens=framed)["input_ids"] for t in texts]
        return as_tokens(rows, pad_id=self.tokenizer.pad_token_id if len(rows) > 1 else None)

    def trace(self, tokens: TokensLike, *, grad: bool = False) -> Any:
        """A ``with`` block inside the forward pass (see models/nnsight/freeform.py)."""
        from lensbench.models.nnsight.freeform import open_trace

        return open_trace(self, tokens, grad=grad)

    def sites(self) -> tuple[Site, ...]:  # noqa: D102
        return self.layout.sites

    def width(self, site: str | Site) -> int:  # noqa: D102
        return self.layout.width(site)

    def heads(self, site: str | Site) -> int:  # noqa: D102
        known = self.layout.known(site)
        shape = self.layout.shapes[known.stack]
        return shape.n_kv_heads if known.name in ("attn.k", "attn.v") else shape.n_heads


def _open_attention(module: Any) -> None:
    """Route attention through our function; untapped layers go on as the model's own would."""
    attention.register()
    current = module.config._attn_implementation
    if current in (attention.SDPA, attention.EAGER):
        return
    if architecture_of(module.config).interface:
        _OWN_ATTENTION[module] = current
        module.set_attn_implementation(attention.EAGER if current == "eager" else attention.SDPA)
