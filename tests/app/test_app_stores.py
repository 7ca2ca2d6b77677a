"""Stores: facts, shards, checksums and rows, each beside what is really on disk."""

import hashlib
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
    table = page.dataframe[0].value
    assert table["site"].tolist() == list(store.sites)
    assert table["shape"].tolist() == [str(store.width(site)) for site in store.sites]
    assert set(table["numbers"]) == {store.dtype}


def test_a_store_that_is_not_there_is_said(monkeypatch, small_root: Path) -> None:
    page = open_page(monkeypatch, small_root, "stores", store="../../etc")
    assert "'../../etc'" in page.warning[0].value
    assert not page.exception


def test_shards_are_listed_and_checksums_verified(monkeypatch, copy: Path) -> None:
    page = open_page(monkeypatch, copy, "stores", store="acts", part="Shards")
    assert set(page.dataframe[0].value["state"]) == {"complete"}
    first = page.dataframe[1].value.iloc[0]
    body = (copy / "acts" / first["file"]).read_bytes()
    assert first["sha256"] == hashlib.sha256(body).hexdigest()
    numbers = [int(n) for n in page.dataframe[0].value["shard"]]
    page.selectbox(key="shard").set_value(numbers[-1]).run()
    last = page.dataframe[1].value.iloc[0]
    assert (last["file"] == first["file"]) == (len(numbers) == 1)
    body = (copy / "acts" / last["file"]).read_bytes()
    assert last["sha256"] == hashlib.sha256(body).hexdigest()
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


def test_a_row_that_is_ticked_opens_its_store_and_buttons_lead_on(
    monkeypatch, small_root: Path
) -> None:
    page = open_page(monkeypatch, small_root, "stores", store="acts")
    assert {b.key for b in page.button} >= {"next-train", "next-lens", "next-token"}
    page.button(key="next-train").click().run()
    assert (page.title[0].value, page.selectbox(key="store").value) == ("Train", "acts")


def test_the_sequence_around_a_row_is_the_stored_one(small_root: Path) -> None:
    from lensbench.app.workflows.shards import around
    from lensbench.store import open_store

    store = open_store(small_root / "acts")
    index = store.index()
    for row in (0, 7, store.n_tokens - 1):
        found = around(small_root / "acts", row)
        assert found.rows[found.focus] == row
        assert found.token_id == index.token_ids[row]
        assert found.document == index.doc_ids[row]
        assert len(found.words) == len(found.rows)
        same = [r for r in found.rows if r >= 0]
        assert same == list(range(same[0], same[-1] + 1))


def test_a_long_sequence_is_shown_in_part_and_that_is_said(small_root, monkeypatch) -> None:
    from lensbench.app.workflows import shards

    whole = shards.around(small_root / "acts", 5)
    monkeypatch.setattr(shards, "SHOWN", 4)
    part = shards.around(small_root / "acts", 5)
    assert len(part.words) == 4
    assert part.words[part.focus] == whole.words[whole.focus]
    assert f"{len(whole.words) - 4} tokens" in part.left
    assert not whole.left


def test_the_row_of_the_strip_is_part_of_the_address(monkeypatch, small_root: Path) -> None:
    page = open_page(monkeypatch, small_root, "stores", store="acts", part="Rows", row="3")
    assert page.number_input(key="row").value == 3
    assert "Row 3" in words(page).replace("\\", "")
    page.button(key="follow").click().run()
    assert page.title[0].value.startswith("Token")
    assert page.query_params["row"] in ("3", ["3"])


def test_a_big_store_is_verified_by_a_job(monkeypatch, copy: Path) -> None:
    from lensbench.app.widgets import store_work
    from lensbench.app.workflows import detached, jobs

    monkeypatch.setattr(store_work, "BIG", 1)
    monkeypatch.setattr(detached, "start", lambda *_, **__: None)
    page = open_page(monkeypatch, copy, "stores", store="acts", part="Shards")
    page.button(key="verify").click().run()
    [job] = jobs.all_jobs(copy)
    assert (job.kind, job.settings) == ("verify", {"store": str(copy / "acts")})
    assert "Verify: acts" in words(page).replace("\\", "")
    page.button(key="verify").click().run()
    assert "going on already" in page.error[0].value.replace("\\", "")


def test_a_store_is_removed_only_when_it_is_confirmed(monkeypatch, copy: Path) -> None:
    page = open_page(monkeypatch, copy, "stores", store="acts")
    assert "would be gone for good" in words(page)
    assert (copy / "acts").is_dir()
    page.button(key="remove-sure").click().run()
    assert not (copy / "acts").exists()
    assert not page.exception


def test_a_store_that_a_capture_writes_is_not_removed(monkeypatch, copy: Path) -> None:
    from lensbench.app.workflows import detached, jobs

    monkeypatch.setattr(detached, "start", lambda *_, **__: None)
    told = {"model": "atlas-dense", "text": "atlas:9", "out": str(copy / "acts")}
    name = jobs.start(copy, "capture", "acts", told)
    page = open_page(monkeypatch, copy, "stores", store="acts")
    assert "A capture writes this store: queued" in words(page).replace("\\", "")
    page.button(key="remove-sure").click().run()
    assert "stop it first" in page.error[0].value.replace("\\", "")
    assert (copy / "acts" / "manifest.json").is_file()
    page.button(key=f"look-{name}").click().run()
    assert page.title[0].value == "Capture"


def test_a_damaged_store_is_named_and_can_still_be_removed(monkeypatch, copy: Path) -> None:
    (copy / "acts" / "manifest.json").write_text('{"kind": "activation-store"')
    page = open_page(monkeypatch, copy, "stores")
    assert "manifest.json" in " ".join(page.dataframe[0].value["state"])
    page.selectbox(key="store").set_value("acts").run()
    assert not page.exception
    assert "manifest.json" in page.error[0].value.replace("\\", "")
    page.button(key="remove-sure").click().run()
    assert not (copy / "acts").exists()
