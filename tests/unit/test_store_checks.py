"""Checks of a store count again; what the manifest says is not believed."""

import json

import numpy as np
import pytest

from tests.store_builder import SITE, build, numbered

SIZES = (6, 6, 5)


@pytest.fixture
def store(tmp_path):
    return build(tmp_path / "s", {SITE: numbered(17)}, SIZES)


def change(folder, edit) -> None:
    """Edit ``manifest.json`` as somebody with a text editor would."""
    path = folder / "manifest.json"
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("key", "by"),
    [("rows", 1), ("rows", -1), ("sequences", 1), ("documents", 1), ("first_doc", -1),
     ("last_doc", 1)],
)  # fmt: skip
def test_counts_of_a_shard_are_counted_again(store, tmp_path, key, by) -> None:
    from lensbench.store import open_store

    assert store.verify() == []

    def edit(document) -> None:
        document["shards"][1][key] += by
        document["n_tokens"] += by * (key == "rows")
        document["n_docs"] += by * (key == "documents")

    change(tmp_path / "s", edit)
    found = open_store(tmp_path / "s").verify()
    right = {"rows": 6, "sequences": 3, "documents": 3, "first_doc": 3, "last_doc": 5}[key]
    assert found, "believed"
    told = f"tokens/b00000001.safetensors holds {key} {right}, the manifest says {right + by}"
    assert any(told in line for line in found)
    assert not any("b00000000" in line or "b00000002" in line for line in found)


@pytest.mark.usefixtures("store")
def test_rows_are_refused_where_the_manifest_counts_others(tmp_path) -> None:
    from lensbench.errors import DamagedDataError
    from lensbench.store import open_store

    change(tmp_path / "s", lambda d: d["shards"][1].update(rows=7))
    with pytest.raises(DamagedDataError, match=r"b00000001.*holds \[6, 3\] rows.*says \[7, 3\]"):
        open_store(tmp_path / "s").rows(SITE, [7])
    with pytest.raises(DamagedDataError, match="store verify"):
        open_store(tmp_path / "s").index()
    assert np.array_equal(open_store(tmp_path / "s").rows(SITE, [5]), numbered(17)[[5]])  # control


@pytest.mark.usefixtures("store")
def test_totals_and_a_dropped_shard_are_noticed(tmp_path) -> None:
    from lensbench.store import open_store

    change(tmp_path / "s", lambda d: d.update(n_tokens=99))
    assert "says n_tokens = 99, its shards have 17" in open_store(tmp_path / "s").verify()[0]

    def drop(document) -> None:
        del document["shards"][-1]
        document.update(n_tokens=12, n_docs=6)

    change(tmp_path / "s", drop)
    assert "does not list the shards" in open_store(tmp_path / "s").verify()[0]
    change(tmp_path / "s", lambda d: d["shards"].pop(0) and d.update(n_tokens=6, n_docs=3))
    assert "batch 0 is missing" in "".join(open_store(tmp_path / "s").verify())


@pytest.mark.usefixtures("store")
def test_activations_of_another_height_are_named(tmp_path) -> None:
    from lensbench import io
    from lensbench.store import open_store

    other = build(tmp_path / "o", {SITE: numbered(17)}, (5, 6, 6))
    name = f"acts/{SITE}/b00000000.safetensors"
    (tmp_path / "s" / name).write_bytes((tmp_path / "o" / name).read_bytes())
    assert other.verify() == []

    def edit(document) -> None:  # the checksum is made to agree
        path = tmp_path / "s" / name
        entry = [name, path.stat().st_size, io.sha256_file(path)]
        document["shards"][0]["files"][SITE] = entry

    change(tmp_path / "s", edit)
    found = open_store(tmp_path / "s").verify()
    assert len(found) == 1
    assert f"{name} holds [5, 3] numbers, tokens and manifest say [6, 3]" in found[0]
