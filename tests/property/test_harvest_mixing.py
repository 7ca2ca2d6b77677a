"""The mixing buffer: every row once per epoch, half stays, and what is saved is all there is."""

import json
import tempfile
from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

SITES = ("blocks.0.resid_post", "blocks.1.resid_post")
WIDTHS = (3, 2)


class Entry:
    def __init__(self, width: int) -> None:
        self.width = width


class Numbered:
    """A feed without a model: row i is i, i, ... at every site; batches of the given sizes."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes, self.done, self.runs = sizes, 0, 0
        self.entries = {s: Entry(w) for s, w in zip(SITES, WIDTHS, strict=True)}
        self.dtype = torch.float32

    def seek(self, done: int) -> None:
        self.done = done

    def next(self):
        if self.done == len(self.sizes):
            return None
        first, n = sum(self.sizes[: self.done]), self.sizes[self.done]
        rows = torch.arange(first, first + n, dtype=torch.float32)[:, None]
        self.done, self.runs = self.done + 1, self.runs + 1
        return {s: rows.repeat(1, w) for s, w in zip(SITES, WIDTHS, strict=True)}

    def identity(self, *more: object) -> str:
        return f"{self.sizes} {more}"


def source(sizes, capacity, seed=0, *, loop=True):
    from lensbench.harvest.mixing import MixedSource

    return MixedSource(Numbered(sizes), capacity, seed=seed, loop=loop)


def rows(batches):
    found = []
    for batch in batches:
        assert [x.shape[1] for x in batch.values()] == list(WIDTHS)
        first, second = (x[:, 0].int().tolist() for x in batch.values())
        assert first == second  # the sites stay in step
        found.append(first)
    return found


def flat(found):
    return [row for batch in found for row in batch]


SIZES = st.lists(st.integers(0, 9), min_size=1, max_size=8).filter(sum)
CAPACITY = st.integers(2, 40)


@settings(max_examples=60, deadline=None)
@given(sizes=SIZES, capacity=CAPACITY, batch=st.integers(1, 12), other=st.integers(1, 12))
def test_every_row_comes_once_per_epoch_in_an_order_of_its_own(
    sizes, capacity, batch, other
) -> None:
    n = sum(sizes)
    once = flat(rows(source(sizes, capacity, loop=False).batches(batch)))
    assert sorted(once) == list(range(n))
    assert flat(rows(source(sizes, capacity, loop=False).batches(other))) == once
    looped = rows(islice(source(sizes, capacity).batches(batch), -(-2 * n // batch)))
    assert all(len(b) == batch for b in looped)
    assert flat(looped)[:n] == once
    assert sorted(flat(looped)[n : 2 * n]) == list(range(n))


@settings(max_examples=60, deadline=None)
@given(
    sizes=SIZES, capacity=CAPACITY, batch=st.integers(1, 12), done=st.integers(0, 30),
    saved=st.booleans(),
)  # fmt: skip
def test_a_position_is_gone_on_from_with_and_without_what_was_held(
    sizes, capacity, batch, done, saved
) -> None:
    from lensbench.saes.training import contents

    one = source(sizes, capacity, seed=3)
    list(islice(one.batches(batch), done))
    state = json.loads(json.dumps(one.state_dict()))
    other = source(sizes, capacity, seed=4)
    next(other.batches(2))  # it has been somewhere else
    other.load_state_dict(state)
    if saved:
        with tempfile.TemporaryDirectory() as folder:
            entry = contents.write(Path(folder), done, one.state_tensors())
            before = other._feed.runs
            other.load_state_tensors(contents.read(Path(folder), entry))
        assert other.state_dict() == state
        assert other._feed.runs == before  # no forward pass again
    assert other.state_dict() == state
    # One batch later all is the same again, whatever way it was restored.
    wanted = rows(islice(one.batches(batch + 1), 6))
    assert rows(islice(other.batches(batch + 1), 6)) == wanted
    assert other.state_dict() == one.state_dict()


def test_half_stays_and_memory_stops_at_the_buffer() -> None:
    one = source([8] * 100, 200, loop=False)
    assert one.nbytes == 200 * 5 * 4
    order = torch.tensor(flat(rows(one.batches(50))))
    assert sum(v.numel() for v in one._values.values()) == 200 * 5
    first, second = order[:100], order[100:200]
    assert int(first.max()) < 200
    late = second < 200  # rows of the first fill that met those of the second
    assert 30 < int(late.sum()) < 70
    assert int(second.max()) < 300
    lag = (torch.arange(800) - order).abs().float()
    assert lag.max() > 200  # further than a buffer that is used up whole could send it


def test_what_cannot_be_is_refused() -> None:
    from lensbench.errors import ConfigError, DamagedDataError, MismatchError

    with pytest.raises(ConfigError, match="mixing must be at least 2 tokens"):
        source([3], 1)
    with pytest.raises(ConfigError, match="the text is empty"):
        next(source([0, 0], 4).batches(2))
    one = source([5, 5], 4)
    next(one.batches(1))
    with pytest.raises(MismatchError, match="load the position"):
        one.load_state_tensors({})
    other = source([5, 5], 4)
    other.load_state_dict(one.state_dict())
    held = one.state_tensors()
    with pytest.raises(DamagedDataError, match="a mixing buffer of 3 rows cannot hold"):
        other.load_state_tensors({n: t[1:] for n, t in held.items()})
    with pytest.raises(MismatchError, match="belongs to a source with text"):
        source([5, 5], 6).load_state_dict(one.state_dict())
