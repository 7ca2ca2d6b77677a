"""An evaluation made in Python lies where pages, reports and commands look for it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.docs.example_world import ExampleWorld

LITTLE = {"max_tokens": 1000, "suite": "core", "controls": False}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> ExampleWorld:
    return ExampleWorld(tmp_path_factory.mktemp("kept"))


def test_save_keeps_it_in_the_run_and_everybody_finds_it(world: Any) -> None:
    from lensbench.app.workflows.fronts import evaluated
    from lensbench.app.workflows.overview import is_evaluated
    from lensbench.app.workflows.runs import EVALUATION, evaluation_of
    from lensbench.errors import ConfigError, MissingDataError
    from lensbench.saes.evaluation import kept

    saes, runs, store = world["saes"], world["runs"], world["store"]
    folder = Path(runs[0].folder).parent
    assert kept.FOLDER == EVALUATION
    with pytest.raises(MissingDataError, match="was not evaluated; do"):
        saes.open_evaluation(folder)
    found = saes.evaluate(runs, store, config=LITTLE, save=True)
    assert saes.open_evaluation(folder) == saes.open_evaluation(runs[1]) == found
    assert is_evaluated(folder)
    assert evaluated(folder) == evaluation_of(folder) == found
    with pytest.raises(ConfigError, match="already holds an evaluation"):
        saes.evaluate(runs, store, config=LITTLE, save=True)
    again = saes.evaluate(runs[:1], store, config=LITTLE, save=folder, overwrite=True)
    assert saes.open_evaluation(folder).names == again.names == (runs[0].name,)


def test_without_save_nothing_is_written(world: Any, tmp_path: Path) -> None:
    saes, run = world["saes"], world["run"]
    elsewhere = replace(run, folder=str(tmp_path / "run" / run.name))
    saes.evaluate(elsewhere, world["store"], config=LITTLE)
    assert not list(tmp_path.iterdir())
    part = replace(run, folder=str(tmp_path / "array" / "part-0" / run.name))
    saes.evaluate(part, world["store"], config=LITTLE, save=True)
    assert saes.open_evaluation(tmp_path / "array").names == (run.name,)


def test_a_slip_is_told_before_any_work(world: Any, tmp_path: Path) -> None:
    from lensbench.errors import ConfigError

    saes, run = world["saes"], world["run"]
    for given in ([replace(run, folder="")], [run, replace(run, folder=str(tmp_path / "a" / "b"))]):
        with pytest.raises(ConfigError, match="Say where: save=FOLDER"):
            saes.evaluate(given, None, save=True)
    with pytest.raises(ConfigError, match="save must be True, False or the folder"):
        saes.evaluate([run], None, save=3)
    with pytest.raises(ConfigError, match="opened by the folder of a run"):
        saes.open_evaluation(3)


def test_only_the_documents_that_were_asked_for_are_looked_at(world: Any) -> None:
    import numpy as np

    from lensbench.errors import ConfigError
    from lensbench.saes.evaluation import data

    saes, store = world["saes"], world["store"]
    told = {"max_tokens": 10**6, "suite": "core", "controls": False, "ce_sequences": 10**6}
    some = saes.evaluate(world["run"], store, world["model"], config={**told, "documents": (5, 20)})
    assert some.n_documents == 15
    assert some.n_sequences == data.n_sequences(store, (5, 20)) == 15, "one document a row"
    index = store.index()
    inside = (index.doc_ids >= 5) & (index.doc_ids < 20)
    assert some.n_tokens == int(inside.sum()) < len(inside)
    rest = saes.evaluate(world["run"], store, world["model"], config=told)
    assert rest.n_documents > some.n_documents
    assert 0 < some.n_scored < rest.n_scored
    assert rest.value("fvu") != some.value("fvu")
    read = [b.docs for b in data.scored_sequences(store, 4, 3, (5, 20))]
    assert sum(map(len, read)) == 4
    assert {int(d) for docs in read for d in np.unique(docs)} <= {-1, *range(5, 20)}
    with pytest.raises(ConfigError, match="holds none of the documents 5000 to 5001"):
        saes.evaluate(world["run"], store, config={**told, "documents": (5000, 5002)})
    with pytest.raises(ConfigError, match="first, one after the last"):
        saes.evaluate(world["run"], store, config={"documents": (3, 3)})
