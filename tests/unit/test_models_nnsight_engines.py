"""Plans on a server and in vLLM: the same numbers, the request that is sent, and clear refusals."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.helpers import random_ids, tiny

IDS = random_ids(2, 8, seed=1)
LIMIT = 1e-6  # in float64, norms in float32: the server keeps sdpa, the native back end opens it up


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder with a tokenizer."""
    import lensbench

    path = tmp_path_factory.mktemp("models") / "tiny"
    tiny("llama", seed=3).save_pretrained(path)
    lensbench.load_model("atlas-dense", certify=False).tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def native(folder):
    import lensbench

    return lensbench.load_model(folder, dtype="float64", certify=False)


def plans():
    from lensbench.ops import SetInSpan
    from lensbench.plan import (
        Add,
        Clamp,
        Plan,
        Project,
        Replace,
        Scale,
        Set,
        Zero,
        edit,
        skip_layers,
    )

    torch.manual_seed(0)
    return [
        Plan(),
        edit("blocks.1.attn.z", Zero(), heads=[1], positions=[-1]),
        edit("blocks.1.resid_mid", Scale(0.5)) + skip_layers([0]),
        edit("blocks.0.mlp.post", Set(0.3), dims=[1, 4], rows=[1]),
        edit("blocks.2.resid_pre", Add(torch.randn(32))) + edit("logits", Clamp(high=1.0)),
        edit("blocks.1.resid_post", Project(torch.randn(2, 32)), positions=[2, 3]),
        edit("blocks.1.mlp_out", SetInSpan(torch.randn(2, 32), torch.randn(32)), positions=[1]),
        edit("ln_final.scale", Scale(2.0)) + edit("embed", Replace(torch.randn(2, 8, 32))),
        Plan(stop=2),
    ]


@pytest.fixture(scope="module")
def server(folder):
    """The address of a server that runs jobs on a model of its own, in a process of its own."""
    script = Path(__file__).parents[1] / "nnsight_server.py"
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder), "float64"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=folder,
    )
    assert process.stdout is not None
    port = process.stdout.readline().strip()
    assert port, "the server did not start"
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait()
    process.stdout.close()


@pytest.fixture
def remote(folder, server, monkeypatch):
    """Opens the model on that server; the hub is not asked for the canonical name of a folder."""
    import lensbench
    from lensbench.models.nnsight import remote as module
    from lensbench.models.nnsight import tool

    tool.load()
    from nnsight.modeling.huggingface import HuggingFaceModel
    from nnsight.schema.config import CONFIG

    def key(self) -> str:
        return json.dumps({"repo_id": str(self.repo_id), "revision": None})

    monkeypatch.setattr(HuggingFaceModel, "_remoteable_model_key", key)
    monkeypatch.setattr(module, "_POLL", 0.01)
    monkeypatch.setattr(CONFIG.API, "APIKEY", "secret")
    monkeypatch.setattr(CONFIG.APP, "REMOTE_LOGGING", False)
    return lambda host=server, **engine: lensbench.load_model(
        folder, backend="nnsight", dtype="float64", remote=host, engine=engine
    )


def test_plans_run_on_a_server_without_lensbench_and_give_the_native_numbers(
    native, remote
) -> None:
    model = remote(timeout=30)
    assert {p.device.type for p in model.root._module.parameters()} == {"meta"}
    clean = native.run(IDS).logits
    for plan in plans():
        capture = ["blocks.1.resid_post"] + ["logits"] * (plan.stop is None)
        ours, theirs = native.run(IDS, plan, capture), model.run(IDS, plan, capture)
        torch.testing.assert_close(theirs.logits, ours.logits, rtol=0, atol=LIMIT)
        for name in capture:
            torch.testing.assert_close(theirs.acts[name], ours.acts[name], rtol=0, atol=LIMIT)
        assert theirs.layers_run == ours.layers_run
        if plan:  # control
            assert float((theirs.logits - clean).abs().max()) > 1e-3
    every = model.run(IDS, capture=model.sites()).acts
    known = native.run(IDS, capture=model.sites()).acts
    for name in known:
        torch.testing.assert_close(every[name], known[name], rtol=0, atol=LIMIT)
    early = model.run(IDS, capture=["blocks.0.mlp_out"], logits="none")
    assert early.logits is None
    assert early.layers_run == 2
    many = model.run_many(IDS[:1], [plans()[1], plans()[0]] * 2, batch_size=3).logits
    alone = native.run(IDS[:1], plans()[1]).logits[0]
    torch.testing.assert_close(many[2], alone, rtol=0, atol=LIMIT)
    torch.testing.assert_close(many[3], clean[0], rtol=0, atol=LIMIT)


