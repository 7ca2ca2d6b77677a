"""Free-form code inside a forward pass: ``with model.trace(tokens) as t:``.

The block is nnsight's: it is compiled from its source and run while the model computes. ``t.site``
and ``t.set`` speak of lensbench's sites; ``t.modules`` is nnsight's own tree, with every module of
the transformers model under its own name. The trace runs on the twin of the module (``twin.py``),
so the hooks of the native model neither see it nor are seen by it.
"""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from threading import Lock
from types import SimpleNamespace, TracebackType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lensbench.errors import BackendUnavailableError, ConfigError
from lensbench.models.nnsight import tool
from lensbench.models.nnsight.atlas import envoy_at
from lensbench.models.nnsight.model import NnsightModel, Wrapped
from lensbench.models.nnsight.visits import Reach
from lensbench.models.session import Key, first, key_of, replace_first
from lensbench.sites import Site
from lensbench.tokens import Tokens, TokensLike

if TYPE_CHECKING:
    from lensbench.models.huggingface import NativeModel

_WRAPPED: "WeakKeyDictionary[nn.Module, Wrapped]" = WeakKeyDictionary()
_LOCK = Lock()


def open_trace(model: "NativeModel", tokens: TokensLike, *, grad: bool = False) -> Any:
    """The context of :meth:`NativeModel.trace`."""
    tool.load()
    batch = model.layout.batch(tokens, model.device)
    wrapped = wrapped_of(model)
    inputs = inputs_of(model, batch)
    return wrapped.root.trace(
        **inputs, tracer_cls=lambda *a, **k: _trace_class()(model, wrapped, batch, grad, *a, **k)
    )


def wrapped_of(model: "NativeModel") -> Wrapped:
    """Nnsight's tree for a model, made once per module."""
    if isinstance(model, NnsightModel):
        return model.wrapped
    with _LOCK:
        if model.module not in _WRAPPED:
            layout = model.layout
            _WRAPPED[model.module] = Wrapped(model.module, layout.architecture, model.card.n_heads)
        return _WRAPPED[model.module]


def inputs_of(model: "NativeModel", batch: Tokens) -> dict[str, Any]:
    """The arguments of the whole model's ``forward`` for a batch."""
    architecture = model.layout.architecture
    inputs: dict[str, Any] = {"input_ids": batch.ids}
    if not bool(batch.real.all()):
        inputs["attention_mask"] = batch.real.long()
    if architecture.two_stacks:
        return {**inputs, "decoder_input_ids": batch.decoder_ids, "use_cache": False}
    if architecture.causal:
        inputs["use_cache"] = False
    if model.trunk._takes_positions and architecture.position_offset == "none":
        inputs["position_ids"] = batch.positions()
    return inputs


class _OneSite:
    """What a visit asks of a session, for one site that is read or written by hand."""

    grad = False

    def __init__(self, key: Key, width: int, value: Tensor | None) -> None:
        self.keys = self.waiting = {key}
        self.edits = {} if value is None else {key: value}
        self.grids = {stack: SimpleNamespace(width=width) for stack in ("", "encoder", "decoder")}
        self._new = value
        self.seen: Tensor | None = None

    def tap(self, key: Key, x: Tensor) -> Tensor:
        """Note what is there; give what shall be there."""
        self.seen = x
        if self._new is None:
            return x
        if self._new.shape != x.shape:
            raise ConfigError(
                f"{Site(*key)} has shape {list(x.shape)} here; got {list(self._new.shape)}"
            )
        return self._new.to(x)


