"""Bytes as people read them; in JSON they stay numbers."""

from pathlib import Path

import pytest

from tests.app.commands import answer, run


def test_sizes_for_people_and_bytes_in_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "acts"
    line = ("capture", "--model", "atlas-dense", "--text", "atlas:2", "--sites",
            "blocks.3.resid_post", "--out", out)  # fmt: skip
    assert run(*line) == 0
    assert "KiB" in next(x for x in capsys.readouterr().out.splitlines() if x.startswith("bytes"))
    for command in (("store", "info", out), ("store", "verify", out)):
        assert isinstance(answer(capsys, *command)["bytes"], int)
        assert run(*command) == 0
        assert "KiB" in capsys.readouterr().out


def test_what_is_not_known_is_not_turned_into_a_size() -> None:
    from lensbench.app.cli.console import for_people

    told = {"bytes": 2048, "free_bytes": None, "memory_bytes": 3 << 30, "bytes_per": 7}
    assert for_people(told) == {"bytes": "2.0 KiB", "free_bytes": None, "memory_bytes": "3.0 GiB",
                                "bytes_per": 7}  # fmt: skip
