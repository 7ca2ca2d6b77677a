"""Whole texts of a store as an adapter reads them: exit states, last states, what counts."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lensbench.errors import ConfigError, NotEnoughDataError
from lensbench.models.huggingface import NativeModel
from lensbench.sites import Site

if TYPE_CHECKING:
    from lensbench.store import ActivationStore


@dataclass
class StoredTexts:
    """The sequences of a store, read by number.

    Raises:
        MissingDataError: a layer that was not captured.
        MismatchError: a store of another model.
        ConfigError: texts of which only a part was kept.
    """

    store: "ActivationStore"
    model: NativeModel
    exit_layer: int
    rows: list[np.ndarray] = field(init=False, default_factory=list[np.ndarray])
    """Row numbers of every sequence, in order."""
    docs: list[int] = field(init=False, default_factory=list[int])
    """Document with which each begins."""

    def __post_init__(self) -> None:
        """Look up the rows of every sequence."""
        self.store.check_model(self.model.card)
        self.early = str(Site("resid_post", self.exit_layer - 1))
        self.last = str(Site("resid_post", self.model.n_layers - 1))
        self.store.require([self.early, self.last])
        for batch in self.store.sequences():
            real = batch.tokens.real.cpu().numpy()
            for rows, docs, there in zip(batch.rows, batch.doc_ids, real, strict=True):
                self._add(rows[there], docs[there])
        lengths = self.store.text.get("prompt_lengths")
        self._prompts: list[int] | None = None if lengths is None else [int(n) for n in lengths]

    def split(self, holdout: float) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the sequences to train on, and of those held out, the last ones.

        Raises:
            NotEnoughDataError: one of the two is empty.
        """
        n = len(self.rows)
        kept = n - round(n * holdout)
        if kept < 1 or (holdout > 0 and kept == n):
            raise NotEnoughDataError(
                f"{n} sequences cannot be split with {holdout:g} of them held out; store more text"
            )
        return np.arange(kept), np.arange(kept, n)

    def read(self, chosen: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Exit and last states ``[rows, pos, d_model]`` padded on the right, and what counts."""
        lengths = [len(self.rows[i]) for i in chosen]
        wanted = np.concatenate([self.rows[i] for i in chosen])
        states: list[Tensor] = []
        for site in (self.early, self.last):
            flat = torch.from_numpy(self.store.rows(site, wanted)).split(lengths)
            states.append(torch.nn.utils.rnn.pad_sequence(list(flat), batch_first=True))
        counted = torch.zeros(states[0].shape[:2], dtype=torch.bool)
        for line, (number, n) in enumerate(zip(chosen, lengths, strict=True)):
            counted[line, self._first(int(number)) : n] = True
        device = self.model.device
        return states[0].to(device), states[1].to(device), counted.to(device)

    def _first(self, number: int) -> int:
        """First position that counts: in own text, the one that predicts the first new token."""
        return 0 if self._prompts is None else max(0, self._prompts[self.docs[number]] - 1)

    def _add(self, rows: np.ndarray, docs: np.ndarray) -> None:
        if (rows < 0).any():
            raise ConfigError(
                f"the store in {self.store.url} keeps {int((rows >= 0).sum())} of the {len(rows)} "
                "tokens of a text, and an adapter's attention reads all of them; capture every "
                "position, specials included"
            )
        if len(rows):
            self.rows.append(rows)
            self.docs.append(int(docs[0]))
