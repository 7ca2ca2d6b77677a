"""A folder of 200 runs and 50 stores, and a dictionary of 65,536 latents: what a click costs.

Costs are counted, not timed: files opened and folders listed below the root, and bytes that go to
the browser. Times are in ``benchmarks/dashboard.py``.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lensbench.app.page_list import PAGES
from tests.app.driver import open_page, words
from tests.app.large_root import WIDE, WIDTH, make_large
from tests.app.tiny_root import spec_of, values

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
RUNS, STORES = 200, 50
_counting: list[tuple[str, Counter[str]]] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _counting and event in ("open", "os.scandir", "os.listdir"):
        root, counts = _counting[-1]
        if str(arguments[0]).startswith(root):
            counts["opened" if event == "open" else "listed"] += 1


sys.addaudithook(_audit)


@contextmanager
def counted(root: Path) -> Iterator[Counter[str]]:
    """Files opened and folders listed below ``root`` while the block runs."""
    counts: Counter[str] = Counter()
    _counting.append((str(root), counts))
    try:
        yield counts
    finally:
        _counting.pop()


def sent(page: Any) -> int:
    """Bytes of what the page shows, as they go to the browser."""

    def size(node: Any) -> int:
        inside = getattr(node, "children", {})
        own = 0 if inside else getattr(getattr(node, "proto", None), "ByteSize", lambda: 0)()
        return own + sum(size(child) for child in inside.values())

    return size(page._tree)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_large(tmp_path_factory.mktemp("large"), runs=RUNS, stores=STORES)
    time.sleep(2.1)  # what was written just now is looked at again
    return root


def wide(root: Path) -> dict[str, str]:
    name = next(iter(json.loads((root / WIDE / "status.json").read_text())["dictionaries"]))
    return {"run": WIDE, "dictionary": name}


PLACES: dict[str, Callable[[Path], tuple[str, dict[str, str]]]] = {
    **{page.path: (lambda _, path=page.path: (path, {})) for page in PAGES},
    "a store": lambda _: ("stores", {"store": "stores/s003"}),
    "a run": lambda _: ("runs", {"run": "runs/r002"}),
    "a sweep": lambda _: ("sweep", {"run": "runs/r002"}),
    "two runs": lambda _: ("compare", {"one": "runs/r002", "other": "runs/r004"}),
    "a model": lambda _: ("lens", {"from": "My own text"}),
    "wide sweep": lambda _: ("sweep", {"run": WIDE}),
    "wide table": lambda root: ("latent", wide(root)),
    "wide map": lambda root: ("directions", wide(root)),
    "wide nearest": lambda root: (
        "directions", {**wide(root), "show": "Nearest latents", "latent": "3"}
    ),
    "wide geometry": lambda root: ("directions", {**wide(root), "show": "Geometry"}),
}  # fmt: skip
OPENED, LISTED, SENT = 40, 40, 400_000
"""Most that a click may cost, whatever the number of runs and latents: what is shown is read."""
MAP = 2_500_000
"""Bytes of a map: the points themselves with what hovering says."""


@pytest.mark.parametrize("place", PLACES)
def test_a_click_costs_no_more_in_a_large_folder(monkeypatch, large: Path, place: str) -> None:
    path, query = PLACES[place](large)
    page = open_page(monkeypatch, large, "" if path == "home" else path, **query)
    assert not page.exception
    assert not page.error
    page.run()  # what a first look had to read is kept
    with counted(large) as counts:
        page.run()
    assert counts["opened"] <= OPENED
    assert counts["listed"] <= LISTED
    assert sent(page) <= (MAP if place == "wide map" else SENT)


def test_the_counters_see_what_they_should(large: Path) -> None:
    with counted(large) as counts:
        (large / "runs" / "r000" / "status.json").read_text()
        list((large / "runs").iterdir())
    assert counts == {"opened": 1, "listed": 1}


def test_every_run_and_store_is_offered(monkeypatch, large: Path) -> None:
    assert len(open_page(monkeypatch, large, "runs").selectbox(key="run").options) == RUNS + 1
    assert len(open_page(monkeypatch, large, "stores").selectbox(key="store").options) == STORES


def test_a_run_that_comes_or_changes_is_seen_at_the_next_click(tmp_path: Path) -> None:
    from lensbench.app.workflows.finding import find
    from lensbench.app.workflows.runs import list_runs

    runs = make_bare(tmp_path, "a"), make_bare(tmp_path, "deep/er/b")
    assert set(find(tmp_path).runs) == set(runs)
    time.sleep(2.1)
    assert len(find(tmp_path).runs) == 2
    assert {row["state"] for row in list_runs(tmp_path)["runs"]} == {"finished"}
    third = make_bare(tmp_path, "deep/c")
    assert third in find(tmp_path).runs
    make_bare(tmp_path, "a", state="stopped")
    states = {Path(row["run"]).name: row["state"] for row in list_runs(tmp_path)["runs"]}
    assert states == {"a": "stopped", "b": "finished", "c": "finished"}
    (third / "status.json").unlink()
    third.rmdir()
    assert third not in find(tmp_path).runs


def test_jobs_twins_links_and_what_lies_in_a_run_are_no_runs(tmp_path: Path) -> None:
    from lensbench.app.workflows.finding import find

    run = make_bare(tmp_path, "run")
    for other in ("jobs/one", "twin/run", ".hidden/run", "run/inner", "a/b/c/too-deep"):
        make_bare(tmp_path, other)
    (tmp_path / "link").symlink_to(run)
    assert find(tmp_path).runs == (run,)


def test_an_array_is_one_run(tmp_path: Path) -> None:
    from lensbench.app.workflows.runs import list_runs

    make_bare(tmp_path, "array/part-0-of-2", step=10)
    make_bare(tmp_path, "array/part-1-of-2", state="stopped", step=3)
    (row,) = list_runs(tmp_path)["runs"]
    assert Path(row["run"]).name == "array"
    assert (row["dictionaries"], row["step"], row["steps"]) == (2, 13, 20)


def make_bare(root: Path, name: str, *, state: str = "finished", step: int = 10) -> Path:
    """A run folder that holds its state alone."""
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    told = {"state": state, "step": step, "steps": 10, "tokens": 100, "message": "", "pid": 0,
            "started": "2026-01-01T00:00:00Z", "heartbeat": "2026-01-01T00:00:00Z",
            "dictionaries": {"topk-8-k2": state}}  # fmt: skip
    (folder / "status.json").write_text(json.dumps(told))
    return folder


def test_the_wide_table_is_cut_in_an_order_of_the_readers_choice(monkeypatch, large: Path) -> None:
    from lensbench.app.widgets.latent_table import MOST

    page = open_page(monkeypatch, large, "latent", **wide(large))
    assert len(page.dataframe[0].value) == MOST
    assert f"{WIDTH:,} of {WIDTH:,} latents, of which the first {MOST:,} are shown" in words(page)
    page.selectbox(key="by").set_value("density").run()
    densities = page.dataframe[0].value["density"]
    assert densities.is_monotonic_decreasing
    page.toggle(key="falling").set_value(False).run()
    smallest = page.dataframe[0].value["density"]
    assert smallest.is_monotonic_increasing
    assert smallest.max() < densities.min()
    page.number_input(key="low").set_value(float(densities.iloc[100])).run()
    kept = len(page.dataframe[0].value)
    assert 101 <= kept < MOST, "filters see all latents"
    assert f"{kept:,} of {WIDTH:,} latents." in words(page)


def test_the_wide_map_draws_a_sample_and_says_so(monkeypatch, large: Path) -> None:
    from lensbench.app.workflows.geometry import MOST_POINTS

    page = open_page(monkeypatch, large, "directions", **wide(large))
    said = words(page).replace("\\", "")
    assert f"n = {WIDTH:,} latents" in said
    assert "a random sample" in said
    points = sum(len(values(trace["x"])) for trace in spec_of(page)["data"])
    assert points == pytest.approx(MOST_POINTS, rel=0.05)