def test_the_request_names_the_model_and_carries_key_and_plan(folder, server, remote) -> None:
    import httpx

    remote(dtype="float32").run(IDS, logits="none", capture=["blocks.0.resid_post"])
    sent = httpx.get(f"{server}/seen").json()[-1]
    assert (sent["path"], sent["key"]) == ("/request", "secret")
    assert str(folder) in sent["envelope"]["model_key"]
    assert "TransformersModel" in sent["envelope"]["model_key"]


def test_a_refused_or_unreachable_server_and_a_missing_key_are_errors_of_ours(
    remote, monkeypatch
) -> None:
    from nnsight.schema.config import CONFIG

    from lensbench.errors import BackendUnavailableError

    monkeypatch.setattr(CONFIG.API, "APIKEY", "refused")
    with pytest.raises(BackendUnavailableError, match="this key may not use this model"):
        remote().run(IDS)
    with pytest.raises(BackendUnavailableError, match=r"not done by http://127\.0\.0\.1:9"):
        remote("http://127.0.0.1:9").run(IDS)
    monkeypatch.setattr(CONFIG.API, "APIKEY", None)
    with pytest.raises(BackendUnavailableError, match="set NDIF_API_KEY"):
        remote(True)


def test_what_a_server_cannot_do_is_refused_by_name(remote) -> None:
    from lensbench.errors import ConfigError, UnknownSiteError
    from lensbench.plan import Call, Zero, edit

    model = remote()
    with pytest.raises(UnknownSiteError, match="No module gives it out"):
        model.run(IDS, capture=["blocks.1.attn.pattern"])
    with pytest.raises(UnknownSiteError, match="No module gives it out"):
        model.run(IDS, edit("blocks.1.attn.q", Zero()))
    with pytest.raises(ConfigError, match="a Python function of yours"):
        model.run(IDS, edit("blocks.1.mlp_out", Call(torch.sin, "sin")))
    for call in (
        lambda: model.generate(IDS),
        lambda: model.unembed(torch.zeros(1, 32)),
        lambda: model.run_layers(torch.zeros(1, 1, 32), 0, 1),
        lambda: model.run(IDS, grad=True),
    ):
        with pytest.raises(ConfigError, match="not possible here"):
            call()


class Block(nn.Module):
    """A Llama block as vLLM lays it out: flat tokens, the residual beside the branch."""

    def __init__(self, source) -> None:
        super().__init__()
        self.self_attn, self.mlp = nn.Module(), nn.Module()
        self.self_attn.o_proj = nn.Linear(32, 32, bias=False)
        self.self_attn.forward = lambda x: self.self_attn.o_proj(x * 0.5)
        self.mlp.up_proj, self.mlp.down_proj = source.mlp.up_proj, source.mlp.down_proj
        self.mlp.forward = lambda x: self.mlp.down_proj(self.mlp.up_proj(x))

    def forward(self, hidden, residual):
        residual = hidden if residual is None else hidden + residual
        residual = residual + self.self_attn(residual)
        return self.mlp(residual), residual


class Flat(nn.Module):
    """Blocks in vLLM's layout; the logits are of the last position."""

    def __init__(self, source) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.embed_tokens = source.model.embed_tokens
        self.model.layers = nn.ModuleList(Block(b) for b in source.model.layers)
        self.lm_head = source.lm_head

    def forward(self, ids):
        hidden, residual = self.model.embed_tokens(ids), None
        for block in self.model.layers:
            hidden, residual = block(hidden, residual)
        return self.lm_head((hidden + residual)[-1:])


