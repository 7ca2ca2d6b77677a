"""The store: what is written is read, what is damaged is named, what is missing is refused."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.store_builder import SITE, build, manifest, numbered, shard_tokens

OTHER = "blocks.1.resid_post"


@pytest.fixture
def store(tmp_path):
    return build(tmp_path / "s", {SITE: numbered(20), OTHER: -numbered(20, 5)}, [7, 1, 12])


def shard_file(store, batch=1, site=SITE):
    return store._folder.path / f"acts/{site}/b{batch:08d}.safetensors"


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_rows_come_back_as_written_in_every_type(tmp_path, dtype) -> None:
    values = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    store = build(tmp_path, {SITE: values}, [7, 1, 12], dtype=dtype)
    order = np.array([19, 0, 7, 7, 8, 3])
    rounded = torch.from_numpy(values).to(getattr(torch, dtype)).float().numpy()
    assert np.array_equal(store.rows(SITE, order), rounded[order])
    assert np.array_equal(store.rows(SITE, slice(2, 5)), rounded[2:5])
    assert store.rows(SITE, order).dtype == np.float32
    assert store.complete
    assert store.verify() == []


def test_files_are_ordinary_safetensors(store) -> None:
    from safetensors.numpy import load_file

    assert np.array_equal(load_file(shard_file(store, 2))["acts"], numbered(20)[8:])


def test_index_names_token_position_and_document_of_every_row(store) -> None:
    index = store.index()
    expected = [shard_tokens(7, 0), shard_tokens(1, 4), shard_tokens(12, 5)]
    assert np.array_equal(index.token_ids, np.concatenate([t.ids[t.kept] for t in expected]))
    assert np.array_equal(index.doc_ids, np.concatenate([t.docs[t.kept] for t in expected]))
    assert index.positions.tolist() == [0, 2, 0, 2, 0, 2, 0] + [0] + [0, 2] * 6
    assert (index.token_ids.dtype, index.positions.dtype) == (np.int32, np.int32)
    assert (store.n_tokens, store.n_docs) == (20, 11)


def test_sequences_hold_the_whole_text_and_point_to_its_rows(store) -> None:
    batches = list(store.sequences())
    rows = np.concatenate([b.rows.reshape(-1) for b in batches])
    assert rows[rows >= 0].tolist() == list(range(20))
    assert all(b.rows[:, 1].tolist() == [-1] * len(b.rows) for b in batches)  # never kept
    index = store.index()
    for batch in batches:
        kept = batch.rows >= 0
        ids = batch.tokens.ids.numpy()
        assert np.array_equal(index.token_ids[batch.rows[kept]], ids[kept])
        assert np.array_equal(index.doc_ids[batch.rows[kept]], batch.doc_ids[kept])
    assert sum(b.tokens.n_rows for b in store.sequences(5)) == 11


def test_an_altered_byte_is_found_by_checksum(store, tmp_path) -> None:
    from lensbench.errors import DamagedDataError
    from lensbench.store import open_store

    path = shard_file(store)
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    found = open_store(tmp_path / "s").verify()
    assert len(found) == 1
    assert str(path) in found[0]
    assert "sha256" in found[0]
    with pytest.raises(DamagedDataError, match=r"b00000001\.safetensors was altered: sha256"):
        open_store(tmp_path / "s").rows(SITE, [7])
    untouched = open_store(tmp_path / "s")
    assert np.array_equal(untouched.rows(SITE, [6, 8]), numbered(20)[[6, 8]])
    open_store(tmp_path / "s", check="size").rows(SITE, [7])  # control: only sha256 sees it


def test_a_truncated_shard_is_named(store, tmp_path) -> None:
    from lensbench.errors import DamagedDataError
    from lensbench.store import open_store

    path = shard_file(store, 2, OTHER)
    path.write_bytes(path.read_bytes()[:-8])
    for check in ("size", "sha256"):
        with pytest.raises(DamagedDataError, match=r"b00000002\.safetensors is truncated"):
            open_store(tmp_path / "s", check=check).rows(OTHER, [19])
    path.unlink()
    assert "no file" in open_store(tmp_path / "s").verify()[0]


def test_a_missing_site_is_refused_with_the_command_that_adds_it(store, tmp_path) -> None:
    from lensbench.errors import MissingDataError

    with pytest.raises(MissingDataError) as caught:
        store.require([SITE, "blocks.3.resid_post", "embed"])
    call = "lensbench.capture(model, texts, ['blocks.3.resid_post', 'embed'], out="
    assert f"{call}'{tmp_path / 's'}', layout='pad', batch_size=2, dtype='float32')" in str(
        caught.value
    )
    store.require([SITE, OTHER, "blocks.0.hook_resid_post"])
    with pytest.raises(MissingDataError):
        store.source("blocks.3.resid_post")
    with pytest.raises(MissingDataError):
        store.rows("embed", [0])


@pytest.mark.parametrize(
    ("text", "settings", "line"),
    [
        (
            {"path": "my text.txt"},
            {"layout": "pack", "context": 128},
            "--text 'my text.txt' --sites embed --out s",
        ),
        (
            {"name": "atlas:2:train:1"},
            {"layout": "pad", "context": 64, "max_tokens": 9},
            "--text atlas:2:train:1 --sites embed --layout pad --context 64 --max-tokens 9 --out s",
        ),
        (
            {"path": "a.txt"},
            {"bos": False, "positions": {"start": 1, "stop": None, "step": None}},
            "lensbench.capture(model, lensbench.harvest.read_text('a.txt'), ['embed'], out='s', "
            "bos=False, positions=slice(1, None, None))",
        ),
        (
            {"name": "atlas:2", "spec": {"world": "atlas"}},
            {"excluded_ids": [0, 3]},
            "--text atlas:2 --sites embed --exclude 0,3 --out s",
        ),
        (
            {"name": None, "spec": {"world": "atlas"}},
            {"excluded_ids": [0]},
            "lensbench.capture(model, lensbench.worlds.corpora.corpus_from_spec({'world': 'atlas'})"
            ", ['embed'], out='s', exclude_special=[0])",
        ),
    ],
)
def test_the_advice_repeats_the_settings_of_the_store(text, settings, line) -> None:
    from lensbench.store.advice import how_to_add

    model = {"name": "toy", "revision": None}
    prefix = "" if line.startswith("lensbench") else "lensbench capture --model toy "
    assert how_to_add(["embed"], model, text, settings, "s") == prefix + line


def test_the_advice_names_the_model_as_it_was_given() -> None:
    from lensbench.store.advice import how_to_add

    text = {"path": "a.txt"}
    folder = {"name": "toy", "source": "models/toy", "revision": None}
    assert "--model models/toy --text a.txt" in how_to_add(["embed"], folder, text, {}, "s")
    memory = {"name": "LlamaForCausalLM", "source": "", "revision": None}
    assert how_to_add(["embed"], memory, text, {}, "s").startswith("lensbench.capture(model, ")


def test_the_advice_for_a_file_that_was_split_otherwise_is_a_call() -> None:
    from lensbench.store.advice import how_to_add

    text = {"path": "a.txt", "separator": "###"}
    said = how_to_add(["embed"], {"name": "toy", "source": "toy"}, text, {}, "s")
    assert "lensbench.harvest.read_text('a.txt', separator='###')" in said


def test_a_home_folder_is_understood() -> None:
    from pathlib import Path

    from lensbench.store.folder import open_folder

    assert open_folder("~/acts").url == str(Path.home() / "acts")


def test_what_is_no_store_is_refused(tmp_path) -> None:
    from lensbench.errors import ConfigError, DamagedDataError, MissingDataError
    from lensbench.store import open_store

    with pytest.raises(MissingDataError, match=r"no activation store.*lensbench capture"):
        open_store(tmp_path)
    (tmp_path / "manifest.json").write_text('{"kind": "cake"}')
    with pytest.raises(DamagedDataError, match="not the manifest"):
        open_store(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(DamagedDataError, match="not the manifest"):
        open_store(tmp_path)
    (tmp_path / "manifest.json").write_text('{"kind": "activation-store", "schema": 99}')
    with pytest.raises(DamagedDataError, match="schema 99"):
        open_store(tmp_path)
    (tmp_path / "manifest.json").write_text('{"kind": "activation-store", "schema": 1}')
    with pytest.raises(DamagedDataError, match="lacks"):
        open_store(tmp_path)
    with pytest.raises(ConfigError, match="nosuch"):
        open_store("nosuch://bucket/store")


def test_another_model_is_refused(store) -> None:
    from types import SimpleNamespace

    from lensbench.errors import MismatchError

    store.check_model(SimpleNamespace(name="toy", fingerprint="m0"))
    with pytest.raises(MismatchError, match=r"toy \(m0\), not of other \(m1\)"):
        store.check_model(SimpleNamespace(name="other", fingerprint="m1"))


@pytest.mark.parametrize("changed", ["model", "tokenizer", "text", "settings"])
def test_a_store_of_something_else_is_not_continued(changed) -> None:
    from lensbench.errors import MismatchError
    from lensbench.store.writer import compare

    known = manifest()
    compare(known, manifest(), "here")
    key = "layout" if changed == "settings" else "fingerprint"
    other = manifest(**{changed: {**getattr(known, changed), key: "pack"}})
    with pytest.raises(MismatchError, match=f"written with {changed} {key} = .*pack"):
        compare(known, other, "here")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 70000.0])
def test_nan_infinity_and_overflow_are_refused_and_named(tmp_path, bad) -> None:
    from lensbench.errors import NonFiniteError
    from lensbench.store import open_store

    values = numbered(8)
    build(tmp_path / "sound", {SITE: values}, [4, 4], dtype="float16")
    values[6, 1] = bad
    with pytest.raises(NonFiniteError, match=r"blocks\.0\.resid_post is NaN.* document 3, pos"):
        build(tmp_path / "bad", {SITE: values}, [4, 4], dtype="float16")
    assert open_store(tmp_path / "bad").n_tokens == 4  # nothing of the second shard
    if bad == 70000.0:
        assert build(tmp_path / "wide", {SITE: values}, [4, 4], dtype="bfloat16").n_tokens == 8


def test_an_unwritable_folder_is_named(tmp_path) -> None:
    from lensbench.errors import DataError
    from lensbench.store.folder import open_folder
    from lensbench.store.writer import Lock

    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write"):
        build(tmp_path / "file" / "store", {SITE: numbered(2)}, [2])
    with pytest.raises(DataError, match="writable folder"):
        Lock(open_folder(tmp_path / "file" / "store"))


FULL_DISK = """
import resource, signal, sys
from tests.store_builder import SITE, build, numbered
from lensbench.errors import DataError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
try:
    build(sys.argv[1], {SITE: numbered(4000, 4)}, [1000, 3000], dtype="float32")
