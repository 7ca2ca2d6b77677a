"""Every tutorial runs from top to bottom, offline, and writes nothing outside its own folder."""

import os
from pathlib import Path
from typing import Any

import pytest

MODELS = {
    "03b-clamped-training": "attention only",
    "04-expert-steering": "atlas-moe",
    "05-lenses": "atlas-dense",
    "06-hyperdimensional-probe": "atlas-dense",
    "07-acceleration": "atlas-early",
}
"""Bundled model of a tutorial that is not about atlas-dense."""
TUTORIALS = sorted((Path(__file__).resolve().parents[2] / "docs" / "tutorials").glob("*.ipynb"))


def execute(path: Path) -> Any:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": path.parent}}
    )
    client.execute()
    return notebook


def printed(notebook: Any) -> str:
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", ())]
    return "".join(o.get("text", "") for o in outputs)


def test_there_are_tutorials() -> None:
    assert [p.name for p in TUTORIALS if p.name.startswith("01-")] == ["01-first-sae.ipynb"]


@pytest.mark.filterwarnings("ignore")  # of the notebook machinery, not of the product
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda p: p.stem)
def test_a_tutorial_runs_on_the_bundled_model(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LENSBENCH_SHARED", str(tmp_path))  # an empty place: nothing shared
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = {p: p.stat().st_mtime for p in path.parent.iterdir()}
    notebook = execute(path)
    assert MODELS.get(path.stem, "atlas-dense") in printed(notebook)
    assert {p: p.stat().st_mtime for p in path.parent.iterdir()} == before


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "path", [p for p in TUTORIALS if p.stem not in MODELS], ids=lambda p: p.stem
)
def test_a_tutorial_runs_on_the_shared_model(
    path: Path, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LENSBENCH_SHARED", str(shared_data))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    text = printed(execute(path))
    assert "story-llama" in text


def test_tutorials_are_committed_without_outputs() -> None:
    import nbformat

    for path in TUTORIALS:
        cells = nbformat.read(path, as_version=4).cells
        assert not any(cell.get("outputs") for cell in cells), path.name
        assert os.environ.get("HOME", "/root") + "/" not in path.read_text()


def test_every_tutorial_ends_with_what_would_prove_it_wrong() -> None:
    import nbformat

    for path in TUTORIALS:
        *_, told, tried = nbformat.read(path, as_version=4).cells
        assert told.cell_type == "markdown", path.name
        assert "What would prove this wrong" in told.source.splitlines()[0], path.name
        assert told.source.count("\n- **") >= 3, path.name
        assert tried.cell_type == "code", f"{path.name}: nothing is tried"
