"""One sequence of a store as a page shows it: words, rows, documents, and the model behind it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lensbench.app.workflows.live import HeldModel, hold_model, hold_store
from lensbench.errors import ConfigError, LensbenchError, MissingDataError
from lensbench.tokens import token_texts

if TYPE_CHECKING:
    from lensbench.store import ActivationStore


@dataclass(frozen=True, eq=False)
class StoredSequence:
    """A sequence as the model saw it; entry ``i`` of every array is its token ``i``."""

    ids: np.ndarray
    rows: np.ndarray
    """Row of each token in the store; -1 where none was kept."""
    docs: np.ndarray
    words: tuple[str, ...]
    """Text of each token, its leading space kept; ``#17`` where the tokenizer is not at hand."""

    def position_of(self, row: int) -> int:
        """Place of a stored row in the sequence."""
        return int(np.flatnonzero(self.rows == row)[0])


def sequence_at(url: str, row: int) -> StoredSequence:
    """The sequence that holds ``row``.

    Raises:
        MissingDataError: no such store (any more).
        ConfigError: no such row.
    """
    store = hold_store(url)
    found = store.sequence_of(row)
    ids = found.tokens.ids[0].numpy()
    return StoredSequence(ids, found.rows[0], found.doc_ids[0], words_of(store, ids))


def first_row_of(url: str, document: int) -> int:
    """First stored row of a document.

    Raises:
        ConfigError: no token of that document was kept; says which documents there are.
    """
    store = hold_store(url)
    start, stop = store.row_range((document, document + 1))
    if start == stop:
        raise ConfigError(f"document {document} has no stored token; {url} holds documents "
                          f"0 to {store.n_docs - 1}")  # fmt: skip
    return start


def document_of(url: str, row: int) -> int:
    """The document of a stored row; 0 in a store that holds none yet.

    Raises:
        ConfigError: no such row.
    """
    store = hold_store(url)
    if not store.n_tokens:
        return 0
    found = store.sequence_of(row)
    return int(found.doc_ids[0][np.flatnonzero(found.rows[0] == row)[0]])


def n_rows(url: str) -> int:
    """Rows of the store (0 where its capture has only begun)."""
    return hold_store(url).n_tokens


def words_of(store: "ActivationStore", ids: np.ndarray) -> tuple[str, ...]:
    """Token texts by the store's own tokenizer, or ``#id`` where it is not to be had."""
    return tuple(token_texts(tokenizer_of(store), ids.tolist()))


def tokenizer_of(store: "ActivationStore") -> Any:
    """The tokenizer that made the store's ids, or None; one with another fingerprint is refused."""
    from lensbench.harvest.describe import tokenizer_entry

    try:
        tokenizer = hold_model(*model_name(store)).model.tokenizer
    except LensbenchError:
        return None
    known = store.manifest["tokenizer"].get("fingerprint")
    return tokenizer if known and _print_of(tokenizer, tokenizer_entry) == known else None


def model_name(store: "ActivationStore") -> tuple[str, str | None]:
    """What opens the model of a store: its source (or name) and revision.

    Raises:
        MissingDataError: it was captured from a model in memory, which has no name to open.
    """
    name = store.model.get("source", store.model.get("name"))
    if not name:
        raise MissingDataError(
            f"{store.url} was captured from a model in memory ({store.model.get('name')}), which "
            "cannot be opened by name; save the model as a folder and capture from there"
        )
    return str(name), store.model.get("revision")


def name_of_model(url: str) -> str:
    """What opens the model of a store; empty where it was in memory only."""
    try:
        return model_name(hold_store(url))[0]
    except MissingDataError:
        return ""


def model_of(store: "ActivationStore") -> HeldModel:
    """The very model whose activations these are.

    Raises:
        MissingDataError: it cannot be found.
        MismatchError: what now has that name has other weights.
    """
    held = hold_model(*model_name(store))
    store.check_model(held.model.card)
    return held


_prints: dict[int, tuple[Any, Any]] = {}


def _print_of(tokenizer: Any, entry: Any) -> Any:
    """Fingerprint of a tokenizer, worked out once (it reads the whole vocabulary)."""
    known = _prints.get(id(tokenizer))
    if known is None or known[0] is not tokenizer:
        if len(_prints) > 8:
            _prints.clear()
        known = _prints[id(tokenizer)] = (tokenizer, entry(tokenizer)["fingerprint"])
    return known[1]
