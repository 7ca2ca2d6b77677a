"""Any range of blocks over any run of tokens, with keys and values per block.

What early exit and self-speculation are made of: drafts run the first blocks only, the check runs
the others over the states the draft left behind, and each block is cropped to its own length.
Called with the same modules as every other run; a plan acts here too.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench.errors import ConfigError
from lensbench.models.edits import Columns
from lensbench.models.families import blocks_of
from lensbench.models.ranges.buffers import Buffers, Stored
from lensbench.models.ranges.calls import Calls, Recording
from lensbench.models.ranges.counts import Counts
from lensbench.models.ranges.entry import Entry
from lensbench.models.ranges.omission import OMITTED, Sublayer, check_sublayers, omittable
from lensbench.models.ranges.plain import plain_twin
from lensbench.models.ranges.record import record
from lensbench.models.session import ACTIVE, Grid, Scope, Session, first
from lensbench.plan import Plan
from lensbench.sites import Site

if TYPE_CHECKING:
    from lensbench.models.huggingface import NativeModel

_NOTHING: frozenset[Sublayer] = frozenset()
_HALVES: tuple[Literal["attn"], Literal["mlp"]] = ("attn", "mlp")


class LayerRunner:
    """Blocks of one model over up to ``room`` tokens of ``rows`` texts.

    A token is run through blocks ``first .. last - 1`` by :meth:`run` where those blocks hold all
    tokens before it, by :meth:`fill` where only its keys and values are wanted (an exited state
    handed to the blocks above), and forgotten by :meth:`crop`. :attr:`counts` says what really ran.

    Made by :meth:`lensbench.models.huggingface.NativeModel.layers`; one thread at a time.
    """

    def __init__(
        self, model: "NativeModel", room: int, mask: Tensor | None, rows: int, plan: Plan
    ) -> None:
        _refuse(model, room)
        self.model, self.room, self.rows, self.plan = model, room, rows, plan
        self.n_layers = model.n_layers
        self.cache = Buffers(self.n_layers, room)
        self.counts = Counts()
        self.acts: dict[Site, Tensor] = {}
        """What the last run captured."""
        self._taps = model.taps
        architecture = model.layout.architecture
        family = architecture.stacks[architecture.main]
        self._blocks: list[Any] = blocks_of(model.module, family)
        self._plain: list[Any] = [plain_twin(block) for block in self._blocks]
        self._unembed = model.trunk.unembed.plain()
        self._entry = Entry(model.module, architecture)
        self._family = family
        self._can_omit = False
        self._real = torch.ones(rows, room, dtype=torch.bool, device=model.device)
        if mask is not None:
            self._real[:, : mask.shape[1]] = mask.to(model.device)
        self._positions = (self._real.long().cumsum(1) - 1).clamp_min(0)
        with torch.inference_mode():
            self._calls = self._record()

    def embed(self, ids: Int[Tensor, "rows pos"], at: int) -> Float[Tensor, "rows pos d_model"]:
        """The stream that enters block 0 for tokens ``ids`` standing from column ``at`` on."""
        with torch.inference_mode():
            return self._entry(ids, self._positions[:, at : at + ids.shape[1]])

    def run(
        self,
        h: Float[Tensor, "rows pos d_model"],
        first_layer: int,
        last_layer: int,
        at: int,
        *,
        omit: Iterable[Sublayer] = (),
        keep: dict[int, Tensor] | None = None,
        capture: Sequence[Site] = (),
    ) -> Float[Tensor, "rows pos d_model"]:
        """The stream after blocks ``first_layer .. last_layer - 1`` for tokens from column ``at``.

        Args:
            h: the stream that enters ``first_layer`` for those tokens.
            first_layer: first block that runs.
            last_layer: first block that does not.
            at: column of the first of the tokens; the blocks hold all tokens before it.
            omit: sublayers (``("attn", 3)``) that do not run and add nothing. An omitted attention
                stores no keys, so later tokens must leave it out too, or be cropped before.
            keep: filled with the stream after each block, by layer.
            capture: sites of these blocks to be left in :attr:`acts`.

        Raises:
            ConfigError: a range outside the model, a token beyond the room, or a block that does
                not hold exactly the tokens before ``at``.
        """
        left_out = check_sublayers(omit, self.n_layers) if omit else _NOTHING
        end, gone = at + h.shape[1], left_out | self._skipped()
        self._check(first_layer, last_layer, at, end, gone)
        if not left_out and not capture and not self.plan:
            h = self._through(self._plain, h, range(first_layer, last_layer), at, keep)
        else:
            h = self._watched(h, range(first_layer, last_layer), at, left_out, keep, capture)
        self.counts.ran(h, first_layer, last_layer, gone, at)
        return h

    def _through(
        self,
        blocks: Sequence[Any],
        h: Tensor,
        layers: range,
        at: int,
        keep: dict[int, Tensor] | None,
    ) -> Tensor:
        end = at + h.shape[1]
        with torch.inference_mode():
            for layer in layers:
                args, kwargs = self._calls.of(layer, at, end)
                h = first(blocks[layer](h, *args, **kwargs))
                if keep is not None:
                    keep[layer] = h
        return h

    def _watched(
        self,
        h: Tensor,
        layers: range,
        at: int,
        omit: frozenset[Sublayer],
        keep: dict[int, Tensor] | None,
        capture: Sequence[Site],
    ) -> Tensor:
        """Through the blocks with their hooks: something is edited, captured or left out."""
        if omit and not self._can_omit:
            omittable(self._family, self._blocks)
            self._can_omit = True
        session = self._session(at, at + h.shape[1], capture) if self.plan or capture else None
        token, active = OMITTED.set(omit), None if session is None else ACTIVE.set(session)
        try:
            return self._through(self._blocks, h, layers, at, keep)
        finally:
            OMITTED.reset(token)
            if active is not None:
                ACTIVE.reset(active)
            self.acts = {} if session is None else dict(session.acts)

    def fill(self, h: Float[Tensor, "rows pos d_model"], layers: Iterable[int], at: int) -> None:
        """Let these blocks store keys and values of ``h``, as if it entered each, and no more.

        Blocks that the plan skips store nothing; its edits of the others are not made, as nothing
        of them runs but keys and values.
        """
        end, gone = at + h.shape[1], self._skipped()
        self.cache.writes_only = True
        try:
            with torch.inference_mode():
                for layer in layers:
                    if ("attn", layer) in gone:
                        continue
                    self._check(layer, layer + 1, at, end, _NOTHING)
                    args, kwargs = self._calls.of(layer, at, end)
                    try:
                        self._plain[layer](h, *args, **kwargs)
                    except Stored:
                        self.counts.filled += h.shape[0] * h.shape[1]
        finally:
            self.cache.writes_only = False

    def crop(self, length: int, layers: Iterable[int] | None = None) -> None:
        """Forget the tokens from column ``length`` on, in these blocks or in all."""
        self.cache.crop(length, range(self.n_layers) if layers is None else layers)

    def logits(self, h: Float[Tensor, "rows pos d_model"]) -> Float[Tensor, "rows pos d_vocab"]:
        """Final norm and head on any state of the stream."""
        self.counts.heads += h.shape[:-1].numel()
        with torch.inference_mode():
            return self._unembed(h)

    def _skipped(self) -> frozenset[Sublayer]:
        """Both halves of the blocks that the plan skips or stops before: they hold no tokens."""
        plan = self.plan
        past = () if plan.stop is None else range(plan.stop, self.n_layers)
        return frozenset((half, i) for i in (*plan.skips, *past) for half in _HALVES)

    def _check(
        self, first_layer: int, last_layer: int, at: int, end: int, omit: frozenset[Sublayer]
    ) -> None:
        if not 0 <= first_layer <= last_layer <= self.n_layers:
            raise ConfigError(
                f"blocks {first_layer}..{last_layer} are not a range within 0..{self.n_layers}"
            )
        if end > self.room:
            raise ConfigError(f"token {end} does not fit into the room for {self.room} tokens")
        for layer in range(first_layer, last_layer):
            held = self.cache.lengths[layer]
            if held != at and ("attn", layer) not in omit:
                raise ConfigError(
                    f"block {layer} holds {held} tokens, but the run begins at token {at}; run or "
                    "fill the tokens between, or crop the block first"
                )

    def _session(self, at: int, end: int, capture: Sequence[Site]) -> Session:
        new = Columns(self._positions[:, at:end], self._real[:, at:end], lenient=True)
        keys = Columns(self._positions[:, :end], self._real[:, :end], lenient=True)
        architecture, taps = self.model.layout.architecture, self._taps
        scope = Scope(main=architecture.main, n_layers=self.n_layers)
        grids = {architecture.main: Grid(new, keys)}
        return Session(taps, taps.attention, self.plan, capture, grids, scope)

    def _record(self) -> Calls:
        whole = self._called(self.rows + 1, self.room)
        # Another number of tokens shows their axes; 2 do not become 3, as one row and its padded
        # neighbour do.
        other = self._called(self.rows + 2, self.room - 1 if self.room > 2 else 2 * self.room)
        ids = torch.zeros_like(self._positions)
        assert whole.entry is not None
        if not self._entry.gives(ids, self._positions, whole.entry[: self.rows]):
            kind = self.model.layout.kind
            raise ConfigError(
                f"what enters block 0 of this {kind} model is made in a way that lensbench does "
                "not know, so its layers cannot be run one by one"
            )
        fused = self.model.layout.architecture.interface
        return Calls(whole, other, self.rows, self.cache, fused)

    def _called(self, rows: int, tokens: int) -> Recording:
        """What transformers calls every block with, for these rows and padded ones below them."""
        real = self._real.new_ones(rows, tokens)
        kept = self._real[:, :tokens]
        real[: self.rows, : kept.shape[1]] = kept
        real[self.rows :, 0] = False
        return record(self.model.module, self._taps, real)


def _refuse(model: "NativeModel", room: int) -> None:
    architecture = model.layout.architecture
    kind = model.layout.kind
    if architecture.two_stacks or not architecture.causal or architecture.recurrent:
        what = "a state" if architecture.recurrent else "an encoder"
        raise ConfigError(
            f"a {kind} model has {what}, so its layers cannot run with keys and values of their "
            "own lengths; decoder-only attention models (llama, qwen2, gpt2, gpt_neox, opt ...) can"
        )
    if room < 1 or (model.card.n_ctx and room > model.card.n_ctx):
        raise ConfigError(
            f"room for {room} tokens; the context of this model is {model.card.n_ctx}"
        )
