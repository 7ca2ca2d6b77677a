"""Capture: the stored numbers are the model's, nothing runs twice, everything else is refused."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers import D_VOCAB, tiny
from tests.store_builder import word_tokenizer

WORDS = [f"w{i}" for i in range(D_VOCAB - 4)]
ROOT = Path(__file__).resolve().parents[2]


def corpus(n: int = 40, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(1, 12))) for _ in range(n)]


@pytest.fixture(scope="module")
def model():
    import lensbench

    return lensbench.load_model(tiny(seed=3), tokenizer=word_tokenizer(WORDS), certify=False)


@pytest.fixture
def runs(model, monkeypatch):
    """Every forward pass, as (captured sites, blocks run per row)."""
    seen, run = [], type(model).run

    def counted(self, tokens, *args, **kwargs):
        out = run(self, tokens, *args, **kwargs)
        seen.append((tuple(out.acts), out.layers_run / tokens.n_rows))
        return out

    monkeypatch.setattr(type(model), "run", counted)
    return seen


@pytest.fixture
def small_shards(monkeypatch):
    from lensbench.harvest import fill

    monkeypatch.setattr(fill, "SHARD_TOKENS", 64)  # two forward batches of 4 x 8


def take(model, out, sites=("blocks.1.resid_post",), **changes):
    import lensbench

    options = {"context": 8, "batch_size": 4, "layout": "pad", "dtype": "float32"} | changes
    texts = options.pop("texts", corpus())
    return lensbench.capture(model, texts, sites, out=out, **options)


def content(folder: Path) -> dict[str, bytes]:
    """Every file that must not depend on how the store came about."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and p.name not in ("provenance.json", ".lock")
    }


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("layout", ["pack", "pad"])
def test_stored_rows_are_the_models_own_activations(model, tmp_path, layout) -> None:
    sites = ["embed", "blocks.0.attn.z", "blocks.2.mlp.post", "blocks.1.ln1.scale", "ln_final"]
    store = take(model, tmp_path, sites, layout=layout)
    assert store.sites == (
        "embed",
        "blocks.0.attn.z",
        "blocks.1.ln1.scale",
        "blocks.2.mlp.post",
        "ln_final",
    )
    assert len(store.manifest["shards"]) > 2
    assert store.shape("blocks.0.attn.z") == (4, 8)
    n = 0
    for batch in store.sequences():
        acts = model.run(batch.tokens, capture=sites, logits="none").acts
        kept = batch.rows >= 0
        n += kept.sum()
        for site in sites:
            direct = acts[site].flatten(2)[torch.from_numpy(kept)].numpy()
            assert np.array_equal(store.rows(site, batch.rows[kept]), direct), site
    assert n == store.n_tokens


def test_padding_hides_documents_from_one_another_and_packing_does_not(model, tmp_path) -> None:
    site, texts = "blocks.2.resid_post", ["w1 w2 w3", "w4 w5"]
    alone = take(model, tmp_path / "alone", [site], texts=texts[1:], context=16)
    found = {}
    for layout in ("pad", "pack"):
        store = take(model, tmp_path / layout, [site], texts=texts, layout=layout, context=16)
        rows = np.flatnonzero(store.index().doc_ids == 1)
        own = alone.rows(site, range(3))
        found[layout] = np.abs(store.rows(site, rows) - own).max() / np.abs(own).max()
    assert found["pad"] < 1e-5  # rounding in fp32, relative to the largest activation
    assert found["pack"] > 1e-2  # control: with another document before it


def test_manifest_says_what_was_done(model, tmp_path) -> None:
    store = take(model, tmp_path, texts=["w0 w1", "", "w2 " * 20], exclude_special=True)
    assert store.model["fingerprint"] == model.card.fingerprint
    assert store.settings["bos"] is True
    assert store.settings["excluded_ids"] == [0, 1, 2, 3]
    assert store.text["kind"] == "texts"
    assert (store.text["empty_documents"], store.text["cut_documents"]) == (1, 1)
    assert store.n_docs == 2
    assert store.index().doc_ids.tolist() == [0] * 2 + [2] * 7
    assert 1 not in store.index().token_ids  # BOS was fed, but has no row
    batch = next(store.sequences())
    assert batch.tokens.ids[:, 0].tolist() == [1, 1]
    assert json.loads((tmp_path / "provenance.json").read_text())["versions"]["torch"]


