"""The page of trained runs, driven by Streamlit's own test harness."""

import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "app" / "main.py"

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def page(monkeypatch: pytest.MonkeyPatch, root: Path):
    from streamlit.testing.v1 import AppTest

    monkeypatch.setattr(sys, "argv", ["main.py", str(root)])
    return AppTest.from_file(str(PAGE), default_timeout=60).run()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    import torch

    from lensbench import saes

    out = tmp_path_factory.mktemp("runs") / "small"
    rows = torch.randn(512, 16, generator=torch.Generator().manual_seed(0))
    sweep = {
        "train": {"tokens": 512, "batch_size": 64, "log_every": 2},
        "sweep": [
            {"architecture": "topk", "d_sae": 32, "k": [2, 4], "site": "blocks.0.resid_post"}
        ],
    }
    saes.train(rows.split(64), sweep, out=out, progress=False)
    return out


def test_a_run_is_shown_with_its_sections(monkeypatch, run: Path) -> None:
    shown = page(monkeypatch, run.parent)
    assert not shown.exception
    assert not shown.error
    assert shown.sidebar.selectbox[0].value == str(run)
    assert {"Training", "Dictionaries"} <= {s.value for s in shown.subheader}


def test_an_empty_folder_says_what_to_do(monkeypatch, tmp_path: Path) -> None:
    shown = page(monkeypatch, tmp_path)
    assert not shown.exception
    assert "lensbench demo" in shown.info[0].value


def test_a_damaged_run_is_an_error_on_the_page(monkeypatch, run: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "status.json").write_text("{")
    shown = page(monkeypatch, tmp_path)
    assert not shown.exception
    assert "status.json" in shown.error[0].value
