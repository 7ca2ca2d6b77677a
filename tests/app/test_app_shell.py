"""The shell of the dashboard: every page opens, and errors are told in words."""

import ast
import re
import shlex
import socket
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from lensbench import __version__
from lensbench.app.cli.root import build
from lensbench.app.page_list import PAGES
from lensbench.app.widgets.states import plain
from lensbench.app.workflows.page_help import help_of
from lensbench.errors import ConfigError, DamagedDataError, MismatchError, MissingDataError
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


@pytest.mark.parametrize("path", [page.path for page in PAGES])
def test_every_empty_page_offers_a_command_that_is_known(monkeypatch, tmp_path: Path, path) -> None:
    assert_known(open_page(monkeypatch, tmp_path, "" if path == "home" else path), path)


FILLED = [(page.path, {}) for page in PAGES if page.path != "home"] + [
    (path, {"from": "My own text", **more}) for path in ("lens", "attention")
    for more in ({}, {"model": "atlas-dense"})
] + [
    ("lens", {"view": "Two texts"}), ("lens", {"view": "Two texts", "model": "atlas-dense"}),
    ("attention", {"from": "Repeated random tokens"}), ("latent", {"run": "runs/small"}),
    ("sweep", {"run": "runs/small"}), ("compare", {"one": "runs/small"}),
    ("compare", {"one": "runs/small", "other": "runs/small"}),
    ("patching", {"model": "atlas-dense", "of": "A CSV file"}),
    ("steering", {"direction": "A latent of a dictionary"}),
]  # fmt: skip


@pytest.mark.parametrize(("path", "query"), FILLED, ids=str)
def test_a_page_with_little_chosen_says_what_next_and_offers_a_command(
    monkeypatch, small_root: Path, path: str, query: dict[str, str]
) -> None:
    shown = open_page(monkeypatch, small_root, path, **query)
    assert not shown.exception
    if path not in ("capture", "runs", "sweep"):  # a form, a list that says so, results
        begins = ("Choose", "Type", "There is", "That is")
        assert any(info.value.startswith(begins) for info in shown.info)
    assert_known(shown, path)


A_LATENT = {"run": "runs/small", "dictionary": "DICTIONARY", "latent": "3"}
OWN = {"from": "My own text", "model": "atlas-dense", "text": "the capital of"}
LINES = [
    ("latent", {**A_LATENT, "part": part}, line) for part, line in {
        "Where it fires": "latents show", "What it writes": "latents show",
        "Related latents": "latents nearest", "On my text": "latents text",
        "Steer with it": "latents steer",
    }.items()
] + [
    ("latent", {**A_LATENT, "latent": "", "said": "a b"}, "latents ls"),
    ("latent", {**A_LATENT, "latent": "", "find": "What fires on my text", "typed": "the cat"},
     "latents text"),
    ("directions", {**A_LATENT, "show": "Map"}, "latents map"),
    ("directions", {**A_LATENT, "show": "Nearest latents"}, "latents nearest"),
    ("directions", {**A_LATENT, "show": "Geometry"}, "latents geometry"),
    ("steering", A_LATENT, "latents steer"),
    ("steering", {"model": "atlas-dense"}, "steer"),
    ("steering", {"model": "atlas-dense", "direction": "A prompt task"}, "steer agreement"),
    ("lens", OWN, "lens text"), ("lens", {**OWN, "lens": "Site lens"}, "lens sites"),
    ("lens", {**OWN, "lens": "Component lens"}, "lens parts"),
    ("lens", {**OWN, "view": "Two texts", "text2": "the town of"}, "lens pair"),
    ("attention", OWN, "heads scores"), ("token", {"store": "acts"}, "lens document"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "query", "line"), LINES, ids=str)
def test_beside_what_is_shown_stands_its_command(
    monkeypatch, small_root: Path, path: str, query: dict[str, str], line: str
) -> None:
    name = next((small_root / "runs" / "small").glob("topk-64-k8*")).name
    asked = {k: name if v == "DICTIONARY" else v for k, v in query.items() if v}
    shown = open_page(monkeypatch, small_root, path, **asked)
    assert not shown.exception
    assert not shown.error
    assert any(str(code.value).startswith(f"lensbench {line} ") for code in shown.code)
    assert_known(shown, path)


def assert_known(shown: Any, path: str) -> None:
    """A command is offered, and every one that is exists with its options."""
    lines = [line for code in shown.code for line in str(code.value).splitlines()]
    offered = [shlex.split(line)[1:] for line in lines if line.startswith("lensbench ")]
    assert offered, "a reader of this page is told how to do it without it"
    for words in offered:
        group: Any = get_command(build())
        for word in words:
            if not hasattr(group, "commands"):
                break
            assert word in group.commands, f"{path} offers an unknown command: {words}"
            group = group.commands[word]
        known = {option for p in group.params for option in (*p.opts, *p.secondary_opts)}
        assert {w.split("=")[0] for w in words if w.startswith("--")} <= known | {"--json"}, words


def test_the_help_of_a_page_names_known_commands_and_a_section() -> None:
    for page in PAGES:
        told = help_of(page.path, page.verb, page.methods)
        assert told.purpose, f"{page.path}: begin the docstring of its module with 'Name: what'"
        assert told.methods or not page.methods, f"no section {page.methods!r} in docs/methods.md"
        for verb in told.verbs:
            group: Any = get_command(build())
            for word in verb.split():
                assert word in group.commands, f"{page.path}: {verb}"
                group = group.commands[word]


def test_a_bug_is_called_one_and_told_in_full_to_the_log(monkeypatch, tmp_path, caplog) -> None:
    from lensbench.app.views import home

    def fail() -> None:
        raise ZeroDivisionError("of ours")

    monkeypatch.setattr(home, "show", fail)
    shown = open_page(monkeypatch, tmp_path)
    assert "mistake of lensbench" in shown.error[0].value
    assert shown.expander[0].label.startswith("Details to report")
    assert shown.expander[0].exception, "in the expander, not on the page"
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(
    ("error", "title"),
    [(ConfigError("a *b* <i>"), "Cannot be used"), (MissingDataError("gone"), "Not found"),
     (DamagedDataError("cut"), "Damaged"), (MismatchError("other"), "Does not fit")],
)  # fmt: skip
def test_an_error_says_what_kind_it_is(monkeypatch, tmp_path, error, title) -> None:
    from lensbench.app.views import home

    def fail() -> None:
        raise error

    monkeypatch.setattr(home, "show", fail)
    shown = open_page(monkeypatch, tmp_path)
    assert not shown.exception
    assert shown.error[0].proto.title == title
    assert shown.error[0].value == plain(str(error)), "its words are no Markdown"


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
