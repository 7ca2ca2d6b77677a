"""The native back end: an untouched transformers causal language model, run through taps.

A run is one call of the model's own trunk inside a session, then the model's own unembedding; so
without a plan the numbers are those of transformers. Sweeps over many plans run as one batch that
starts at the first edited block (``run_many``), because hooks can hand a block another input.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lensbench.errors import ConfigError, UnknownSiteError
from lensbench.models import attention
from lensbench.models.base import Acts, Forward, Model, ModelCard, Past
from lensbench.models.edits import Columns, apply_edits
from lensbench.models.families import family_of, shape_of, submodule
from lensbench.models.past import open_past
from lensbench.models.session import ACTIVE, ATTENTION_KEYS, Session, StopForward
from lensbench.models.sweep import run_many
from lensbench.models.taps import Taps
from lensbench.plan import Plan
from lensbench.sites import SITES, Site
from lensbench.tokens import Tokens, TokensLike, as_tokens
from lensbench.types import LogitsMode

if TYPE_CHECKING:
    from lensbench.models.certificate import Certificate

_TAPS: "WeakKeyDictionary[nn.Module, Taps]" = WeakKeyDictionary()
_LOGITS = ("logits", None)


class NativeModel(Model):
    """A transformers model behind the waist. Made by :func:`lensbench.load_model`."""

    def __init__(self, module: nn.Module, card: ModelCard, tokenizer: Any = None) -> None:
        self.module, self.card, self.tokenizer = module.eval(), card, tokenizer
        self.family = family_of(module.config)
        self._shape = shape_of(module.config)
        _open_attention(module)
        if module not in _TAPS:
            _TAPS[module] = Taps(module, self.family, head_dim=self._shape.d_head)
        self._taps = _TAPS[module]
        self._final_norm = submodule(module, self.family.final_norm)
        self._head: nn.Module = module.get_output_embeddings()  # pyright: ignore[reportCallIssue]
        self._trunk: nn.Module = module.base_model  # pyright: ignore[reportAssignmentType]

    def certify(self, *, fresh: bool = False) -> "Certificate":
        """Check capture, edits, masks, heads, padding and cache (see models/certificate.py)."""
        from lensbench.models.certificate import certify

        return certify(self, fresh=fresh)

    @property
    def device(self) -> torch.device:
        """Where ids go in."""
        return self.module.get_input_embeddings().weight.device  # pyright: ignore

    @torch.no_grad()
    def _quiet(self, *args: Any) -> Any:
        return self._call(*args)

    def run(  # noqa: D102 - documented in base
        self,
        tokens: TokensLike,
        plan: Plan = Plan(),  # noqa: B008
        capture: Sequence[str | Site] = (),
        *,
        logits: LogitsMode = "all",
        grad: bool = False,
        past: Past | None = None,
        lenient: bool = False,
    ) -> Forward:
        batch = self._batch(tokens)
        sites = [self._known(s) for s in capture]
        self._check(plan)
        if any(s.name == "logits" for s in sites):
            logits = "all"
        run = self._call if grad else self._quiet
        return run(batch, plan, sites, logits, grad, past, lenient)

    def _call(
        self,
        batch: Tokens,
        plan: Plan,
        sites: list[Site],
        mode: LogitsMode,
        grad: bool,
        past: Past | None,
        lenient: bool,
        start: int = 0,
        h: Tensor | None = None,
    ) -> Forward:
        running = [
            i
            for i in range(self.n_layers)
            if i not in plan.skips and (plan.stop is None or i < plan.stop)
        ]
        cache, real, seen = None, batch.real, 0
        if past is not None:
            cache, real, seen = open_past(past, batch.real, running)
        positions = (real.long().cumsum(1) - 1).clamp_min(0)
        lenient = lenient or seen > 0
        session = self._session(
            plan,
            sites,
            positions,
            real,
            seen,
            lenient=lenient,
            grad=grad,
            stop_when_done=mode == "none" and past is None,
        )
        session.start, session.injected = start, h
        hidden = None
        if session.waiting or mode != "none" or past is not None:
            hidden = self._run_trunk(session, batch, real, positions[:, seen:], cache)
        out = self._read_logits(session, hidden, batch, mode)
        if not lenient:
            session.check_all_fired()
        return Forward(
            out, Acts(session.acts), None if past is None else Past(cache, real), session.layers_run
        )

    def run_from(
        self, h: Tensor, start: int, batch: Tokens, plan: Plan, sites: list[Site], mode: LogitsMode
    ) -> Forward:
        """As :meth:`run`, but from ``h``, the residual stream entering block ``start``."""
        return self._quiet(batch, plan, sites, mode, False, None, False, start, h)

    def _session(
        self,
        plan: Plan,
        sites: Sequence[Site],
        positions: Tensor,
        real: Tensor,
        seen: int,
        *,
        lenient: bool,
        grad: bool,
        stop_when_done: bool,
    ) -> Session:
        columns = Columns(positions[:, seen:], real[:, seen:], lenient=lenient)
        keys = Columns(positions, real, lenient=lenient) if seen else None
        return Session(
            self._taps,
            self._taps.attention,
            plan,
            sites,
            n_layers=self.n_layers,
            columns=columns,
            key_columns=keys,
            stop_when_done=stop_when_done,
            grad=grad,
        )

    def _run_trunk(
        self, session: Session, batch: Tokens, real: Tensor, positions: Tensor, cache: Any
    ) -> Tensor | None:
        """The trunk's own forward; None when the session had all it wanted before the end."""
        mask = None if bool(real.all()) else real.long()
        token = ACTIVE.set(session)
        try:
            out = self._trunk(
                input_ids=batch.ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=cache is not None,
            )
        except StopForward:
            return None
        finally:
            ACTIVE.reset(token)
        return out.last_hidden_state

    def _read_logits(
        self, session: Session, hidden: Tensor | None, batch: Tokens, mode: LogitsMode
    ) -> Tensor | None:
        if mode == "none" or hidden is None:
            return None
        if mode == "last":
            last = torch.where(
                batch.real, torch.arange(batch.n_pos, device=hidden.device), -1
            ).amax(1)
            hidden = hidden[torch.arange(len(last), device=hidden.device), last][:, None]
        logits = self._unembed_normed(hidden)
        if _LOGITS in session.keys:
            if mode == "last" and any(e.positions for e in session.edits.get(_LOGITS, ())):
                raise ConfigError('edits of "logits" at chosen positions need logits="all"')
            edits = session.edits.get(_LOGITS, [])
            logits = apply_edits(logits, edits, session.columns, attention=False, grad=session.grad)
            session.waiting.discard(_LOGITS)
            if _LOGITS in session.wanted:
                session.acts[session.wanted[_LOGITS]] = logits
        return logits

    def _unembed_normed(self, hidden: Tensor) -> Tensor:
        logits = self._head(hidden)
        cap = getattr(self.module.config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def unembed(self, resid: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_vocab"]:  # noqa: D102
        hidden = self._final_norm(resid)
        decoder = getattr(self._trunk, "decoder", None)
        project = getattr(decoder, "project_out", None)
        return self._unembed_normed(hidden if project is None else project(hidden))

    def run_layers(  # noqa: D102
        self,
        h: Float[Tensor, "batch pos d_model"],
        start: int,
        stop: int,
        past: Past | None = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Past | None]:
        out, past, _ = self.run_range(h, start, stop, Plan(), (), past, positions, mask)
        return out, past

    @torch.no_grad()
    def run_range(
        self,
        h: Tensor,
        start: int,
        stop: int,
        plan: Plan,
        capture: Sequence[Site],
        past: Past | None = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Past | None, Session]:
        """Blocks ``start .. stop-1`` on ``h`` under ``plan``; the engine of sweeps and exits."""
        if not 0 <= start < stop <= self.n_layers:
            raise ConfigError(f"layers {start}..{stop} are not a range within 0..{self.n_layers}")
        cache, real, seen = None, torch.ones(h.shape[:2], dtype=torch.bool, device=h.device), 0
        real = real if mask is None else mask.bool()
        if past is not None:
            layers = [i for i in range(start, stop) if i not in plan.skips]
            cache, real, seen = open_past(past, real, layers)
        if positions is None:
            positions = (real.long().cumsum(1) - 1).clamp_min(0)[:, seen:]
        session = self._session(
            plan,
            capture,
            positions if not seen else (real.long().cumsum(1) - 1).clamp_min(0),
            real,
            seen,
            lenient=seen > 0,
            grad=False,
            stop_when_done=False,
        )
        session.start, session.end, session.injected = start, stop, h
        session.stop_at_end = True
        ids = torch.zeros(h.shape[:2], dtype=torch.long, device=self.device)
        self._run_trunk(session, Tokens(ids), real, positions, cache)
        if session.last is None:
            raise ConfigError(f"block {stop - 1} did not run; is the model's trunk intact?")
        return session.last, None if past is None else Past(cache, real), session

    def run_many(  # noqa: D102
        self,
        tokens: TokensLike,
        plans: Sequence[Plan],
        capture: Sequence[str | Site] = (),
        *,
        logits: LogitsMode = "all",
        batch_size: int = 64,
    ) -> Forward:
        for plan in plans:
            self._check(plan)
        sites = [self._known(s) for s in capture]
        return run_many(self, self._batch(tokens), plans, sites, logits, batch_size)

    def generate(  # noqa: D102
        self,
        tokens: TokensLike,
        plan: Plan = Plan(),  # noqa: B008
        max_new_tokens: int = 32,
        *,
        temperature: float = 0.0,
        seed: int = 0,
        stop_ids: Sequence[int] | None = None,
    ) -> list[list[int]]:
        from lensbench.models.generation import generate

        return generate(
            self,
            self._batch(tokens),
            plan,
            max_new_tokens,
            temperature=temperature,
            seed=seed,
            stop_ids=stop_ids,
        )

    def tokens(self, text: str | Sequence[str], *, bos: bool = True) -> Tokens:  # noqa: D102
        if self.tokenizer is None:
            raise ConfigError(
                f"model {self.card.name!r} has no tokenizer, so it cannot read text; pass token "
                "ids, or load_model(..., tokenizer=...)"
            )
        texts = [text] if isinstance(text, str) else list(text)
        start = (
            [self.tokenizer.bos_token_id] if bos and self.tokenizer.bos_token_id is not None else []
        )
        rows = [start + self.tokenizer(t, add_special_tokens=False)["input_ids"] for t in texts]
        pad = self.tokenizer.pad_token_id
        return (
            as_tokens(rows, pad_id=0 if pad is None else pad) if len(rows) > 1 else as_tokens(rows)
        )

    def sites(self) -> tuple[Site, ...]:  # noqa: D102
        absent = {"resid_mid"} if self.family.parallel else set[str]()
        if self.family.gate is None and not self.family.fused:
            absent.add("mlp.gate")
        if not getattr(self.module, "_supports_attention_backend", False):
            absent |= ATTENTION_KEYS
        found: list[Site] = []
        for name, spec in SITES.items():
            if name not in absent:
                found += (
                    [Site(name, i) for i in range(self.n_layers)] if spec.layered else [Site(name)]
                )
        return tuple(sorted(found))

    def width(self, site: str | Site) -> int:  # noqa: D102
        name, shape = self._known(site).name, self._shape
        if name in ("attn.scores", "attn.pattern"):
            return 0
        if name.endswith(".scale"):
            return 1
        if name.startswith("attn."):
            return shape.d_head
        if name == "embed":
            return int(self.module.get_input_embeddings().weight.shape[1])  # pyright: ignore
        return {"mlp": shape.d_mlp, "logits": shape.d_vocab}.get(name.split(".")[0], shape.d_model)

    def _known(self, site: str | Site) -> Site:
        parsed = Site.parse(site)
        known = self._site_set()
        if parsed in known:
            return parsed
        if parsed.layer is not None and parsed.layer >= self.n_layers:
            why = f"This model has layers 0..{self.n_layers - 1}."
        else:
            why = f"A {self.card.family} model does not have it."
        names = sorted({s.name if s.layer is None else f"blocks.<L>.{s.name}" for s in known})
        raise UnknownSiteError(str(parsed), known=names, hint=why)

    def _site_set(self) -> frozenset[Site]:
        if not hasattr(self, "_sites"):
            self._sites = frozenset(self.sites())
        return self._sites

    def _check(self, plan: Plan) -> None:
        for edit in plan.edits:
            self._known(edit.site)
        for layer in plan.skips | ({plan.stop} if plan.stop is not None else set()):
            top = self.n_layers if layer == plan.stop else self.n_layers - 1
            if layer > top:
                raise ConfigError(
                    f"the plan names layer {layer}; this model has layers 0..{self.n_layers - 1}"
                )

    def _batch(self, tokens: TokensLike) -> Tokens:
        pad = getattr(self.tokenizer, "pad_token_id", None)
        eos = getattr(self.tokenizer, "eos_token_id", None)
        batch = as_tokens(tokens, pad_id=None if pad == eos else pad).to(self.device)
        top = int(batch.ids.max())
        if top >= self._shape.d_vocab or int(batch.ids.min()) < 0:
            raise ConfigError(f"token id {top} is outside the vocabulary of {self._shape.d_vocab}")
        if self._shape.n_ctx and batch.n_pos > self._shape.n_ctx:
            raise ConfigError(
                f"{batch.n_pos} tokens are more than the context of {self._shape.n_ctx}"
            )
        return batch


def _open_attention(module: nn.Module) -> None:
    """Route attention through our function; what it does untapped depends on the model's own."""
    attention.register()
    current = module.config._attn_implementation
    if current in (attention.SDPA, attention.EAGER):
        return
    if getattr(module, "_supports_attention_backend", False):
        name = attention.EAGER if current == "eager" else attention.SDPA
        module.set_attn_implementation(name)  # pyright: ignore[reportCallIssue]
