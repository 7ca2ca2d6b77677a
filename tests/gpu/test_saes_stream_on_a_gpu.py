"""The copy beside the step, rows in device memory, a mixing buffer: the same runs, bit for bit."""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.store_builder import SITE, build

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
D, BATCH = 64, 512


def _store(folder: Path, dtype: str) -> Any:
    rows = np.random.default_rng(0).normal(size=(9000, D)).astype(np.float32)
    return build(folder, {SITE: rows}, [4000, 5000], dtype=dtype)


def _sweep(**changes: Any) -> dict[str, Any]:
    train = {"tokens": 60 * BATCH, "batch_size": BATCH, "checkpoint_every": 20, "engine": "dense"}
    entry = {"architecture": "topk", "d_sae": 256, "k": [4, 8], "lr": 3e-3}
    return {"train": train | {"deterministic": True} | changes, "sweep": [entry]}


def _same(runs: Any, others: Any) -> bool:
    return all(
        (a.weights[n] == b.weights[n]).all()
        for a, b in zip(runs, others, strict=True)
        for n in a.weights
    )


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("ahead", [0, 1, 2, 5])
def test_batches_on_the_device_are_those_of_the_host(
    dtype: str, ahead: int, tmp_path: Path
) -> None:
    """With a step that takes longer than the next copies, which would overwrite what it reads."""
    from lensbench.saes.training.stream import Stream

    store = _store(tmp_path, dtype)
    wanted = [b[SITE] for b in islice(store.source(SITE).batches(BATCH), 40)]
    source = store.source(SITE, dtype=dtype)
    stream = Stream(source, [SITE], BATCH, torch.device("cuda"), ahead=ahead)
    busy = torch.randn(4096, 4096, device="cuda")
    sums = torch.zeros(40, D, device="cuda", dtype=torch.float64)
    kept = []
    for i in range(40):
        x = stream.next()[SITE]
        busy = (busy @ busy).clamp(-1, 1)
        sums[i] = x.double().sum(0)  # on the device, after the long product
        kept.append(x.clone())
    stream.close()
    for i, x in enumerate(wanted):
        assert torch.equal(kept[i].cpu(), x)
        torch.testing.assert_close(sums[i].cpu(), x.double().sum(0), rtol=1e-9, atol=1e-9)
    assert 0 <= stream.waits.share() <= 1


def test_a_run_is_the_same_however_its_rows_come(tmp_path: Path) -> None:
    from lensbench import saes

    store = _store(tmp_path / "acts", "float16")
    runs = [
        saes.train(store, _sweep(**how), device="cuda", progress=False, out=tmp_path / str(i))
        for i, how in enumerate(
            ({"read_ahead": 0, "in_memory": False}, {"read_ahead": 3, "in_memory": False},
             {"in_memory": True}, {})
        )
    ]  # fmt: skip
    assert all(_same(runs[0], other) for other in runs[1:])
    assert "are held on cuda" in (tmp_path / "3/log.txt").read_text()  # auto, where it fits
    assert "are held on" not in (tmp_path / "1/log.txt").read_text()


def test_a_mixing_buffer_on_the_device_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lensbench
    from lensbench import saes
    from lensbench.saes.training import checkpoint
    from lensbench.worlds.atlas import Atlas

    site = "blocks.3.resid_post"
    model = lensbench.load_model("atlas-dense", device="cuda")

    def source() -> Any:
        return lensbench.live_source(model, Atlas(0).sample(600), site, mixing=4096)

    sweep = _sweep()
    sweep["sweep"][0]["site"] = site
    whole = saes.train(source(), sweep, device="cuda", progress=False)
    write, count = checkpoint.write, [0]

    class Killed(BaseException):
        pass

    def counted(*args: Any) -> None:
        count[0] += 1
        if count[0] == 4:
            raise Killed
        write(*args)

    monkeypatch.setattr(checkpoint, "write", counted)
    with pytest.raises(Killed):
        saes.train(source(), sweep, device="cuda", progress=False, out=tmp_path)
    monkeypatch.undo()
    resumed = saes.train(source(), sweep, device="cuda", progress=False, out=tmp_path, resume=True)
    assert _same(whole, resumed)
