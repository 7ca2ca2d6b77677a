"""Whole sequences with their tokens, in the order of the text: what end-to-end training reads.

A batch is ``{site: [sequences * context, d], "tokens": [sequences * context, 1]}``: consecutive
rows are consecutive tokens, so that the model can be run on with other activations in their place.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lensbench import io
from lensbench.errors import ConfigError, MismatchError, NonFiniteError
from lensbench.harvest import sites as site_rules
from lensbench.harvest.describe import make_layout, model_entry
from lensbench.harvest.feed import no_rows
from lensbench.harvest.fill import kept_rows
from lensbench.harvest.layout import Batch, Layout
from lensbench.harvest.text import Text, read_text
from lensbench.models.base import Model
from lensbench.sites import Site

TOKENS = "tokens"
"""Name under which a batch holds token ids."""


def sequence_source(
    model: Model,
    texts: Any,
    sites: str | Site | Sequence[str | Site],
    *,
    context: int | None = None,
    bos: bool = True,
    loop: bool = True,
) -> "SequenceSource":
    """An ``ActivationSource`` of whole sequences of ``context`` tokens (at most 128 by default).

    Documents are joined; the last sequence of the text is left out where it is shorter.

    Raises:
        ConfigError: an argument that cannot be used, or text without a tokenizer.
    """
    text = read_text(texts)
    chosen = site_rules.resolve(model, sites, None)
    layout = make_layout(model, text, "pack", context, bos, False, None, 1, None)
    return SequenceSource(model, text, layout, chosen, loop=loop)


class SequenceSource:
    """See :func:`sequence_source`, which makes it."""

    def __init__(
        self, model: Model, text: Text, layout: Layout, sites: tuple[Site, ...], *, loop: bool
    ) -> None:
        self.network, self.context = model, layout.context
        self._text, self._layout, self._chosen, self._loop = text, layout, sites, loop
        self._entries = {str(s): site_rules.row_entry(model, s, layout.context) for s in sites}
        self._epoch = self._done = 0

    @property
    def model(self) -> dict[str, Any]:
        """Identity and shape of the model that is run."""
        return model_entry(self.network)

    @property
    def sites(self) -> tuple[str, ...]:
        """Sites in every batch."""
        return tuple(self._entries)

    def width(self, site: str) -> int:
        """Numbers per row of a site; one token id."""
        return 1 if site == TOKENS else self._entries[str(Site.parse(site))].width

    def batches(self, batch_size: int) -> Iterator[dict[str, Tensor]]:
        """Batches from the current position on; with ``loop`` for ever.

        Raises:
            ConfigError: no whole number of sequences, or a text shorter than one batch.
            NonFiniteError: NaN or infinity among the activations.
        """
        rows, rest = divmod(batch_size, self.context)
        if rest or not rows:
            raise ConfigError(
                f"a batch of whole sequences is a multiple of {self.context} tokens (context); "
                f"got batch_size {batch_size}"
            )
        while True:
            for batch in islice(self._laid(rows), self._done, None):
                self._done += 1
                yield self._run(batch)
            if self._done == 0:
                raise no_rows()
            self._epoch, self._done = self._epoch + 1, 0
            if not self._loop:
                return

    def state_dict(self) -> dict[str, Any]:
        """The position: epoch and batches of it that were given out."""
        return {
            "kind": "sequences",
            "text": self._identity(),
            "epoch": self._epoch,
            "done": self._done,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position; the text before it is laid out again but not run.

        Raises:
            MismatchError: a position in another text or layout.
        """
        for key, ours in (("kind", "sequences"), ("text", self._identity())):
            if state.get(key) != ours:
                raise MismatchError(
                    f"this position belongs to a source with {key} {state.get(key)!r}, not {ours!r}"
                )
        self._epoch, self._done = int(state["epoch"]), int(state["done"])

    def _identity(self) -> str:
        settings = self._layout.settings(given_as_ids=self._text.given_as_ids)
        return io.fingerprint([self._text.entry, settings, "sequences"])

    def _laid(self, rows: int) -> Iterator[Batch]:
        layout = replace(self._layout, batch_size=rows)
        whole = (
            row
            for row in layout.sequences(self._text, self.network.tokenizer)
            if len(row.ids) == self.context
        )
        return (batch for batch, _ in layout.batches(whole) if len(batch.ids) == rows)

    def _run(self, batch: Batch) -> dict[str, Tensor]:
        found = kept_rows(self.network, batch, self._chosen, self._entries)
        rows = {site: values.float() for site, values in found.items()}
        for site, values in rows.items():
            if not bool(torch.isfinite(values).all()):
                raise NonFiniteError(f"{site} is NaN or infinite in batch {self._done - 1}")
        ids = torch.from_numpy(np.ascontiguousarray(batch.ids).reshape(-1, 1))
        return rows | {TOKENS: ids}
