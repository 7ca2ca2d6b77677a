"""Every row once per epoch, in an order that depends on the seed alone; positions are exact."""

import json
import tempfile
from contextlib import contextmanager
from itertools import islice

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.store_builder import SITE, build, numbered

SIZES = st.lists(st.integers(1, 23), min_size=1, max_size=6)


@contextmanager
def small_groups(block: int = 3, blocks: int = 4):
    from lensbench.store import source

    before = source.BLOCK, source.GROUP
    source.BLOCK, source.GROUP = block, block * blocks
    try:
        yield
    finally:
        source.BLOCK, source.GROUP = before


def epoch(source, batch_size):
    batches = [b[SITE].numpy() for b in source.batches(batch_size)]
    return batches, np.concatenate(batches)[:, 0].astype(int)


@settings(max_examples=40, deadline=None)
@given(sizes=SIZES, batch_size=st.integers(1, 30), seed=st.integers(0, 99))
def test_every_row_comes_once_per_epoch(sizes, batch_size, seed) -> None:
    n = sum(sizes)
    with tempfile.TemporaryDirectory() as folder, small_groups():
        store = build(folder, {SITE: numbered(n)}, sizes)
        source = store.source(SITE, seed=seed, loop=False)
        batches, rows = epoch(source, batch_size)
        assert sorted(rows) == list(range(n))
        assert [len(b) for b in batches[:-1]] == [batch_size] * (len(batches) - 1)
        again = store.source(SITE, seed=seed)
        looped = np.concatenate(
            [b[SITE].numpy() for b in islice(again.batches(batch_size), -(-2 * n // batch_size))]
        )[: 2 * n, 0].astype(int)
        assert looped[:n].tolist() == rows.tolist()
        assert sorted(looped[n:]) == list(range(n))


@settings(max_examples=25, deadline=None)
@given(
    sizes=SIZES,
    batch_size=st.integers(1, 20),
    other_size=st.integers(1, 20),
    done=st.integers(0, 12),
    seed=st.integers(0, 9),
)
def test_a_resumed_source_goes_on_exactly(sizes, batch_size, other_size, done, seed) -> None:
    with tempfile.TemporaryDirectory() as folder, small_groups():
        store = build(folder, {SITE: numbered(sum(sizes))}, sizes)
        source = store.source(SITE, seed=seed)
        list(islice(source.batches(batch_size), done))
        state = json.loads(json.dumps(source.state_dict()))
        wanted = [b[SITE].numpy() for b in islice(source.batches(other_size), 5)]
        fresh = store.source(SITE, seed=seed + 1)
        next(fresh.batches(4))
        fresh.load_state_dict(state)
        found = [b[SITE].numpy() for b in islice(fresh.batches(other_size), 5)]
        assert all(np.array_equal(a, b) for a, b in zip(wanted, found, strict=True))


@settings(max_examples=25, deadline=None)
@given(sizes=SIZES, cut=st.integers(0, 40), sizes_of_batches=st.tuples(*[st.integers(1, 9)] * 2))
def test_the_order_depends_on_neither_shards_nor_batch_size(sizes, cut, sizes_of_batches) -> None:
    n = sum(sizes)
    other = [s for s in (cut % n, n - cut % n) if s]
    orders = []
    for parts, batch_size in zip((sizes, other), sizes_of_batches, strict=True):
        with tempfile.TemporaryDirectory() as folder, small_groups():
            store = build(folder, {SITE: numbered(n)}, parts)
            orders.append(epoch(store.source(SITE, loop=False), batch_size)[1].tolist())
    assert orders[0] == orders[1]


def test_seeds_and_epochs_differ_and_text_order_is_on_offer(tmp_path) -> None:
    with small_groups():
        store = build(tmp_path, {SITE: numbered(201)}, [90, 111])
        first = epoch(store.source(SITE, loop=False), 7)[1]
        assert epoch(store.source(SITE, seed=1, loop=False), 7)[1].tolist() != first.tolist()
        source = store.source(SITE, loop=False)
        assert epoch(source, 7)[1].tolist() == first.tolist()
        second = epoch(source, 7)[1]  # the next epoch
        assert second.tolist() != first.tolist()
        assert set(second[:12]) != set(first[:12])  # other blocks meet in the first group
        plain = store.source(SITE, shuffle=False, loop=False)
        assert epoch(plain, 7)[1].tolist() == list(range(201))


def test_a_shuffled_batch_mixes_distant_rows(tmp_path) -> None:
    """At the real block and group sizes; in text order the spread is that of neighbours."""
    store = build(tmp_path, {SITE: numbered(40_000, 1)}, [15_000, 25_000])
    spread = {
        shuffle: float(np.std(next(store.source(SITE, shuffle=shuffle).batches(256))[SITE].numpy()))
        for shuffle in (True, False)
    }
    assert spread[True] > 0.8 * 40_000 / 12**0.5
    assert spread[False] < 256


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(2, 9), min_size=2, max_size=5), data=st.data())
def test_splits_by_document_share_no_document(sizes, data) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = build(folder, {SITE: numbered(sum(sizes))}, sizes)
        cut = data.draw(st.integers(1, store.n_docs - 1))
        documents = store.index().doc_ids
        parts = [
            epoch(store.source(SITE, loop=False, doc_range=r), 3)[1]
            for r in ((0, cut), (cut, store.n_docs))
        ]
        assert sorted([*parts[0], *parts[1]]) == list(range(sum(sizes)))
        assert not set(documents[parts[0]]) & set(documents[parts[1]])
