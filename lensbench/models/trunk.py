"""Calling a transformers trunk inside a session, and its unembedding.

Without a plan the numbers are those of transformers: the trunk is the model's own ``forward``. To
start in the middle, the blocks before pass their input on and the first one that runs is handed
another input; masks and rotary angles are still made by transformers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lensbench.errors import ConfigError
from lensbench.models.base import Acts, Forward, Past
from lensbench.models.edits import Columns, apply_edits
from lensbench.models.families import submodule
from lensbench.models.past import open_past
from lensbench.models.session import ACTIVE, Session, StopForward
from lensbench.models.taps import Taps
from lensbench.plan import Plan
from lensbench.sites import Site
from lensbench.tokens import Tokens
from lensbench.types import LogitsMode

_LOGITS = ("logits", None)


@dataclass(frozen=True, kw_only=True)
class Request:
    """One run, checked: what to feed, what to do, what to keep."""

    batch: Tokens
    plan: Plan = field(default_factory=Plan)
    capture: Sequence[Site] = ()
    logits: LogitsMode = "all"
    grad: bool = False
    past: Past | None = None
    lenient: bool = False
    """Positions that are not among the new tokens are passed over (decoding steps)."""
    start: int = 0
    h: Tensor | None = None
    """Residual stream entering block ``start``, instead of the embedding of the ids."""
    end: int | None = None
    """Stop after block ``end - 1`` and give its output."""
    positions: Tensor | None = None
    """Positions of the new tokens, where they are not counted from the mask."""


class Trunk:
    """The module, its taps, and the order in which they are used."""

    def __init__(self, module: Any, taps: Taps, n_layers: int) -> None:
        self._module, self._taps, self._n_layers = module, taps, n_layers
        self._base: nn.Module = module.base_model
        self._head: nn.Module = module.get_output_embeddings()
        self._final_norm = submodule(module, taps.family.final_norm)
        self._project = getattr(getattr(self._base, "decoder", None), "project_out", None)
        self._cap: float | None = getattr(module.config, "final_logit_softcapping", None)

    def forward(self, request: Request) -> tuple[Forward, Tensor | None]:
        """Run a request; also the output of block ``end - 1`` where an end was asked for."""
        if self._module.training and not request.grad:
            raise ConfigError(
                "the model is in training mode, so dropout would change every run; call "
                "model.module.eval() first"
            )
        with torch.set_grad_enabled(request.grad):
            return self._forward(request)

    def _forward(self, request: Request) -> tuple[Forward, Tensor | None]:
        cache, real, seen = None, request.batch.real, 0
        if request.past is not None:
            cache, real, seen = open_past(request.past, real, self._running(request))
        positions = (real.long().cumsum(1) - 1).clamp_min(0)
        if request.positions is not None:
            positions = torch.cat((positions[:, :seen], request.positions), dim=1)
        self._check_room(int(positions.max()) + 1)
        session = self._session(request, positions, real, seen)
        hidden = None
        if session.waiting or not session.stop_when_done:
            # Without a mask, transformers takes a gap in the positions for packed sequences.
            given = request.positions is not None or not bool(real.all())
            mask = real.long() if given else None
            hidden = self._call(session, request.batch.ids, mask, positions[:, seen:], cache)
        logits = self._read(session, hidden, request)
        if not (request.lenient or seen):
            session.check_all_fired()
        past = None if request.past is None else Past(cache, real)
        return Forward(logits, Acts(session.acts), past, session.layers_run), session.last

    def _check_room(self, n_tokens: int) -> None:
        room = getattr(self._module.config, "max_position_embeddings", None)
        if room and n_tokens > room:
            raise ConfigError(
                f"{n_tokens} tokens, past ones included, exceed the context of {room}"
            )

    def _running(self, request: Request) -> list[int]:
        ends = [self._n_layers if e is None else e for e in (request.end, request.plan.stop)]
        return [i for i in range(request.start, min(ends)) if i not in request.plan.skips]

    def _session(self, request: Request, positions: Tensor, real: Tensor, seen: int) -> Session:
        lenient = request.lenient or seen > 0
        session = Session(
            self._taps,
            self._taps.attention,
            request.plan,
            request.capture,
            n_layers=self._n_layers,
            columns=Columns(positions[:, seen:], real[:, seen:], lenient=lenient),
            key_columns=Columns(positions, real, lenient=lenient) if seen else None,
            grad=request.grad,
            # A cache wants every layer's keys, whatever else is asked for.
            stop_when_done=request.logits == "none" and request.past is None and not request.end,
        )
        session.start, session.injected, session.end = request.start, request.h, request.end
        return session

    def _call(
        self, session: Session, ids: Tensor, mask: Tensor | None, positions: Tensor, cache: Any
    ) -> Tensor | None:
        """The trunk's own forward; None when the session had all it wanted before the end."""
        token = ACTIVE.set(session)
        try:
            out = self._base(
                input_ids=ids,
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

    def _read(self, session: Session, hidden: Tensor | None, request: Request) -> Tensor | None:
        """Logits as asked for; where the site ``logits`` is captured, all of them are made."""
        site, mode = session.wanted.get(_LOGITS), request.logits
        if hidden is None or (mode == "none" and site is None):
            return None
        if mode == "last" and site is None:
            hidden = _last_real(hidden, request.batch.real)
        logits = self.unembed_normed(hidden)
        if _LOGITS in session.keys:
            edits = session.edits.get(_LOGITS, [])
            if mode == "last" and site is None and any(e.positions for e in edits):
                raise ConfigError('edits of "logits" at chosen positions need logits="all"')
            logits = apply_edits(logits, edits, session.columns, attention=False, grad=session.grad)
            session.waiting.discard(_LOGITS)
        if site is None:
            return logits
        session.acts[site] = logits
        if mode == "none":
            return None
        return _last_real(logits, request.batch.real) if mode == "last" else logits

    def unembed_normed(self, hidden: Tensor) -> Tensor:
        """Logits of states that the final norm has already seen."""
        logits = self._head(hidden)
        return logits if self._cap is None else torch.tanh(logits / self._cap) * self._cap

    def unembed(self, resid: Tensor) -> Tensor:
        """Logits of states of the residual stream."""
        hidden = self._final_norm(resid)
        return self.unembed_normed(hidden if self._project is None else self._project(hidden))


def _last_real(x: Tensor, real: Tensor) -> Tensor:
    """``[batch, 1, d]``: each row at its last token that is no padding."""
    columns = torch.arange(real.shape[1], device=x.device)
    last = torch.where(real, columns, -1).amax(1)
    return x[torch.arange(len(last), device=x.device), last][:, None]
