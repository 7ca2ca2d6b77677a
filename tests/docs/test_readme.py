"""The README's Python runs as it stands, and its files exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def test_every_linked_file_exists() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert len(links) >= 4
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_annotated_tree_names_every_folder() -> None:
    folders = {p.name for p in ROOT.iterdir() if p.is_dir() and (p / "__init__.py").exists()}
    assert [name for name in sorted(folders) if f"\n{name}/" not in README] == []


@pytest.mark.slow
def test_the_examples_run(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) == 3
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    assert (tmp_path / "run" / "status.json").is_file()
    assert (tmp_path / "shared" / "sae_weights.safetensors").is_file()
    assert names["found"].n_tokens > 4
    assert set(names["said"].columns) >= {"clean", "0.5 x", "2 x"}
    assert names["check"].standing.n == 20
    assert names["report"].rate("suppressed").n > 0
    said = capsys.readouterr().out
    table = next(part for part in said.split("\n\n") if "fvu" in part).splitlines()
    assert max(len(line) for line in table) <= 80
    assert "..." not in said
    rows = [line.split() for line in table if line.startswith("topk-")]
    assert len(rows) == 2
    assert all(float(cell) > 0 for row in rows for cell in row[1:4])
    assert "trained on" in said
