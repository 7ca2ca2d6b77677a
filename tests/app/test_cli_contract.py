"""The command line's contract: exit codes, one JSON document, clean messages, light start-up."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


def run(*args: str) -> int:
    from lensbench.app.cli import main

    return main(list(args))


HEAVY = ("torch", "transformers", "pandas", "plotly", "numpy", "sae_lens", "streamlit", "nnsight")


@pytest.mark.parametrize("line", [["--help"], ["train", "sae", "--help"], ["demo", "--help"]])
def test_help_imports_nothing_heavy(line: list[str]) -> None:
    code = (
        "import sys; from lensbench.app.cli import main; rc = main(sys.argv[1:]); "
        f"bad = [m for m in {HEAVY!r} if m in sys.modules]; "
        "print('HEAVY', bad); sys.exit(rc)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *line], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Usage: lensbench" in done.stdout
    assert done.stdout.rstrip().endswith("HEAVY []")


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lensbench", "--version"], capture_output=True, text=True, check=True
    )
    from lensbench import __version__

    assert done.stdout.strip() == __version__


def test_every_promised_command_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    groups = {
        (): "demo capture report doctor store train eval experts runs world",
        ("store",): "info verify sample rm",
        ("train",): "sae",
        ("eval",): "sae",
        ("experts",): "map rank suppress scan",
        ("runs",): "ls show",
        ("world",): "train sample",
    }
    for path, names in groups.items():
        assert run(*path, "--help") == 0
        lines = capsys.readouterr().out.splitlines()
        listed = [line.split()[0] for line in lines if line.startswith("  ") and line.strip()]
        assert set(names.split()) <= set(listed), path


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("demo", "--out"),
        ("capture", "--model --text --sites --profile --out --max-tokens"),
        ("report", "--out"),
        (
            "train sae",
            "--config --store --model --text --sites --architecture --d-sae --k --tokens --set "
            "--out --resume --array --dry-run",
        ),
        ("eval sae", "--store --model"),
        ("doctor", "--model"),
    ],
)
def test_every_promised_option_is_there(
    command: str, options: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*command.split(), "--help") == 0
    text = capsys.readouterr().out
    for option in options.split():
        assert option in text, f"{command} lacks {option}"


def test_an_unknown_option_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("capture", "--modle", "x") == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "--modle" in said.err
    assert "Traceback" not in said.err


def test_a_missing_argument_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("store", "info") == 2
    assert "lensbench store info --help" in capsys.readouterr().err


def test_json_gives_one_document_also_when_it_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("store", "info", "/no/such/store", "--json") == 3
    said = capsys.readouterr()
    document = json.loads(said.out)
    assert document["error"]["exit_code"] == 3
    assert document["error"]["message"] in said.err
    assert said.err.count("\n") == 1, "one clean message"


def test_json_may_stand_anywhere(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--json", "store", "info", "/no/such/store") == 3
    assert "error" in json.loads(capsys.readouterr().out)


def test_what_libraries_print_does_not_reach_stdout(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensbench.app.workflows import doctor

    def noisy(*_: object, **__: object) -> dict[str, object]:
        sys.stdout.write("a library's banner\n")
        return {"versions": {"python": "3"}, "bundled": []}

    monkeypatch.setattr(doctor, "examine", noisy)
    assert run("doctor", "--json") == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["versions"] == {"python": "3"}
    assert "banner" in said.err


def _raising(error: BaseException):
    def examine(*_: object, **__: object) -> dict[str, object]:
        raise error

    return examine


def test_a_bug_is_exit_one_and_says_how_to_see_more(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensbench.app.workflows import doctor

    monkeypatch.setattr(doctor, "examine", _raising(RuntimeError("inner part broke")))
    assert run("doctor") == 1
    said = capsys.readouterr()
    assert "inner part broke" in said.err
    assert "--traceback" in said.err
    assert "Traceback" not in said.err
    assert run("doctor", "--traceback") == 1
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("LENSBENCH_DEBUG", "1")
    assert run("doctor") == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("ConfigError", 2),
        ("UnknownSiteError", 2),
        ("MissingDataError", 3),
        ("DamagedDataError", 3),
        ("MismatchError", 3),
        ("BudgetError", 4),
        ("StoppedError", 130),
    ],
)
def test_each_error_has_its_exit_code(
    name: str, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensbench import errors
    from lensbench.app.workflows import doctor

    kind = getattr(errors, name)
    error = kind("blocks.x", known=("a",)) if name == "UnknownSiteError" else kind("plain words")
    monkeypatch.setattr(doctor, "examine", _raising(error))
    assert run("doctor") == code
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err
    assert str(error) in said.err


def test_an_interrupt_is_130(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensbench.app.workflows import doctor

    monkeypatch.setattr(doctor, "examine", _raising(KeyboardInterrupt()))
    assert run("doctor") == 130
    assert "stopped" in capsys.readouterr().err


def test_sites_take_several_values_in_a_row() -> None:
    from lensbench.app.cli.main import read_flags

    args, flags = read_flags(
        ["capture", "--sites", "a", "b", "c", "--json", "--out", "x", "--sites", "d"]
    )
    assert args == [
        "capture", "--sites", "a", "--sites", "b", "--sites", "c", "--out", "x", "--sites", "d",
    ]  # fmt: skip
    assert flags.json
    assert not flags.traceback


def test_dump_has_no_nan_and_knows_paths_and_numpy() -> None:
    import numpy as np

    from lensbench.app.cli.console import dump

    document = dump(
        {"a": float("nan"), "b": Path("x"), "c": np.float32(0.5), "d": np.arange(2), "e": (1, True)}
    )
    assert json.loads(document) == {"a": None, "b": "x", "c": 0.5, "d": [0, 1], "e": [1, True]}


def test_tables_align_and_say_absent() -> None:
    from lensbench.app.cli.console import table

    lines = table([{"name": "a", "value": 1.0}, {"name": "bcd", "value": float("nan")}]).split("\n")
    assert lines == ["name   value", "a          1", "bcd   absent"]
    assert table([]) == "(none)"
    assert table([{"token": "a\nb"}]).split("\n") == ["token", "a\\nb"]  # a row stays one line


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout_is_no_bug() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-m", "lensbench", "help", "exit"], stdout=full,
                              stderr=subprocess.PIPE, text=True, check=False)  # fmt: skip
    assert done.returncode == 3
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("line", [["--version", "--json"], ["--json", "--version"]])
def test_the_version_is_one_json_document_too(
    line: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from lensbench import __version__

    assert run(*line) == 0
    assert json.loads(capsys.readouterr().out) == {"version": __version__}
    assert run("--version") == 0
    assert capsys.readouterr().out == f"{__version__}\n"  # control: without --json, plain words
