"""``LENSBENCH_SET`` is for what is typed: a process that is started apart is told everything."""

import json
from pathlib import Path

import pytest


def test_a_detached_process_does_not_see_the_settings_of_the_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensbench.app.workflows import detached

    monkeypatch.setenv("LENSBENCH_SET", "train.keep=7")
    monkeypatch.setenv("LENSBENCH_KEPT", "yes")
    (tmp_path / "seen.py").write_text(
        "import json, os\nprint(json.dumps({k: v for k, v in os.environ.items() "
        "if k.startswith('LENSBENCH_')}))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    detached.start([], tmp_path / "job", module="seen")
    for child in detached._children:
        child.wait(60)
    log = tmp_path / "job" / detached.LOG_FILE
    seen = json.loads(log.read_text())
    assert "LENSBENCH_SET" not in seen
    assert seen["LENSBENCH_KEPT"] == "yes"  # control: the rest of the environment is there
