"""Answers on a terminal of 100 columns: tables and lines fit, and no number is left out."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.app.cli_workspace import NAMES
from tests.app.cli_workspace import workspace as workspace
from tests.app.commands import run
from tests.app.test_cli_json import QUICK, examples

TABLES = (
    "lensbench attribute recall --n 2 --layers 0-1", "lensbench patch recall --n 2 --layers 0-1",
    "lensbench accelerate --model atlas-early --prompts atlas:2 --new-tokens 6 --columns all"
    " --methods fixed_exit,draft_and_verify",
    "lensbench doctor --no-hub --model atlas-dense", "lensbench edit fact --layers 1 --n 2",
    "lensbench clamp toy --steps 20 --seeds 0",
    "lensbench savings routes --prompts atlas:2 --skip 2",
    "lensbench circuit scrub --n 4 --draws 1 --claim blocks.5.resid_post@end=answer",
)  # fmt: skip


def said(line: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    capsys.readouterr()
    assert run(*shlex.split(line)[1:]) == 0, line
    return capsys.readouterr().out.splitlines()


def fits(lines: Sequence[str], capsys: pytest.CaptureFixture[str]) -> None:
    for line in lines:
        for printed in said(line, capsys):
            assert len(printed) <= 100, (line, printed)


def placed(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A terminal in the workspace, and the examples whose answers are not to be copied."""
    from lensbench.app.cli.fitting import VERBATIM

    monkeypatch.chdir(workspace)
    monkeypatch.setenv("COLUMNS", "100")
    if not (workspace / "run2").exists():
        (workspace / "run2").symlink_to(workspace / "demo-run" / "run")
    return [line for line in examples(QUICK) if line.split()[1] not in VERBATIM]


def test_whatever_lists_files_fits_a_terminal(
    workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = placed(workspace, monkeypatch)
    listing = [x for x in lines if x.split()[1] in ("store", "runs")]
    assert len(listing) > 8
    fits([*listing, "lensbench doctor --no-hub"], capsys)


@pytest.mark.slow
def test_whatever_else_prints_a_table_fits_too(
    workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fits(placed(workspace, monkeypatch), capsys)


@pytest.mark.slow
def test_so_do_commands_that_run_a_model(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    fits(TABLES, capsys)


def test_off_a_terminal_nothing_is_broken_or_shortened(
    workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: the same table is wider than a terminal where a program reads it."""
    one, other = (str(workspace / "demo-run" / "run" / name) for name in NAMES)
    line = shlex.join(["lensbench", "runs", "diff", one, other])
    monkeypatch.delenv("COLUMNS", raising=False)
    whole = said(line, capsys)
    assert max(map(len, whole)) > 100
    monkeypatch.setenv("COLUMNS", "100")
    fitted = said(line, capsys)
    numbers = {w for row in whole for w in row.replace(",", " ").split() if w[:1].isdigit()}
    shown = {w for row in fitted for w in row.replace(",", " ").split()}
    assert numbers - shown == set()


def test_texts_go_on_below_and_words_lose_their_middle() -> None:
    from lensbench.app.cli.console import fields, table
    from lensbench.app.cli.fitting import fitted

    rows = [{"name": "a", "note": "some words that go on and on", "value": 1.5}]
    with fitted(30):
        lines = table(rows).split("\n")
        told = " ".join(line[6:].replace("value", "").replace("1.5", "").strip() for line in lines)
        assert told == f"note {rows[0]['note']}"
        assert max(map(len, lines)) <= 30
        assert lines[1].endswith("1.5")
        assert fields({"path": "one two three four five six"}).split("\n")[1].startswith("      ")
    with fitted(24):
        (_, row) = table([{"file": "a" * 20 + "z" * 20, "n": 1}]).split("\n")
        assert row.startswith("aaaa")
        assert ".." in row
        assert len(row) <= 24
    assert table(rows).count("\n") == 1  # no terminal, no bounds


def test_a_table_of_many_numbers_is_broken_into_several_with_the_first_column() -> None:
    from lensbench.app.cli.console import table
    from lensbench.app.cli.fitting import fitted

    row = {"site": "x", **{f"number_{i}": float(i) for i in range(9)}}
    with fitted(40):
        blocks = table([row]).split("\n\n")
    assert len(blocks) == 3
    assert all(block.startswith("site") for block in blocks)
    words = " ".join(blocks).split()
    assert all(words.count(f"number_{i}") == 1 for i in range(9))


@pytest.mark.parametrize(("given", "width"), [("", None), ("x", None), ("72", 72), ("10", 40),
                                              ("300", 100)])  # fmt: skip
def test_the_width_is_the_terminals_and_at_most_100(
    given: str, width: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensbench.app.cli.fitting import terminal_width

    monkeypatch.setenv("COLUMNS", given)
    assert terminal_width() == width


def test_accelerate_is_sorted_by_speed_and_shows_what_is_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = ("accelerate", "--model", "atlas-early", "--prompts", "atlas:2", "--new-tokens", 6,
            "--methods", "fixed_exit,early_exit,draft_and_verify")  # fmt: skip
    assert run(*line, "--columns", "serial") == 0
    table = capsys.readouterr().out.split("\n\n")[1].splitlines()[1:]
    speeds = [row.split()[-1] for row in table]
    known = [float(s) for s in speeds if s != "absent"]
    assert len(known) > 5
    assert known == sorted(known, reverse=True)
    assert set(speeds[len(known) :]) == {"absent"}
    assert run(*line, "--columns", "kl,class") == 0
    (head,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("method")]
    assert head.split() == ["method", "kl", "class"]
    assert run(*line, "--columns", "klass") == 2
    assert "Did you mean 'class'?" in capsys.readouterr().err


def test_rows_that_do_not_agree_enough_come_after_those_that_do() -> None:
    from lensbench.app.cli.accelerate import _order  # pyright: ignore[reportPrivateUsage]

    slow = {"agreement": 1.0, "pred_speedup_serial": 1.2}
    fast = {"agreement": 0.9, "pred_speedup_serial": 3.0}
    timed = {"agreement": 1.0, "pred_speedup_serial": 1.1, "meas_speedup": 1.5}
    unknown = {"agreement": float("nan"), "pred_speedup_serial": 9.0}
    rows = [unknown, fast, slow, timed]
    assert sorted(rows, key=lambda r: _order(r, 0.95)) == [timed, slow, unknown, fast]
    assert sorted(rows, key=lambda r: _order(r, None)) == [unknown, fast, timed, slow]
