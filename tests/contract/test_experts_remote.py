"""Operations on routing where lensbench is not installed: they travel with the job."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.moe_worlds import EXPERT, LAYER, prompts, save_with_words

LIMIT = 2e-5  # the server keeps sdpa where the native back end opens attention up


@pytest.fixture
def remote(tmp_path, monkeypatch) -> Any:
    """The planted mixture, here and on a server in a process of its own."""
    import lensbench
    from lensbench.models.nnsight import remote as module
    from lensbench.models.nnsight import tool

    folder = save_with_words(tmp_path / "moe")
    tool.load()
    from nnsight.modeling.huggingface import HuggingFaceModel
    from nnsight.schema.config import CONFIG

    def key(self) -> str:
        return json.dumps({"repo_id": str(self.repo_id), "revision": None})

    monkeypatch.setattr(HuggingFaceModel, "_remoteable_model_key", key)
    monkeypatch.setattr(module, "_POLL", 0.01)
    monkeypatch.setattr(CONFIG.API, "APIKEY", "secret")
    monkeypatch.setattr(CONFIG.APP, "REMOTE_LOGGING", False)
    script = Path(__file__).parents[1] / "nnsight_server.py"
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder)], stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, cwd=folder,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        port = process.stdout.readline().strip()
        assert port, "the server did not start"
        native = lensbench.load_model(folder, certify=False)
        engine, host = {"timeout": 30}, f"http://127.0.0.1:{port}"
        yield native, lensbench.load_model(folder, backend="nnsight", remote=host, engine=engine)
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def test_every_operation_on_routing_runs_on_a_server_without_lensbench(remote) -> None:
    from lensbench.interventions import experts

    native, served = remote
    rows = torch.tensor(prompts(4).rows)
    clean = native.run(rows).logits
    here = (LAYER, EXPERT)
    capture = ["blocks.1.router.weights", "blocks.1.router.indices"]
    for plan in (
        experts.suppress(here),
        experts.reroute(here),
        experts.force([here, (0, 3)]),
        experts.scale(here, 0.5, positions=[-1]),
    ):
        ours, theirs = native.run(rows, plan, capture), served.run(rows, plan, capture)
        torch.testing.assert_close(theirs.logits, ours.logits, rtol=0, atol=LIMIT * 10)
        for name in capture:
            torch.testing.assert_close(theirs.acts[name], ours.acts[name], rtol=0, atol=LIMIT)
        assert float((theirs.logits - clean).abs().max()) > 0.1  # control
    maps = experts.routing(served, rows)
    assert (maps.counts == experts.routing(native, rows).counts).all()
