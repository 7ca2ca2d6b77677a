"""Stores: facts, shards, checksums and rows, each beside what is really on disk."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.app.driver import open_page, words

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def copy(small_root: Path, tmp_path: Path) -> Path:
    shutil.copytree(small_root / "acts", tmp_path / "acts")
    return tmp_path


def shard(root: Path) -> Path:
    return sorted((root / "acts" / "acts").rglob("*.safetensors"))[0]


def test_an_empty_folder_says_how_to_capture(monkeypatch, tmp_path: Path) -> None:
    assert "lensbench capture" in words(open_page(monkeypatch, tmp_path, "stores"))


def test_the_list_comes_before_a_choice(monkeypatch, small_root: Path) -> None:
    page = open_page(monkeypatch, small_root, "stores")
    assert page.selectbox(key="store").value is None
    assert page.dataframe[0].value["store"].tolist() == ["acts"]


def test_the_address_opens_a_store_and_shows_its_numbers(monkeypatch, small_root: Path) -> None:
    from lensbench.store import open_store

    store = open_store(small_root / "acts")
    page = open_page(monkeypatch, small_root, "stores", store="acts")
    shown = {m.label: m.value for m in page.metric}
    assert shown["tokens"] == f"{store.n_tokens:,}"
    assert shown["documents"] == f"{store.n_docs:,}"
    assert page.dataframe[0].value["site"].tolist() == list(store.sites)


def test_a_store_that_is_not_there_is_said(monkeypatch, small_root: Path) -> None:
    page = open_page(monkeypatch, small_root, "stores", store="../../etc")
    assert "'../../etc'" in page.warning[0].value
    assert not page.exception


def test_shards_are_listed_and_checksums_verified(monkeypatch, copy: Path) -> None:
    page = open_page(monkeypatch, copy, "stores", store="acts", part="Shards")
    assert set(page.dataframe[0].value["state"]) == {"complete"}
    page.button(key="verify").click().run()
    assert "sha256" in page.success[0].value


def test_one_changed_byte_is_found_and_named(monkeypatch, copy: Path) -> None:
    path = shard(copy)
    body = bytearray(path.read_bytes())
    body[-1] ^= 1
    path.write_bytes(bytes(body))
    page = open_page(monkeypatch, copy, "stores", store="acts", part="Shards")
    page.button(key="verify").click().run()
    assert not page.success
    assert path.stem in page.error[0].value


def test_a_file_that_is_gone_is_named_in_its_row(monkeypatch, copy: Path) -> None:
    shard(copy).unlink()
    page = open_page(monkeypatch, copy, "stores", store="acts", part="Shards")
    assert "missing or cut" in " ".join(page.dataframe[0].value["state"])


def test_rows_carry_the_very_tokens_of_the_store(monkeypatch, small_root: Path) -> None:
    from lensbench.app.workflows.models import open_model
    from lensbench.store import open_store

    page = open_page(monkeypatch, small_root, "stores", store="acts", part="Rows")
    assert not page.exception
    assert not page.error
    shown = page.dataframe[0].value
    store, tokenizer = open_store(small_root / "acts"), open_model("atlas-dense").tokenizer
    index = store.index()
    for row in shown.itertuples():
        assert index.token_ids[row.row] == row.token_id
        assert tokenizer.convert_ids_to_tokens(int(row.token_id)) == row.token
        vector = store.rows(store.sites[0], [row.row])[0].astype(np.float64)
        assert row.norm == pytest.approx(np.linalg.norm(vector), rel=1e-5)
    assert any("[BOS]" in before for before in shown["before"])


def test_the_controls_of_rows_do_what_they_say(monkeypatch, small_root: Path) -> None:
    page = open_page(monkeypatch, small_root, "stores", store="acts", part="Rows")
    first = page.dataframe[0].value["row"].tolist()
    page.number_input(key="seed").set_value(1).run()
    assert page.dataframe[0].value["row"].tolist() != first
    page.number_input(key="n").set_value(5).run()
    assert len(page.dataframe[0].value) == 5
    page.number_input(key="seed").set_value(0).run()
    page.number_input(key="n").set_value(20).run()
    assert page.dataframe[0].value["row"].tolist() == first


def test_a_store_deleted_while_its_page_is_open_is_said(monkeypatch, copy: Path) -> None:
    page = open_page(monkeypatch, copy, "stores", store="acts", part="Rows")
    assert not page.error
    shutil.rmtree(copy / "acts")
    page.run()
    assert not page.exception
    said = " ".join(str(e.value) for e in [*page.error, *page.warning])
    assert "acts" in said


def test_the_manifest_is_shown_without_its_list_of_shards(monkeypatch, small_root: Path) -> None:
    page = open_page(monkeypatch, small_root, "stores", store="acts", part="Manifest")
    assert "fingerprint" in page.json[0].value
    assert '"shards"' not in page.json[0].value
