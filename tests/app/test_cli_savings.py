"""``savings``: every study of a store or of texts gives the numbers of the Python call."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.app.commands import answer, refused

TEXT = "Alice the baker lives in\nThe capital of Peru is\nThe king that the boys know\n"
PROMPTS = TEXT.splitlines()


@pytest.fixture(scope="module")
def early() -> Any:
    from lensbench import load_model

    return load_model("atlas-early")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts, rewards, and a store of the model's own continuations with all that is asked."""
    from lensbench import load_model
    from lensbench.app.workflows.savings import _sites  # pyright: ignore[reportPrivateUsage]
    from lensbench.interventions import acceleration

    folder = tmp_path_factory.mktemp("savings")
    model = load_model("atlas-early")
    acceleration.capture_own(
        model, PROMPTS * 2, folder / "own", 10, sites=_sites("sparsity", model)
    )
    (folder / "prompts.txt").write_text(TEXT)
    (folder / "rewards.json").write_text(json.dumps([[0, 1, 0, 1], [0, 0, 0, 1], [1, 1, 1, 1]] * 2))
    return folder


def same(facts: dict[str, Any], found: Any) -> bool:
    mine = {k: v for k, v in found.summary().items() if v == v and abs(v) != float("inf")}
    assert mine
    return {k: facts["summary"][k] for k in mine} == pytest.approx(mine)


