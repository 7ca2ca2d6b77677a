"""Help of every command: light, in order, and with examples that are true of the command."""

import shlex
import subprocess
import sys
from functools import lru_cache
from typing import Any

import pytest
import typer

HEAVY = (
    "torch", "transformers", "transformer_lens", "pandas", "plotly", "numpy", "scipy", "sklearn",
    "sae_lens", "streamlit", "nnsight", "yaml", "tokenizers", "huggingface_hub", "rich",
)  # fmt: skip
"""pydantic is not among them: typer itself reads parameters with it."""


@lru_cache
def tree() -> dict[str, Any]:
    """Every command by its path; groups too."""
    from lensbench.app.cli.root import build

    found: dict[str, Any] = {}

    def walk(command: Any, path: tuple[str, ...]) -> None:
        found[" ".join(path)] = command
        for name, one in getattr(command, "commands", {}).items():
            walk(one, (*path, name))

    walk(typer.main.get_command(build()), ())
    return found


def leaves() -> dict[str, Any]:
    return {path: c for path, c in tree().items() if not hasattr(c, "commands")}


def run(*args: str) -> int:
    from lensbench.app.cli import main

    return main(list(args))


def test_help_of_no_command_imports_anything_heavy() -> None:
    """One process asks for the help of every command in turn, and none has loaded a library."""
    code = (
        "import io, sys, contextlib\n"
        "from lensbench.app.cli import main\n"
        "for line in sys.stdin.read().splitlines():\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as out:\n"
        "        rc = main([*line.split(), '--help'])\n"
        "    assert rc == 0 and 'Usage: lensbench' in out.getvalue(), (line, rc, out.getvalue())\n"
        f"    heavy = [m for m in {HEAVY!r} if m in sys.modules]\n"
        "    assert not heavy, (line, heavy)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input="\n".join(tree()), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("line", ["", "train sae", "help sites", "__complete bash lensbench"])
def test_importtime_shows_no_heavy_library(line: str) -> None:
    args = line.split() if line.startswith(("help", "__")) else [*line.split(), "--help"]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "lensbench", *args],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    rows = [r.rpartition("|")[2].strip() for r in done.stderr.splitlines() if "|" in r]
    assert "lensbench.app.cli.root" in rows  # control: the imports are listed
    assert not {r.partition(".")[0] for r in rows} & set(HEAVY)


def test_the_overview_shows_every_command_once_and_what_to_do_first(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from lensbench.app.cli.overview import SECTIONS

    assert run() == 0
    text = capsys.readouterr().out
    names = [name for section in SECTIONS.values() for name in section]
    top = [path for path in tree() if path and " " not in path]
    assert sorted(names) == sorted(top)
    assert text.index("Start here") < text.index("Activations:") < text.index("Options:")
    assert "..." not in text.partition("Start here")[2]  # no sentence is cut
    assert len(text.splitlines()) < 100


def test_every_command_says_what_it_does_in_one_sentence() -> None:
    for path, command in tree().items():
        first = (command.help or "").strip().partition("\n\n")[0]
        assert first.endswith((".", ")")), path
        assert len(first) < 160, path


@pytest.mark.parametrize("path", sorted(leaves()))
def test_every_command_has_examples_that_typer_accepts(path: str) -> None:
    """Every option exists, every value has its type, nothing required is left out."""
    from lensbench.app.cli.examples import EXAMPLES
    from lensbench.app.cli.main import read_flags

    lines = EXAMPLES.get(path, ())
    assert 1 <= len(lines) <= 3, path
    for line in lines:
        words = shlex.split(line)
        name, *rest = words
        assert name == "lensbench"
        assert rest[: len(path.split())] == path.split()
        given, _ = read_flags(rest[len(path.split()) :])
        leaves()[path].make_context(path, given)


def test_an_example_with_a_wrong_option_is_seen() -> None:
    """Control of the test above."""
    with pytest.raises(Exception, match="No such option"):
        leaves()["runs ls"].make_context("runs ls", ["--stat", "finished"])


def test_no_example_is_of_a_command_that_is_not_there() -> None:
    from lensbench.app.cli.examples import EXAMPLES

    assert set(EXAMPLES) == set(leaves())


def test_help_ends_with_the_examples_unbroken_and_groups_many_options(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from lensbench.app.cli.examples import EXAMPLES

    assert run("train", "sae", "--help") == 0
    text = capsys.readouterr().out
    for line in EXAMPLES["train sae"]:
        assert f"  {line}\n" in text
    assert text.index("Input:") < text.index("Options:") < text.index("Running:")
    assert run("runs", "show", "--help") == 0
    assert "Input:" not in capsys.readouterr().out  # few options stay together


def test_topics_and_the_help_of_a_command_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    from lensbench.app.cli.overview import TOPICS

    for topic in TOPICS:
        assert run("help", topic) == 0
        assert capsys.readouterr().out.rstrip() == TOPICS[topic].rstrip()
    assert run("help", "runs", "rm") == 0
    by_name = capsys.readouterr().out
    assert run("runs", "rm", "--help") == 0
    assert capsys.readouterr().out == by_name
    assert run("help", "stie") == 2
    assert "Did you mean" in capsys.readouterr().err


def test_topics_tell_the_truth_about_sites_and_tasks() -> None:
    from lensbench.app.cli.completing import TASKS
    from lensbench.app.cli.overview import TOPICS
    from lensbench.sites import Site

    listed = TOPICS["sites"].split("of the forward pass:")[1].split("Without a layer")[0].split()
    assert len(listed) > 15
    for kind in listed:
        assert Site.parse(f"blocks.0.{kind}")
    for task in TASKS:
        assert task in TOPICS["places"]


@pytest.mark.parametrize("line", ["train", "runs notes", "circuit"])
def test_a_group_alone_lists_its_commands_and_is_a_usage_error(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*line.split()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert f"say which command of `lensbench {line}`" in said.err
    for name in tree()[line].commands:
        assert f"  {name}" in said.err


@pytest.mark.parametrize(
    ("line", "near"),
    [("trian sae", "'train'"), ("capture --modle x", "--model"), ("runs shwo x", "'show'")],
)
def test_a_slip_is_answered_with_the_nearest_name(
    line: str, near: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*line.split()) == 2
    assert near in capsys.readouterr().err
