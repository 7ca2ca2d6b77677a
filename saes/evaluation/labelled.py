"""Where the labels of an evaluation come from: yours, the text's, or none and why."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lensbench.errors import ConfigError, MismatchError
from lensbench.saes.evaluation import data
from lensbench.saes.evaluation.labels import LabelledRows
from lensbench.saes.evaluation.scr import crossed_pair
from lensbench.saes.evaluation.settings import EvaluationConfig
from lensbench.saes.evaluation.suite_rows import some_documents, user_labels

if TYPE_CHECKING:
    from lensbench.store import ActivationStore
    from lensbench.worlds.corpora import LabelledCorpus

NO_LABELS = "no labels: the store's text names no labelled corpus"


@dataclass(frozen=True)
class Labelled:
    """Labels of the evaluated rows, and the stores these rows lie in."""

    rows: LabelledRows | None
    split: str
    """What separates the halves; without labels, why there are none."""
    parts: "list[tuple[ActivationStore, data.EvaluationRows]]" = field(default_factory=list[Any])


def labelled(
    store: "ActivationStore",
    heldout: "ActivationStore | None",
    corpus: "LabelledCorpus | None",
    own: Any,
    rows: data.EvaluationRows,
    config: EvaluationConfig,
) -> Labelled:
    """Your own labels if there are any, else those of the text.

    Raises:
        ConfigError: your own labels together with a second store; or ``scr_labels`` that scr cannot
            use (one twice, of one class, without all four combinations in both halves, no labels).
        MismatchError: labels or a corpus of another text.
        UnknownNameError: ``scr_labels`` names one that they have not.
    """
    found = _found(store, heldout, corpus, own, rows, config)
    if config.scr_labels is not None and config.asks("scr"):
        _check_pair(config.scr_labels, found, config)
    return found


def check_labels(store: "ActivationStore", own: Any, config: EvaluationConfig) -> None:
    """Refuse labels that :func:`~lensbench.saes.evaluate` would refuse, before anything is trained.

    Raises:
        ConfigError, MismatchError, UnknownNameError: see :func:`labelled`.
    """
    if own is not None or config.scr_labels is not None:
        rows = data.choose_rows(store, config.max_tokens, config.seed, config.documents)
        labelled(store, None, None, own, rows, config)


def _check_pair(pair: tuple[str, str], found: Labelled, config: EvaluationConfig) -> None:
    """On the rows that scr will read, which are fewer than those that are evaluated."""
    if found.rows is None:
        raise ConfigError(
            f"scr_labels names {pair[0]!r} and {pair[1]!r}, but there are {found.split}; give your "
            "own (labels=, --labels FILE.json), or leave scr_labels out"
        )
    some = some_documents(found.rows, config.suite_tokens, config.seed).labels
    crossed_pair(pair, found.rows if some is None else some)


def _found(
    store: "ActivationStore",
    heldout: "ActivationStore | None",
    corpus: "LabelledCorpus | None",
    own: Any,
    rows: data.EvaluationRows,
    config: EvaluationConfig,
) -> Labelled:
    here = [(store, rows)]
    if own is not None:
        if heldout is not None:
            raise ConfigError("labels= are of the rows of one store; leave out heldout= or labels=")
        found = user_labels(own, store, rows, config.seed)
        return Labelled(found, found.split, here)
    corpus = corpus or data.corpus_of(store)
    if corpus is None:
        return Labelled(None, NO_LABELS, here)
    if heldout is None:
        found, why = data.labels_or_why_not(rows, corpus, config.label_kinds)
        return Labelled(found, why, here)
    other = data.corpus_of(heldout)
    if other is None:
        raise MismatchError("the held-out store names no labelled corpus to score on")
    more = data.choose_rows(heldout, config.max_tokens, config.seed)
    found = data.labelled_pair(rows, corpus, more, other, config.label_kinds)
    return Labelled(found, found.split, [*here, (heldout, more)])
