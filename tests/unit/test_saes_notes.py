"""Notes on latents: nothing is lost, nothing lands on another dictionary."""

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch


def make(seed: int = 0, d_sae: int = 8, **metadata: Any) -> Any:
    from lensbench.saes import SAE

    gen = torch.Generator().manual_seed(seed)
    return SAE(
        W_enc=torch.randn(4, d_sae, generator=gen),
        b_enc=torch.zeros(d_sae),
        W_dec=torch.randn(d_sae, 4, generator=gen),
        b_dec=torch.zeros(4),
        activation="relu",
        metadata={"name": "mine", **metadata},
    )


@pytest.fixture
def notes(tmp_path: Path) -> Any:
    from lensbench import saes

    return saes.notes(make(), tmp_path / "notes")


def test_what_is_said_is_found_again_and_taken_back(notes: Any, tmp_path: Path) -> None:
    from lensbench import saes

    assert not notes[3]
    assert not notes.path.exists()
    notes.set(3, label="  days\nof the week ", note="also months")
    notes.set(3, starred=True)
    notes.set(1, note="dead?")
    again = saes.notes(make(), tmp_path / "notes")
    assert (again[3].label, again[3].note, again[3].starred) == (
        "days of the week", "also months", True,
    )  # fmt: skip
    assert [n.latent for n in again] == [1, 3]
    again.set(3, label="", note="", starred=False)
    assert [n.latent for n in notes] == [1]
    assert notes.remove(1)
    assert not notes.remove(1)
    assert len(notes) == 0


def test_search_reads_label_and_note_in_any_case_and_stars(notes: Any) -> None:
    notes.set(0, label="Weekdays", starred=True)
    notes.set(1, note="fires on WEEKdays too")
    notes.set(2, label="months")
    assert [n.latent for n in notes.search("weekd")] == [0, 1]
    assert [n.latent for n in notes.search("weekd", starred=True)] == [0]
    assert [n.latent for n in notes.search(starred=False)] == [1, 2]
    assert notes.search("years") == []


def test_notes_never_land_on_another_dictionary(notes: Any, tmp_path: Path) -> None:
    from lensbench import saes
    from lensbench.errors import MismatchError

    notes.set(3, label="days")
    other = saes.notes(make(seed=1), tmp_path / "notes")  # the same name, trained again
    assert len(other) == 0
    with pytest.raises(MismatchError, match=notes.fingerprint):
        other.read_file(notes.export(tmp_path / "sent.json"))
    # A file that was renamed by hand is refused as well.
    notes.path.rename(other.path)
    with pytest.raises(MismatchError, match="of dictionary"):
        other[3]


def test_a_dictionary_that_was_saved_and_loaded_keeps_its_notes(notes: Any, tmp_path: Path) -> None:
    from lensbench import saes

    notes.set(3, label="days")
    saes.save(make(), tmp_path / "sae")
    loaded = saes.load(tmp_path / "sae")
    assert saes.notes(loaded, tmp_path / "notes")[3].label == "days"


@pytest.mark.parametrize("ending", [".json", ".csv"])
def test_files_bring_back_every_character(notes: Any, tmp_path: Path, ending: str) -> None:
    from lensbench import saes

    notes.set(
        0, label='=1+1, "quoted"; ñ 日本', note="two\nlines\tand a | bar, ␣↵\\n", starred=True
    )
    notes.set(7, note="NA")
    notes.set(5, label="None")
    path = notes.export(tmp_path / f"sent{ending}")
    fresh = saes.notes(make(), tmp_path / "elsewhere")
    told = fresh.read_file(path)
    assert (told.added, told.replaced, told.kept) == (3, 0, 0)
    assert list(fresh) == list(notes)