except DataError as error:
    print(error)
"""


def test_a_disk_that_takes_no_more_leaves_a_readable_store(tmp_path) -> None:
    """A limit on file size stands in for a full disk: write() fails half-way through a shard."""
    from lensbench.store import open_store

    out = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "cannot write" in out.stdout
    assert "b00000001.safetensors" in out.stdout
    store = open_store(tmp_path)
    assert (store.n_tokens, store.complete, store.verify()) == (1000, False, [])
    assert not list(tmp_path.rglob("*.tmp"))


def test_any_fsspec_url_works() -> None:
    store = build("memory://lensbench-test/store", {SITE: numbered(9)}, [4, 5])
    assert store.complete
    assert np.array_equal(store.rows(SITE, [8, 0, 4]), numbered(9)[[8, 0, 4]])
    assert store.verify() == []
    assert next(store.source(SITE, shuffle=False).batches(3))[SITE].numpy().tolist() == (
        numbered(9)[:3].tolist()
    )


def test_a_growing_store_is_readable_and_rows_keep_their_numbers(tmp_path) -> None:
    store = build(tmp_path, {SITE: numbered(9)}, [2, 3, 4], skip=[1], done=False)
    assert (store.n_tokens, store.complete) == (2, False)  # shard 2 has no row numbers yet
    build(tmp_path, {SITE: numbered(9)}, [2, 3, 4], done=False)
    assert store.n_tokens == 2
    store.refresh()
    assert (store.n_tokens, store.complete) == (9, False)
    assert np.array_equal(store.rows(SITE, range(9)), numbered(9))
    assert build(tmp_path, {SITE: numbered(9)}, [2, 3, 4]).complete


def test_a_site_that_lags_behind_is_not_offered(store, tmp_path) -> None:
    path = tmp_path / "s" / "manifest.json"
    document = json.loads(path.read_text())
    del document["shards"][1]["files"][OTHER]
    path.write_text(json.dumps(document))
    store.refresh()
    assert store.sites == (SITE,)


def test_two_writers_of_one_folder_are_refused_and_leavings_swept(tmp_path) -> None:
    from lensbench.errors import DataError
    from lensbench.store.folder import open_folder
    from lensbench.store.writer import Lock

    left = tmp_path / "acts" / ".b0.x.tmp"
    left.parent.mkdir()
    left.write_text("half")
    lock = Lock(open_folder(tmp_path))
    assert not left.exists()
    with pytest.raises(DataError, match="another process is writing"):
        Lock(open_folder(tmp_path))
    lock.free()
    Lock(open_folder(tmp_path)).free()


@pytest.mark.illtyped
def test_rows_and_documents_outside_the_store_are_refused(store) -> None:
    from lensbench.errors import ConfigError

    for rows in ([20], [-1]):
        with pytest.raises(ConfigError, match="rows run from 0 to 19"):
            store.rows(SITE, rows)
    assert store.row_range((0, 4)) == (0, 7)
    assert store.row_range((4, 6)) == (7, 10)
    assert store.row_range((10, 99)) == (18, 20)
    documents = store.index().doc_ids
    a, b = store.row_range((3, 7))
    assert set(documents[a:b]) == {3, 4, 5, 6}
    with pytest.raises(ConfigError, match="check must be"):
        type(store)(store._folder, check="none")


def test_equal_content_gives_equal_bytes(tmp_path) -> None:
    for name in ("a", "b"):
        build(tmp_path / name, {SITE: numbered(9)}, [4, 5])
    files = sorted(
        p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file()
    )
    assert len(files) >= 5
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_check_for_bad_numbers_agrees_with_isfinite_on_every_bit_pattern(dtype) -> None:
    from lensbench.store.shard import first_bad_row

    patterns = np.arange(1 << 16, dtype=np.uint16)
    if dtype is torch.float32:  # the top half decides, whatever the lower half holds
        low = np.random.default_rng(0).integers(0, 1 << 16, patterns.size).astype(np.uint32)
        bits = (patterns.astype(np.uint32) << 16 | low).view(np.int32)
    else:
        bits = patterns.view(np.int16)
    values = torch.from_numpy(bits).view(dtype)
    finite = torch.isfinite(values)
    assert first_bad_row(values[finite][:, None]) is None
    for value in values[~finite][:: 7 if dtype is torch.bfloat16 else 31]:
        block = torch.zeros(9, 3, dtype=dtype)
        block[5, 1] = value
        assert first_bad_row(block) == 5
