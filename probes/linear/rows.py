"""Which rows of a store a probe reads, and how labels are joined to them.

Steps, numbered in the body: 1 place every stored row in its document; 2 read the labels of all
rows; 3 choose rows by position; 4 draw whole documents up to the limit; 5 keep the labels that vary
there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from lensbench.errors import ConfigError, LensbenchError, MismatchError
from lensbench.probes.linear.data import ProbeData
from lensbench.probes.linear.labels import Kind, Label, read_labels, some
from lensbench.probes.linear.positions import marked
from lensbench.probes.linear.splits import given, units_of
from lensbench.sites import Site
from lensbench.store.places import places_in_documents
from lensbench.worlds.corpora import WORLDS, LabelledCorpus, corpus_from_spec

if TYPE_CHECKING:
    from lensbench.store import ActivationStore, StoreIndex


def assemble(
    store: "ActivationStore",
    labels: Any,
    sites: Sequence[str] | str | None,
    names: Sequence[str] | str | None,
    positions: Any,
    groups: Any,
    split: Any,
    kinds: Mapping[str, Kind] | None,
    max_rows: int,
    min_per_class: int,
    seed: int,
) -> ProbeData:
    """See :func:`lensbench.probes.linear.data.probe_data`."""
    wanted = sites_of(store, sites)
    index = store.index()
    if not len(index.doc_ids):
        raise ConfigError(f"the store in {store.url} holds no rows")
    doc = np.unique(index.doc_ids, return_inverse=True)[1]
    places = places_in_documents(store)  # 1
    corpus = _corpus(store, labels)
    table = _joined(corpus, index, places) if corpus is not None else labels
    known = read_labels(table, len(doc), doc, kinds)  # 2
    marks = marked(positions, doc, places, known)
    at = np.flatnonzero(np.logical_or.reduce(list(marks.values())))  # 3
    at = _drawn(at, doc, max_rows, seed)  # 4
    asked = some(known, names)
    picked, left_out = _usable(asked, at, min_per_class, strict=corpus is None or names is not None)
    units, what = units_of(doc[at], _grouped(groups, known, doc, at))
    return ProbeData(
        sites=wanted, labels=picked, docs=np.unique(doc[at], return_inverse=True)[1],
        tokens=index.token_ids[at].astype(np.int64), places=places[at], units=units,
        read=partial(store.rows, indices=at), unit_name=what,
        parts=None if split is None else given(_per_row("split", split, doc)[at], units),
        model=store.model, store=store.fingerprint, rows=at, left_out=left_out,
        marks={name: mask[at] for name, mask in marks.items()},
        selected=", ".join(marks), least=min_per_class,
    )  # fmt: skip


def same_rows(data: ProbeData, store: "ActivationStore") -> ProbeData:
    """The rows of ``data`` in another store of the same text (that of a twin).

    Raises:
        MismatchError: data from arrays, or a store of other tokens.
    """
    if data.rows is None:
        raise MismatchError("the data are arrays, so their twin has to be too (ProbeData)")
    ids = store.index().token_ids
    if data.rows.max() >= len(ids) or (ids[data.rows] != data.tokens).any():
        raise MismatchError(f"the store in {store.url} holds other tokens than the data")
    missing = [site for site in data.sites if site not in store.sites]
    sites = tuple(site for site in data.sites if site not in missing)
    read = partial(store.rows, indices=data.rows)
    return replace(data, sites=sites, read=read, model=store.model, store=store.fingerprint)


def sites_of(store: "ActivationStore", sites: Sequence[str] | str | None) -> tuple[str, ...]:
    """The sites asked for, or all of one vector per token.

    Raises:
        MissingDataError: the store lacks one; says how to add it.
    """
    if sites is None:
        return tuple(s for s in store.sites if len(store.shape(s)) == 1 < store.width(s))
    wanted = [sites] if isinstance(sites, str) else list(sites)
    store.require(wanted)
    return tuple(str(Site.parse(s)) for s in wanted)


def _corpus(store: "ActivationStore", labels: Any) -> LabelledCorpus | None:
    if isinstance(labels, LabelledCorpus):
        return labels
    if labels is not None:
        return None
    spec = store.text.get("spec")
    if not isinstance(spec, dict) or spec.get("world") not in WORLDS:
        raise ConfigError(
            f"the text of the store in {store.url} names no labelled corpus; give labels: one "
            "value per stored row or per document, by name"
        )
    return corpus_from_spec(spec)


def _joined(
    corpus: LabelledCorpus, index: "StoreIndex", places: Int[np.ndarray, " rows"]
) -> Mapping[str, np.ndarray]:
    """Labels of a corpus for every stored row.

    Raises:
        MismatchError: the stored tokens are not the corpus's.
    """
    docs = np.asarray(index.doc_ids)
    if docs.max() >= corpus.n_docs or (places >= corpus.lengths[docs]).any():
        raise MismatchError("the store holds documents that the corpus does not have, or longer "
                            "ones; use the corpus the store was captured from")  # fmt: skip
    at = corpus.rows(docs, places)
    wrong = np.flatnonzero(index.token_ids != corpus.tokens[at])
    if len(wrong):
        raise MismatchError(
            f"{len(wrong):,} of {len(at):,} stored tokens differ from the corpus, first at row "
            f"{wrong[0]}; use the corpus the store was captured from"
        )
    return {name: np.asarray(values)[at] for name, values in corpus.labels.items()}


def _drawn(
    at: Int[np.ndarray, " some"], doc: Int[np.ndarray, " rows"], most: int, seed: int
) -> Int[np.ndarray, " kept"]:
    """Rows of whole documents in random order until ``most`` are reached (one at least)."""
    if len(at) <= most:
        return at
    docs, number, counts = np.unique(doc[at], return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(docs))
    fits = np.cumsum(counts[order]) <= most
    fits[0] = True
    kept = np.zeros(len(docs), bool)
    kept[order[fits]] = True
    return at[kept[number]]


def _usable(
    asked: Sequence[Label], at: Int[np.ndarray, " some"], least: int, *, strict: bool
) -> tuple[tuple[Label, ...], dict[str, str]]:
    """Labels that vary on the rows (5); those named by the user must."""
    kept: list[Label] = []
    left_out: dict[str, str] = {}
    for label in (whole_label.at(at) for whole_label in asked):
        try:
            label.check(least)
            kept.append(label)
        except LensbenchError as error:
            if strict:
                raise
            left_out[label.name] = str(error)
    if not kept:
        raise ConfigError(
            f"none of {len(asked)} labels can be probed on {len(at):,} rows: "
            + "; ".join(left_out.values())
        )
    return tuple(kept), left_out


def _grouped(
    groups: Any, labels: Sequence[Label], doc: Int[np.ndarray, " rows"], at: np.ndarray
) -> Any:
    if groups is None:
        return None
    if isinstance(groups, str):
        return some(labels, groups)[0].values[at]
    return _per_row("groups", groups, doc)[at]


def _per_row(name: str, values: Any, doc: Int[np.ndarray, " rows"]) -> np.ndarray:
    array = np.asarray(values)
    if array.shape == doc.shape:
        return array
    if array.shape == (int(doc.max()) + 1,):
        return array[doc]
    raise MismatchError(
        f"{name} has shape {list(array.shape)}; it needs one value for each of the {len(doc):,} "
        f"stored rows, or for each of the {int(doc.max()) + 1:,} documents"
    )
