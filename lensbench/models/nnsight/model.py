"""The nnsight back end: the waist of lensbench over nnsight traces.

Checks, batching, plans and results are those of the native back end; what differs is how values
are reached. There hooks show them to the session of a run; here a trace does (see ``drive.py``).
The two ways share no code that touches a module, which is what makes each a check of the other.
"""

import copy
import warnings
from collections.abc import Collection, Generator
from contextlib import contextmanager
from threading import RLock
from typing import Any

import torch
from torch import nn

from lensbench.models.base import ModelCard
from lensbench.models.families import Architecture
from lensbench.models.huggingface import NativeModel
from lensbench.models.layout import Layout
from lensbench.models.nnsight import tool
from lensbench.models.nnsight.atlas import Atlas, envoy_at
from lensbench.models.nnsight.attention import ATTRIBUTE
from lensbench.models.nnsight.drive import Drive
from lensbench.models.nnsight.twin import NoTaps, Place3, attention_places, twin
from lensbench.models.session import ACTIVE
from lensbench.models.trunk import Trunk


class Wrapped:
    """nnsight's tree over the twin of a module; one lock, because a tree runs one trace at once."""

    def __init__(self, module: Any, architecture: Architecture, n_heads: int) -> None:
        nnsight = tool.load()
        self.module: Any = twin(module, architecture, opened=architecture.interface)
        self.architecture, self.lock = architecture, RLock()
        with warnings.catch_warnings():
            # BERT has a module called "output"; sites are found by module, so the name is free.
            warnings.filterwarnings("ignore", message=r".*has a submodule named")
            self.root: Any = nnsight.NNsight(self.module)
        self._parts: dict[Place3, Any] = {
            place: getattr(attn, ATTRIBUTE)
            for place, attn in attention_places(self.module, architecture).items()
            if hasattr(attn, ATTRIBUTE)
        }
        self.atlas = Atlas(self.module, architecture, n_heads)

    def path(self, module: nn.Module) -> str:
        """Where ``module`` lies in the twin."""
        return next(path for path, m in self.module.named_modules() if m is module)

    @contextmanager
    def running(self, opened: Collection[Any] | None = None) -> Generator[None]:
        """The only trace at this time, with attention in the open at these places (None: all)."""
        with self.lock:
            try:
                for place, parts in self._parts.items():
                    parts.opened = opened is None or place in opened
                yield
            finally:
                for parts in self._parts.values():
                    parts.opened = False


class Traced:
    """A module of the twin, called as the trunk calls modules: in a trace, under the session."""

    def __init__(self, wrapped: Wrapped, module: Any) -> None:
        self._wrapped, self.forward = wrapped, module.forward
        self._path = wrapped.path(module)

    def __call__(self, **inputs: Any) -> Any:
        """What the module gives for ``inputs``; StopForward once nothing more is wanted."""
        session = ACTIVE.get()
        assert session is not None  # the trunk calls modules inside a session only
        wrapped, result = self._wrapped, list[Any]()
        drive = Drive(wrapped.atlas, session, self._path)
        envoy = envoy_at(wrapped.root, self._path)
        with wrapped.running(session.tapped), envoy.trace(**inputs) as tracer:
            drive.run(wrapped.root, tracer, result)  # compiled from this source, run in the pass
        return result[0]


class _Module:
    """What the trunk asks of a module, answered by traces of its twin."""

    def __init__(self, wrapped: Wrapped) -> None:
        self._wrapped, self.config = wrapped, wrapped.module.config
        two = wrapped.architecture.two_stacks
        self.base_model = Traced(wrapped, wrapped.module.base_model)
        self._encoder = Traced(wrapped, wrapped.module.get_encoder()) if two else None
        self._decoder = Traced(wrapped, wrapped.module.get_decoder()) if two else None

    @property
    def training(self) -> bool:
        """Is dropout on?"""
        return bool(self._wrapped.module.training)

    def get_encoder(self) -> Traced | None:
        """The encoder, where there is one."""
        return self._encoder

    def get_decoder(self) -> Traced | None:
        """The decoder, where there is one."""
        return self._decoder


class NnsightModel(NativeModel):
    """A transformers model behind the waist, reached through nnsight.

    Made by ``load_model(x, backend="nnsight")``. A module in memory is left untouched: nnsight
    works on a twin that shares its weights. Runs of one model wait for each other (nnsight is not
    made for threads).

    Raises:
        ConfigError: the module has forward hooks of the user's.
        BackendUnavailableError: nnsight is not installed.
    """

    def __init__(self, module: Any, card: ModelCard, tokenizer: Any = None) -> None:
        self.card, self.tokenizer = card, tokenizer
        layout = Layout(module, tokenizer)
        self.wrapped = Wrapped(module, layout.architecture, card.n_heads)
        self.module: Any = self.wrapped.module
        self.layout = Layout(self.module, tokenizer)
        taps: Any = NoTaps(layout.architecture)
        self.trunk = Trunk(self.module, taps, card.n_layers, card.n_ctx)
        traced: Any = _Module(self.wrapped)
        self.trunk._module, self.trunk._base = traced, traced.base_model

    def __deepcopy__(self, memo: dict[int, Any]) -> "NnsightModel":
        """A model of its own around a copy of the weights."""
        with self.wrapped.lock, torch.no_grad():
            plain = twin(self.module, self.layout.architecture, opened=False)
            return NnsightModel(copy.deepcopy(plain, memo), self.card, self.tokenizer)