def test_early_stop_runs_no_block_past_the_deepest_site(model, tmp_path, runs) -> None:
    take(model, tmp_path / "a", ["blocks.0.resid_post"])
    assert {blocks for _, blocks in runs} == {1.0}
    runs.clear()
    take(model, tmp_path / "b", ["blocks.2.resid_pre"])
    assert {blocks for _, blocks in runs} == {2.0}


def test_profiles_and_patterns_of_site_names(model, tmp_path) -> None:
    store = take(model, tmp_path / "resid", None, profile="resid")
    names = [f"blocks.{i}.resid_{w}" for i in range(3) for w in ("pre", "mid", "post")]
    assert store.sites == tuple(names)
    full = take(model, tmp_path / "full", None, profile="full")
    assert set(full.sites) - set(names) == {
        f"blocks.{i}.{n}" for i in range(3) for n in ("attn.pattern", "mlp.post")
    }
    pattern = full.rows("blocks.1.attn.pattern", range(20)).reshape(-1, 4, 8)
    assert full.shape("blocks.1.attn.pattern") == (4, 8)
    np.testing.assert_allclose(pattern.sum(-1), 1, atol=1e-5)
    positions = full.index().positions[:20]
    for row, position in zip(pattern, positions, strict=True):
        assert (row[:, position + 1 :] == 0).all()
    wild = take(model, tmp_path / "wild", "blocks.*.mlp_out")
    assert wild.sites == tuple(f"blocks.{i}.mlp_out" for i in range(3))


def test_equal_sites_share_their_bytes_once_proven(model, tmp_path, monkeypatch) -> None:
    from lensbench.harvest import sites as rules

    both = ["blocks.0.resid_post", "blocks.1.resid_pre"]
    store = take(model, tmp_path / "shared", both)
    assert store.manifest["sites"]["blocks.1.resid_pre"]["alias"] == "blocks.0.resid_post"
    assert sorted(p.name for p in (tmp_path / "shared" / "acts").iterdir()) == both[:1]
    monkeypatch.setattr(rules, "proven", lambda *_: {})
    plain = take(model, tmp_path / "plain", both)
    assert plain.manifest["sites"]["blocks.1.resid_pre"]["alias"] is None
    for site in both:
        assert np.array_equal(store.rows(site, range(99)), plain.rows(site, range(99)))


def test_sites_that_differ_are_not_taken_for_equal(model) -> None:
    from lensbench.harvest.sites import proven
    from lensbench.sites import Site
    from lensbench.tokens import Tokens

    post, pre = Site("resid_post", 0), Site("resid_pre", 1)
    tokens = Tokens(torch.tensor([[1, 5, 6]]))
    assert proven(model, tokens, {pre: post}) == {pre: post}
    assert proven(model, tokens, {pre: Site("resid_mid", 0)}) == {}


def test_another_site_is_added_without_running_for_the_rest(model, tmp_path, runs) -> None:
    together = take(model, tmp_path / "both", ["blocks.0.mlp_out", "blocks.1.attn_out"])
    take(model, tmp_path / "one", ["blocks.1.attn_out"])
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "one").rglob("*.safetensors")}
    runs.clear()
    store = take(model, tmp_path / "one", ["blocks.0.mlp_out", "blocks.1.attn_out"])
    assert {sites for sites, _ in runs} == {("blocks.0.mlp_out",)}
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())
    assert store.sites == together.sites
    for site in store.sites:
        assert np.array_equal(store.rows(site, range(99)), together.rows(site, range(99)))
    runs.clear()
    take(model, tmp_path / "one", ["blocks.1.attn_out"])
    assert runs == []  # nothing left to do


def test_the_advice_for_a_missing_site_can_be_followed_word_by_word(model, tmp_path) -> None:
    import lensbench
    from lensbench.errors import MissingDataError

    texts = corpus()
    store = take(model, tmp_path, exclude_special=True, positions=slice(1, 4), max_tokens=99)
    with pytest.raises(MissingDataError) as caught:
        store.require("embed")
    call = str(caught.value).partition("Add with: ")[2]
    added = eval(call, {"lensbench": lensbench, "model": model, "texts": texts})
    assert added.complete
    assert set(added.sites) == {"embed", "blocks.1.resid_post"}


