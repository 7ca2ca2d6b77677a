"""One run of a network, as the hooks see it: what to capture, what to edit, what not to run.

The session lives in a ``ContextVar``, so persistent hooks of one module serve any number of
threads: outside a session a hook returns at once and the module behaves as it always did.
"""

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn

from lensbench.errors import UnknownSiteError
from lensbench.models.edits import Columns, apply_edits
from lensbench.plan import Edit, Plan
from lensbench.sites import Site

Key = tuple[str, int | None]
"""Name and layer of a site: what a hook knows of itself."""

ATTENTION_KEYS = frozenset({"attn.q", "attn.k", "attn.v", "attn.scores", "attn.pattern", "attn.z"})
_SCORES = frozenset({"attn.scores", "attn.pattern"})
_KEYED = frozenset({"attn.k", "attn.v"})

ACTIVE: "ContextVar[Session | None]" = ContextVar("lensbench_session", default=None)


class StopForward(BaseException):
    """Raised inside a forward pass once nothing more of it is wanted. Never leaves ``models/``.

    Not an ``Exception``: no handler in between may take it for an error.
    """


class Session:
    """State of one forward pass; made by the back end, filled by the hooks."""

    def __init__(
        self,
        owner: object,
        attention: dict[int, int],
        plan: Plan,
        capture: Sequence[Site],
        *,
        n_layers: int,
        columns: Columns,
        key_columns: Columns | None = None,
        stop_when_done: bool = False,
        grad: bool = False,
    ) -> None:
        self.owner, self._attention, self.grad = owner, attention, grad
        self.columns, self.key_columns = columns, key_columns or columns
        self.wanted: dict[Key, Site] = {(s.name, s.layer): s for s in capture}
        self.edits: dict[Key, list[Edit]] = {}
        for edit in plan.edits:
            self.edits.setdefault((edit.site.name, edit.site.layer), []).append(edit)
        self.keys = self.wanted.keys() | self.edits.keys()
        self.waiting: set[Key] = set(self.keys)
        self.tapped = frozenset(layer for name, layer in self.keys if name in ATTENTION_KEYS)
        past_stop = range(n_layers if plan.stop is None else plan.stop, n_layers)
        self.skips = plan.skips | frozenset(past_stop)
        self.stop_when_done = stop_when_done
        self.acts: dict[Site, Tensor] = {}
        self.layers_run = 0
        self.start = 0
        self.end: int | None = None
        self.injected: Tensor | None = None
        self.last: Tensor | None = None
        self.resid_pre: Tensor | None = None

    def tap(self, key: Key, x: Tensor) -> Tensor:
        """Edit and capture ``x`` (site layout); raise :class:`StopForward` when all is done."""
        name = key[0]
        edits = self.edits.get(key)
        if edits is not None:
            columns = self.key_columns if name in _KEYED else self.columns
            x = apply_edits(x, edits, columns, attention=name in _SCORES, grad=self.grad)
        site = self.wanted.get(key)
        if site is not None:
            # With a past, keys and values span all tokens seen; the capture is of the new ones.
            new = self.columns.positions.shape[1]
            # What is captured is what flows on, where nothing is cut: gradients reach it.
            self.acts[site] = x[:, -new:] if name in _KEYED and x.shape[1] != new else x
        self.waiting.discard(key)
        if self.stop_when_done and not self.waiting:
            raise StopForward
        return x

    def block(
        self, layer: int, forward: Callable[..., Any], hidden: Tensor, args: Any, kwargs: Any
    ) -> Any:
        """Run block ``layer``, or pass ``hidden`` on where the block is skipped."""
        if layer < self.start:
            return hidden
        if layer == self.start and self.injected is not None:
            hidden = self.injected
        if ("resid_pre", layer) in self.keys:
            hidden = self.tap(("resid_pre", layer), hidden)
        out: Any = hidden
        if layer not in self.skips:
            self.layers_run += hidden.shape[0]
            self.resid_pre = hidden
            out = forward(hidden, *args, **kwargs)
        if ("resid_post", layer) in self.keys:
            out = replace_first(out, self.tap(("resid_post", layer), first(out)))
        if layer + 1 == self.end:
            self.last = first(out)
            raise StopForward
        return out

    def tapped_layer(self, module: nn.Module) -> int | None:
        """Layer of an attention module that has a tap in this session, else None."""
        layer = self._attention.get(id(module))
        return layer if layer in self.tapped else None

    def check_all_fired(self) -> None:
        """Raise UnknownSiteError for a requested site that the pass never reached."""
        if not self.waiting:
            return
        name, layer = min(self.waiting, key=lambda k: (k[1] is None, k))
        site = Site(name, layer)
        why = (
            f"Layer {layer} is skipped by the plan, so {site} is never computed."
            if layer in self.skips
            else f"{site} was asked for but did not fire in this pass."
        )
        raise UnknownSiteError(str(site), known=tuple(map(str, sorted(self.acts))), hint=why)


def first(out: Any) -> Tensor:
    """The hidden states of a module's output, which is a tensor or a tuple that begins with it."""
    return out[0] if isinstance(out, tuple) else out


def replace_first(out: Any, x: Tensor) -> Any:
    """``out`` with its hidden states replaced; the same object when nothing changed."""
    if not isinstance(out, tuple):
        return x
    return out if out[0] is x else (x, *out[1:])
