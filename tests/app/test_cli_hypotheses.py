"""``circuit scrub``, ``components``, ``subspace``, ``readings`` beside the calls they make."""

from pathlib import Path
from typing import Any

import pytest

from tests.app.cli_workspace import NAMES, SITE
from tests.app.cli_workspace import workspace as workspace
from tests.app.commands import answer, refused

N = ("--n", 8)


def pairs_and_model(n: int = 8) -> tuple[Any, Any]:
    from lensbench import load_model, prompts

    model = load_model("atlas-dense")
    return model, prompts.recall(model, n=n, seed=0)


def test_a_task_is_scored_as_in_python(capsys: pytest.CaptureFixture[str]) -> None:
    from lensbench import prompts

    facts = answer(capsys, "circuit", "task", *N)
    model, pairs = pairs_and_model()
    assert facts["summary"] == pytest.approx(prompts.score(model, pairs).summary())
    assert {row["prompts"] for row in facts["rows"]} == {"clean", "corrupted", "shuffled"}
    assert facts["controls"]
    assert "Did you mean 'recall'?" in refused(capsys, "circuit", "task", "recal")


def test_a_hypothesis_is_scrubbed_as_in_python(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lensbench.interventions import Claim, Place, causal_scrub
    from lensbench.results import load

    facts = answer(capsys, "circuit", "scrub", *N, "--draws", 2, "--claim",
                   "blocks.5.resid_post@end=answer", "--out", tmp_path / "s")  # fmt: skip
    model, pairs = pairs_and_model()
    claim = Claim(Place("blocks.5.resid_post", "end"), list(pairs.answers))  # pyright: ignore[reportArgumentType]
    found = causal_scrub(model, pairs, claim, draws=2)
    assert facts["summary"]["recovered"] == pytest.approx(found.recovered)
    assert facts["controls"]["shuffled_features"] == pytest.approx(found.control)
    assert {row["n"] for row in facts["rows"]} == {8}
    assert load(tmp_path / "s").summary() == pytest.approx(found.summary())


def test_a_tree_of_claims_is_read_strictly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "h.yaml"
    child = "{site: blocks.2.resid_post, position: query, feature: query}"
    tree = "claims: [{site: blocks.5.resid_post, position: end, feature: answer, children: [%s]}]"
    file.write_text(tree % child)
    facts = answer(capsys, "circuit", "scrub", *N, "--draws", 1, "--claims", file)
    assert facts["claims"] == [
        "blocks.5.resid_post @end: answer", "  blocks.2.resid_post @query: query",
    ]  # fmt: skip
    file.write_text(tree % child.replace("feature", "feture"))
    assert "Did you mean 'feature'?" in refused(capsys, "circuit", "scrub", "--claims", file)
    file.write_text("claims: []")
    assert "empty" in refused(capsys, "circuit", "scrub", *N, "--claims", file)


@pytest.mark.parametrize(
    ("claim", "said"),
    [
        ("blocks.5.resid_post@end=anwser", "Did you mean 'answer'?"),
        ("blocks.5.resid_post@qeury=answer", "Did you mean 'query'?"),
        ("blocks.5.resid_pots@end=answer", "resid_post"),
        ("blocks.5.resid_post", "SITE@POSITION=FEATURE"),
        ("", "SITE@POSITION=FEATURE"),
    ],
)
def test_a_slip_in_a_claim_is_named(
    claim: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(capsys, "circuit", "scrub", *N, "--claim", claim)


def test_a_claim_of_one_head_and_no_claim(capsys: pytest.CaptureFixture[str]) -> None:
    facts = answer(capsys, "circuit", "scrub", *N, "--draws", 1,
                   "--claim", "blocks.1.attn.z@end#2=nothing")  # fmt: skip
    assert facts["claims"] == ["blocks.1.attn.z @end head 2: nothing"]
    assert "got neither" in refused(capsys, "circuit", "scrub", *N)


def test_components_halve_the_distance_as_in_python(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lensbench.app.workflows.dictionaries import open_dictionary
    from lensbench.interventions import feature_patching

    name = workspace / "demo-run" / "run" / NAMES[0]
    line = ("circuit", "components", "--dictionary", name, *N)
    facts = answer(capsys, *line, "--sizes", "0,4")
    model, pairs = pairs_and_model()
    found = feature_patching(model, pairs, open_dictionary(str(name)), [0, 4])
    assert [r["kl"] for r in facts["rows"]] == pytest.approx(found.to_frame()["kl"].tolist())
    assert {row["basis"] for row in facts["rows"]} == {"latents", "pca", "random rotation"}
    assert "sizes must be numbers" in refused(capsys, *line, "--sizes", "few")
    assert "no dictionary" in refused(capsys, "circuit", "components", "--dictionary", "nowhere")


def test_a_subspace_gets_a_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch
    from safetensors.torch import save_file

    from lensbench.interventions import subspace_patch

    directions = torch.randn(2, 128, generator=torch.manual_seed(0))
    file = tmp_path / "d.safetensors"
    save_file({"directions": directions}, file)
    line = ("circuit", "subspace", "--site", SITE, "--directions", file, *N)
    facts = answer(capsys, *line)
    model, pairs = pairs_and_model()
    found = subspace_patch(model, pairs, SITE, directions)
    assert facts["verdict"] == found.verdict
    assert [r["effect"] for r in facts["rows"]] == pytest.approx(
        found.to_frame()["effect"].tolist()
    )
    assert "one token" in refused(capsys, *line, "--position", "each")
    assert "Did you mean 'query'?" in refused(capsys, *line, "--position", "qeury")


def test_two_readings_of_a_sentence(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lensbench.app.workflows.dictionaries import open_dictionary
    from lensbench.interventions import garden_path_circuits

    file = workspace / "sentences.csv"
    name = workspace / "demo-run" / "run" / NAMES[0]
    line = ("--dictionary", name, "--steps", 1, "--random", 1, "--shuffles", 20, "--doses", "1,2")
    facts = answer(capsys, "circuit", "readings", file, *line, "--threshold", 0.001)
    model, _ = pairs_and_model(2)
    found = garden_path_circuits(model, open_dictionary(str(name)), file, threshold=0.001,
                                 doses=(1.0, 2.0), steps=1, random=1, shuffles=20)  # fmt: skip
    assert facts["of"] == len(found.to_frame()) > 0
    known = {k: v for k, v in found.summary().items() if v == v}
    assert {k: facts["summary"][k] for k in known} == pytest.approx(known)
    assert facts["control"]
    assert "none.csv" in refused(capsys, "circuit", "readings", "none.csv", *line)
    bad = workspace / "bad.csv"
    bad.write_text("prefix,a,bb\nx,y,z\n")
    assert "bb" in refused(capsys, "circuit", "readings", bad, *line)
