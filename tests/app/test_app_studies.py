"""Studies that are jobs: started, followed, found again by their address, run again, removed."""

import json
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lensbench.app.workflows import (
    acceleration_live,
    detached,
    expert_jobs,
    expert_rates,
    jobs,
    shapes,
    studies,
    work,
)
from lensbench.app.workflows.acceleration import ExitAsk
from lensbench.app.workflows.expert_page import ExpertAsk
from lensbench.errors import ConfigError, MismatchError
from tests.app.driver import open_page, words
from tests.app.tiny_root import Root, make_root

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
OLD = "2026-01-01T00:00:00Z"
ASKED = {"stores": "acts", "measure": "Anisotropy"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Root:
    """A tiny model, a store of other text, and one of its own."""
    import lensbench
    from lensbench.interventions import acceleration

    root = make_root(tmp_path_factory.mktemp("studies"), profile="resid", run=False)
    model = lensbench.load_model(root.model)
    acceleration.capture_own(model, ["the cat", "a plain dog saw"], root.folder / "own", 10)
    return root


@pytest.fixture
def root(made: Root, tmp_path: Path) -> Path:
    """A folder of its own for each test, over the same stores."""
    import shutil

    for name in ("acts", "own"):
        shutil.copytree(made.folder / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detached, "start", lambda *_, **__: None)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs run in this process, at once."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(detached, "start", lambda _, folder, **__: work.main(folder))


@pytest.fixture
def long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Geometry is taken to be long work."""
    monkeypatch.setattr(shapes, "AT_ONCE", 0)


def wait(condition: Callable[[], bool], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.05)


def told(root: Path, name: str, **change: Any) -> None:
    path = root / "jobs" / name / "status.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "heartbeat": OLD, **change}))


def buttons(page: Any) -> set[str]:
    return {button.key for button in page.button}


@pytest.mark.usefixtures("not_started", "long")
def test_every_state_of_a_study_is_shown_with_what_can_be_done(monkeypatch, root: Path) -> None:
    look = partial(open_page, monkeypatch, root, "geometry", **ASKED)
    page = look()
    assert not page.exception
    assert "lensbench probe geometry --measure anisotropy" in words(page)
    page.button(key="start-geometry").click().run()
    assert not page.exception
    [job] = jobs.all_jobs(root, "geometry")
    name, again = job.name, f"go-on-{job.name}"
    assert "start-geometry" not in buttons(look()), "another tab finds the same job"
    assert f"stop-{name}" in buttons(look())
    told(root, name, state="running", done=3, total=9, unit="sites", heartbeat=detached.now())
    assert "3 of 9 sites" in str(look().get("progress")[0].proto)
    told(root, name, state="running")
    assert "its process is gone" in str(look().get("progress")[0].proto), "lost"
    assert {again, f"forget-{name}"} <= buttons(look())
    told(root, name, state="stopped")
    assert again in buttons(look())
    told(root, name, state="failed", message="no such model")
    page = look()
    assert "no such model" in words(page)
    page.button(key=again).click().run()
    assert jobs.look(root, name).state == "queued"
    told(root, name, state="stopped")
    page = look()
    page.button(key=f"forget-{name}").click().run()
    assert "start-geometry" in buttons(page)


@pytest.mark.usefixtures("not_started", "long")
def test_home_leads_back_to_the_very_study(monkeypatch, root: Path) -> None:
    page = open_page(monkeypatch, root, "geometry", **ASKED)
    page.button(key="start-geometry").click().run()
    [job] = jobs.all_jobs(root)
    assert dict(job.address) == {"page": "geometry", "stores": ["acts"]}
    home = open_page(monkeypatch, root, "")
    home.button(key=f"open-{job.name}").click().run()
    assert not home.exception
    assert home.title[0].value == "Geometry"
    assert f"stop-{job.name}" in buttons(home)


@pytest.mark.usefixtures("here", "long")
def test_a_finished_study_is_found_again_run_again_and_removed(monkeypatch, root: Path) -> None:
    look = partial(open_page, monkeypatch, root, "geometry", **ASKED)
    look().button(key="start-geometry").click().run()
    page = look()
    assert not page.exception
    assert len(page.get("plotly_chart")) == 1
    assert "took" in words(page)
    at_once = shapes.measure(shapes.ShapeAsk((str(root / "acts"),)))
    [file] = (root / "geometry").glob("*/result.json")
    from lensbench.results import load

    found = load(file.parent)
    assert found.to_frame().equals(at_once.to_frame()), "what is measured while a reader waits"
    before = file.stat().st_mtime_ns
    page.button(key="run-again-geometry").click().run()
    assert not page.exception
    assert file.stat().st_mtime_ns > before
    page = look()
    page.button(key="remove-geometry").click().run()
    assert not page.exception
    assert not file.parent.exists()
    assert jobs.all_jobs(root) == []
    assert "start-geometry" in buttons(page)


@pytest.mark.usefixtures("not_started")
def test_a_quick_measure_is_no_job(monkeypatch, root: Path) -> None:
    page = open_page(monkeypatch, root, "geometry", **ASKED)
    assert len(page.get("plotly_chart")) == 1
    assert "run-again-geometry" not in buttons(page)
    assert jobs.all_jobs(root) == []


@pytest.mark.usefixtures("not_started")
def test_nothing_is_removed_from_under_a_job_nor_outside_the_folder(root: Path) -> None:
    ask = shapes.ShapeAsk((str(root / "acts"),))
    settings = shapes.settings_of(ask, shapes.folder_for(root, ask))
    jobs.start(root, "geometry", studies.target_of(root, settings), settings)
    with pytest.raises(MismatchError, match="going on"):
        studies.remove(root, "geometry", settings)
    with pytest.raises(ConfigError, match="remove it yourself"):
        studies.remove(root, "geometry", {"out": str(root.parent)})
    away = root.parent / f"{root.name}-away"
    away.mkdir()
    (root / "link").symlink_to(away)
    with pytest.raises(ConfigError, match="remove it yourself"):
        studies.remove(root, "geometry", {"out": str(root / "link")})


def test_a_live_run_is_a_process_whose_result_is_that_of_the_call(root: Path) -> None:
    from lensbench.app.workflows.accelerating import AccelerateAsk, accelerate

    ask = ExitAsk(str(root / "own"), 1, 4, 0.6)
    settings = acceleration_live.settings_of(root, ask)
    name = jobs.start(root, "live", studies.target_of(root, settings), settings)
    wait(lambda: not jobs.look(root, name).live, "the live run")
    job = jobs.look(root, name)
    assert job.state == "finished", jobs.log_of(root, name)
    assert (job.done, job.unit) == (job.total, "runs")
    assert job.done == 2 * (1 + job.result["methods"])
    found = acceleration_live.saved(root, ask)
    assert found is not None
    asked = {k: v for k, v in settings.items() if k != "out"}
    _, here = accelerate(AccelerateAsk(**asked))
    timed = ("pred_speedup_calibrated", "pred_error", "meas_speedup")
    for one, other in zip(found.rows, here.rows, strict=True):
        for key in set(one) - set(timed):
            np.testing.assert_equal(one[key], other[key], err_msg=f"{one['label']}: {key}")
    assert acceleration_live.n_prompts(found) == 2
    assert acceleration_live.saved(root, ExitAsk(str(root / "own"), 1, 4, 0.7)) is None


@pytest.mark.slow
def test_an_expert_study_is_a_process_that_is_stopped_and_gone_on_with(tmp_path: Path) -> None:
    from lensbench.app.workflows.experts import suppress_experts

    ask = ExpertAsk("atlas-moe", "desk:24", top=2)
    settings = expert_jobs.study_settings(tmp_path, ask)
    name = jobs.start(tmp_path, "study", studies.target_of(tmp_path, settings), settings)
    wait(lambda: "answering" in jobs.look(tmp_path, name).message, "its beginning")
    jobs.stop(tmp_path, name)
    wait(lambda: not jobs.look(tmp_path, name).live, "its end")
    assert jobs.look(tmp_path, name).state == "stopped"
    assert expert_jobs.saved_study(tmp_path, ask) is None
    jobs.go_on(tmp_path, name)
    wait(lambda: not jobs.look(tmp_path, name).live, "the study")
    job = jobs.look(tmp_path, name)
    assert (job.state, job.unit) == ("finished", "conditions")
    assert job.done == job.total == job.result["conditions"] - 1, "all but the clean one"
    found = expert_jobs.saved_study(tmp_path, ask)
    assert found is not None
    suppress_experts("atlas-moe", "desk:24", top=2, draws=20, out=tmp_path / "here")
    from lensbench.results import load

    assert found.to_frame().equals(load(tmp_path / "here").to_frame())


def test_the_study_of_the_page_is_drawn_and_belongs_to_what_is_chosen(
    monkeypatch, tmp_path: Path
) -> None:
    from lensbench.app.workflows.experts import suppress_experts

    asked = {"model": "atlas-moe", "prompts": "desk:24", "part": "Rank and study"}
    settings = expert_jobs.study_settings(tmp_path, ExpertAsk("atlas-moe", "desk:24"))
    suppress_experts("atlas-moe", "desk:24", top=3, draws=2, out=Path(settings["out"]))
    page = open_page(monkeypatch, tmp_path, "experts", **asked)
    assert not page.exception
    assert len(page.get("plotly_chart")) == 2
    assert "Suppressed: " in words(page)
    assert "Made on the command line." in words(page)
    page.number_input(key="top").set_value(2).run()
    assert "Suppressed: " not in words(page), "another request is another study"
    assert "start-study" in buttons(page)
    page.number_input(key="top").set_value(3).run()
    assert "Suppressed: " in words(page)
    page.selectbox(key="desk").set_value("cannot say").run()
    assert "Suppressed: " not in words(page)


@pytest.mark.usefixtures("here")
def test_rates_that_take_long_are_a_job_with_the_same_numbers(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(expert_jobs, "AT_ONCE", 0)
    monkeypatch.setattr(expert_rates, "HELD_OUT", 16)
    page = open_page(monkeypatch, tmp_path, "experts", model="atlas-moe", prompts="desk:24",
                     top="1")  # fmt: skip
    page.button(key="suppress").click().run()
    assert "lensbench experts rates" in words(page)
    page.button(key="start-rates").click().run()
    assert not page.exception
    assert not page.error
    assert "Control: random experts" in words(page)
    [job] = jobs.all_jobs(tmp_path, "rates")
    assert job.unit == "sets"
    assert job.done == job.total > 2
    ask = ExpertAsk("atlas-moe", "desk:24", top=1)
    [slider] = [s.key for s in page.slider if s.key.startswith("w")]
    layer, expert = map(int, slider[1:].split("-"))
    weights = ((layer, expert, -1.0),)
    found = expert_jobs.rates_for(tmp_path, ask, weights)
    assert found is not None
    direct = expert_rates._rates.__wrapped__(ask, weights, None)  # nothing of other tests is kept
    assert found.to_frame().equals(direct.to_frame())
    assert "run-again-rates" in buttons(page)


@pytest.mark.usefixtures("here")
def test_own_text_of_a_store_is_a_job_and_is_opened_when_it_is_there(
    monkeypatch, root: Path
) -> None:
    page = open_page(monkeypatch, root, "acceleration", store="acts")
    assert any("a guess" in w.value for w in page.warning)
    page.button(key="own").click().run()
    assert not page.exception
    [job] = jobs.all_jobs(root, "own")
    assert (job.state, job.target) == ("finished", "acts-own"), job.message
    page = open_page(monkeypatch, root, "acceleration", store="acts")
    assert "has written its own text" in words(page)
    page.button(key="open-own").click().run()
    assert not page.exception
    assert page.selectbox(key="store").value == "acts-own"
    assert not page.warning
    assert "wrote itself" in words(page)


def test_methods_are_written_as_calls_with_choices() -> None:
    from lensbench.app.workflows.method_calls import methods_of

    given = "fixed_exit(exit_layer=1|2, draft=2|4), early_exit(threshold=0.5, measure=entropy)"
    made = methods_of(given, 6)
    assert [m.label for m in made or ()] == [
        "fixed_exit(exit_layer=1, draft=2)", "fixed_exit(exit_layer=1, draft=4)",
        "fixed_exit(exit_layer=2, draft=2)", "fixed_exit(exit_layer=2, draft=4)",
        "early_exit(threshold=0.5, measure=entropy)",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="cannot read"):
        methods_of("fixed_exit(exit_layer=1+2)", 6)


def test_text_of_other_models_is_not_continued(root: Path) -> None:
    from lensbench.app.workflows.accelerating import AccelerateAsk, write_own

    with pytest.raises(MismatchError):
        write_own(AccelerateAsk("atlas-dense", prompts=str(root / "acts"), keep=str(root / "k")))
    with pytest.raises(ConfigError, match="give both"):
        write_own(AccelerateAsk("atlas-dense", prompts="atlas:4"))
