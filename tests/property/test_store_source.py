"""Every row once per epoch, in an order that depends on the seed alone; positions are exact."""

import json
import tempfile
from contextlib import contextmanager
from itertools import chain, islice

import numpy as np
import pytest
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


def rows_of(batches):
    return [b[SITE].numpy()[:, 0].astype(int).tolist() for b in batches]


@settings(max_examples=25, deadline=None)
@given(sizes=SIZES, batch_size=st.integers(1, 30), workers=st.integers(1, 4), held=st.booleans())
def test_neither_workers_nor_memory_change_what_comes(sizes, batch_size, workers, held) -> None:
    """Values and positions of two epochs, bit for bit."""
    with tempfile.TemporaryDirectory() as folder, small_groups():
        store = build(folder, {SITE: numbered(sum(sizes))}, sizes, dtype="bfloat16")
        plain, other = store.source(SITE, seed=3), store.source(SITE, seed=3, workers=workers)
        if held:
            assert other.nbytes == sum(sizes) * 3 * 2
            other.hold("cpu")
        for _, a, b in zip(
            range(2 * sum(sizes) // batch_size + 2),
            plain.batches(batch_size),
            other.batches(batch_size),
            strict=False,
        ):
            assert np.array_equal(a[SITE].numpy(), b[SITE].numpy())
            assert plain.state_dict() == other.state_dict()
        other.close()


@settings(max_examples=25, deadline=None)
@given(
    sizes=SIZES, batch_size=st.integers(1, 9), ranks=st.integers(1, 4), workers=st.integers(1, 2)
)
def test_ranks_together_read_every_row_once_per_epoch(sizes, batch_size, ranks, workers) -> None:
    """Their k-th batches are the k-th batch of one reader with batches of their common size."""
    n = sum(sizes)
    with tempfile.TemporaryDirectory() as folder, small_groups():
        store = build(folder, {SITE: numbered(n)}, sizes)
        parts = [
            rows_of(
                store.source(SITE, loop=False, rank=r, ranks=ranks, workers=workers).batches(
                    batch_size
                )
            )
            for r in range(ranks)
        ]
        assert sorted(row for part in parts for batch in part for row in batch) == list(range(n))
        whole = rows_of(store.source(SITE, loop=False).batches(batch_size * ranks))
        together = [sorted(chain(*batches)) for batches in zip(*parts, strict=True)]
        assert together == [sorted(batch) for batch in whole]
        looped = [store.source(SITE, rank=r, ranks=ranks) for r in range(ranks)]
        turns = -(-n // (batch_size * ranks)) + 2  # beyond the end of the epoch
        ends = [rows_of(islice(source.batches(batch_size), turns)) for source in looped]
        assert all(len(batch) == batch_size for part in ends for batch in part)
        single = rows_of(islice(store.source(SITE).batches(batch_size * ranks), turns))
        again = [sorted(chain(*batches)) for batches in zip(*ends, strict=True)]
        assert again == [sorted(batch) for batch in single]
        assert all(s.state_dict() == looped[0].state_dict() for s in looped)


@settings(max_examples=20, deadline=None)
@given(
    sizes=SIZES, before=st.sampled_from([1, 2, 3]), after=st.sampled_from([1, 2, 3]),
    done=st.integers(0, 9), batch=st.sampled_from([6, 12]),
)  # fmt: skip
def test_another_number_of_ranks_goes_on_from_a_position(sizes, before, after, done, batch) -> None:
    with tempfile.TemporaryDirectory() as folder, small_groups():
        store = build(folder, {SITE: numbered(sum(sizes))}, sizes)
        source = store.source(SITE, rank=before - 1, ranks=before)
        list(islice(source.batches(batch // before), done))
        single = rows_of(islice(store.source(SITE).batches(batch), done + 3))[done:]
        found = []
        for rank in range(after):
            one = store.source(SITE, rank=rank, ranks=after)
            one.load_state_dict(json.loads(json.dumps(source.state_dict())))
            found.append(rows_of(islice(one.batches(batch // after), 3)))
        together = [sorted(chain(*batches)) for batches in zip(*found, strict=True)]
        assert together == [sorted(rows) for rows in single]


def test_a_position_outlives_the_growth_of_its_store_but_not_its_shrinking(tmp_path) -> None:
    from lensbench.errors import MismatchError

    with small_groups():
        small = build(tmp_path / "a", {SITE: numbered(40)}, [20, 20])
        large = build(tmp_path / "b", {SITE: numbered(60)}, [20, 20, 20])  # the same text, longer
        source = small.source(SITE)
        next(source.batches(7))
        state = source.state_dict()
        wanted = rows_of(islice(source.batches(7), 9))
        grown = large.source(SITE)
        assert rows_of(islice(grown.batches(7), 9)) != wanted  # control: not by chance
        grown.load_state_dict(state)
        assert rows_of(islice(grown.batches(7), 9)) == wanted
        next(grown.batches(7))
        grown = large.source(SITE)
        grown.hold("cpu")
        grown.load_state_dict(state)
        assert rows_of(islice(grown.batches(7), 9)) == wanted
        chosen = large.source(SITE, stop=50)
        with pytest.raises(MismatchError, match="with stop 40, not 50"):
            chosen.load_state_dict(state)
        with pytest.raises(MismatchError, match=r"in 60 rows, but the store .* has 40: rows are"):
            small.source(SITE).load_state_dict(large.source(SITE).state_dict())


@pytest.mark.parametrize("workers", [1, 3])
def test_a_shard_that_goes_bad_in_the_middle_of_an_epoch_is_named(tmp_path, workers) -> None:
    from lensbench.errors import DataError
    from lensbench.store import open_store

    build(tmp_path, {SITE: numbered(120)}, [40, 40, 40])
    with small_groups():
        source = open_store(tmp_path).source(SITE, shuffle=False, workers=workers)
        batches = source.batches(10)
        assert rows_of(islice(batches, 2)) == [list(range(10)), list(range(10, 20))]
        bad = max((tmp_path / "acts").rglob("*.safetensors"))
        bad.write_bytes(bad.read_bytes()[:-8])
        with pytest.raises(DataError, match=bad.name):
            list(islice(batches, 12))


def test_closing_ends_the_reading_threads(tmp_path) -> None:
    import threading

    def readers():
        return {t for t in threading.enumerate() if t.name.startswith("store-reader")}

    others = readers()
    with small_groups():
        source = build(tmp_path, {SITE: numbered(120)}, [120]).source(SITE, workers=3)
        first = rows_of(islice(source.batches(7), 20))
        ours = readers() - others
        assert ours  # control
        source.close()
        assert not ours & readers()
        state = source.state_dict()
        more = rows_of(islice(source.batches(7), 3))  # it may be used again
        source.load_state_dict(state)
        assert rows_of(islice(source.batches(7), 3)) == more != first[:3]
        source.close()


@pytest.mark.parametrize("bad", [{"workers": 0}, {"rank": 2, "ranks": 2}, {"rank": -1}])
def test_readers_that_cannot_be_are_refused(tmp_path, bad) -> None:
    from lensbench.errors import ConfigError

    store = build(tmp_path, {SITE: numbered(9)}, [9])
    with pytest.raises(ConfigError, match="workers must be at least 1 and rank one of 0 to"):
        store.source(SITE, **bad)
