"""Home: what is here, what goes on, and what to do next."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from lensbench.app.page_list import PAGES
from tests.app.driver import open_page, words

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def gone(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, str]]]:
    """Where buttons lead, instead of going there."""
    from lensbench.app.widgets import next_steps

    led: list[tuple[str, dict[str, str]]] = []
    monkeypatch.setattr(next_steps, "go_to", lambda path, **query: led.append((path, query)))
    return led


def state(run: Path, **changes: Any) -> None:
    path = run / "status.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def test_an_empty_folder_says_what_to_do_and_how_on_the_command_line(monkeypatch, tmp_path) -> None:
    page = open_page(monkeypatch, tmp_path)
    assert [m.value for m in page.metric][:2] == ["0", "0"]
    assert "no run and no activation store" in page.info[0].value
    assert f"lensbench demo --out {tmp_path}" in words(page)
    assert [b.label for b in page.button if b.key.startswith("step-")] == [
        "See a first picture", "Capture activations",
    ]  # fmt: skip


def test_the_first_picture_is_one_click_from_an_empty_folder(monkeypatch, tmp_path: Path) -> None:
    page = open_page(monkeypatch, tmp_path)
    page.button(key="step-0").click().run()
    assert not page.exception
    assert not page.error
    assert page.title[0].value == "Lens"
    assert len(page.get("plotly_chart")) >= 1
    said = page.text_area(key="text").value
    assert said in words(open_page(monkeypatch, tmp_path)), "the command reads the same text"


def test_a_run_on_a_twin_is_said_to_be_left_out(
    monkeypatch, small_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.app.commands import answer, run

    for place in ("demo/run", "demo/twin/run"):
        shutil.copytree(small_root / "runs/small", tmp_path / place)
    for path in ("", "runs"):
        page = open_page(monkeypatch, tmp_path, path)
        assert not page.exception
        said = words(page).replace("\\", "")
        assert "Left out: demo/twin/run, trained on the model's twin" in said
    facts = answer(capsys, "runs", "ls", tmp_path)
    assert [Path(row["run"]).name for row in facts["runs"]] == ["run"]
    assert facts["twins"] == [str(tmp_path / "demo/twin/run")]
    assert run("runs", "ls", tmp_path) == 0
    assert "Left out: demo/twin/run" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "demo/twin")
    assert "Left out" not in words(open_page(monkeypatch, tmp_path, "runs"))


def test_what_the_guidance_names_is_there() -> None:
    from lensbench.app.widgets.text_source import TYPED
    from lensbench.app.workflows import guidance
    from lensbench.models.loading import bundled_models

    assert guidance.TYPED == TYPED
    assert guidance.MODEL in bundled_models()


def test_what_people_do_first_leads_to_pages_that_open(
    monkeypatch, small_root: Path, gone: list[Any]
) -> None:
    page = open_page(monkeypatch, small_root)
    for i in range(8):
        page.button(key=f"task-{i}").click().run()
    assert len(gone) == 8
    assert {path for path, _ in gone} <= {page.path for page in PAGES}
    assert gone[2] == ("sweep", {"run": "runs/small"})
    assert gone[6] == ("acceleration", {"store": "acts"})
    for path, query in (gone[2], gone[3], gone[6]):
        opened = open_page(monkeypatch, small_root, path, **query)
        assert not opened.exception
        assert not opened.warning, "what is named is there"


def test_what_is_there_is_counted_and_listed(monkeypatch, small_root: Path) -> None:
    page = open_page(monkeypatch, small_root)
    assert not page.exception
    assert [m.value for m in page.metric][:2] == ["1", "1"]
    runs, stores, models = (table.value for table in page.dataframe)
    assert runs["run"].tolist() == ["runs/small"]
    assert runs["evaluated"].tolist() == [True]
    assert stores["store"].tolist() == ["acts"]
    assert "atlas-dense" in models["model"].tolist()
    assert f"lensbench report {small_root}/runs/small" in words(page)


def test_a_row_leads_to_its_page(monkeypatch, small_root: Path) -> None:
    from lensbench.app.views import home

    led: list[tuple[str, dict[str, str]]] = []
    monkeypatch.setattr(home, "go_to", lambda path, **query: led.append((path, query)))
    monkeypatch.setattr(home, "show_listing", lambda *_, **__: 0)
    page = open_page(monkeypatch, small_root)
    assert not page.exception
    assert led == [
        ("runs", {"run": "runs/small"}),
        ("stores", {"store": "acts"}),
        ("capture", {"model": "atlas-dense"}),
    ]


def test_only_the_newest_are_listed_and_a_button_leads_to_all(
    monkeypatch, small_root: Path, tmp_path: Path
) -> None:
    from lensbench.app.views.home import ROWS

    for i in range(ROWS + 2):
        shutil.copytree(small_root / "runs" / "small", tmp_path / f"r{i}")
    page = open_page(monkeypatch, tmp_path)
    assert len(page.dataframe[0].value) == ROWS
    assert page.button(key="all-runs").label == f"All {ROWS + 2}"
    page.button(key="all-runs").click().run()
    assert page.title[0].value == "Runs"


def test_what_goes_on_stands_first_with_how_far_it_is(
    monkeypatch, small_root: Path, tmp_path: Path, gone: list[Any]
) -> None:
    for name in ("old", "going"):
        shutil.copytree(small_root / "runs" / "small", tmp_path / name)
    state(tmp_path / "going", state="running", step=4, steps=16, heartbeat=now())
    job = tmp_path / "jobs" / "verify-acts"
    job.mkdir(parents=True)
    (job / "request.json").write_text(json.dumps(
        {"kind": "verify", "target": "acts", "settings": {}, "expects": 0, "started": now()}
    ))  # fmt: skip
    (job / "status.json").write_text(json.dumps(
        {"state": "running", "done": 1, "total": 4, "unit": "", "message": "", "pid": 0,
         "seconds": 1.0, "heartbeat": now(), "result": {}}
    ))  # fmt: skip
    page = open_page(monkeypatch, tmp_path)
    assert not page.exception
    assert page.header[0].value == "Going on"
    bars = [(bar.proto.text, bar.value) for bar in page.get("progress")]
    assert ("going, running\\: step 4 of 16", 25) in bars
    assert [value for _, value in bars] == [25, 25]
    assert page.metric[1].delta == "1 going on"
    assert page.dataframe[0].value["run"].tolist() == ["going", "old"]
    page.button(key="open-going").click().run()
    page.button(key="open-verify-acts").click().run()
    assert gone == [("runs", {"run": "going"}), ("stores", {})]


@pytest.mark.parametrize(
    ("changes", "first", "page"),
    [
        ({"state": "running", "heartbeat": "now"}, "Follow run", "runs"),
        ({"state": "stopped"}, "Go on with run", "runs"),
        ({}, "Evaluate run", "runs"),
    ],
)
def test_the_next_step_is_what_the_run_needs(
    small_root: Path, tmp_path: Path, changes: dict[str, str], first: str, page: str
) -> None:
    from lensbench.app.workflows.guidance import next_steps
    from lensbench.app.workflows.overview import run_frame

    shutil.copytree(small_root / "runs" / "small", tmp_path / "run")
    shutil.copytree(small_root / "acts", tmp_path / "acts")
    shutil.rmtree(tmp_path / "run" / "evaluation")
    state(tmp_path / "run", **{k: now() if v == "now" else v for k, v in changes.items()})
    rows: Any = run_frame(tmp_path).to_dict("records")
    steps = next_steps(tmp_path, rows, ["acts"])
    assert len(steps) <= 3
    assert (steps[0].title, steps[0].page) == (first, page)
    assert steps[0].query == {"run": "run"}
    assert str(tmp_path / "run") in steps[0].command
    for step in steps:
        assert step.command.startswith("lensbench ")


def test_every_command_that_is_offered_is_one(
    small_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shlex

    from lensbench.app.cli.main import main
    from lensbench.app.workflows.guidance import next_steps
    from lensbench.app.workflows.overview import run_frame

    rows: Any = run_frame(small_root).to_dict("records")
    broken = [{"run": "runs/small", "state": "stopped"}]
    steps = [*next_steps(tmp_path, [], []), *next_steps(small_root, rows, ["acts"]),
             *next_steps(small_root, broken, []),
             *next_steps(small_root, [], ["acts"])]  # fmt: skip
    for step in steps:
        words = shlex.split(step.command)[1:]
        verbs = [w for w in words[:3] if not w.startswith(("-", "/"))]
        assert main([*verbs, "--help"]) == 0, step.command
        known = capsys.readouterr().out
        assert all(flag in known for flag in words if flag.startswith("--")), step.command


def test_models_of_the_folder_are_listed_beside_the_bundled(monkeypatch, tmp_path: Path) -> None:
    from tests.app.tiny_root import save_tiny

    save_tiny(tmp_path / "models" / "mine")
    page = open_page(monkeypatch, tmp_path)
    models = page.dataframe[0].value.set_index("model")
    assert models.loc["models/mine", "from"] == "folder"
    assert models.loc["models/mine", "layers"] == 3
    assert models.loc["atlas-dense", "from"] == "bundled"


def test_a_damaged_store_is_told_in_its_row(monkeypatch, small_root: Path, tmp_path: Path) -> None:
    shutil.copytree(small_root / "acts", tmp_path / "acts")
    (tmp_path / "acts" / "manifest.json").write_text("{")
    page = open_page(monkeypatch, tmp_path)
    assert not page.exception
    assert "manifest.json" in page.dataframe[0].value["state"].iloc[0]


def test_a_damaged_run_does_not_hide_the_others(monkeypatch, small_root: Path, tmp_path) -> None:
    for name in ("whole", "torn"):
        shutil.copytree(small_root / "runs" / "small", tmp_path / name)
    (tmp_path / "torn" / "status.json").write_text("{")
    page = open_page(monkeypatch, tmp_path)
    assert not page.exception
    assert not page.error
    runs = page.dataframe[0].value
    assert runs["run"].tolist() == ["whole", "torn"]
    assert runs["state"].tolist() == ["finished", "damaged"]


def test_times_and_sizes_are_for_people(monkeypatch, small_root: Path) -> None:
    page = open_page(monkeypatch, small_root)
    runs, stores, models = (table.value for table in page.dataframe)
    assert runs["started (UTC)"].str.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d").all()
    assert "MiB" in stores
    assert "MiB" in models
    assert "--sites blocks.3.resid_post" in words(page)
    assert "localized" in page.dataframe[0].proto.columns


def test_a_run_that_was_gone_on_with_keeps_its_start(small_root: Path, tmp_path: Path) -> None:
    import os

    from lensbench.app.workflows.overview import run_frame

    run = Path(shutil.copytree(small_root / "runs" / "small", tmp_path / "run"))
    os.utime(run / "sweep.yaml", (1_700_000_000, 1_700_000_000))
    state(run, started="2030-01-01T00:00:00Z")
    assert run_frame(tmp_path)["started (UTC)"].tolist() == ["2023-11-14 22:13"]


def test_every_bundled_model_says_its_sizes(tmp_path: Path) -> None:
    from lensbench.app.workflows.overview import model_frame

    frame = model_frame(tmp_path).set_index("model")
    assert not frame.isna().any().any()
    assert frame.loc["othello", "family"] == "gpt2"
