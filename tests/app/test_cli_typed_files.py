"""Files that users write: not UTF-8, with a mark of Windows, from standard input; unknown words."""

import io
import json
import sys
from pathlib import Path

import pytest

from tests.app.commands import answer, refused

LATIN = b'{"prompt": "caf\xe9", "text": "caf\xe9", "draft": "x", "right": true}\n'
SITE = "blocks.3.resid_post"


@pytest.mark.parametrize(
    "line",
    [
        "patch recall --pairs {f}",
        "steer agreement --demonstrations {f}",
        "experts map --model atlas-moe --prompts {f}",
        "savings stages --prompts {f}",
        "savings judge --drafts {f}",
        "select confounds --entities {f}",
        "probe trees --model atlas-dense --site embed --text {f}",
    ],
)
def test_a_file_that_is_not_utf8_is_named_and_no_bug(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "latin.jsonl"
    file.write_bytes(LATIN)
    said = refused(capsys, *line.format(f=file).split())
    assert "latin.jsonl is not UTF-8 text" in said
    assert "iconv -f latin1" in said


def test_a_mark_of_windows_is_no_part_of_the_first_prompt(tmp_path: Path) -> None:
    from lensbench.app.workflows.accelerating import read_prompts

    file = tmp_path / "windows.txt"
    file.write_bytes("The capital of Peru is\r\nThe king\r\n".encode("utf-8-sig"))
    assert read_prompts(str(file)) == ["The capital of Peru is", "The king"]


def test_prompts_come_in_through_a_pipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ("experts", "map", "--model", "atlas-moe", "--prompts", "-", "--top", 1)
    monkeypatch.setattr(sys, "stdin", io.StringIO("What is the capital of Peru?\nWho is Alice?\n"))
    assert answer(capsys, *line)["summary"]["prompts"] == 2
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))  # control: nothing comes
    assert "no prompt" in refused(capsys, *line)
    monkeypatch.setattr(sys, "stdin", io.StringIO("The capital of Peru is\nThe king that\n"))
    facts = answer(capsys, "savings", "routes", "--prompts", "-", "--skip", "2")
    assert facts["rows"][0]["n_documents"] == 2


def test_an_empty_file_of_drafts_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    assert "no draft" in refused(capsys, "savings", "judge", "--drafts", tmp_path / "empty.jsonl")


def test_a_word_that_the_vocabulary_lacks_is_not_measured_as_the_unknown_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = ("clamp", "neuron", "--neuron", "2.17", "--prompt", "The capital of Peru is", "--token")
    assert "no token for 'Atlantis'" in refused(capsys, *line, "Atlantis")
    assert answer(capsys, *line, " Lima")["token"].strip() == "Lima"  # control
    assert json.dumps(answer(capsys, *line, "[UNK]")["token"])  # named on purpose
