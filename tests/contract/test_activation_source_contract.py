"""What every ActivationSource must do, whether its rows come from a disk or a running model."""

import json
from itertools import islice

import numpy as np
import pytest
import torch

from tests.helpers import random_ids, tiny

SITES = ("blocks.0.resid_post", "blocks.1.mlp.post")
IDS = random_ids(30, 7, seed=2)
IDS[:, 0] = torch.arange(3, 33)  # no two prefixes alike, so every row can be recognised
N = IDS.numel()

PLAIN = {"mixing": None}  # text order is what a mixing buffer is not for


@pytest.fixture(scope="module")
def model():
    import lensbench

    return lensbench.load_model(tiny(seed=3), certify=False)


SETTINGS = {
    "live": {"buffer_rows": 50},
    "live, whole text in one buffer": {"buffer_rows": 1000},
    "mixing buffer": {"mixing": 50},
    "mixing buffer, larger than the text": {"mixing": 1000},
    "mixing buffer, smaller than a forward batch": {"mixing": 7},
}


@pytest.fixture(params=["store", *SETTINGS])
def make(request, model, tmp_path):
    """A maker of sources over the same 210 rows."""
    import lensbench
    from lensbench.store import source

    if request.param == "store":
        before = source.BLOCK, source.GROUP
        source.BLOCK, source.GROUP = 4, 32
        store = lensbench.capture(
            model, IDS, SITES, out=tmp_path, layout="pad", context=7, dtype="float32"
        )
        yield lambda **options: store.source(SITES, **options)
        source.BLOCK, source.GROUP = before
    else:
        how = {"layout": "pad", "context": 7, "batch_size": 3} | SETTINGS[request.param]
        yield lambda **options: lensbench.live_source(
            model,
            IDS,
            SITES,
            **(how | PLAIN if not options.get("shuffle", True) else how),
            **options,
        )


@pytest.fixture(scope="module")
def truth(model):
    acts = model.run(IDS, capture=SITES, logits="none").acts
    return {site: acts[site].flatten(0, 1) for site in SITES}


def identify(batches, truth):
    """Row number of every vector, by its nearest neighbour; the sites must agree."""
    found = []
    for site in SITES:
        x = torch.cat([b[site] for b in batches])
        distance = torch.cdist(x.double(), truth[site].double())
        assert distance.min(1).values.max() < 1e-3
        found.append(distance.argmin(1).tolist())
    assert found[0] == found[1]
    return found[0]


def test_it_is_an_activation_source(make) -> None:
    from lensbench.protocols import ActivationSource

    source = make()
    assert isinstance(source, ActivationSource)
    assert source.sites == SITES
    assert [source.width(s) for s in SITES] == [32, 48]
    batch = next(source.batches(5))
    assert {s: (tuple(x.shape), x.dtype) for s, x in batch.items()} == {
        SITES[0]: ((5, 32), torch.float32),
        SITES[1]: ((5, 48), torch.float32),
    }


@pytest.mark.parametrize("batch_size", [1, 16, 210, 1000])
def test_every_row_once_per_epoch(make, truth, batch_size) -> None:
    rows = identify(list(make(loop=False).batches(batch_size)), truth)
    assert sorted(rows) == list(range(N))
    assert rows != list(range(N))
    plain = identify(list(make(loop=False, shuffle=False).batches(batch_size)), truth)
    assert plain == list(range(N))


def test_epochs_differ_and_batches_stay_full(make, truth) -> None:
    batches = list(islice(make().batches(60), 7))
    assert all(len(b[SITES[0]]) == 60 for b in batches)
    rows = identify(batches, truth)
    assert sorted(rows[:N]) == sorted(rows[N : 2 * N]) == list(range(N))
    assert rows[:N] != rows[N : 2 * N]


def test_seed_decides(make) -> None:
    first = [next(make(seed=s).batches(40))[SITES[0]] for s in (0, 0, 1)]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])


@pytest.mark.parametrize("done", [0, 1, 3, 11, 14])
def test_resume_is_exact(make, done) -> None:
    source = make(seed=4)
    list(islice(source.batches(17), done))
    state = json.loads(json.dumps(source.state_dict()))
    expected = [b[SITES[1]].numpy() for b in islice(source.batches(9), 30)]
    other = make(seed=5)
    next(other.batches(3))
    other.load_state_dict(state)
    assert other.state_dict() == state
    found = [b[SITES[1]].numpy() for b in islice(other.batches(9), 30)]
    assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))


def test_a_position_of_another_source_is_refused(make) -> None:
    from lensbench.errors import ConfigError, MismatchError

    source = make()
    key = "text" if "text" in source.state_dict() else "store"
    with pytest.raises(MismatchError, match=f"with {key} 'elsewhere'"):
        source.load_state_dict({**source.state_dict(), key: "elsewhere"})
    with pytest.raises(ConfigError, match="batch_size must be at least 1"):
        next(source.batches(0))