CASES: dict[str, tuple[tuple[Any, ...], str, tuple[Any, ...], dict[str, Any]]] = {
    "similarity": ((), "similarity_table", (), {}),
    "sparsity": (("--thresholds", "0,0.05"), "activation_sparsity", ((0.0, 0.05),), {}),
    "depth": (("--capacities", "0.5", "--keys", "all"), "depth_router", ((0.5,),), {"keys": "all"}),
    "lengths": (("--exit", 2, "--thresholds", "0.5"), "draft_length", (2,), {"thresholds": (0.5,)}),
    "transfer": (("--layers", 2, "--ahead", 1), "hidden_transfer", ([2],), {"ahead": 1}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_study_of_a_store_is_the_python_call(
    name: str, place: Path, early: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lensbench import open_store
    from lensbench.interventions import acceleration

    options, call, given, settings = CASES[name]
    facts = answer(capsys, "savings", name, "--store", place / "own", *options,
                   "--out", tmp_path / "r")  # fmt: skip
    found = getattr(acceleration, call)(open_store(place / "own"), early, *given, **settings)
    assert same(facts, found)
    assert facts["controls"]
    assert (tmp_path / "r" / "result.json").is_file()


def test_a_head_of_acceptance_is_the_python_call(
    place: Path, early: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from lensbench import open_store
    from lensbench.interventions import acceleration

    facts = answer(capsys, "savings", "acceptance", "--exit", 2, "--store", place / "own")
    _, found = acceleration.acceptance_head(open_store(place / "own"), early, 2)
    assert same(facts, found)


def test_studies_of_texts_are_the_python_calls(
    place: Path, early: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from lensbench.interventions import acceleration

    file = ("--prompts", place / "prompts.txt")
    assert same(answer(capsys, "savings", "stages", *file),
                acceleration.inference_stages(early, PROMPTS))  # fmt: skip
    assert same(answer(capsys, "savings", "robustness", *file),
                acceleration.robustness(early, PROMPTS))  # fmt: skip
    assert same(answer(capsys, "savings", "keys", *file, "--budgets", "0.5,1"),
                acceleration.heavy_hitters(early, PROMPTS, (0.5, 1.0)))  # fmt: skip
    ways = {
        "without 2,3": acceleration.without(6, [2, 3]),
        "1 and 2 swapped": acceleration.swapped(6, 1),
        "without the last 2": acceleration.last_layers_off(6, 2),
    }
    facts = answer(capsys, "savings", "routes", *file, "--skip", "2,3", "--swap", 1, "--last", 2)
    assert same(facts, acceleration.route_damage(early, PROMPTS, ways))
    assert [row["route"] for row in facts["rows"]] == [*ways]
    assert "--skip 2,3" in refused(capsys, "savings", "routes", *file)
    assert "prompts none" in refused(capsys, "savings", "stages", "--prompts", "none")


def test_exits_are_swept_and_confidence_is_held_to_the_truth(
    place: Path, early: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lensbench import open_store
    from lensbench.interventions import acceleration

    line = ("savings", "exits", "--store", place / "own")
    facts = answer(capsys, *line, "--measures", "softmax_max", "--bins", 4, "--out", tmp_path / "e")
    table = acceleration.lens_table(open_store(place / "own"), early)
    assert same(facts, acceleration.threshold_sweep(table, ["softmax_max"]))
    assert same(facts["calibration"], acceleration.exit_calibration(table, bins=4))
    assert (tmp_path / "e" / "calibration" / "result.json").is_file()
    assert "Did you mean 'softmax_max'?" in refused(capsys, *line, "--measures", "softmax_mx")


def test_sublayers_are_searched_and_samples_shared_out(
    place: Path, early: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from lensbench import open_store
    from lensbench.interventions import acceleration

    line = ("savings", "skips", "--prompts", place / "prompts.txt", "--new-tokens", 4)
    facts = answer(capsys, *line, "--trials", 3)
    found = acceleration.search_skips(early, [early.tokens(p) for p in PROMPTS], max_new_tokens=4,
                                      trials=3)  # fmt: skip
    assert same(facts, found)
    assert "passes" in refused(capsys, *line, "--objective", "passs")
    site = "blocks.3.resid_post"
    share = ("savings", "samples", "--store", place / "own", "--site", site, "--rewards")
    shared = answer(capsys, *share, place / "rewards.json", "--budgets", "1,2")
    states = acceleration.last_prompt_states(open_store(place / "own"), site)
    rewards = json.loads((place / "rewards.json").read_text())
    import numpy as np

    assert same(shared, acceleration.adaptive_compute(states, np.array(rewards, float), (1, 2)))
    assert "no file" in refused(capsys, *share, "none.json")
    (place / "bad.json").write_text("[[0, 1], [1]]")
    assert "equally long" in refused(capsys, *share, place / "bad.json")


def test_kangaroo_is_trained_kept_and_judged(
    place: Path, early: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lensbench import open_store
    from lensbench.interventions import acceleration

    out = tmp_path / "adapter"
    line = ("savings", "kangaroo", "--exit", 2, "--store", place / "own")
    facts = answer(capsys, *line, "--set", "steps=2", "--set", "holdout=0.5", "--out", out)
    store = open_store(place / "own")
    adapter = acceleration.train_kangaroo(store, early, 2, {"steps": 2, "holdout": 0.5})
    assert same(facts, acceleration.kangaroo_report(adapter, store, early))
    assert (out / "report" / "result.json").is_file()
    again = answer(capsys, *line, "--set", "steps=2", "--set", "holdout=0.5", "--out", out)
    assert again["summary"] == facts["summary"]  # one that is finished is read
    assert "Did you mean 'steps'?" in refused(capsys, *line, "--set", "stps=2")
    assert "--set" in refused(capsys, *line, "--set", "steps")


def test_a_store_or_prompts_and_never_both(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "neither" in refused(capsys, "savings", "similarity")
    both = ("--store", place / "own", "--prompts", place / "prompts.txt")
    assert "both" in refused(capsys, "savings", "similarity", *both)
    kept = tmp_path / "kept"
    facts = answer(capsys, "savings", "similarity", "--prompts", place / "prompts.txt",
                   "--new-tokens", 6, "--keep", kept)  # fmt: skip
    again = answer(capsys, "savings", "similarity", "--store", kept)
    assert again["summary"] == pytest.approx(facts["summary"])
    line = ("savings", "similarity", "--store", kept, "--model", "atlas-dense")
    assert "not of atlas-dense" in refused(capsys, *line)
