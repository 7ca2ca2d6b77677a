"""``steer --demonstrations``: the direction is what texts before the prompts add to their end."""

from pathlib import Path

import numpy as np
import pytest

from tests.app.commands import answer, refused, run

SMALL = ("--n", 64, "--layer", 2, "--random", 2, "--shuffled", 2, "--strengths", "0,1",
         "--new-tokens", 0)  # fmt: skip
SHOWN = ("The kings are nice", "The boys are nice", "The girls were kind")


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shown") / "shown.txt"
    path.write_text("\n".join(SHOWN) + "\n", encoding="utf-8")
    return path


def test_the_direction_is_the_in_context_vector(
    shown: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lensbench import interventions, load_model, prompts
    from lensbench.app.workflows.steering import _halves
    from lensbench.results import load

    out = tmp_path / "out"
    line = ("steer", "agreement", "--demonstrations", shown, *SMALL)
    facts = answer(capsys, *line, "--out", out)
    assert facts["direction"]["method"] == "in_context_vector"
    assert "end" in facts["at"]
    assert facts["controls"]  # random directions, and exchanged states with and without
    model = load_model("atlas-dense")
    pairs = interventions.towards(prompts.agreement(model, n=64), ["are", "were", "seem"])
    queries = [list(ids) for ids in _halves(pairs)[0].corrupted_ids]
    ids = [model.tokens(f"{text}\n").ids[0].tolist() for text in SHOWN]
    vector = interventions.in_context_vector(model, ids, queries, "blocks.2.resid_post")
    saved = load(out / "direction")
    assert isinstance(saved, interventions.Direction)
    np.testing.assert_allclose(saved.vector, vector.vector, rtol=1e-5)
    plain = answer(capsys, "steer", "agreement", *SMALL)  # control: without them it is another
    assert plain["direction"]["method"] == "mean_difference"
    assert run(*line) == 0
    assert f"made of {shown} before" in " ".join(capsys.readouterr().out.split())


def test_demonstrations_that_do_not_fit_are_named(
    shown: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ("steer", "agreement", *SMALL)
    both = ("--plus", " Love", "--minus", " Hate")
    assert "--plus" in refused(capsys, *line, "--demonstrations", shown, *both)
    assert "does not exist" in refused(capsys, *line, "--demonstrations", tmp_path / "none.txt")
    empty, long = tmp_path / "empty.txt", tmp_path / "long.txt"
    empty.write_text("\n")
    assert "no prompt" in refused(capsys, *line, "--demonstrations", empty)
    long.write_text("The kings are nice\n" * 400)
    assert "context is" in refused(capsys, *line, "--demonstrations", long)