def test_what_is_here_stays_unless_overwritten(notes: Any, tmp_path: Path) -> None:
    notes.set(0, label="theirs")
    notes.set(1, label="new")
    path = notes.export(tmp_path / "sent.json")
    notes.set(0, label="mine")
    notes.remove(1)
    told = notes.read_file(path)
    assert (told.added, told.kept) == (1, 1)
    assert (notes[0].label, notes[1].label) == ("mine", "new")
    assert notes.read_file(path, overwrite=True).replaced == 2
    assert notes[0].label == "theirs"


def _many(folder: str, start: int) -> None:
    from lensbench import saes

    mine = saes.notes(make(d_sae=400), folder)
    for latent in range(start, start + 40):
        mine.set(latent, label=f"l{latent}")


def test_writers_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from lensbench import saes

    spawn = multiprocessing.get_context("spawn")
    worker = spawn.Process(target=_many, args=(str(tmp_path), 0))
    worker.start()
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda s: _many(str(tmp_path), s), (40, 80, 120)))
    worker.join()
    assert worker.exitcode == 0
    found = saes.notes(make(d_sae=400), tmp_path)
    assert [n.label for n in found] == [f"l{i}" for i in range(160)]
    assert not list(tmp_path.glob("*.tmp"))


def test_bad_input_is_refused_and_changes_nothing(notes: Any, tmp_path: Path) -> None:
    from lensbench import saes
    from lensbench.errors import ConfigError, DamagedDataError, MissingDataError

    notes.set(2, label="kept")
    for latent in (8, -1, "2", 1.5, True):
        with pytest.raises(ConfigError, match="run from 0 to 7"):
            notes.set(latent, label="x")
    with pytest.raises(ConfigError, match="at most 120"):
        notes.set(1, label="x" * 121)
    with pytest.raises(ConfigError, match="True or False"):
        notes.set(1, starred="yes")
    with pytest.raises(ConfigError, match="folder=DIR"):
        saes.notes(make())
    with pytest.raises(ConfigError, match="got a str"):
        saes.notes("run")
    with pytest.raises(ConfigError, match="notes are files that end"):
        notes.export(tmp_path / "notes.txt")
    with pytest.raises(MissingDataError):
        notes.read_file(tmp_path / "absent.csv")
    bad = tmp_path / "bad.csv"
    for text, why in (
        ("latent,label\n1,x\n", "lacks the columns fingerprint"),
        ("fingerprint,latent\nabc,x\n", "line 2"),
        ("fingerprint,latent,label\n,1,x\n", "without the fingerprint"),
        ("fingerprint,latent,label\nabc,1\n", "not one value per column"),
    ):
        bad.write_text(text)
        with pytest.raises(DamagedDataError, match=why):
            notes.read_file(bad)
    bad = tmp_path / "bad.json"
    for tree in ({}, {"kind": "latent-notes", "schema": 1}, {"kind": "latent-notes", "schema": 1,
                 "fingerprint": notes.fingerprint,
                                        "notes": [{"latent": 1, "label": 3}]}):  # fmt: skip
        bad.write_text(json.dumps(tree))
        with pytest.raises(DamagedDataError):
            notes.read_file(bad)
    twice = [{"latent": 1, "label": "a"}, {"latent": 1, "label": "b"}]
    bad.write_text(json.dumps({"kind": "latent-notes", "schema": 1,
                               "fingerprint": notes.fingerprint, "notes": twice}))  # fmt: skip
    with pytest.raises(ConfigError, match="twice"):
        notes.read_file(bad)
    assert [(n.latent, n.label) for n in notes] == [(2, "kept")]


def test_the_notes_of_a_run_lie_beside_it(tmp_path: Path) -> None:
    from lensbench import saes
    from lensbench.saes import SAERun

    run = SAERun.of(make(), name="mine", site="blocks.0.resid_post", status="finished",
                    folder=str(tmp_path / "run" / "mine"))  # fmt: skip
    found = saes.notes(run)
    found.set(1, starred=True)
    assert found.path.parent == tmp_path / "run" / "notes"
    frame = found.to_frame()
    assert frame["dictionary"].tolist() == ["mine"]
    assert frame["fingerprint"].tolist() == [found.fingerprint]
