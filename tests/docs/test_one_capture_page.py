"""The page on one capture runs as it stands."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "one-capture.md"


@pytest.mark.slow
def test_the_page_runs_and_no_block_does(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    first, second = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    exec(first, names)
    assert capsys.readouterr().out == "0 True\n"
    exec(second, names)
    frame = names["found"].headlines().set_index(["acceleration", "readout"])
    assert frame.loc[("without 1", "latents"), "value"].max() < 1
    assert (frame["shuffled"] < frame["value"]).mean() > 0.8
