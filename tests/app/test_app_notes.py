"""Notes on the Latent page and on the command line: saved at once, searched, sent, brought in."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.app.driver import open_page, words

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def root(small_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_root, tmp_path / "root"))


@pytest.fixture
def name(root: Path) -> str:
    return next(p.name for p in (root / "runs" / "small").iterdir() if "topk-64-k8" in p.name)


def notes_on(root: Path, name: str) -> Any:
    from lensbench import saes

    run = next(r for r in saes.open_runs(root / "runs" / "small") if r.name == name)
    return saes.notes(run)


def field(page: Any, kind: str, ending: str) -> Any:
    return next(w for w in getattr(page, kind) if str(w.key).startswith("note-")
                and str(w.key).endswith(ending))  # fmt: skip


def command(*args: str) -> tuple[int, dict[str, Any]]:
    import contextlib
    import io

    from lensbench.app.cli.main import main

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main([*args, "--json"])
    return code, json.loads(out.getvalue())


def test_what_is_typed_is_on_disk_at_once_and_in_the_table(
    monkeypatch, root: Path, name: str
) -> None:
    page = open_page(monkeypatch, root, "latent", run="runs/small", dictionary=name, latent="5")
    assert not page.exception
    field(page, "text_input", "-5-label").set_value("days of the week").run()
    assert notes_on(root, name)[5].label == "days of the week"
    field(page, "toggle", "-5-starred").set_value(True).run()
    field(page, "text_area", "-5-note").set_value("also *months*").run()
    kept = notes_on(root, name)[5]
    assert (kept.label, kept.note, kept.starred) == ("days of the week", "also *months*", True)
    table = page.dataframe[0].value.set_index("latent")
    assert table.loc[5, "my label"] == "days of the week"
    assert table["starred"].tolist().count(True) == 1
    # Another latent has fields of its own.
    page.number_input(key="latent").set_value(6).run()
    assert field(page, "text_input", "-6-label").value == ""
    assert not notes_on(root, name)[6]


def test_a_change_from_elsewhere_is_shown_and_not_undone(
    monkeypatch, root: Path, name: str
) -> None:
    page = open_page(monkeypatch, root, "latent", run="runs/small", dictionary=name, latent="5")
    notes_on(root, name).set(5, note="from the command line")
    field(page, "text_input", "-5-label").set_value("mine").run()
    kept = notes_on(root, name)[5]
    assert (kept.label, kept.note) == ("mine", "from the command line")
    assert field(page, "text_area", "-5-note").value == "from the command line"


def test_stars_and_words_narrow_the_table(monkeypatch, root: Path, name: str) -> None:
    notes = notes_on(root, name)
    notes.set(3, label="Weekdays", starred=True)
    notes.set(9, note="like weekDAYS")
    page = open_page(monkeypatch, root, "latent", run="runs/small", dictionary=name)
    assert len(page.dataframe[0].value) == 64
    page.text_input(key="said").set_value("weekday").run()
    assert set(page.dataframe[0].value["latent"]) == {3, 9}
    page.toggle(key="starred").set_value(True).run()
    assert set(page.dataframe[0].value["latent"]) == {3}
    page.text_input(key="said").set_value("years").run()
    assert "years" in words(page)
    assert page.dataframe[0].value.empty


def test_notes_of_a_dictionary_trained_again_are_not_shown(
    monkeypatch, root: Path, name: str
) -> None:
    notes = notes_on(root, name)
    notes.set(3, label="of another one")
    notes.path.rename(notes.path.with_name("0123456789abcdef.json"))
    page = open_page(monkeypatch, root, "latent", run="runs/small", dictionary=name)
    assert set(page.dataframe[0].value["my label"]) == {""}


def test_a_damaged_file_is_said_and_the_page_goes_on(monkeypatch, root: Path, name: str) -> None:
    notes = notes_on(root, name)
    notes.set(3, label="x")
    notes.path.write_text("{")
    page = open_page(monkeypatch, root, "latent", run="runs/small", dictionary=name)
    assert not page.exception
    assert "not valid JSON" in words(page).replace("\\", "")
    assert len(page.dataframe[0].value) == 64


def test_the_command_line_sets_lists_and_takes_back(root: Path, name: str) -> None:
    run = str(root / "runs" / "small")
    code, said = command("runs", "notes", "set", f"{run}/{name}", "7", "--label", "dogs", "--star")
    assert code == 0
    assert (said["label"], said["starred"]) == ("dogs", True)
    _, told = command("runs", "notes", "ls", run, "--search", "DOG")
    assert [(n["dictionary"], n["latent"]) for n in told["notes"]] == [(name, 7)]
    assert len(told["dictionaries"]) == 2
    assert command("runs", "notes", "ls", run, "--search", "cat")[1]["notes"] == []
    assert command("runs", "notes", "rm", f"{run}/{name}", "7")[1]["removed"] is True
    assert command("runs", "notes", "ls", run)[1]["notes"] == []


@pytest.mark.parametrize("ending", [".json", ".csv"])
def test_notes_travel_and_find_their_own_dictionary(
    root: Path, name: str, tmp_path: Path, ending: str
) -> None:
    run, other = str(root / "runs" / "small"), str(tmp_path / "copy")
    shutil.copytree(run, other)
    names = [p.name for p in sorted((root / "runs" / "small").glob("topk-64-*"))]
    for i, one in enumerate(names):
        notes_on(root, one).set(i, label=f"label {i}", note='a\nb, "c"')
    sent = tmp_path / f"sent{ending}"
    assert command("runs", "notes", "export", run, "--out", str(sent))[1]["notes"] == 2
    code, told = command("runs", "notes", "import", other, str(sent))
    assert (code, told["added"], told["kept"]) == (0, 2, 0)
    found = command("runs", "notes", "ls", other)[1]["notes"]
    assert {(n["dictionary"], n["latent"], n["label"]) for n in found} == {
        (one, i, f"label {i}") for i, one in enumerate(names)
    }
    assert command("runs", "notes", "import", other, str(sent))[1]["kept"] == 2
    # One dictionary alone does not take the notes of both: all or nothing.
    code, told = command("runs", "notes", "import", f"{run}/{name}", str(sent), "--overwrite")
    assert code == 3
    assert "which is not in" in told["error"]["message"]


def test_slips_on_the_command_line_are_told(root: Path, name: str, tmp_path: Path) -> None:
    run = str(root / "runs" / "small")
    assert command("runs", "notes", "set", run, "1", "--star")[0] == 2  # which dictionary?
    assert command("runs", "notes", "set", f"{run}/{name}", "1")[0] == 2  # nothing to say
    assert command("runs", "notes", "set", f"{run}/{name}", "64", "--star")[0] == 2
    code, told = command("runs", "notes", "ls", f"{run}/topk-64-k9")
    assert code == 2
    assert "Did you mean" in told["error"]["message"]
    assert command("runs", "notes", "ls", str(tmp_path / "absent"))[0] == 3
    assert command("runs", "notes", "import", run, str(tmp_path / "absent.csv"))[0] == 3
