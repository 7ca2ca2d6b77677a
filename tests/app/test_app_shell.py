"""The shell of the dashboard: every page opens, and errors are told in words."""

import ast
import re
import socket
from pathlib import Path

import pytest

from lensbench import __version__
from lensbench.app.page_list import PAGES
from tests.app.driver import open_page

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
APP = Path(__file__).resolve().parents[2] / "app"
HEAVY = ("torch", "transformers", "lensbench.saes", "lensbench.probes", "lensbench.interventions",
         "lensbench.models")  # fmt: skip


@pytest.mark.parametrize("path", [page.path for page in PAGES])
def test_every_page_opens_over_an_empty_folder_without_an_error(
    monkeypatch, tmp_path: Path, path: str
) -> None:
    shown = open_page(monkeypatch, tmp_path, "" if path == "home" else path)
    assert not shown.exception
    assert not shown.error
    title = next(page.title for page in PAGES if page.path == path)
    assert shown.title[0].value == title


def test_the_folder_shown_is_named(monkeypatch, tmp_path: Path) -> None:
    said = open_page(monkeypatch, tmp_path).sidebar.caption[-1].value.replace("\\", "")
    assert str(tmp_path) in said
    assert __version__ in said


def test_views_and_widgets_draw_and_nothing_else() -> None:
    for path in [*(APP / "views").glob("*.py"), *(APP / "widgets").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            wrong = [n for n in names if any(re.match(rf"{h}(\.|$)", n) for h in HEAVY)]
            assert wrong == [], f"{path.name} imports {wrong}; compute in app/workflows"


def test_views_stay_short() -> None:
    long = {p.name: n for p in (APP / "views").glob("*.py")
            if (n := len(p.read_text().splitlines())) > 80}  # fmt: skip
    assert long == {}


def test_no_page_writes_raw_html_of_its_own() -> None:
    for path in [*APP.glob("*.py"), *(APP / "views").glob("*.py"), *(APP / "widgets").glob("*.py")]:
        assert "unsafe_allow_html" not in path.read_text(), path.name


def test_a_name_that_leads_out_of_the_folder_is_refused(monkeypatch, tmp_path: Path) -> None:
    from lensbench.app.state import inside
    from lensbench.errors import ConfigError, MissingDataError

    (tmp_path / "root").mkdir()
    monkeypatch.setattr("sys.argv", ["main.py", str(tmp_path / "root")])
    with pytest.raises(ConfigError, match="outside the folder"):
        inside("../")
    with pytest.raises(ConfigError, match="outside the folder"):
        inside("/etc")
    with pytest.raises(MissingDataError, match="deleted"):
        inside("gone")


def test_a_port_in_use_is_an_error_that_names_another(capsys, tmp_path: Path) -> None:
    from lensbench.app.cli.main import main

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["app", "--root", str(tmp_path), "--port", str(port)]) == 2
    said = capsys.readouterr().err
    assert f"port {port}" in said
    assert "--port" in said


def test_the_server_listens_on_this_machine_only_and_sends_nothing() -> None:
    from lensbench.app.cli.page import command

    given = command(Path(), 8501)
    assert "--server.address=127.0.0.1" in given
    assert "--browser.gatherUsageStats=false" in given
    assert "--client.showErrorLinks=false" in given