@lru_cache(maxsize=1)
def _trace_class() -> type[Any]:
    """The class of traces; made late, because its base is nnsight's."""
    from nnsight.intervention.interleaver import OutOfOrderError
    from nnsight.intervention.tracer import InterleavingTracer
    from nnsight.tracing.tracer import WithBlockNotFoundError, skip_context, skippable

    class Trace(InterleavingTracer):
        """A running trace: read sites with ``site``, write them with ``set``, in their order."""

        def __init__(
            self,
            model: "NativeModel",
            wrapped: Wrapped,
            batch: Tokens,
            grad: bool,
            *args: Any,
            **kwargs: Any,
        ) -> None:
            super().__init__(*args, **kwargs)
            self._model, self._wrapped, self._batch, self._grad = model, wrapped, batch, grad
            self._last: tuple[int, str] = (-1, "")
            self._open = ExitStack()

        @property
        def modules(self) -> Any:
            """Nnsight's tree: ``t.modules.model.layers[1].output`` and the like."""
            return self._wrapped.root

        def site(self, name: str | Site) -> Tensor:
            """The value at a site: a copy, or with ``grad`` the tensor that flows on."""
            found = self._visit(name, None)
            return found if self._grad else found.clone()

        def set(self, name: str | Site, value: Tensor) -> None:
            """Put ``value`` (of the site's shape) in the place of a site's value."""
            self._visit(name, value)

        def _visit(self, name: str | Site, value: Tensor | None) -> Tensor:
            site = self._model.layout.known(name)
            if value is not None and not site.spec.writable:
                raise ConfigError(f"site {str(site)!r} can be read but not written")
            ids = self._batch.decoder_ids if site.stack == "decoder" else self._batch.ids
            assert ids is not None  # a decoder has ids: Layout.batch saw to it
            state = _OneSite(key_of(site), ids.shape[1], value)
            if site.name == "logits":
                return self._logits(state)
            if site.name in ("resid_pre", "resid_post"):
                return self._residual(site, state)
            reach = _reach(self._wrapped, site, written=value is not None)
            self._in_order((reach.path, "input" if reach.needs_input else reach.side), site)
            envoy, given = envoy_at(self._wrapped.root, reach.path), None
            if reach.skips:
                envoy.skip(reach.show(state, envoy.inputs, envoy, None))  # pyright: ignore[reportArgumentType]
            else:
                given = envoy.input if reach.needs_input else None
                before = envoy.input if reach.side == "input" else envoy.output
                new = reach.show(state, before, envoy, given)  # pyright: ignore[reportArgumentType]
                if new is not before:
                    setattr(envoy, reach.side, new)
            assert state.seen is not None
            return state.seen

        def _residual(self, site: Site, state: _OneSite) -> Tensor:
            assert site.layer is not None
            path = self._wrapped.atlas.blocks[site.layer, site.stack]
            side = "input" if site.name == "resid_pre" else "output"
            self._in_order((path, side), site)
            envoy = envoy_at(self._wrapped.root, path)
            before = getattr(envoy, side)
            new = replace_first(before, state.tap(key_of(site), first(before)))
            if new is not before:
                setattr(envoy, side, new)
            assert state.seen is not None
            return state.seen

        def _logits(self, state: _OneSite) -> Tensor:
            self._in_order(("", "output"), Site("logits"))
            out = self._wrapped.root.output
            new = state.tap(("logits", None, ""), out.logits)
            if new is not out.logits:
                out.logits = new
            assert state.seen is not None
            return state.seen

        def _in_order(self, visit: tuple[str, Any], site: Site) -> None:
            order = self._wrapped.atlas.order
            rank = order.get(visit, len(order))
            if rank < self._last[0]:
                raise ConfigError(
                    f"{site} was asked for after {self._last[1]}, but the model computes it "
                    "before: ask for sites in the order of model.sites() (a trace cannot go back)"
                )
            self._last = (rank, str(site))

        def __enter__(self) -> Any:
            """As nnsight's own, which counts stack frames, once the model is free."""
            try:
                self._open.enter_context(self._wrapped.running())
                self._open.enter_context(tool.backward_traces())
                self._open.enter_context(_explained(OutOfOrderError))
                self.capture()
                if self.node is not None and skippable(self.node):
                    skip_context(self)
            except WithBlockNotFoundError as error:
                self._open.close()
                raise BackendUnavailableError(
                    f"nnsight compiles the source of a trace's block, and cannot find it: {error}"
                ) from error
            except BaseException as error:
                self._open.close()
                if isinstance(error, ValueError) and "traced `with`" in str(error):
                    raise ConfigError(str(error)) from error
                raise
            return self

        def __exit__(
            self,
            exc_type: type[BaseException] | None,
            exc_value: BaseException | None,
            exc_traceback: TracebackType | None,
        ) -> bool:
            with self._open, torch.set_grad_enabled(self._grad):
                return super().__exit__(exc_type, exc_value, exc_traceback)

    return Trace


def _reach(wrapped: Wrapped, site: Site, *, written: bool) -> Reach:
    """The way to read or write one site."""
    key = key_of(site)
    ways = [r for r in wrapped.atlas.reaches if key in r.keys]
    plain = [r for r in ways if not (r.writes_through and key == r.keys[-1])]
    if written and len(ways) > len(plain):
        raise ConfigError(
            f"{site} is a sum that the block forms by itself, so a trace cannot write it; write "
            f"the branch instead: t.set(attn_out, new_sum - resid_pre)"
        )
    return plain[0]


@contextmanager
def _explained(out_of_order: type[Exception]) -> Generator[None]:
    """Nnsight's complaint about a value that has passed, as an error of ours."""
    try:
        yield
    except out_of_order as error:
        raise ConfigError(
            f"the trace asked for a value that the model had already passed, or never reached: "
            f"{error}. Ask for values in the order in which the model computes them"
        ) from error
