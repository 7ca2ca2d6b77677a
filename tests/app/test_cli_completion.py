"""What a press of the Tab key offers, and the scripts that ask for it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.app.commands import refused, run


def offered(line: str) -> list[str]:
    from lensbench.app.cli.completing import candidates

    return [word for word, _ in candidates(line)]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run, a store, and a name with a space, seen from the folder that holds them."""
    from lensbench import io

    names = {"topk-a": "finished", "relu-b": "running"}
    io.write_json(tmp_path / "out" / "run" / "status.json", {"state": "x", "dictionaries": names})
    sites = {"blocks.3.resid_post": {}, "blocks.1.mlp_out": {}}
    io.write_json(tmp_path / "out" / "acts" / "manifest.json", {"sites": sites})
    io.write_json(tmp_path / "my runs" / "status.json", {"dictionaries": {}})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands_options_and_choices() -> None:
    assert "train" in offered("lensbench ")
    assert "capture" in offered("lensbench ca")
    assert set(offered("lensbench runs ")) >= {"ls", "show", "diff", "rm", "export"}
    assert offered("lensbench train sae --arch") == ["--architecture"]
    assert "topk" in offered("lensbench train sae --architecture ")
    assert offered("lensbench train sae --architecture=to") == ["--architecture=topk"]
    assert "--json" in offered("lensbench patch --")
    assert "--model" not in offered("lensbench patch --model x --")  # given already
    assert offered("lensbench patch re") == ["recall", "refusal"]


def test_names_of_what_is_there(place: Path) -> None:
    (place / "found").mkdir()
    (place / "found" / "result.json").write_text("{}")
    assert offered("lensbench show ") == ["found"]
    assert "out/run" in offered("lensbench runs show ")
    assert offered("lensbench encode out/run/t") == ["out/run/topk-a"]
    assert offered("lensbench lens layers --store ") == ["out/acts"]
    assert offered("lensbench lens layers --store out/acts --site bl") == [
        "blocks.3.resid_post", "blocks.1.mlp_out",
    ]  # fmt: skip
    assert "atlas-dense" in offered("lensbench capture --model ")
    assert "atlas:" in offered("lensbench capture --text at")
    assert "my runs" in offered("lensbench runs show ")


def test_damaged_files_and_unfinished_quotes_are_no_errors(place: Path) -> None:
    (place / "out" / "acts" / "manifest.json").write_text("{")
    assert "resid_post" in offered("lensbench lens layers --store out/acts --site resid_po")
    assert offered("lensbench nosuch x y ") == []
    assert offered('lensbench runs show "my r') == ["my runs"]


def test_choices_are_those_that_are_taken() -> None:
    from typing import get_args

    from lensbench.app.cli.completing import ARCHITECTURES, CHOICES, TASKS
    from lensbench.app.workflows.patching import METRICS_SHOWN
    from lensbench.app.workflows.patching import TASKS as REAL
    from lensbench.app.workflows.runs import ORDERS, STATES
    from lensbench.app.workflows.shapes import MEASURES
    from lensbench.harvest.sites import PROFILES
    from lensbench.probes import SPACES
    from lensbench.saes.architectures import ARCHITECTURES as TRAINED
    from lensbench.saes.formats import WrittenFormat

    assert set(ARCHITECTURES) == set(TRAINED)
    assert set(TASKS) == set(REAL)
    assert set(CHOICES["--format"]) == set(get_args(WrittenFormat))
    assert set(CHOICES["--metric"]) == set(METRICS_SHOWN)
    assert set(CHOICES["--profile"]) == set(PROFILES)
    assert set(CHOICES["--sort"]) == set(ORDERS)
    assert set(CHOICES["--state"]) <= set(STATES)
    assert set(CHOICES["--space"]) == {space.name for space in SPACES}
    assert set(CHOICES["--measure"]) == set(MEASURES)


def test_values_that_help_lists_are_offered_where_they_are_taken() -> None:
    from lensbench.app.workflows.draft_models import RULES
    from lensbench.app.workflows.steering import METHODS as DIRECTIONS_BY
    from lensbench.interventions.attribution.edges import EDGE_METHODS
    from lensbench.interventions.attribution.nodes import METHODS
    from lensbench.interventions.patching.sweep import DIRECTIONS
    from lensbench.interventions.steering.aligned import ALIGNMENTS
    from lensbench.interventions.values import ABLATIONS
    from lensbench.prompts.several import known_several

    assert set(offered("lensbench patch --how ")) == {*DIRECTIONS, *ABLATIONS}
    assert set(offered("lensbench attribute --method ")) == {*METHODS, *EDGE_METHODS}
    assert set(offered("lensbench steer --method ")) == {*DIRECTIONS_BY}
    assert set(offered("lensbench steer --align ")) == {*ALIGNMENTS}
    assert set(offered("lensbench savings commit --rule ")) == {*RULES}
    assert set(offered("lensbench edit patch --direction ")) == {*DIRECTIONS}
    assert set(offered("lensbench experts scan --how ")) == {"suppress", "reroute", "force"}
    assert offered("lensbench savings depth --keys=a") == ["--keys=all"]
    several = offered("lensbench patch --several ")
    assert [known_several(word) for word in several] == several == ["sum", "first", "refuse"]
    assert "atlas-dense" in offered("lensbench savings drafts --draft-model ")


def test_a_dictionary_is_one_of_a_run(place: Path) -> None:
    assert (place / "out").is_dir()
    assert offered("lensbench select latents --dictionary ") == [
        "out/run/topk-a", "out/run/relu-b",
    ]  # fmt: skip


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_are_printed_and_parse(
    shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run("completion", shell) == 0
    script = capsys.readouterr().out
    assert "lensbench __complete" in script
    assert "eval" not in script  # names are never run
    path = tmp_path / "script"
    path.write_text(script)
    if shutil.which(shell):
        assert subprocess.run([shell, "-n", str(path)], check=False).returncode == 0


def test_an_unknown_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "bash, zsh, fish" in refused(capsys, "completion", "tcsh")


def test_bash_completes_a_half_typed_line(place: Path) -> None:
    """The real shell with the real script: what COMPREPLY holds after a press of Tab."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash here")
    (place / "lensbench").write_text(f'#!/bin/sh\nexec {sys.executable} -m lensbench "$@"\n')
    (place / "lensbench").chmod(0o755)
    script = (
        'PATH="$PWD:$PATH"; source <(lensbench completion bash)\n'
        'tab() { COMP_LINE="$1"; COMP_POINT=${#1}; _lensbench\n'
        'printf "%s|" "${COMPREPLY[@]}"; echo; }\n'
        'tab "lensbench runs sh"; tab "lensbench encode out/run/t"\n'
        'tab "lensbench capture --text atlas:"\n'
        'tab "lensbench runs show my"\n'
    )
    done = subprocess.run(
        [bash, "--norc", "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["show|", "out/run/topk-a|", "|", "'my runs'|"], done.stderr
