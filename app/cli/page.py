"""``lensbench app``: the dashboard, on this machine and for this machine only."""

import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from lensbench.app.cli.console import Answer
from lensbench.errors import ConfigError, MissingDataError, StoppedError

ADDRESS = "127.0.0.1"
SETTINGS = (
    f"--server.address={ADDRESS}",
    f"--server.allowedHosts={ADDRESS}",
    "--server.allowedHosts=localhost",  # at the other end of an ssh tunnel
    "--server.headless=true",
    "--server.maxUploadSize=1",
    "--server.fileWatcherType=none",
    "--runner.postScriptGC=false",  # a third of a second with torch loaded, after every click
    "--browser.gatherUsageStats=false",
    "--client.toolbarMode=viewer",
    "--client.showErrorLinks=false",
    '--theme.headingFontSizes=["2.75rem", "1.75rem", "1.5rem"]',
    "--theme.light.primaryColor=#0072B2",
    "--theme.dark.primaryColor=#56B4E9",
)
"""On the command line, where no configuration file of the folder one stands in can change them."""


def app(
    root: Annotated[Path, typer.Option("--root", help="Folder that is shown.")] = Path(),
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port.")] = 8501,
) -> Answer:
    """Show runs, stores and models in a browser (on 127.0.0.1 only); Ctrl-C ends it."""
    if not root.is_dir():
        raise MissingDataError(f"no folder {root}; give --root a folder with runs and stores")
    _require_free(port)
    address = f"http://{ADDRESS}:{port}"
    sys.stderr.write(f"lensbench: showing {root.resolve()} at {address} (Ctrl-C ends it)\n")
    try:
        code = subprocess.run(command(root, port), check=False, stdout=2).returncode  # stderr
    except KeyboardInterrupt:
        raise StoppedError("stopped") from None
    return Answer({"address": address, "exit_code": code}, exit_code=1 if code else 0)


def command(root: Path, port: int) -> list[str]:
    """The command that serves the dashboard."""
    spec = find_spec("lensbench.app.main")
    assert spec is not None
    assert spec.origin is not None
    return [
        sys.executable, "-m", "streamlit", "run", spec.origin, f"--server.port={port}", *SETTINGS,
        "--", str(root.resolve()),
    ]  # fmt: skip


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port))
        except OSError as error:
            raise ConfigError(
                f"port {port} of {ADDRESS} cannot be used ({error.strerror}); choose another one: "
                f"lensbench app --port {port + 1 if port < 65535 else 8501}"
            ) from error
