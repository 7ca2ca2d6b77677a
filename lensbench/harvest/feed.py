"""What live sources share: one forward batch after the other, and full batches from pieces."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from lensbench import io
from lensbench.errors import ConfigError, NonFiniteError
from lensbench.harvest import sites as site_rules
from lensbench.harvest.fill import kept_rows
from lensbench.harvest.layout import Batch, Layout
from lensbench.harvest.text import Text
from lensbench.models.base import Model
from lensbench.sites import Site

Rows = dict[str, Tensor]


class Feed:
    """Rows of a text, a forward batch at a time; ``done`` of this epoch's have been run."""

    def __init__(
        self,
        model: Model,
        text: Text,
        layout: Layout,
        sites: Sequence[Site],
        dtype: torch.dtype,
    ) -> None:
        self.model, self._text, self._layout, self._chosen = model, text, layout, tuple(sites)
        self.entries = {str(s): site_rules.row_entry(model, s, layout.context) for s in sites}
        self.dtype, self.done = dtype, 0
        self._work: Iterator[Batch] | None = None

    def seek(self, done: int) -> None:
        """Go to a place; the text before it is laid out again but not run."""
        self.done, self._work = done, None

    def next(self) -> Rows | None:
        """Rows ``{site: [n, width]}`` of the next forward batch; None at the end of the text.

        Raises:
            NonFiniteError: NaN or infinity among them.
        """
        if self._work is None:
            laid = self._layout.batches(self._layout.sequences(self._text, self.model.tokenizer))
            self._work = (batch for batch, _ in islice(laid, self.done, None))
        batch = next(self._work, None)
        if batch is None:
            return None
        found = kept_rows(self.model, batch, self._chosen, self.entries)
        rows = {site: values.to(self.dtype) for site, values in found.items()}
        for site, values in rows.items():
            if not bool(torch.isfinite(values).all()):
                raise NonFiniteError(
                    f"{site} is NaN, infinite or beyond {torch.finfo(self.dtype).max:.3g} in "
                    f"forward batch {self.done}"
                )
        self.done += 1
        return rows

    def identity(self, *more: Any) -> str:
        """Fingerprint of text, layout and ``more``."""
        settings = self._layout.settings(given_as_ids=self._text.given_as_ids)
        return io.fingerprint([self._text.entry, settings, *more])


def full_batches(
    take: Callable[[int], Rows | None], sites: Sequence[str], batch_size: int, *, loop: bool
) -> Iterator[Rows]:
    """Batches from pieces of at most as many rows as asked for; None ends an epoch.

    Raises:
        ConfigError: no batch size.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
    while True:
        pieces: list[Rows] = []
        wanted, ended = batch_size, False
        while wanted and not ended:
            piece = take(wanted)
            if piece is None:
                ended = not loop
                continue
            wanted -= len(next(iter(piece.values())))
            pieces.append(piece)
        if pieces:
            yield {s: torch.cat([p[s] for p in pieces]) for s in sites}
        if ended:
            return


def no_rows() -> ConfigError:
    """What to raise for a text that gives none."""
    return ConfigError("the text is empty: no token of it has a row")
