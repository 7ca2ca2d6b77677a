"""Activations straight from the model, without a store: the same guarantees, nothing on disk.

Sequences run in the order of the text; when ``buffer_rows`` rows have come together they are given
out in an order drawn from seed, epoch and group. A store mixes wider and costs no second forward
pass: prefer it when the activations are used more than once.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lensbench.errors import ConfigError, MismatchError
from lensbench.harvest import sites as site_rules
from lensbench.harvest.describe import check_dtype, make_layout, model_entry
from lensbench.harvest.feed import Feed, Rows, full_batches, no_rows
from lensbench.harvest.layout import LayoutName, Positions
from lensbench.harvest.mixing import MixedSource
from lensbench.harvest.text import read_text
from lensbench.models.base import Model
from lensbench.sites import Site

BUFFER_ROWS = 1 << 15


def live_source(
    model: Model,
    texts: Any,
    sites: str | Site | Sequence[str | Site] | None = None,
    *,
    profile: site_rules.Profile | None = None,
    layout: LayoutName | None = None,
    context: int | None = None,
    bos: bool = True,
    exclude_special: bool | Sequence[int] = False,
    positions: Positions = None,
    dtype: str = "float32",
    batch_size: int = 16,
    max_tokens: int | None = None,
    seed: int = 0,
    shuffle: bool = True,
    loop: bool = True,
    buffer_rows: int = BUFFER_ROWS,
    mixing: int | None = None,
) -> "LiveSource | MixedSource":
    """An ``ActivationSource`` that runs ``model`` as batches are asked for.

    Arguments as in ``lensbench.capture``; ``buffer_rows`` is what is shuffled together, and with
    the widths of the sites it bounds memory: ``buffer_rows * sum(widths)`` numbers and one forward
    batch. ``mixing`` takes a mixing buffer of that many tokens instead, half of which is replaced
    at a time (:mod:`lensbench.harvest.mixing`): ``mixing * sum(widths)`` numbers, which become part
    of a run's checkpoints. Every row comes once per epoch either way.

    Raises:
        ConfigError: an argument that cannot be used, or text without a tokenizer.

    Example:
        >>> live = lensbench.live_source(model, documents, "blocks.3.resid_post", layout="pad")
        >>> entry = {"architecture": "topk", "d_sae": 64, "k": 8, "site": "blocks.3.resid_post"}
        >>> runs = saes.train(
        ...     live,
        ...     {"train": {"tokens": 2048, "batch": 256}, "sweep": [entry]},
        ...     out="run",
        ...     progress=False,
        ... )
    """
    check_dtype(dtype)
    if buffer_rows < 1:
        raise ConfigError(f"buffer_rows must be at least 1, got {buffer_rows}")
    chosen = site_rules.resolve(model, sites, profile)
    text = read_text(texts)
    plan = make_layout(
        model, text, layout, context, bos, exclude_special, positions, batch_size, max_tokens
    )
    feed = Feed(model, text, plan, chosen, getattr(torch, dtype))
    if mixing is not None:
        if not shuffle:
            raise ConfigError("a mixing buffer is there to shuffle; leave shuffle=False or it out")
        return MixedSource(feed, mixing, seed=seed, loop=loop)
    return LiveSource(feed, seed=seed, shuffle=shuffle, loop=loop, buffer_rows=buffer_rows)


class LiveSource:
    """See :func:`live_source`, which makes it."""

    def __init__(
        self, feed: Feed, *, seed: int, shuffle: bool, loop: bool, buffer_rows: int
    ) -> None:
        self._feed, self._seed, self._shuffle, self._loop = feed, int(seed), shuffle, loop
        self._buffer_rows = buffer_rows
        self._epoch = self._group = self._offset = self._first = 0
        self._held: tuple[Rows, Tensor, int] | None = None

    @property
    def model(self) -> dict[str, Any]:
        """Identity and shape of the model that is run."""
        return model_entry(self._feed.model)

    @property
    def sites(self) -> tuple[str, ...]:
        """Sites in every batch."""
        return tuple(self._feed.entries)

    def width(self, site: str) -> int:
        """Numbers per row of a site."""
        return self._feed.entries[str(Site.parse(site))].width

    def batches(self, batch_size: int) -> Iterator[Rows]:
        """Batches from the current position on; with ``loop`` for ever and all of full size.

        Raises:
            ConfigError: the text gives no row.
            NonFiniteError: NaN or infinity among the activations.
        """
        return full_batches(self._take, self.sites, batch_size, loop=self._loop)

    def state_dict(self) -> dict[str, Any]:
        """The position: epoch, forward batches before the group, group, offset in the group."""
        return {
            "kind": "live",
            "text": self._identity(),
            "seed": self._seed,
            "shuffle": self._shuffle,
            "epoch": self._epoch,
            "first": self._first,
            "group": self._group,
            "offset": self._offset,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position; the text before it is laid out again but not run.

        Raises:
            MismatchError: a position in another text or layout.
        """
        for key, ours in (("kind", "live"), ("text", self._identity())):
            if state.get(key) != ours:
                raise MismatchError(
                    f"this position belongs to a source with {key} {state.get(key)!r}, not {ours!r}"
                )
        self._seed, self._shuffle = int(state["seed"]), bool(state["shuffle"])
        self._epoch, self._first = int(state["epoch"]), int(state["first"])
        self._group, self._offset = int(state["group"]), int(state["offset"])
        self._feed.seek(self._first)
        self._held = None

    def _identity(self) -> str:
        return self._feed.identity(self._buffer_rows)

    def _take(self, wanted: int) -> Rows | None:
        """At most ``wanted`` rows of the current group; None at the end of an epoch."""
        if self._held is None:
            self._held = self._collect()
        values, order, n_batches = self._held
        if not len(order):
            if not (self._group or self._offset):
                raise no_rows()
            self._epoch, self._group, self._first, self._offset = self._epoch + 1, 0, 0, 0
            self._feed.seek(0)
            self._held = None
            return None
        span = order[self._offset : self._offset + wanted]
        self._offset += len(span)
        if self._offset == len(order):
            self._group, self._first, self._offset = self._group + 1, self._first + n_batches, 0
            self._held = None
        return {site: rows[span] for site, rows in values.items()}

    def _collect(self) -> tuple[Rows, Tensor, int]:
        parts: dict[str, list[Tensor]] = {s: [] for s in self.sites}
        n = n_batches = 0
        while n < self._buffer_rows and (rows := self._feed.next()) is not None:
            for site, values in rows.items():
                parts[site].append(values)
            n, n_batches = n + len(next(iter(rows.values()))), n_batches + 1
        joined = {s: torch.cat(p) if p else torch.empty(0) for s, p in parts.items()}
        return joined, self._permutation(n), n_batches

    def _permutation(self, n: int) -> Tensor:
        if not self._shuffle:
            return torch.arange(n)
        generator = np.random.default_rng([self._seed, self._epoch, self._group])
        return torch.from_numpy(generator.permutation(n))
