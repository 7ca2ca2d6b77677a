"""The latent store: equal to the dictionary's own codes, resumable, and never another store's."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.splice_helpers import random_sae
from tests.store_builder import SITE, build

D, F = 12, 40


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(90, D)).astype(np.float32)


@pytest.fixture
def store(tmp_path: Path, values: np.ndarray) -> Any:
    return build(tmp_path / "acts", {SITE: values}, [40, 11, 39])


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several latent shards per shard of activations, several blocks per latent shard."""
    from lensbench.saes.latents import encoding

    monkeypatch.setattr(encoding, "ROWS", 16)
    monkeypatch.setattr(encoding, "_BLOCK", 7)


def _sae(**changes: Any) -> Any:
    return random_sae(SITE, D, F, **({"seed": 1} | changes))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("activation", ["topk", "relu", "threshold"])
def test_rows_columns_and_slices_are_the_dictionarys_codes(
    store: Any, values: np.ndarray, activation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensbench import saes
    from lensbench.saes.latents import store as reader

    extra = {"threshold": torch.full((F,), 0.3)} if activation == "threshold" else {}
    sae = _sae(activation=activation, **extra)
    monkeypatch.setattr(reader, "_OPEN_SHARDS", 2)
    latents = saes.encode_store(sae, store)
    codes = sae.encode(torch.from_numpy(values)).numpy()
    assert (latents.n_tokens, latents.d_sae, latents.nnz) == (90, F, int((codes != 0).sum()))
    assert latents.complete
    np.testing.assert_allclose(latents.dense(slice(None)), codes, rtol=0, atol=1e-6)
    order = [89, 0, 41, 41, 7]
    np.testing.assert_allclose(latents.dense(order, [5, 2]), codes[order][:, [5, 2]], atol=1e-6)
    np.testing.assert_allclose(latents.rows(order).toarray(), codes[order], atol=1e-6)
    for row in (0, 15, 16, 40, 89):
        which, strength = latents.row(row)
        assert sorted(which) == np.flatnonzero(codes[row]).tolist()
        assert np.array_equal(np.sort(strength)[::-1], strength)
        np.testing.assert_allclose(strength, codes[row][which], atol=1e-6)
    for latent in (0, 17, 39):
        rows, strength = latents.column(latent)
        assert rows.tolist() == np.flatnonzero(codes[:, latent]).tolist()
        np.testing.assert_allclose(strength, codes[rows, latent], atol=1e-6)
    np.testing.assert_allclose(latents.density(), (codes != 0).mean(0))
    other = _sae(seed=2).encode(torch.from_numpy(values)).numpy()  # control: another dictionary
    assert float(np.abs(latents.dense(slice(None)) - other).max()) > 0.1


@pytest.mark.usefixtures("small")
def test_tokens_positions_and_documents_are_those_of_the_store(store: Any) -> None:
    from lensbench import saes

    latents, index = saes.encode_store(_sae(), store), store.index()
    mine = latents.index()
    for name in ("token_ids", "positions", "doc_ids"):
        assert np.array_equal(getattr(mine, name), getattr(index, name))
        assert getattr(mine, name).dtype == getattr(index, name).dtype
    row = 77
    expected = (index.token_ids[row], index.positions[row], index.doc_ids[row])
    assert tuple(latents.token(row).values()) == expected
    frame = latents.to_frame([row, 3])
    assert frame["row"].tolist() == [row] * 5 + [3] * 5
    assert set(frame["token_id"]) == {index.token_ids[row], index.token_ids[3]}
    assert frame.attrs["units"]["value"]
    assert sorted(frame["latent"][:5]) == sorted(latents.row(row)[0].tolist())


@pytest.mark.usefixtures("small")
def test_an_interrupted_encoding_goes_on_and_gives_the_same_bytes(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensbench import saes
    from lensbench.saes.latents import encoding

    whole = saes.encode_store(_sae(), store, out=tmp_path / "whole")
    real, calls = encoding._write, []

    def cut(*args: Any) -> Any:
        calls.append(args[1])
        if len(calls) > 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(encoding, "_write", cut)
    with pytest.raises(KeyboardInterrupt):
        saes.encode_store(_sae(), store, out=tmp_path / "cut")
    half = saes.open_latents(tmp_path / "cut")
    assert (half.n_tokens, half.complete) == (40, False)
    np.testing.assert_array_equal(half.dense([0, 39]), whole.dense([0, 39]))
    monkeypatch.setattr(encoding, "_write", real)
    seen: list[int] = []
    again = saes.encode_store(_sae(), store, out=tmp_path / "cut", progress=seen.append)
    assert seen == [51, 67, 83, 90]  # only what was missing
    assert again.manifest == whole.manifest
    for path in (tmp_path / "whole").rglob("*"):
        if path.is_file() and path.name != ".lock":
            there = tmp_path / "cut" / path.relative_to(tmp_path / "whole")
            assert there.read_bytes() == path.read_bytes(), path
    seen.clear()
    saes.encode_store(_sae(), store, out=tmp_path / "cut", progress=seen.append)
    assert seen == []


@pytest.mark.usefixtures("small")
def test_ctrl_c_stops_between_two_shards_and_says_where(store: Any, tmp_path: Path) -> None:
    import os
    import signal

    from lensbench import saes
    from lensbench.errors import StoppedError

    def interrupt(rows: int) -> None:
        if rows == 32:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(StoppedError, match=r"finished shards are in .*latents"):
        saes.encode_store(_sae(), store, out=tmp_path / "latents", progress=interrupt)
    half = saes.open_latents(tmp_path / "latents")
    assert (half.n_tokens, half.complete, half.verify()) == (32, False, [])


def test_a_store_that_grew_is_encoded_on(tmp_path: Path, values: np.ndarray) -> None:
    from lensbench import saes

    young = build(tmp_path / "acts", {SITE: values}, [40, 50], skip=[1], done=False)
    first = saes.encode_store(_sae(), young)
    assert (first.n_tokens, first.complete) == (40, False)
    grown = build(tmp_path / "acts", {SITE: values}, [40, 50])
    seen: list[int] = []
    second = saes.encode_store(_sae(), grown, progress=seen.append)
    assert (second.n_tokens, second.complete, seen) == (90, True, [90])
    first.refresh()
    assert first.n_tokens == 90


def test_another_dictionary_store_or_type_is_refused(
    store: Any, tmp_path: Path, values: np.ndarray
) -> None:
    from lensbench import saes
    from lensbench.errors import MismatchError, MissingDataError

    latents = saes.encode_store(_sae(), store, out=tmp_path / "latents")
    again = {"out": tmp_path / "latents"}
    with pytest.raises(MismatchError, match="dictionary fingerprint"):
        saes.encode_store(_sae(seed=2), store, **again)
    with pytest.raises(MismatchError, match="type dtype"):
        saes.encode_store(_sae(), store, dtype="float16", **again)
    moved = build(tmp_path / "moved", {SITE: values + 1}, [40, 11, 39])
    with pytest.raises(MismatchError, match="another state of the activation store"):
        saes.encode_store(_sae(), moved, **again)
    with pytest.raises(MismatchError, match=r"shard 0 of .*moved is not the one"):
        latents.check_store(moved)
    latents.check_store(store)  # control: its own
    fewer = build(tmp_path / "fewer", {SITE: values[:40]}, [40])
    with pytest.raises(MismatchError, match="another state"):
        saes.encode_store(_sae(), fewer, **again)
    with pytest.raises(MismatchError, match="reads vectors of 10, but"):
        saes.encode_store(random_sae(SITE, 10), store)
    elsewhere = random_sae("blocks.3.resid_post", D)
    with pytest.raises(MissingDataError, match=r"lacks blocks\.3\.resid_post"):
        saes.encode_store(elsewhere, store)
    foreign = _sae(metadata={"site": SITE, "model": {"name": "x", "fingerprint": "m1"}})
    with pytest.raises(MismatchError, match="another model"):
        saes.encode_store(foreign, store)


def test_damage_and_wrong_numbers_are_named(store: Any, tmp_path: Path) -> None:
    from lensbench import saes
    from lensbench.errors import ConfigError, DamagedDataError, MissingDataError, NonFiniteError

    latents = saes.encode_store(_sae(), store, out=tmp_path / "latents")
    for call, match in (
        (lambda: latents.row(90), "rows run from 0 to 89; got 90"),
        (lambda: latents.column(F), "latents run from 0 to 39; got 40"),
        (lambda: latents.dense([0], [-1]), "latents run from 0 to 39; got -1"),
        (lambda: saes.encode_store(_sae(), store, dtype="int8"), "float32 or float16"),
        (lambda: saes.open_latents(tmp_path / "latents", check="md5"), "'sha256' or 'size'"),
    ):
        with pytest.raises(ConfigError, match=match):
            call()
    with pytest.raises(MissingDataError, match=r"no latent store in .*lensbench encode"):
        saes.open_latents(tmp_path / "nothing")
    with pytest.raises(DamagedDataError, match="not the manifest of a latent store"):
        saes.open_latents(store.url)
    huge = _sae(b_enc=torch.full((F,), 1e6))
    with pytest.raises(NonFiniteError, match="too large for float16"):
        saes.encode_store(huge, store, out=tmp_path / "huge", dtype="float16")
    assert latents.verify() == []
    path = tmp_path / "latents/latents/b00000001-0000.safetensors"
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    fresh = saes.open_latents(tmp_path / "latents")
    assert len(fresh.row(0)[0]) == 5
    with pytest.raises(DamagedDataError, match=r"b00000001-0000.*was altered"):
        fresh.row(45)
    assert len(fresh.verify()) == 1
    path.unlink()
    saes.encode_store(_sae(), store, out=tmp_path / "latents")
    assert saes.open_latents(tmp_path / "latents").verify() == []


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("key", "by"), [("rows", 1), ("rows", -1), ("nnz", 3)])
def test_counts_are_compared_with_what_the_files_hold(
    store: Any, tmp_path: Path, key: str, by: int
) -> None:
    from lensbench import saes
    from lensbench.errors import DamagedDataError

    assert saes.encode_store(_sae(), store, out=tmp_path / "latents").verify() == []
    path = tmp_path / "latents/manifest.json"
    document = json.loads(path.read_text())
    number = 6  # the last, so that no shard behind it loses its place
    right = document["shards"][number][key]
    document["shards"][number][key] += by
    total = {"rows": "n_tokens", "nnz": "nnz"}[key]
    document[total] += by
    path.write_text(json.dumps(document))
    changed = saes.open_latents(tmp_path / "latents")
    found = changed.verify()
    assert len(found) == 1, found
    assert f"holds {key} {right}, the manifest says {right + by}" in found[0]
    assert "b00000002-0002" in found[0]
    with pytest.raises(DamagedDataError, match=f"holds {key} {right}"):
        changed.row(85)
    assert len(changed.row(45)[0]) == 5  # control: the others are read
    document[total] += 1
    path.write_text(json.dumps(document))
    assert f"says {total} = " in saes.open_latents(tmp_path / "latents").verify()[0]


@pytest.mark.usefixtures("small")
def test_a_store_that_lost_a_shard_is_not_sound(store: Any, tmp_path: Path) -> None:
    from lensbench import saes

    saes.encode_store(_sae(), store, out=tmp_path / "latents")
    path = tmp_path / "latents/manifest.json"
    document = json.loads(path.read_text())
    gone = document["shards"].pop(2)
    document["n_tokens"] -= gone["rows"]
    document["nnz"] -= gone["nnz"]
    path.write_text(json.dumps(document))
    found = saes.open_latents(tmp_path / "latents").verify()
    assert len(found) == 1
    assert "complete, but row 32 is missing" in found[0]


@pytest.mark.usefixtures("small")
def test_an_altered_shard_of_the_right_size_is_encoded_again(store: Any, tmp_path: Path) -> None:
    from lensbench import saes

    saes.encode_store(_sae(), store, out=tmp_path / "latents")
    path = tmp_path / "latents/latents/b00000001-0000.safetensors"
    right = path.read_bytes()
    path.write_bytes(right[:-9] + bytes([right[-9] ^ 1]) + right[-8:])
    seen: list[int] = []
    again = saes.encode_store(_sae(), store, out=tmp_path / "latents", progress=seen.append)
    assert seen == [51]  # that shard alone
    assert path.read_bytes() == right
    assert again.verify() == []
    saes.encode_store(_sae(), store, out=tmp_path / "latents", progress=seen.append)
    assert seen == [51]


@pytest.mark.usefixtures("small")
def test_store_verify_takes_a_latent_store_too(
    store: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lensbench.app.cli import main

    saes_folder = tmp_path / "latents"
    from lensbench import saes

    saes.encode_store(_sae(), store, out=saes_folder)
    said: list[str] = []
    for folder in (saes_folder, Path(store.url)):
        assert main(["store", "verify", str(folder)]) == 0
        said.append(capsys.readouterr().out)
    assert all("sound" in text for text in said)
    assert "7" in said[0]
    path = saes_folder / "latents/b00000001-0000.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert main(["store", "verify", str(saes_folder)]) == 3
    assert "b00000001-0000.safetensors is truncated" in capsys.readouterr().err


def test_latents_lie_beside_the_store_and_any_url_will_do(store: Any) -> None:
    from lensbench import saes

    named = _sae(metadata={"site": SITE, "name": "layer_1/width_40"})
    latents = saes.encode_store(saes.Dictionary("layer_1/width_40", SITE, named), store)
    assert latents.url == f"{store.url}.latents/layer_1-width_40"
    there = saes.encode_store(named, store, out="memory://latents/one")
    np.testing.assert_array_equal(there.dense(slice(None)), latents.dense(slice(None)))
    files = [Path(latents.url) / s["file"][0] for s in latents.manifest["shards"]]
    from safetensors.numpy import load_file

    arrays = load_file(files[0])
    assert {k: str(v.dtype) for k, v in arrays.items()} == {
        "doc_ids": "int64",
        "indices": "int32",
        "indptr": "int64",
        "positions": "int32",
        "token_ids": "int32",
        "values": "float32",
    }
    assert json.loads((Path(latents.url) / "manifest.json").read_text())["n_tokens"] == 90


def test_one_token_is_read_quickly_without_model_or_dictionary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """40 000 rows here; the page asks for less than 50 ms at 250 000."""
    from lensbench import saes
    from lensbench.saes.sae import SAE

    rows = np.random.default_rng(1).normal(size=(40_000, D)).astype(np.float32)
    store = build(tmp_path / "acts", {SITE: rows}, [20_000, 20_000])
    folder = saes.encode_store(_sae(), store).url

    def never(*_: Any) -> None:
        raise AssertionError("encoded again")

    monkeypatch.setattr(SAE, "encode_sparse", never)
    best = np.inf
    for row in (31_234, 5, 17_000):
        start = time.perf_counter()
        which, _ = saes.open_latents(folder).row(row)
        best = min(best, time.perf_counter() - start)
        assert len(which) == 5
    assert best < 0.5


def test_a_latent_store_is_not_listed_among_activation_stores(store: Any, tmp_path: Path) -> None:
    from lensbench import saes
    from lensbench.app.workflows.stores import find_stores

    latents = saes.encode_store(random_sae(SITE, D, F, seed=1), store, out=tmp_path / "latents")
    assert (tmp_path / "latents" / "manifest.json").is_file()
    assert latents.n_tokens == store.n_tokens
    assert find_stores(tmp_path) == [Path(store.url)]