def test_an_added_input_of_a_block_is_an_alias_of_what_is_stored(model, tmp_path, runs) -> None:
    take(model, tmp_path, ["blocks.1.resid_post"])
    runs.clear()
    store = take(model, tmp_path, ["blocks.2.resid_pre"])
    assert len(runs) == 1  # the proof on the first batch
    assert store.complete
    assert np.array_equal(
        store.rows("blocks.2.resid_pre", range(99)), store.rows("blocks.1.resid_post", range(99))
    )


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"context": 7}, "settings context = 8"),
        ({"layout": "pack"}, "settings layout = 'pad'"),
        ({"dtype": "float16"}, "settings dtype = 'float32'"),
        ({"batch_size": 5}, "settings batch_size = 4"),
        ({"max_tokens": 9}, "settings max_tokens = None"),
        ({"positions": -1}, "settings positions = None"),
        ({"exclude_special": True}, "settings excluded_ids = "),
        ({"bos": False}, "settings bos = True"),
        ({"texts": corpus(seed=1)}, "text fingerprint = "),
    ],
)
def test_a_store_made_otherwise_is_refused_by_name(model, tmp_path, changes, named) -> None:
    from lensbench.errors import MismatchError

    take(model, tmp_path)
    before = content(tmp_path)
    with pytest.raises(MismatchError, match=f"written with {named}"):
        take(model, tmp_path, ["embed"], **changes)
    assert content(tmp_path) == before


def test_a_store_of_another_model_is_refused(model, tmp_path) -> None:
    import lensbench
    from lensbench.errors import MismatchError

    take(model, tmp_path)
    other = lensbench.load_model(tiny(seed=4), tokenizer=word_tokenizer(WORDS), certify=False)
    with pytest.raises(MismatchError, match="written with model fingerprint"):
        take(other, tmp_path)


def test_a_text_that_changed_under_the_same_name_is_noticed(model, tmp_path) -> None:
    from lensbench.errors import MismatchError
    from lensbench.harvest import Text

    def text(seed):
        return Text({"kind": "stream", "fingerprint": None}, lambda: iter(corpus(seed=seed)))

    take(model, tmp_path, texts=text(0))
    with pytest.raises(MismatchError, match="other tokens for batch 0"):
        take(model, tmp_path, ["embed"], texts=text(1))
    assert take(model, tmp_path, ["embed"], texts=text(0)).complete


@pytest.mark.illtyped
def test_what_cannot_be_captured_is_refused(model, tmp_path) -> None:
    import lensbench
    from lensbench.errors import ConfigError, UnknownNameError, UnknownSiteError

    with pytest.raises(ConfigError, match="the text is empty"):
        take(model, tmp_path, texts=["", "  "])
    with pytest.raises(ConfigError, match="no sites named"):
        take(model, tmp_path, None)
    with pytest.raises(UnknownSiteError, match=r"blocks\.7\.resid_post"):
        take(model, tmp_path, ["blocks.7.resid_post"])
    with pytest.raises(UnknownSiteError, match="residpost"):
        take(model, tmp_path, ["blocks.*.residpost"])
    with pytest.raises(UnknownNameError, match=r"no profile named 'resids'.*'resid'"):
        take(model, tmp_path, None, profile="resids")
    with pytest.raises(UnknownNameError, match="no dtype named 'float8'"):
        take(model, tmp_path, dtype="float8")
    with pytest.raises(ConfigError, match="context must be at most 64"):
        take(model, tmp_path, context=65)
    with pytest.raises(ConfigError, match=r"positions must be .*got 'last'"):
        take(model, tmp_path, positions="last")
    with pytest.raises(ConfigError, match="document 1 holds half of a surrogate pair"):
        take(model, tmp_path, texts=["w1", "w2 \ud800"])
    with pytest.raises(ConfigError, match=r"capture blocks\.0\.attn\.pattern"):
        take(model, tmp_path, ["blocks.0.attn.scores"])
    mute = lensbench.load_model(tiny(), certify=False)
    with pytest.raises(ConfigError, match="no tokenizer"):
        take(mute, tmp_path)
    with pytest.raises(ConfigError, match=r"pass their ids: exclude_special=\[0, 1\]"):
        take(mute, tmp_path, texts=[[5, 6]], exclude_special=True)
    assert take(mute, tmp_path / "ids", texts=[[5, 6]], exclude_special=[5]).n_tokens == 1


