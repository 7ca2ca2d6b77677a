"""Classes that people hold in their hands show an example too, and the example runs as it stands.

Of functions every one does (``test_examples``). Of classes most are made by a function whose
example shows them; the number of those that show one of their own may grow, not shrink.
"""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lensbench.results import Result
from tests.docs.example_world import ExampleWorld
from tests.docs.shown import faults
from tests.docs.test_examples import PACKAGES, run_examples

LEAST = 25
"""Classes with an example of their own; raise it with every one that is added."""
SLOW = {"acceleration.AccelerationStudy", "interventions.ExpertReport"}


def public_classes() -> Iterator[tuple[str, Any]]:
    world, seen = ExampleWorld(Path()), set[Any]()
    for package in PACKAGES:
        module = world[package]
        for name in sorted(module.__all__):
            made = getattr(module, name)
            if inspect.isclass(made) and made not in seen:
                seen.add(made)
                yield f"{package}.{name}", made


NAMED = dict(public_classes())
WITH = {name: made for name, made in NAMED.items() if ">>>" in (made.__doc__ or "")}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> ExampleWorld:
    return ExampleWorld(tmp_path_factory.mktemp("classes"))


def test_every_public_class_says_what_it_is() -> None:
    assert len(NAMED) > 200
    bare = [name for name, made in NAMED.items() if not (made.__doc__ or "").strip()]
    assert not bare
    signature = [name for name, made in NAMED.items() if (made.__doc__ or "").startswith(
        f"{made.__name__}(")]  # fmt: skip
    assert not signature, "what dataclass writes is no docstring"


def test_the_number_of_classes_with_an_example_does_not_shrink() -> None:
    assert len(WITH) >= LEAST, sorted(WITH)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of peers
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in WITH]
)
def test_the_example_of_a_class_runs(
    name: str, world: ExampleWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = run_examples(inspect.getdoc(WITH[name]) or "", world)
    wrong = {k: found for k, v in made.items() if isinstance(v, Result) and (found := faults(v))}
    assert not wrong
