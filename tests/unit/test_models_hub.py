"""Hub ids: from the local cache without a network; and what is said at once where there is none."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lensbench.errors import UnknownNameError
from lensbench.models.loading import bundled_models

OPEN = """
import sys
from lensbench import load_model
model = load_model("owner/tiny", revision=sys.argv[1] or None)
print(model.card.name, model.card.revision, model.card.n_layers, model.tokenizer is not None)
"""


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A hub cache as ``huggingface_hub`` lays it out, with one model in two revisions."""
    repo = tmp_path / "hub" / "models--owner--tiny"
    (repo / "refs").mkdir(parents=True)
    for name, commit in (("main", "a" * 40), ("v2", "b" * 40)):
        (repo / "refs" / name).write_text(commit)
        shutil.copytree(
            bundled_models()["atlas-dense"],
            repo / "snapshots" / commit,
            ignore=shutil.ignore_patterns("revisions"),
        )
    return tmp_path


@pytest.mark.parametrize(("revision", "said"), [("", "None"), ("v2", "v2")])
def test_a_cached_model_opens_without_a_network(cache: Path, revision: str, said: str) -> None:
    environment = {**os.environ, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", OPEN, revision],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["owner/tiny", said, "6", "True"], done.stderr


def _refusal(kind: str) -> Exception:
    from huggingface_hub import errors

    answer: Any = SimpleNamespace(status_code=503, headers={}, request=None)
    return getattr(errors, kind)("no", response=answer)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("RepositoryNotFoundError", "does not exist"),
        ("RevisionNotFoundError", "has no revision 'v9'"),
        ("GatedRepoError", "is gated"),
        ("HfHubHTTPError", r"refused by the hub \(503\)"),
    ],
)
def test_what_the_hub_refuses_is_said(
    monkeypatch: pytest.MonkeyPatch, kind: str, said: str
) -> None:
    from huggingface_hub import HfApi

    from lensbench.models.hub import check_hub

    def refuse(*_: Any, **__: Any) -> None:
        raise _refusal(kind)

    monkeypatch.setattr(HfApi, "model_info", refuse)
    with pytest.raises(UnknownNameError, match=said):
        check_hub("owner/none", "v9", ["atlas-dense"])
    monkeypatch.setattr(HfApi, "model_info", lambda *_, **__: None)
    check_hub("owner/none", "v9", ["atlas-dense"])  # control: what the hub has is not refused


def test_a_hub_out_of_reach_is_said_at_once_and_not_as_a_bug() -> None:
    """Nobody listens at this address; the cache is empty."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-m", "lensbench", "doctor", "--model", "nobody/no-model"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (2, 3), done.stderr
    assert "the hub cannot be reached" in done.stderr


def test_no_network_and_no_valid_id_are_told_apart() -> None:
    from lensbench.models.hub import check_hub

    with pytest.raises(UnknownNameError, match="not in the local cache, and the hub cannot be"):
        check_hub("owner/none", None, [])
    with pytest.raises(UnknownNameError, match="no valid hub id"):
        check_hub("a b/c", None, [])
