"""Every table of every page: offered as files, and made again by the code that is beside it."""

import io
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.app.drawn import run_code
from tests.app.driver import open_page
from tests.app.test_app_figures import RUN, STORE, asked, jobs_here, tiny
from tests.app.test_app_figures import Case as Figures

__all__ = ["tiny"]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
APP = Path(__file__).resolve().parents[2] / "app"
ONE = {"run": RUN, "dictionary": "DICTIONARY"}
LATENT = {**ONE, "latent": "LATENT"}


@dataclass(frozen=True)
class Case:
    """A page, the tables it offers (keys of ``take_away``), and buttons to press before."""

    page: str
    tables: tuple[str, ...]
    query: Mapping[str, str] = field(default_factory=dict[str, str])
    of: str = "tiny"
    press: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.page}-{self.tables[0]}"


CASES = (
    Case("stores", ("sites",), {"store": STORE}),
    Case("stores", ("shards", "files"), {"store": STORE, "part": "Shards"}),
    Case("stores", ("rows",), {"store": STORE, "part": "Rows", "n": "5"}),
    Case("token", ("token-exit", "check-exit", "check-lens"), {"store": STORE, "row": "17"},
         press=("verify-exit", "verify-lens")),
    Case("token", ("token-dictionaries", "token-latents", "check-latent"),
         {"store": STORE, "row": "40"}, "small", press=("verify-latent",)),
    Case("sweep", ("varied", "scores"), {"run": RUN}, "small"),
    Case("compare", ("differences", "measured", "nearest", "provenance"),
         {"one": RUN, "one-dictionary": "DICTIONARY", "other": RUN, "other-dictionary": "OTHER"},
         "small"),
    Case("latent", ("latent-table",), ONE, "small"),
    Case("latent", ("latent-table", "contexts"), {**LATENT, "which": "Those that fire"}, "small"),
    Case("latent", ("together", "pointing"), {**LATENT, "part": "Related latents"}, "small"),
    Case("latent", ("own-text",), {**LATENT, "part": "On my text"}, "small"),
    Case("latent", ("steer-said",), {**LATENT, "part": "Steer with it", "new": "3"}, "small"),
    Case("latent", ("verify-own",), {**LATENT, "part": "Verify"}, "small", press=("verify-own",)),
    Case("latent", ("on-text",),
         {**ONE, "find": "What fires on my text", "typed": "Alice lives in Lima"}, "small"),
    Case("directions", ("alike",), {**ONE, "show": "Geometry"}, "small"),
    Case("lens", ("lens-best",), {"from": "My own text", "model": "MODEL", "text": "the cat saw"}),
    Case("lens", ("places-best", "places-writers"),
         {"from": "My own text", "model": "MODEL", "text": "the cat saw", "lens": "Site lens"}),
    Case("lens", ("pair-alignment", "pair-ends"),
         {"view": "Two texts", "model": "MODEL", "text": "the cat saw", "text2": "the dog saw"}),
    Case("ask", ("ask-cell", "ask-text"),
         {"from": "My own text", "model": "MODEL", "text": "the cat saw", "target": "the dog",
          "write": "2"}),
    Case("ask", ("future-cell",),
         {"ask": "Which tokens it foretells", "store": STORE, "row": "20", "fitted": STORE},
         press=("start-future",)),
    Case("language", ("by-layer",), {"model": "atlas-dense"}),
    Case("attention", ("head-last",), {"store": STORE, "row": "17", "ablate": "true"}),
    Case("patching", ("pair-tokens", "by-pair", "held-out"),
         {"model": "atlas-dense", "task": "recall", "n": "4"}, press=("verify",)),
    Case("steering", ("equal-kl", "steer-texts"),
         {"model": "atlas-dense", "direction": "A prompt task", "doses": "true"}),
    Case("hyper", ("right-wrong",), {"model": "atlas-dense"}),
    Case("steering", ("steer-said",),
         {"model": "atlas-dense", "direction": "Two sets of prompts", "plus": "The doors",
          "minus": "The door", "new": "3"}),
    Case("probe", ("probe-table",), {"store": STORE, "method": "mean_difference"}, "small"),
    Case("geometry", ("shape-table",), {"stores": STORE, "measure": "Anisotropy"}),
    Case("experts", ("expert-said",),
         {"model": "atlas-moe", "prompts": "desk:24", "part": "Move experts"}),
    Case("experts", ("expert-top",),
         {"model": "atlas-moe", "prompts": "desk:24", "part": "Rank and study"}),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_table_is_offered_and_made_again(
    case: Case, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    root = request.getfixturevalue("small_root" if case.of == "small" else "tiny")
    folder: Path = root if isinstance(root, Path) else root.folder
    seen = visit(case, folder, monkeypatch)
    monkeypatch.chdir(folder)
    wrong = [f"{name}: {told}" for name in case.tables for told in complaints(seen.get(name))]
    assert not wrong, "\n".join(wrong)


def test_a_run_that_was_not_evaluated_offers_its_training(
    monkeypatch: pytest.MonkeyPatch, small_root: Path, tmp_path: Path
) -> None:
    shutil.copytree(small_root / RUN, tmp_path / RUN)
    shutil.rmtree(tmp_path / RUN / "evaluation")
    seen = visit(Case("sweep", ("training",), {"run": RUN}), tmp_path, monkeypatch)
    assert [complaints(seen[name]) for name in ("varied", "training")] == [[], []]


def visit(case: Case, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """Files of the page by the key of what offers them, and by kind."""
    import streamlit as st

    if case.page == "hyper":
        from tests.app.test_app_figures import small_study

        small_study(monkeypatch)
    seen: dict[str, dict[str, Any]] = {}

    def button(_label: str, data: Any, *_more: Any, key: str = "", **_look: Any) -> None:
        owner, _, kind = key.rpartition("-")
        seen.setdefault(owner, {})[kind] = data

    monkeypatch.setattr(st, "download_button", button)
    query = asked(Figures(case.page, case.tables, case.query, case.of), folder)
    page = open_page(monkeypatch, folder, case.page, **query)
    if any(key.startswith("start-") for key in case.press):
        jobs_here(monkeypatch)
    for key in case.press:
        page.button(key=key).click().run()
    assert not page.exception, page.exception
    return seen


def complaints(files: Mapping[str, Any] | None) -> list[str]:
    """What is not offered, and how the table of the code is another one."""
    if files is None:
        return ["is not offered"]
    if lacks := {"csv", "json", "notebook"} - set(files):
        return [f"is not offered as {sorted(lacks)}"]
    [said] = [c for c in _json(files["notebook"])["cells"] if c["cell_type"] == "code"]
    made = run_code("".join(said["source"]))
    if not isinstance(made, pd.DataFrame):
        return [f"the code gives a {type(made).__name__}"]
    return unlike(_read(files["csv"]()), _read(made.to_csv(index=False)))


def unlike(page: pd.DataFrame, code: pd.DataFrame) -> list[str]:
    """In what two tables differ; numbers to what one run of a model is apart from another."""
    if page.empty:
        return ["has no rows"]
    try:
        pd.testing.assert_frame_equal(page, code, rtol=1e-3, atol=1e-4, check_dtype=False)
    except AssertionError as error:
        return [f"the code gives another table: {error}"]
    return []


def _read(text: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(text), keep_default_na=False, na_values=["", "nan"])


def _json(made: Any) -> Any:
    import json

    held: Any = made() if callable(made) else made
    return json.loads(held)


def test_the_check_of_tables_can_fail() -> None:
    frame = pd.DataFrame({"latent": [1, 2], "cosine": [0.5, 0.25]})
    assert not unlike(frame, frame.assign(cosine=[0.50001, 0.25]))
    assert unlike(frame, frame.assign(cosine=[0.6, 0.25]))
    assert unlike(frame, frame.rename(columns={"cosine": "other"}))
    assert unlike(frame.head(0), frame.head(0))
    assert complaints(None)
    assert complaints({"csv": str}) == ["is not offered as ['json', 'notebook']"]


ELSEWHERE = {
    "home-{page}": "its rows lead to a page that offers their numbers",
    "pick-run": "its rows lead to a page that offers their numbers",
    "pick-store": "its rows lead to a page that offers their numbers",
    "{key}-rows": "offered by the callers of what draws it, whole",
    "files of {one.name}": "SHA256SUMS in the folder shown above it says the same",
}
"""Tables that need no files of their own, by what they are picked with or called, and why."""


def test_every_table_is_drawn_in_one_place_and_offered() -> None:
    """A table that goes round ``show_listing`` has no files; one without ``take`` neither."""
    drawn: list[str] = []
    for path in sorted(APP.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        name = path.relative_to(APP).as_posix()
        if name == "widgets/listing.py":
            continue
        drawn += [name] * len(re.findall(r"st\.(?:dataframe|table)\(", text))
        for call in re.finditer(r"show_listing\(", text):
            said = _call(text[call.end() :])
            taken = "take=" in said or "take_away(" in text[call.end() : call.end() + 1500]
            if not taken and not any(key in said for key in ELSEWHERE):
                drawn.append(f"{name}: {said[:60]}")
    assert not drawn


def _call(text: str) -> str:
    """Up to the bracket that closes the call."""
    depth = 1
    for at, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return text[:at]
    return text
