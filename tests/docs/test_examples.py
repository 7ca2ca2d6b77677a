"""Every public function shows an example in its docstring, and the example runs as it stands.

An example uses the names of ``example_world`` (``model``, ``store``, ``runs`` ...) and what it made
itself. What it prints is compared where the docstring says it (``...`` stands for anything).
"""

import ast
import doctest
import inspect
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from lensbench.results import _KINDS as KINDS
from lensbench.results import Result
from tests.docs.example_world import MODULES, ExampleWorld
from tests.docs.shown import faults

PACKAGES = [name for name in MODULES if name not in ("np", "pd", "torch")]
PARSER, CHECKER = doctest.DocTestParser(), doctest.OutputChecker()
RULES = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
SLOW = {
    "acceleration.acceleration_study",
    "interventions.acdc",
    "probes.board_probes",
    "probes.flip_study",
}
"""Functions whose smallest honest call takes more than a few seconds."""
HUB = {"saes.pull_from_hub", "saes.push_to_hub"}
"""Functions whose example is shown and not run: they reach the hub."""


def public_functions() -> Iterator[tuple[str, Any]]:
    world = ExampleWorld(Path())
    for package in PACKAGES:
        module = world[package]
        for name in sorted(dir(module)):
            made = getattr(module, name)
            if not name.startswith("_") and inspect.isfunction(made):
                yield f"{package}.{name}", made


NAMED = dict(public_functions())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> ExampleWorld:
    return ExampleWorld(tmp_path_factory.mktemp("examples"))


def run_examples(docstring: str, world: Any) -> dict[str, Any]:
    """Run the examples of a docstring one after the other, in one namespace; what they made."""
    space: dict[str, Any] = {}
    for example in PARSER.get_examples(docstring):
        tree = ast.parse(example.source)
        wanted = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and _is_read(n)}
        space.update({name: world[name] for name in wanted - set(space) if name in world})
        code = compile(example.source, "<example>", "single")
        out = StringIO()
        with redirect_stdout(out):
            exec(code, space)
        if example.want:
            said = out.getvalue()
            assert CHECKER.check_output(example.want, said, RULES), (
                f"{example.source.strip()} says:\n{said}"
            )
    return {name: value for name, value in space.items() if name not in world}


def _is_read(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Load)


def cases() -> list[Any]:
    return [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in NAMED]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of peers
@pytest.mark.parametrize("name", cases())
def test_the_example_of_a_function_runs(
    name: str, world: ExampleWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docstring = inspect.getdoc(NAMED[name]) or ""
    assert ">>>" in docstring, f"the docstring of {name} shows no example"
    monkeypatch.chdir(tmp_path)
    made = {} if name in HUB else run_examples(docstring, world)
    wrong = {k: found for k, v in made.items() if isinstance(v, Result) and (found := faults(v))}
    assert not wrong, "a result of the example does not show itself well"


def test_a_result_that_shows_itself_badly_is_red() -> None:
    from dataclasses import dataclass

    import pandas as pd
    import plotly.graph_objects as go

    @dataclass(frozen=True, kw_only=True, eq=False)
    class Bad(Result):
        def to_frame(self) -> pd.DataFrame:
            return pd.DataFrame({"a": [1]})

        def plot(self) -> go.Figure:
            return go.Figure(layout={"title": {"text": "mean_exit"}, "xaxis": {"type": "log"}})

    KINDS.pop("Bad")
    assert faults(Bad()) == [
        "its figure does not say n: 'mean_exit'", "its x axis has no title", "it says 'mean_exit'"
    ]  # fmt: skip


def test_an_example_that_is_wrong_is_red(world: ExampleWorld) -> None:
    run_examples(">>> 1 + 1\n2\n", world)
    with pytest.raises(AssertionError, match="says"):
        run_examples(">>> 1 + 1\n3\n", world)
    with pytest.raises(TypeError):
        run_examples(">>> lensbench.capture(nothing=1)\n", world)