def test_nan_in_the_model_is_named(tmp_path) -> None:
    import lensbench
    from lensbench.errors import NonFiniteError

    module = tiny(seed=3)
    with torch.no_grad():
        module.get_input_embeddings().weight[9] = float("nan")
    broken = lensbench.load_model(module, certify=False)
    texts = [[5, 6, 7], [8, 9, 10]]
    with pytest.raises(NonFiniteError, match=r"embed is NaN.*document 1, position 1, token 9"):
        take(broken, tmp_path / "a", ["embed"], texts=texts)
    take(broken, tmp_path / "b", ["embed"], texts=texts[:1])  # control


@pytest.mark.usefixtures("small_shards")
def test_an_interrupt_keeps_what_is_finished_and_the_same_call_goes_on(
    model, tmp_path, runs
) -> None:
    from lensbench.errors import StoppedError
    from lensbench.store import open_store

    take(model, tmp_path / "whole")
    n_runs = len(runs)

    def interrupt(fed: int) -> None:
        if fed > 150:
            raise KeyboardInterrupt

    with pytest.raises(StoppedError, match="same call continues"):
        take(model, tmp_path / "cut", progress=interrupt)
    cut = open_store(tmp_path / "cut")
    assert 0 < cut.n_tokens < open_store(tmp_path / "whole").n_tokens
    assert (cut.complete, cut.verify()) == (False, [])
    runs.clear()
    take(model, tmp_path / "cut")
    assert len(runs) < n_runs
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


@pytest.mark.usefixtures("small_shards")
def test_a_shard_that_was_deleted_is_redone_alone(model, tmp_path, runs) -> None:
    take(model, tmp_path)
    whole = content(tmp_path)
    next((tmp_path / "acts/blocks.1.resid_post").glob("b00000001*")).unlink()
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"complete": False}))
    runs.clear()
    take(model, tmp_path)
    assert len(runs) == 2  # the two forward batches of one shard
    assert content(tmp_path) == whole


KILLED = """
import os, sys, time, torch
torch.set_num_threads(1)
import lensbench
from lensbench.harvest import fill
from tests.unit.test_capture import WORDS, take
from tests.helpers import tiny
from tests.store_builder import word_tokenizer
fill.SHARD_TOKENS = 64
model = lensbench.load_model(tiny(seed=3), tokenizer=word_tokenizer(WORDS), certify=False)

def progress(fed):
    time.sleep(float(sys.argv[2]))
    with open(sys.argv[1] + ".fed" + os.environ.get("RANK", ""), "w") as file:
        file.write(str(fed))

take(model, sys.argv[1], progress=progress)
"""


@pytest.mark.usefixtures("small_shards")
def test_kill_9_loses_nothing_that_was_finished(model, tmp_path) -> None:
    out = tmp_path / "killed"
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(out), "0.2"], cwd=ROOT)
    deadline = time.monotonic() + 90
    while len(list(out.glob("parts/*.json"))) < 2:
        assert time.monotonic() < deadline
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    finished = {p: p.stat().st_mtime_ns for p in out.glob("acts/*/b0000000[01]*")}
    assert len(finished) == 2
    take(model, out)
    assert all(p.stat().st_mtime_ns == t for p, t in finished.items())
    take(model, tmp_path / "whole")
    assert content(out) == content(tmp_path / "whole")


def two_processes(script: Path, out: Path, env: dict[str, str]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = env | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen([sys.executable, script, out, "0"], env=shared | {"RANK": str(rank)})
        for rank in (0, 1)
    ]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]


