"""``lensbench app``: the browser page that shows trained runs."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from lensbench.app.cli.console import Answer
from lensbench.errors import MissingDataError, StoppedError


def app(
    root: Annotated[Path, typer.Argument(help="Folder whose runs are shown.")] = Path(),
    port: Annotated[int, typer.Option("--port", help="Port on this machine.")] = 8501,
) -> Answer:
    """Open the page of trained runs in a browser (127.0.0.1 only); Ctrl-C ends it."""
    if not root.is_dir():
        raise MissingDataError(f"no folder {root}; runs are written where --out says")
    spec = find_spec("lensbench.app.main")
    assert spec is not None
    assert spec.origin is not None
    command = [
        sys.executable, "-m", "streamlit", "run", spec.origin,
        "--server.address=127.0.0.1", f"--server.port={port}", "--browser.gatherUsageStats=false",
        "--client.toolbarMode=viewer",
        "--", str(root),
    ]  # fmt: skip
    try:
        code = subprocess.run(command, check=False).returncode
    except KeyboardInterrupt:
        raise StoppedError("stopped") from None
    return Answer({"port": port, "exit_code": code}, exit_code=1 if code else 0)
