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

from tests.docs.example_world import MODULES, ExampleWorld

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


def run_examples(docstring: str, world: Any) -> None:
    """Run the examples of a docstring one after the other, in one namespace."""
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
    if name not in HUB:
        run_examples(docstring, world)


def test_an_example_that_is_wrong_is_red(world: ExampleWorld) -> None:
    run_examples(">>> 1 + 1\n2\n", world)
    with pytest.raises(AssertionError, match="says"):
        run_examples(">>> 1 + 1\n3\n", world)
    with pytest.raises(TypeError):
        run_examples(">>> lensbench.capture(nothing=1)\n", world)