def under_torchrun(script: Path, out: Path, env: dict[str, str]) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run(
        [*command, script, out, "0"], check=True, env=env, capture_output=True, timeout=120
    )


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize(
    "launch", [two_processes, pytest.param(under_torchrun, marks=pytest.mark.slow)]
)
def test_two_ranks_write_the_bytes_of_one(model, tmp_path, launch) -> None:
    script, out = tmp_path / "job.py", tmp_path / "two"
    script.write_text(KILLED)
    launch(script, out, os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    assert "2 process" in json.loads((out / "provenance.json").read_text())["note"]
    one = take(model, tmp_path / "one")
    assert content(out) == content(tmp_path / "one")
    fed = [int((tmp_path / f"two.fed{rank}").read_text()) for rank in (0, 1)]
    assert min(fed) > 0
    assert sum(fed) == one.n_tokens  # neither did the other's share


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("url", ["memory://lensbench-test/captured"])
def test_capture_to_a_url(model, tmp_path, url) -> None:
    store = take(model, url)
    here = take(model, tmp_path)
    assert store.manifest == here.manifest
    assert np.array_equal(
        store.rows("blocks.1.resid_post", range(50)), here.rows("blocks.1.resid_post", range(50))
    )


def test_progress_counts_tokens(model, tmp_path) -> None:
    seen: list[int] = []
    store = take(model, tmp_path, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == store.n_tokens


@pytest.mark.usefixtures("small_shards")
def test_a_deleted_shard_of_a_finished_store_is_redone_alone(model, tmp_path, runs) -> None:
    take(model, tmp_path / "s")
    first = sorted((tmp_path / "s" / "acts").rglob("*.safetensors"))[0]
    bytes_before = first.read_bytes()
    whole = len(runs)
    runs.clear()
    take(model, tmp_path / "s")
    assert runs == []  # control: nothing to do
    first.unlink()
    store = take(model, tmp_path / "s")
    assert first.read_bytes() == bytes_before
    assert store.complete
    assert store.verify() == []
    assert 0 < len(runs) < whole


def _with_one_byte_changed(path: Path) -> bytes:
    before = path.read_bytes()
    path.write_bytes(before[:-2] + bytes([before[-2] ^ 1]) + before[-1:])
    return before


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("kind", ["acts", "tokens"])
def test_an_altered_shard_is_not_taken_for_done_and_the_named_command_repairs_it(
    model, tmp_path, kind
) -> None:
    from lensbench.errors import DamagedDataError

    store = take(model, tmp_path / "s")
    whole = content(tmp_path / "s")
    path = sorted((tmp_path / "s" / kind).rglob("*.safetensors"))[1]
    _with_one_byte_changed(path)
    with pytest.raises(DamagedDataError, match=r"1 of .* altered") as caught:
        take(model, tmp_path / "s")
    command = re.search(r"rm [^,]+", str(caught.value))
    assert command is not None
    assert command[0] == f"rm {path}"
    with pytest.raises(DamagedDataError, match="altered"):  # also where sites are added
        take(model, tmp_path / "s", ["blocks.1.resid_post", "embed"])
    subprocess.run(shlex.split(command[0]), check=True)
    assert take(model, tmp_path / "s").manifest == store.manifest
    assert content(tmp_path / "s") == whole


@pytest.mark.usefixtures("small_shards")
def test_an_altered_shard_of_an_unfinished_capture_is_named(model, tmp_path) -> None:
    from lensbench.errors import DamagedDataError, StoppedError

    def interrupt(fed: int) -> None:
        if fed > 150:
            raise KeyboardInterrupt

    with pytest.raises(StoppedError):
        take(model, tmp_path, progress=interrupt)
    path = sorted((tmp_path / "acts").rglob("*.safetensors"))[0]
    before = _with_one_byte_changed(path)
    with pytest.raises(DamagedDataError, match=re.escape(f"rm {path}, then the same capture")):
        take(model, tmp_path)
    path.write_bytes(before)
    assert take(model, tmp_path).verify() == []  # control


def test_a_refused_text_leaves_nothing_behind(tmp_path: Path) -> None:
    import lensbench
    from lensbench.errors import ConfigError

    model = lensbench.load_model("atlas-dense", certify=False)
    with pytest.raises(ConfigError, match="the text is empty"):
        lensbench.capture(model, [""], ["embed"], out=tmp_path / "x", bos=False)
    assert not (tmp_path / "x").exists()
    with pytest.raises(ConfigError, match="batch_size"):
        lensbench.capture(model, ["the"], ["embed"], out=tmp_path / "x", batch_size=0)
    assert not (tmp_path / "x").exists()
