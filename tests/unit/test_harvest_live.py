"""The live source: bounded, without needless forward passes, and plain about failures."""

import pytest
import torch

from tests.helpers import random_ids, tiny

SITE = "blocks.1.resid_post"


@pytest.fixture(scope="module")
def model():
    import lensbench

    return lensbench.load_model(tiny(seed=3), certify=False)


def source(model, ids, **options):
    import lensbench

    settings = {"layout": "pad", "context": 8, "batch_size": 4, "buffer_rows": 64} | options
    return lensbench.live_source(model, ids, SITE, **settings)


def test_it_runs_no_more_than_a_buffer_ahead_and_resumes_without_running_the_rest(
    model, monkeypatch
) -> None:
    seen, run = [], type(model).run
    monkeypatch.setattr(
        type(model), "run", lambda self, *a, **k: (seen.append(1), run(self, *a, **k))[1]
    )
    live = source(model, random_ids(40, 8))
    batches = live.batches(32)
    next(batches)
    assert len(seen) == 2  # 64 rows are two passes of 4 x 8
    for _ in range(4):
        next(batches)
    state = live.state_dict()
    seen.clear()
    other = source(model, random_ids(40, 8))
    other.load_state_dict(state)
    assert torch.equal(next(other.batches(32))[SITE], next(batches)[SITE])
    assert len(seen) == 2  # the group that was open; the two before it are not run again


def test_types_and_selections(model) -> None:
    half = next(source(model, random_ids(4, 8), dtype="bfloat16").batches(4))[SITE]
    assert half.dtype is torch.bfloat16
    last = source(model, random_ids(6, 8), positions=-1, loop=False)
    assert sum(len(b[SITE]) for b in last.batches(4)) == 6


def test_failures_are_named(model) -> None:
    import lensbench
    from lensbench.errors import ConfigError, NonFiniteError

    with pytest.raises(ConfigError, match="no token of it has a row"):
        next(source(model, [[5, 6]], exclude_special=[5, 6]).batches(2))
    with pytest.raises(ConfigError, match="no tokenizer"):
        source(model, ["some text"])
    with pytest.raises(ConfigError, match="no dtype named 'float17'"):
        source(model, random_ids(4, 8), dtype="float17")
    with pytest.raises(ConfigError, match="buffer_rows must be at least 1"):
        source(model, random_ids(4, 8), buffer_rows=0)
    broken = tiny(seed=3)
    with torch.no_grad():
        broken.get_input_embeddings().weight[9] = float("inf")
    bad = source(lensbench.load_model(broken, certify=False), [[5, 6], [8, 9]])
    with pytest.raises(NonFiniteError, match=r"blocks\.1\.resid_post is NaN, infinite"):
        next(bad.batches(2))
