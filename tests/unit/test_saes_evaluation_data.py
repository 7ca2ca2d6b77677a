"""Labels are joined to the right tokens however the text was laid out; halves share nothing."""

import numpy as np
import pytest

from lensbench import capture, load_model
from lensbench.errors import ConfigError, MismatchError
from lensbench.saes.evaluation import data
from lensbench.worlds.atlas import Atlas
from tests.saes_evaluation_helpers import tiny_llama

SITE = "blocks.0.resid_post"


@pytest.fixture(scope="module")
def corpus():
    return Atlas(0).sample(60, "train", seed=2)


@pytest.fixture(scope="module")
def model(corpus):
    return load_model(tiny_llama(len(corpus.vocab), n_layers=1, d=8), certify=False)


LAYOUTS = {
    "pack": {"layout": "pack", "context": 24},  # several documents a sequence, some cut in two
    "pad": {"layout": "pad", "context": 64},
    "cut": {"layout": "pad", "context": 9},  # documents cut short
    "no specials": {"layout": "pack", "context": 24, "exclude_special": [2, 3]},
    "some places": {"layout": "pad", "context": 64, "positions": [1, 3, -1]},
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_row_finds_its_own_labels_in_any_layout(name, corpus, model, tmp_path) -> None:
    store = capture(model, corpus, [SITE], out=tmp_path / "s", **LAYOUTS[name])
    rows = data.choose_rows(store, 10**6, seed=0)
    assert len(rows) == store.n_tokens
    at = corpus.offsets[rows.doc_ids] + rows.positions
    np.testing.assert_array_equal(corpus.tokens[at], rows.tokens)
    if name in ("pack", "pad"):
        assert len(np.unique(at)) == len(corpus.tokens)  # every token once
    labelled = data.labelled_rows(rows, corpus, ("contextual",))
    first = labelled.names[0]
    np.testing.assert_array_equal(labelled.values[:, 0], np.asarray(corpus.labels[first])[at])
    assert set(labelled.kinds) == {"contextual"}


def test_a_budget_takes_whole_documents_at_random(corpus, model, tmp_path) -> None:
    store = capture(model, corpus, [SITE], out=tmp_path / "s", layout="pad", context=64)
    some = data.choose_rows(store, 300, seed=0)
    assert 0 < len(some) <= 300
    for doc in np.unique(some.doc_ids):
        assert (some.doc_ids == doc).sum() == corpus.lengths[doc]
    other = data.choose_rows(store, 300, seed=1)
    assert set(some.doc_ids) != set(other.doc_ids)
    np.testing.assert_array_equal(np.unique(some.docs), np.arange(some.n_docs))
    assert len(data.choose_rows(store, 1, seed=0)) > 1  # at least one document


def test_halves_share_no_combination_and_mixed_text_scores_the_held_out_ones() -> None:
    world = Atlas(0)
    small = world.sample(600, "train", seed=2, family="agreement")  # few words: they come again
    docs = np.arange(small.n_docs)
    held, how = data.held_documents(small, docs)
    assert "no combination" in how
    keys = [_key(world, small, i) for i in docs]
    assert len(set(keys)) < len(keys)  # some combinations do occur twice
    assert 0.1 < held.mean() < 0.4
    scored = {k for k, h in zip(keys, held, strict=True) if h}
    chosen = {k for k, h in zip(keys, held, strict=True) if not h}
    assert not scored & chosen
    mixed = world.sample(200, "all", seed=0)
    held, how = data.held_documents(mixed, np.arange(200))
    assert "held out of the model's training" in how
    assert 0 < held.sum() < 200
    for i in np.flatnonzero(held):
        template, words = world.templates[mixed.template[i]], mixed.words(int(i))[1:]
        assert world.is_held_out(template, words)


def test_a_half_without_documents_is_named(model, tmp_path) -> None:
    single = Atlas(0).sample(1, "train", seed=2)
    store = capture(model, single, [SITE], out=tmp_path / "s", layout="pad", context=64)
    rows = data.choose_rows(store, 10**6, seed=0)
    labels, why = data.labels_or_why_not(rows, single, ("contextual",))
    assert labels is None
    assert "one document is too few" in why
    with pytest.raises(ConfigError, match="too few to split"):
        data.labelled_rows(rows, single, ("contextual",))
    with pytest.raises(MismatchError):  # another text is no matter of size
        data.labels_or_why_not(rows, Atlas(0).sample(1, "train", seed=3), ("contextual",))


def _key(world, corpus, i: int) -> tuple[str, ...]:
    template, words = world.templates[corpus.template[i]], corpus.words(int(i))[1:]
    return (template.surface, *(words[template.slots[k]] for k in template.key))


def test_a_store_of_plain_text_has_no_labels_and_a_wrong_corpus_is_refused(
    corpus, model, tmp_path
) -> None:
    ids = [corpus.document(i).tolist() for i in range(8)]
    store = capture(model, ids, [SITE], out=tmp_path / "s", layout="pad", context=64)
    assert data.corpus_of(store) is None
    rows = data.choose_rows(store, 10**6, seed=0)
    other = Atlas(0).sample(60, "train", seed=3)
    with pytest.raises(MismatchError, match=r"differ from the labelled text|longer ones"):
        data.labelled_rows(rows, other, ("contextual",))
    with pytest.raises(MismatchError, match="does not have, or longer ones"):
        data.labelled_rows(rows, Atlas(0).sample(3, "train", seed=2), ("contextual",))
    with pytest.raises(ConfigError, match="no labels of kind"):
        data.labelled_rows(rows, corpus, ())


def test_scored_sequences_keep_exactly_the_stored_positions(corpus, model, tmp_path) -> None:
    store = capture(model, corpus, [SITE], out=tmp_path / "s", layout="pad", context=64,
                    exclude_special=[2])  # fmt: skip
    batches = list(data.scored_sequences(store, 20, 8))
    assert sum(b.tokens.n_rows for b in batches) == 20  # the last batch is cut
    for batch in batches:
        real = batch.tokens.real
        assert not batch.kept[:, 0].any()  # BOS is fed, not stored
        assert (batch.kept[:, 1:] == real[:, 1:]).all()
