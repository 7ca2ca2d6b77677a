"""Runs and stores from the command line: listed, filtered, compared, shared, removed with care."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.app.cli_workspace import NAMES, SITE
from tests.app.cli_workspace import workspace as workspace
from tests.app.commands import answer, refused, run


def fake_run(folder: Path, state: str = "finished", *, started: str = "2026-01-01T00:00:00Z",
             tokens: int = 100, **more: Any) -> Path:  # fmt: skip
    """What is on disk of a run, without training one."""
    from lensbench import io

    io.write_json(folder / "status.json", {
        "state": state, "step": 1, "steps": 1, "tokens": tokens, "started": started,
        "heartbeat": "2026-01-01T00:00:00Z", "pid": 0, "message": "",
        "dictionaries": {"topk-a": state}, **more,
    })  # fmt: skip
    io.write_text(folder / "sweep.yaml", "train: {tokens: 100}\nsweep: []\n")
    io.write_text(folder / "topk-a" / "metrics.jsonl", '{"step": 1}\n')
    io.write_text(folder / "log.txt", "done\n")
    return folder


def test_removing_says_first_and_takes_only_what_a_run_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = fake_run(tmp_path / "one"), fake_run(tmp_path / "other")
    mine = one / "my notes.txt"
    mine.write_text("keep me")
    facts = answer(capsys, "runs", "rm", one, "--dry-run")
    assert (facts["removed"], facts["files"], facts["dictionaries"]) == (False, 4, 1)
    assert facts["bytes"] == sum(p.stat().st_size for p in one.rglob("*") if p.is_file()) - 7
    assert facts["stays"] == ["my notes.txt"]
    assert (one / "status.json").is_file()
    assert "add --yes" in refused(capsys, "runs", "rm", one)
    assert (one / "topk-a").is_dir()
    assert answer(capsys, "runs", "rm", one, "--yes")["removed"]
    assert [p.name for p in one.iterdir()] == ["my notes.txt"]
    assert run("runs", "rm", other, "--yes") == 0
    assert not other.exists()


def test_a_run_that_runs_is_not_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lensbench.app.workflows.detached import now

    live = fake_run(tmp_path / "live", "running", heartbeat=now(), pid=os.getpid())
    assert "stop it first" in refused(capsys, "runs", "rm", live, "--yes")
    assert (live / "topk-a").is_dir()
    lost = fake_run(tmp_path / "lost", "running")  # control: its last sign of life is long ago
    assert run("runs", "rm", lost, "--yes") == 0


def test_what_is_no_run_is_not_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_folder = fake_run(tmp_path / "run")
    assert "no run in" in refused(capsys, "runs", "rm", tmp_path, "--yes")
    assert "one dictionary" in refused(capsys, "runs", "rm", run_folder / "topk-a", "--yes")
    link = tmp_path / "link"
    link.symlink_to(run_folder)
    assert "is a link" in refused(capsys, "runs", "rm", link, "--yes")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    (run_folder / "evaluation").symlink_to(outside)
    monkeypatch.chdir(run_folder / "topk-a")
    assert "you stand in" in refused(capsys, "runs", "rm", run_folder, "--yes")
    monkeypatch.chdir(tmp_path)
    assert run("runs", "rm", run_folder, "--yes") == 0
    assert (outside / "precious").is_file()  # the link went, not what it led to


def test_a_terminal_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import io as streams
    import sys

    class Terminal(streams.StringIO):
        def isatty(self) -> bool:
            return True

    folder = fake_run(tmp_path / "run")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    assert run("runs", "rm", folder) == 2
    assert "nothing was done" in capsys.readouterr().err
    assert folder.is_dir()
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    assert run("runs", "rm", folder) == 0
    assert not folder.exists()


def test_lists_are_filtered_sorted_and_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_run(tmp_path / "a", tokens=5, started="2026-01-01T00:00:00Z")
    fake_run(tmp_path / "b", "stopped", tokens=9, started="2026-02-01T00:00:00Z")
    fake_run(tmp_path / "deep" / "c", tokens=7, started="2026-01-15T00:00:00Z")

    def names(*args: object) -> list[str]:
        return [Path(r["run"]).name for r in answer(capsys, "runs", "ls", tmp_path, *args)["runs"]]

    assert names() == ["b", "c", "a"]
    assert names("--sort", "tokens") == ["b", "c", "a"]
    assert names("--sort", "run") == ["a", "b", "c"]
    assert names("--state", "finished", "--sort", "tokens") == ["c", "a"]
    assert names("--first", 1) == ["b"]
    assert answer(capsys, "runs", "ls", "--root", tmp_path / "deep")["runs"][0]["tokens"] == 7
    assert "Did you mean 'tokens'?" in refused(capsys, "runs", "ls", tmp_path, "--sort", "token")
    assert "Did you mean 'finished'?" in refused(
        capsys, "runs", "ls", tmp_path, "--state", "finish"
    )
    (tmp_path / "empty").mkdir()
    assert run("runs", "ls", tmp_path / "empty") == 0
    assert "train sae" in capsys.readouterr().out


def test_stores_are_listed_and_removed_with_care(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    (row,) = answer(capsys, "store", "ls", workspace)["stores"]
    assert (row["model"], row["state"]) == ("atlas-dense", "complete")
    assert row["tokens"] > 1000
    copy = Path(shutil.copytree(workspace / "demo-run" / "acts", tmp_path / "acts"))
    assert not answer(capsys, "store", "rm", copy, "--dry-run")["removed"]
    assert "add --yes" in refused(capsys, "store", "rm", copy)
    assert run("store", "rm", copy, "--yes") == 0
    assert not copy.exists()
    assert "no activation store" in refused(capsys, "store", "rm", tmp_path, "--yes")


def test_two_dictionaries_differ_in_their_settings_first(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = (workspace / "demo-run" / "run" / name for name in NAMES)
    facts = answer(capsys, "runs", "diff", one, other)
    assert facts["settings"] == [{"setting": "k", "one": "16", "other": "32"}]
    reached = {(r["side"], r["metric"]): r["value"] for r in facts["reached"]
               if r["source"] == "dictionary"}  # fmt: skip
    assert len({side for side, _ in reached}) == 2
    assert run("runs", "diff", one, other) == 0
    text = capsys.readouterr().out
    assert text.index("settings that differ") < text.index("do the numbers compare?")
    assert text.index("do the numbers compare?") < text.index("what they reach")
    same = answer(capsys, "runs", "diff", one, one.parent)
    assert any(row["setting"].startswith("sweep") for row in same["settings"])
    assert "no run in" in refused(capsys, "runs", "diff", one, workspace)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_dictionary_is_shared_in_the_format_of_saelens(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import sae_lens
    import torch

    from lensbench.app.workflows.dictionaries import open_dictionary

    name = workspace / "demo-run" / "run" / NAMES[0]
    facts = answer(capsys, "runs", "export", name, "--out", tmp_path / "shared")
    assert facts["dictionaries"][0]["codes_differ_by"] < 1e-5
    theirs = sae_lens.SAE.load_from_disk(str(tmp_path / "shared"))
    ours = open_dictionary(str(name)).coder
    x = torch.randn(8, ours.W_enc.shape[0], generator=torch.Generator().manual_seed(0))
    assert torch.allclose(theirs.encode(x), ours.encode(x), atol=1e-4)
    assert "not empty" in refused(capsys, "runs", "export", name, "--out", tmp_path / "shared")
    assert "Did you mean 'sae_lens'?" in refused(
        capsys, "runs", "export", name, "--out", tmp_path / "x", "--format", "saelens"
    )
    assert (
        "topk"
        in refused(
            capsys, "runs", "export", name, "--out", tmp_path / "x", "--format", "openai"
        ).lower()
    )


def test_several_are_shared_in_a_folder_each_and_can_be_evaluated_as_others_are(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "all"
    facts = answer(capsys, "runs", "export", workspace / "demo-run" / "run", "--out", out,
                   "--format", "dictionary_learning")  # fmt: skip
    assert sorted(p.name for p in out.iterdir()) == sorted(NAMES)
    assert all(row["site"] == SITE for row in facts["dictionaries"])
    one = answer(capsys, "runs", "export", workspace / "demo-run" / "run",
                 "--out", tmp_path / "one", "--only", NAMES[1])  # fmt: skip
    assert [row["name"] for row in one["dictionaries"]] == [NAMES[1]]
    again = answer(capsys, "runs", "export", out / NAMES[0], "--out", tmp_path / "back",
                   "--format", "sparsify")  # fmt: skip
    assert again["dictionaries"][0]["codes_differ_by"] < 1e-5
