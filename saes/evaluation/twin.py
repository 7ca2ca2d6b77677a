"""The dictionary that was trained on the re-initialised twin: read once, for every measure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lensbench.errors import ConfigError, MismatchError
from lensbench.saes.evaluation.data import EvaluationRows
from lensbench.saes.evaluation.labels import check_same_tokens
from lensbench.saes.evaluation.passes import (
    Dictionary,
    Pass,
    as_list,
    encode_all,
    to_score,
)

if TYPE_CHECKING:
    from lensbench.store import ActivationStore


@dataclass(frozen=True)
class Twins:
    """Dictionaries of the twin on the twin's activations of the very same tokens."""

    store: "ActivationStore"
    dictionaries: tuple[Dictionary, ...]
    passes: dict[tuple[str, str], Pass]
    """By the sites that are read and written."""

    def of(self, dictionary: Dictionary) -> Dictionary:
        """The twin of one: the one of its name, else the first of its sites, else the first."""
        same = [d for d in self.dictionaries if d.name == dictionary.name]
        here = [d for d in self.dictionaries if d.ends == dictionary.ends]
        return (same or here or list(self.dictionaries))[0]

    def shared(self, names: Sequence[str]) -> list[str]:
        """Those of ``names`` that one of the twin's dictionaries repeats, by its own name."""
        own = {d.name for d in self.dictionaries}
        return [name for name in names if name in own]

    def told(self, evaluated: Sequence[Dictionary]) -> str:
        """Which of its dictionaries stand beside others than those they repeat, in words."""
        shared = self.shared([d.name for d in evaluated])
        others = {self.of(d).name for d in evaluated if d.name not in shared}
        if not others:
            return ""
        few = ", ".join(sorted(others))
        alone = "; FVU and L0 of the twin stand beside what it repeats alone" if shared else ""
        return (
            f"labels of the re-initialised twin: by {few}, also beside dictionaries of other width "
            f"or sparsity{alone}"
        )

    def latents(self, twin: Dictionary) -> Any:
        """Its latents of every evaluated row."""
        return self.passes[twin.ends].acts[twin.name]


def read_twins(given: Any, rows: EvaluationRows, batch_size: int, keep: bool) -> Twins | None:
    """Encode the twin's rows with each of its dictionaries, once.

    Raises:
        ConfigError: not a pair of runs and store.
        MismatchError: the twin's store does not hold the same tokens in the same rows.
    """
    if given is None:
        return None
    if not isinstance(given, tuple) or len(given) != 2:
        raise ConfigError(
            f"twin must be (run or runs, store of the twin), got a {type(given).__name__}"
        )
    runs, store = given
    index = store.index()
    if store.n_tokens <= int(rows.rows.max()):
        raise MismatchError(f"the twin's store has {store.n_tokens} rows, too few for this text")
    check_same_tokens(rows.tokens, np.asarray(index.token_ids)[rows.rows])
    found = _named_apart([to_score(run) for run in as_list(runs)])
    passes = {
        ends: encode_all(store, ends, rows, found, batch_size, keep)
        for ends in dict.fromkeys(d.ends for d in found)
    }
    return Twins(store, tuple(found), passes)


def _named_apart(found: Sequence[Dictionary]) -> list[Dictionary]:
    names = [d.name for d in found]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"the twin's dictionaries need names of their own, got {names}")
    return list(found)
