"""The command as a process: pipes that close, Ctrl-C, terminals that know only ASCII."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LINE = [sys.executable, "-m", "lensbench"]


def start(*args: str, **options: object) -> subprocess.Popen[str]:
    given: dict[str, object] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([*LINE, *args], text=True, **given)  # pyright: ignore - options


@pytest.mark.parametrize("line", [["--help"], ["help", "sites", "--json"]])
def test_a_reader_that_has_seen_enough_is_no_failure(line: list[str]) -> None:
    """``lensbench .. | head -1``: the pipe is closed before anything is written."""
    read, write = os.pipe()
    os.close(read)
    process = start(*line, stdout=write)
    os.close(write)
    _, err = process.communicate(timeout=60)
    assert err == ""
    assert process.returncode == 0


WATCH = """
import os, sys


class Seen:
    def find_spec(self, name, *_):
        if name == os.environ["WATCHED"]:
            sys.meta_path.remove(self)
            if os.environ["THEN"] == "interrupt":
                exec("raise KeyboardInterrupt")  # as while a dataclass is being made
            os.write(int(os.environ["THEN"]), b".")


sys.meta_path.insert(0, Seen())
"""


def watched(folder: Path, name: str, then: str) -> dict[str, str]:
    """Surroundings in which Python does something as it comes to import ``name``."""
    (folder / "sitecustomize.py").write_text(WATCH)
    return {**os.environ, "PYTHONPATH": str(folder), "WATCHED": name, "THEN": then}


@pytest.mark.parametrize("delay", [0.0, 0.25, 0.8, 2.5])
def test_ctrl_c_at_any_moment_is_one_line_and_130(delay: float, tmp_path: Path) -> None:
    """While parsing, while libraries load, while a model runs.

    Counted from our first line: what comes before is Python's own start, which nobody can catch.
    """
    read, write = os.pipe()
    process = start("attribute", "recall", "--n", "64", "--verify", "--out", str(tmp_path / "x"),
                    "--json", pass_fds=[write],
                    env=watched(tmp_path, "lensbench.app.cli", str(write)))  # fmt: skip
    os.close(write)
    assert os.read(read, 1) == b"."
    os.close(read)
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    if process.returncode == 0:
        pytest.skip("it was done before the interrupt")
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "stopped" in err
    if out:  # on a busy machine the first moment comes before the line was read
        assert json.loads(out)["error"]["exit_code"] == 130


@pytest.mark.parametrize("moment", ["lensbench.app.cli", "lensbench.app.cli.root"])
def test_an_interrupt_inside_an_exec_does_not_kill_afterwards(moment: str, tmp_path: Path) -> None:
    """Python keeps such a one as unhandled, and `python -m` then ended by SIGINT after our line."""
    process = start("doctor", env=watched(tmp_path, moment, "interrupt"))
    _, err = process.communicate(timeout=60)
    assert err.startswith("lensbench: stopped")
    assert process.returncode == 130


@pytest.mark.parametrize(
    "around", [{"PYTHONIOENCODING": "ascii"}, {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0"}]
)
def test_a_terminal_without_unicode_gets_codes_and_no_traceback(around: dict[str, str]) -> None:
    code = (
        "import sys\n"
        "from lensbench.app.cli import overview, main\n"
        "overview.TOPICS['sites'] = 'a space is shown as \\u2423, an arrow as \\u2192'\n"
        "sys.exit(main(['help', 'sites', *sys.argv[1:]]))\n"
    )
    line = [sys.executable, "-c", code]
    env = {**os.environ, **around}
    plain = subprocess.run(line, capture_output=True, env=env, check=False)
    assert plain.returncode == 0, plain.stderr
    assert b"\\u2423" in plain.stdout
    document = subprocess.run([*line, "--json"], capture_output=True, env=env, check=False)
    assert "\u2423" in json.loads(document.stdout)["text"]  # JSON is ASCII anyway


def test_a_utf_8_terminal_shows_the_character_itself() -> None:
    """Control of the test above."""
    code = (
        "import sys\n"
        "from lensbench.app.cli import overview, main\n"
        "overview.TOPICS['sites'] = '\\u2423'\n"
        "sys.exit(main(['help', 'sites']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True,
                          env={**os.environ, "PYTHONIOENCODING": "utf-8"})  # fmt: skip
    assert done.stdout.decode().strip() == "\u2423"


def test_a_file_the_system_refuses_is_no_bug(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensbench.app.cli import main
    from lensbench.app.workflows import doctor

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "/locked/acts")

    monkeypatch.setattr(doctor, "examine", refuse)
    assert main(["doctor"]) == 3
    assert capsys.readouterr().err == "lensbench: /locked/acts: permission denied\n"


def test_no_memory_is_said_with_what_to_lower(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensbench.app.cli import main
    from lensbench.app.workflows import doctor

    def fill(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(doctor, "examine", fill)
    assert main(["doctor"]) == 3
    assert "--batch-size" in capsys.readouterr().err


def test_an_interrupt_that_a_library_wrapped_is_still_130(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensbench.app.cli import main
    from lensbench.app.workflows import doctor

    def wrapped(*_: object, **__: object) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise ImportError("half an import") from error

    monkeypatch.setattr(doctor, "examine", wrapped)
    assert main(["doctor"]) == 130
    assert "bug" not in capsys.readouterr().err
