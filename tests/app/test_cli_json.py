"""``--json`` of every command: one document on stdout and nothing else, of errors too."""

import json
import shlex
from pathlib import Path

import pytest

from tests.app.cli_workspace import NAMES
from tests.app.cli_workspace import workspace as workspace
from tests.app.test_cli_help import leaves

QUICK = (
    "help", "completion", "config show", "config schema", "config explain", "store ls",
    "store info", "store verify", "store sample", "world sample", "latents ls", "latents show",
    "latents text", "latents steer", "runs ls", "runs show", "runs diff", "runs export",
    "runs notes ls", "runs notes set", "runs notes export", "runs notes import", "runs notes rm",
    "lens layers", "lens text", "lens patchscope", "lens decode", "lens context", "probe tokens",
    "probe trees", "probe spans",
)  # fmt: skip
"""Commands whose examples run here as they stand, in seconds together; the others are slow."""
QUICK += (
    "latents match", "latents nearest", "latents geometry", "latents map", "heads circuit",
    "probe aligned", "probe capacity", "lens sites", "lens parts", "lens document", "lens ahead",
    "lens answers", "lens ask", "lens pair", "show",
)  # fmt: skip
SLOW = (
    "capture", "train sae", "eval sae", "encode", "explain", "report", "doctor", "lens tune",
    "lens language", "lens neurons", "lens future", "probe linear", "probe geometry",
    "probe erase", "probe codelength", "probe boards", "probe numbers", "patch", "attribute",
    "circuit paths", "circuit prune", "circuit faithful", "circuit align", "circuit latents",
    "circuit graph", "circuit latent", "edit fact", "steer", "doses", "experts map", "experts rank",
    "experts suppress", "experts rates", "experts scan", "accelerate", "readability", "store rm",
    "runs rm",
)  # fmt: skip
SLOW += (
    "heads scores", "heads composition", "heads logits", "probe flips", "probe codes",
    "probe angles", "probe lengths", "probe concepts", "probe decode", "lens basis",
    "lens compare", "lens soft", "probe checkpoints", "world toys", "world atoms", "eval isolation",
)  # fmt: skip
SLOW += (
    "circuit task",
    "circuit scrub",
    "circuit components",
    "circuit subspace",
    "circuit readings",
)
SLOW += ("clamp neuron", "clamp training", "clamp toy", "edit directions", "edit patch")
SLOW += ("select latents", "select confounds", "select heads", "select study", "select sibling")
SLOW += (
    "savings stages", "savings robustness", "savings routes", "savings similarity",
    "savings exits", "savings depth", "savings sparsity", "savings keys", "savings lengths",
    "savings acceptance", "savings transfer", "savings skips", "savings kangaroo",
    "savings samples", "savings drafts",
)  # fmt: skip
NOT_HERE = {
    "latents sites": "needs a crosscoder",
    "demo": "minutes", "app": "a server", "world train": "trains a model", "probe hd": "minutes",
    "runs push": "needs the hub", "runs pull": "needs the hub",
    "savings judge": "needs drafts with labels", "savings commit": "needs a model with masks",
    "lens decoder": "needs sentences of the world of translations",
}  # fmt: skip
ELSEWHERE = ("my-result", "./my-model", "stories.txt", "old-acts", "prompts.txt --live", "--pairs",
             "plurals.txt")  # fmt: skip
"""Parts of examples that name what a user has and a test has not."""


def run_json(line: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, object]]:
    from lensbench.app.cli import main

    capsys.readouterr()
    code = main([*shlex.split(line)[1:], "--json"])
    said = capsys.readouterr()
    document = json.loads(said.out)  # one, and nothing around it
    assert isinstance(document, dict), line
    return code, document


def examples(paths: tuple[str, ...]) -> list[str]:
    from lensbench.app.cli.examples import EXAMPLES

    return [
        line for path in paths for line in EXAMPLES[path]
        if not any(part in line for part in ELSEWHERE)
    ]  # fmt: skip


def test_every_command_is_tried_somewhere_or_says_why_not() -> None:
    assert set(QUICK) | set(SLOW) | set(NOT_HERE) == set(leaves())
    assert not set(QUICK) & set(SLOW)


@pytest.mark.parametrize("path", sorted(leaves()))
def test_an_error_is_one_document_too(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, document = run_json(f"lensbench {path} --no-such-option", capsys)
    error = document["error"]
    assert code == 2
    assert isinstance(error, dict)
    assert error["exit_code"] == 2
    assert "--no-such-option" in str(error["message"])


def test_quick_examples_do_what_they_say(
    workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace)
    _second_run(workspace)
    for line in examples(QUICK):
        code, document = run_json(line, capsys)
        assert code == 0, (line, document)
        assert "error" not in document


@pytest.mark.slow
def test_slow_examples_do_what_they_say(
    workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace)
    shared = next(line for line in examples(("runs export",)) if line.endswith("--out shared"))
    for line in (shared, *examples(SLOW)):  # another example scores what this one leaves
        code, document = run_json(line, capsys)
        assert code == 0, (line, document)


def _second_run(folder: Path) -> None:
    """What ``run2`` is in the examples: here another name of the first."""
    link = folder / "run2"
    if not link.exists():
        link.symlink_to(folder / "demo-run" / "run")
    assert (link / NAMES[0]).is_dir()
