"""Every kind of result shows itself in a notebook: frame, picture, summary, table, one line."""

import ast
import html.parser
import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from lensbench.results import Controls, Result

NO_PICTURE = {"Certificate", "Table"}
"""A list of checks is a table; what is drawn of a table of geometry is up to each kind of it."""


ROOT = Path(__file__).resolve().parents[2]


def sources() -> dict[str, ast.Module]:
    """Every product module by its dotted name, parsed."""
    found: dict[str, ast.Module] = {}
    for top in ("lensbench", "saes", "probes", "interventions", "app"):
        for path in (ROOT / top).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            inside = parts if parts[0] == "lensbench" else ("lensbench", *parts)
            name = ".".join(p for p in inside if p != "__init__")
            found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def kinds(modules: Mapping[str, ast.Module]) -> dict[str, str]:
    """Result classes by name with their module, read from the source: importing all takes long.

    A base may be dotted, have parameters, or go by another name where it is imported.
    """
    found: dict[str, str] = {}
    classes: list[tuple[str, set[str], str]] = []
    for module, tree in modules.items():
        aliases = {
            n.asname: n.name.rpartition(".")[2]
            for node in ast.walk(tree) if isinstance(node, ast.ImportFrom | ast.Import)
            for n in node.names if n.asname
        }  # fmt: skip
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                named = {ast.unparse(b).split("[")[0].rpartition(".")[2] for b in node.bases}
                classes.append((node.name, {aliases.get(b, b) for b in named}, module))
    more = True
    while more:
        more = False
        for name, bases, module in classes:
            if name not in found and bases & {"Result", *found}:
                found[name] = module
                more = True
    return found


KINDS = kinds(sources())


def kind(name: str) -> Any:
    return getattr(importlib.import_module(KINDS[name]), name)


class Reader(html.parser.HTMLParser):
    """Tags, attributes and text of a page; what a browser would make of it."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


ALLOWED = {"div", "span", "table", "thead", "tbody", "tr", "th", "td", "br", "small"}
ATTRIBUTES = {"style", "class", "title", "role", "aria-label"}
NASTY = "<script>alert(1)</script>&\"'<img src=x onerror=alert(2)>\x00\x1b[31m\u202etxt\n"


def is_inert(source: str) -> bool:
    page = Reader(source)
    no_controls = not any(ord(c) < 32 for c in source)
    return set(page.tags) <= ALLOWED and set(page.attributes) <= ATTRIBUTES and no_controls


def test_the_known_kinds_are_found() -> None:
    assert set(SAMPLED) <= set(KINDS)


def test_no_way_of_naming_a_base_hides_a_kind() -> None:
    text = """
from lensbench.results import Result as Base
import lensbench.results as r
class One(Base): ...
class Two(r.Result): ...
class Three(Two, Generic[T]): ...
class Four(Three[int]): ...
class Other(Unknown): ...
def make():
    class Inner(Base): ...