@pytest.fixture
def engine(native, monkeypatch):
    """In the place of vLLM's engine: the same layout and calls, on nnsight's own traces."""
    import nnsight
    from nnsight.modeling import vllm

    seen: dict = {}

    class Engine(nnsight.NNsight):
        tokenizer = native.tokenizer

        def __init__(self, source, **options) -> None:
            seen.update(source=source, options=options, prompts=[])
            torch.manual_seed(0)
            super().__init__(Flat(tiny("llama", seed=3)))

        def trace(self, prompt, **sampling):
            seen["prompts"].append((prompt, sampling))
            return super().trace(torch.tensor(prompt))

        @property
        def logits(self):
            return self.output

    monkeypatch.setattr(vllm, "VLLM", Engine)
    return seen


def test_plans_and_options_reach_vllm_and_sites_are_translated(folder, engine) -> None:
    import lensbench
    from lensbench.errors import ConfigError, UnknownSiteError
    from lensbench.plan import Add, Replace, Zero, edit, skip_layers

    model = lensbench.load_model(
        folder, backend="nnsight", vllm=True, engine={"tensor_parallel_size": 2}
    )
    assert engine["options"] == {"dispatch": True, "tensor_parallel_size": 2}
    sites = [s for s in model.sites() if s.name != "logits"]
    clean = model.run(IDS, capture=sites, logits="last")
    assert engine["prompts"][0] == (IDS[0].tolist(), {"temperature": 0.0, "max_tokens": 1})
    assert clean.logits.shape == (2, 1, 61)
    resid = clean.acts["blocks.2.resid_post"]
    plain = model.root._module
    with torch.no_grad():
        want = torch.stack([plain(row)[-1] for row in IDS])
        from_sum = plain.lm_head(resid[:, -1])
    torch.testing.assert_close(from_sum, want, rtol=0, atol=1e-4)  # the residual stream
    torch.testing.assert_close(clean.logits[:, 0], want, rtol=0, atol=1e-6)
    v = torch.randn(32)
    moved = model.run(IDS, edit("blocks.2.resid_post", Add(v), rows=[1]), logits="last").logits
    with torch.no_grad():
        torch.testing.assert_close(moved[1, 0], want[1] + plain.lm_head(v), rtol=0, atol=1e-4)
    assert torch.equal(moved[0], clean.logits[0])  # control: the other row is left alone
    given = torch.randn(2, 1, 32)
    set_ = model.run(
        IDS, edit("blocks.2.resid_post", Replace(given), positions=[-1]), logits="last"
    )
    with torch.no_grad():
        expected = plain.lm_head(given[:, 0])
    torch.testing.assert_close(set_.logits[:, 0], expected, rtol=0, atol=1e-4)
    with pytest.raises(ConfigError, match="last position only"):
        model.run(IDS)
    with pytest.raises(ConfigError, match="runs every block"):
        model.run(IDS, skip_layers([0]), logits="last")
    with pytest.raises(UnknownSiteError, match="vLLM fuses"):
        model.run(IDS, edit("blocks.1.mlp.gate", Zero()), logits="last")


def test_without_vllm_or_for_other_families_the_reason_is_given(folder, tmp_path) -> None:
    import importlib.util

    import lensbench
    from lensbench.errors import BackendUnavailableError, ConfigError

    tiny("gpt2").config.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="blocks of gpt2 are not translated"):
        lensbench.load_model(tmp_path, backend="nnsight", vllm=True)
    if importlib.util.find_spec("vllm") is not None:
        pytest.skip("vllm is installed here, so its absence cannot be shown")
    with pytest.raises(BackendUnavailableError, match="vLLM is not installed"):
        lensbench.load_model(folder, backend="nnsight", vllm=True)


def test_nnsight_serve_runs_a_plan_where_it_starts() -> None:
    import importlib.util

    missing = [m for m in ("vllm", "fastapi", "uvicorn") if importlib.util.find_spec(m) is None]
    if missing:
        pytest.skip(f"nnsight-serve does not start here: {', '.join(missing)} not installed")
    pytest.skip("nnsight-serve needs a GPU with a vLLM engine; run by hand")
