"""The same numbers on a GPU as on the CPU: capture, edits, the sweep, resume."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
SITE, D, BATCH = "blocks.3.resid_post", 16, 64
# float32 sums in another order, six blocks deep: 1e-4 of states whose size is about 1 to 10.
CLOSE = {"rtol": 1e-4, "atol": 1e-3}


@pytest.fixture(scope="module", autouse=True)
def _float32() -> None:
    torch.backends.cuda.matmul.allow_tf32 = False


def _model(device: str) -> Any:
    from lensbench import load_model

    return load_model("atlas-dense", device=device)


def test_states_edits_and_logits_agree_with_the_cpu() -> None:
    from lensbench.plan import Edit, Plan, Zero
    from lensbench.sites import Site
    from lensbench.worlds.atlas import Atlas

    prompts = Atlas(0).questions("ioi", 16).prompts
    tokens = [list(p) for p in prompts if len(p) == len(prompts[0])]
    plan = Plan((Edit(Site("attn_out", 2), Zero()),))
    outs = [
        _model(device).run(tokens, plan, capture=[SITE, "blocks.4.attn.pattern"])
        for device in ("cpu", "cuda")
    ]
    assert outs[0].logits is not None
    assert outs[1].logits is not None
    torch.testing.assert_close(outs[1].logits.cpu(), outs[0].logits, **CLOSE)
    for site, values in outs[0].acts.items():
        torch.testing.assert_close(outs[1].acts[site].cpu(), values, **CLOSE)
    clean = _model("cuda").run(tokens).logits  # control: the edit does something
    assert clean is not None
    assert not torch.allclose(clean.cpu(), outs[0].logits, **CLOSE)


def test_a_store_from_the_gpu_holds_what_the_cpu_captures(tmp_path: Path) -> None:
    from lensbench import capture
    from lensbench.worlds.atlas import Atlas

    corpus = Atlas(0).sample(200)
    stores = [
        capture(_model(d), corpus, [SITE], out=tmp_path / d, dtype="float32")
        for d in ("cpu", "cuda")
    ]
    rows = np.arange(stores[0].n_tokens)
    cpu, gpu = (torch.from_numpy(s.rows(SITE, rows)) for s in stores)
    torch.testing.assert_close(gpu, cpu, **CLOSE)


def _batches(n: int) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(7)
    truth = torch.randn(32, D, generator=rng)
    weights = torch.rand(n, BATCH, 32, generator=rng)
    return list((weights * (torch.rand(weights.shape, generator=rng) < 0.1)) @ truth)


def _sweep(steps: int) -> dict[str, Any]:
    entries = [
        {"architecture": "topk", "d_sae": 64, "k": [2, 4]},
        {"architecture": "batchtopk", "d_sae": 64, "k": 4},
        {"architecture": "relu", "d_sae": 64, "l1_coefficient": 0.5},
    ]
    return {"train": {"tokens": steps * BATCH, "batch_size": BATCH}, "sweep": entries}


def test_a_sweep_learns_the_same_dictionaries_on_both() -> None:
    from lensbench import saes

    steps = 30  # few: rounding may change which latents win, and paths part from there
    runs = [
        saes.train(_batches(steps), _sweep(steps), device=d, progress=False)
        for d in ("cpu", "cuda")
    ]
    for cpu, gpu in zip(*runs, strict=True):
        assert gpu.status == "finished"
        assert gpu.history["fvu"][-1] == pytest.approx(cpu.history["fvu"][-1], rel=0.01)
        close = torch.nn.functional.cosine_similarity(cpu.sae.W_dec, gpu.sae.W_dec.cpu())
        assert float(close.median()) > 0.999


def test_a_run_cut_in_two_gives_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensbench import capture, saes
    from lensbench.errors import StoppedError
    from lensbench.saes.training import checkpoint
    from lensbench.worlds.atlas import Atlas

    store = capture(_model("cuda"), Atlas(0).sample(1200), [SITE], out=tmp_path / "acts")
    sweep = {
        "train": {"tokens": 8192, "batch_size": 256, "checkpoint_every": 8, "deterministic": True},
        "sweep": [{"architecture": "topk", "d_sae": 64, "k": 4, "site": SITE}],
    }
    whole = saes.train(store, sweep, out=tmp_path / "whole", device="cuda", progress=False)[0]
    prune, written = checkpoint.prune, list[int]()

    def prune_once(folder: Path, keep: int) -> None:
        written.append(keep)
        prune(folder, keep)
        if len(written) == 2:
            raise StoppedError("cut")

    monkeypatch.setattr(checkpoint, "prune", prune_once)
    with pytest.raises(StoppedError, match="cut"):
        saes.train(store, sweep, out=tmp_path / "cut", device="cuda", progress=False)
    monkeypatch.undo()
    cut = saes.train(store, sweep, out=tmp_path / "cut", resume=True, device="cuda", progress=False)
    for name, weights in whole.weights.items():
        assert np.array_equal(weights, cut[0].weights[name]), name