"""
    assert set(kinds({"m": ast.parse(text)})) == {"One", "Two", "Three", "Four", "Inner"}


def test_no_kind_that_registers_itself_is_missed() -> None:
    """What a class is when it runs, against what was read: of every public name of the packages."""
    from lensbench.results import _KINDS
    from tests.docs.test_examples import PACKAGES

    for package in PACKAGES:
        module = importlib.import_module(
            f"lensbench.interventions.{package}" if package in ("experts", "acceleration")
            else "lensbench" if package == "lensbench" else f"lensbench.{package}"
        )  # fmt: skip
        for name in module.__all__:
            getattr(module, name)
    ours = {n for n, cls in _KINDS.items() if cls.__module__.startswith("lensbench.")}
    assert len(ours) > 100
    assert ours <= set(KINDS)


def test_no_public_function_gives_a_bare_frame() -> None:
    """A frame cannot be drawn, saved, or say what model it is from."""
    from tests.docs.test_examples import NAMED

    bare = [name for name, made in NAMED.items()
            if "DataFrame" in str(made.__annotations__.get("return", ""))]  # fmt: skip
    assert not bare


def test_every_kind_is_kept_and_read_back_alike() -> None:
    """One way of saving: what adds to it calls it too, so that ``load`` finds what it needs."""
    from lensbench import results

    for name in KINDS:
        own = kind(name).__dict__.get("save")
        assert own is None or "super().save(" in inspect.getsource(own), name
    assert callable(results.load)


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_defines_its_frame_summary_and_picture(name: str) -> None:
    cls = kind(name)
    assert issubclass(cls, Result)
    own = {name: getattr(cls, name) for name in ("to_frame", "summary", "plot")}
    for called, method in own.items():
        if called == "plot" and name in NO_PICTURE:
            continue
        assert method is not getattr(Result, called), f"{name} has no {called} of its own"
        required = [
            p.name
            for p in list(inspect.signature(method).parameters.values())[1:]
            if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        assert required == [], f"{name}.{called}() needs {required}"
    assert cls._repr_html_ is Result._repr_html_
    assert cls.__dataclass_params__.frozen


def samples() -> dict[str, Result]:
    from lensbench.models.certificate import Certificate
    from lensbench.probes.lenses.grid import LensGrid
    from lensbench.probes.lenses.logit import METRICS, LensTrajectory
    from lensbench.prompts import PromptScore
    from lensbench.saes.evaluation.implants import ImplantRecovery
    from lensbench.saes.evaluation.result import SAEEvaluation
    from lensbench.saes.latents.result import LatentDashboard
    from lensbench.saes.runs import SAERun

    m, check = len(METRICS), {"name": NASTY, "passed": True, "value": 0.1, "limit": 1.0}
    flat = np.linspace(0.1, 1, 2 * m).reshape(m, 2)
    steps = np.arange(1.0, 4)
    one = np.ones((1, 1))
    made: list[Result] = [
        Certificate(model=NASTY, fingerprint="", checks=[{**check, "unit": "", "note": NASTY}]),
        PromptScore(
            task=NASTY, clean=steps, corrupted=-steps, shuffled=steps - 2,
            wordings=(NASTY,) * 3, flips=True,
        ),
        LensTrajectory(
            layers=(0, 1), mean=flat, low=flat, high=flat, shuffled=flat, n_tokens=4, n_docs=2
        ),
        LensGrid(
            layers=(0, 1), tokens=(NASTY,), targets=("b",), top=((NASTY,), ("b",)),
            top_prob=np.ones((2, 1)), values=np.ones((m, 2, 1)), document=0,
        ),
        ImplantRecovery(
            strengths=np.array([0.0, 1.0]), best_cosine=np.ones((2, 3)), share=np.ones((2, 3)),
            threshold=0.9, fraction=0.1, controls=Controls({NASTY: 0.0}),
        ),
        SAERun(
            name=NASTY, site="embed", status="finished",
            history=dict.fromkeys(("step", "tokens", "loss", "fvu", "l0", "dead_fraction"), steps),
        ),
        SAEEvaluation(
            names=(NASTY,), sites=("embed",), architectures=("topk",),
            metrics=("l0", "explained_variance"),
            values=np.ones((1, 2, 3)), counts=np.ones((1, 2), int),
            undefined=np.zeros((1, 2), int), n_tokens=3, n_documents=2, n_scored=0,
        ),
        LatentDashboard(
            **{
                **dict.fromkeys(("name", "site", "activation"), ""),
                "latents": np.array([3]), "bands": (NASTY,), "before": 0,
                "tokens": np.ones((1, 1, 1), int), "acts": np.ones((1, 1, 1)),
                "rows": np.zeros((1, 1), int), "doc_ids": np.zeros((1, 1), int),
                "positions": np.zeros((1, 1), int), "activation": one, "band": np.zeros(1, int),
                "histogram_edges": np.array([[0.0, 1.0]]),
                "histogram_counts": np.ones((1, 1), int), "density": np.ones(1),
                "max_activation": np.ones(1), "n_tokens": 1, "top_tokens": np.ones((1, 1), int),
                "top_effects": one, "low_tokens": np.ones((1, 1), int), "low_effects": one,
            }
        ),
    ]  # fmt: skip
    return {result.kind: result for result in made}


SAMPLED = ("Certificate", "ImplantRecovery", "LatentDashboard", "LensGrid", "LensTrajectory",
           "PromptScore", "SAEEvaluation", "SAERun")  # fmt: skip


@pytest.mark.parametrize("name", SAMPLED)
def test_a_result_shows_itself_and_text_in_it_is_inert(name: str) -> None:
    result = samples()[name]
    frame = result.to_frame()
    assert isinstance(frame, pd.DataFrame)
    assert len(frame)
    assert all(isinstance(v, (int, float)) for v in result.summary().values())
    assert result.summary()
    line = repr(result)
    assert line.startswith(f"{result.kind}(")
    assert "\n" not in line
    assert len(line) < 500
    if result.kind not in NO_PICTURE:
        assert isinstance(result.plot(), go.Figure)
    assert is_inert(result._repr_html_())
    assert result.kind in Reader(result._repr_html_()).text


def test_the_check_sees_markup_that_pandas_would_let_through() -> None:
    frame = pd.DataFrame({"text": [NASTY]})
    assert not is_inert(frame.to_html(escape=False))
    assert not is_inert("<td onclick='x'>a</td>")
    assert not is_inert("<td>\x1b</td>")


def test_a_table_keeps_what_the_text_said() -> None:
    from lensbench.plots.tables import html_table

    frame = pd.DataFrame({"<b>column</b>": [NASTY, "plain"], "n": [1, np.float32(0.25)]})
    frame.attrs["units"] = {"n": "<i>nats</i>"}
    source = html_table(frame, caption=NASTY)
    assert is_inert(source)
    text = Reader(source).text
    assert "<script>alert(1)</script>&\"'" in text
    assert "␀␛[31m[U+202E]txt↵" in text
    assert "<b>column</b>" in text
    assert "<i>nats</i>" in text


def test_our_names_are_read_as_words_and_empty_columns_are_left_out() -> None:
    from lensbench.plots.tables import html_table

    run = samples()["SAEEvaluation"]._repr_html_()
    text = Reader(run).text
    assert "best explained variance" in text
    assert "explained_variance" not in text
    frame = pd.DataFrame({"n_tokens": [1, 2], "head": [-1, -1], "topk-8_a": [None, np.nan]})
    text = Reader(html_table(frame)).text
    assert text == "n tokenstopk-8_a1NaN2NaN"


def test_long_frames_are_cut_and_say_so() -> None:
    from lensbench.plots.tables import html_table

    text = Reader(html_table(pd.DataFrame({"a": range(1000)}), max_rows=5)).text
    assert "1,000 rows, the first 5 shown" in text
