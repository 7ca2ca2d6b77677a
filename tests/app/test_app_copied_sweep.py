"""Copied code of fronts and curves that no visit of a page reaches: every metric, several runs."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from lensbench.app.workflows import curves, fronts
from lensbench.app.workflows.curve_code import curve_code
from lensbench.app.workflows.sweep_code import fronts_code, scores_code
from lensbench.app.workflows.sweep_page import fronts_frame, metrics_of, scores
from tests.app.drawn import different, run_code
from tests.app.test_app_figures import RUN

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def runs(small_root: Path, tmp_path: Path) -> dict[str, Path]:
    """One run, and the same under another name."""
    shutil.copytree(small_root / RUN, tmp_path / "other")
    return {"one": small_root / RUN, "other": tmp_path / "other"}


def test_every_front_is_drawn_again_of_one_run_and_of_two(runs: dict[str, Path]) -> None:
    results = {name: fronts.evaluated(run) for name, run in runs.items()}
    first = {"one": runs["one"]}
    assert len(metrics_of(results)) > 4
    for metric in metrics_of(results):
        for chosen in (first, runs):
            frame = fronts_frame({name: results[name] for name in chosen}, metric)
            drawn = fronts.front_figure(frame, metric)
            code = fronts_code(chosen, metric, frame, drawn)
            assert "lensbench.app" not in code
            assert not different(drawn, run_code(code)), (metric, list(chosen))


def test_the_scores_of_two_runs_are_made_again(runs: dict[str, Path]) -> None:
    results = {name: fronts.evaluated(run) for name, run in runs.items()}
    made = run_code(scores_code(runs, [n for n, one in results.items() if one.labels]))
    pd.testing.assert_frame_equal(made, scores(results), check_dtype=False)


def test_thinned_curves_of_many_dictionaries_are_drawn_again(
    runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensbench.app.workflows import curve_code as written

    for place in (curves, written):
        monkeypatch.setattr(place, "MOST", 3)
        monkeypatch.setattr(place, "COLOURED", 1)
    frame = curves.curves_of(runs["one"])
    assert frame.attrs["every"] > 1
    chosen = curves.names_in(frame)[1:2]
    for metric in curves.logged(frame):
        drawn, _ = curves.curve_figure(frame, metric, over="step", chosen=chosen)
        code = curve_code(runs["one"], metric, "step", chosen, frame)
        assert ("lensbench.app" in code) == (metric in written.UNKEPT)
        assert not different(drawn, run_code(code)), metric


def test_curves_of_a_run_that_is_not_finished_are_read_from_its_logs(runs: dict[str, Path]) -> None:
    for folder in runs["other"].glob("*/result"):
        shutil.rmtree(folder)
    frame = curves.curves_of(runs["other"])
    code = curve_code(runs["other"], "fvu", "tokens", (), frame)
    assert not different(curves.curve_figure(frame, "fvu")[0], run_code(code))
