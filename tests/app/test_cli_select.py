"""``select``: entities as they are named, numbers of the calls behind them, what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.app.commands import answer, refused

SITE = "blocks.3.resid_post"
TASK = ("--entities", "first_letter:word", "--n", 16)
QUICK = ("--permutations", 5, "--site", SITE)


def dense() -> Any:
    from lensbench import load_model

    return load_model("atlas-dense")


def entities(model: Any, n: int = 16, seed: int = 0) -> Any:
    from lensbench import interventions, prompts

    pairs = prompts.first_letter(model, n=n, seed=seed)
    return interventions.entities_of_pairs(model, pairs, "word")


def known(found: Any) -> dict[str, float]:
    return {k: v for k, v in found.summary().items() if v == v}


def same(facts: dict[str, Any], found: Any) -> bool:
    mine = known(found)
    return {k: facts["summary"][k] for k in mine} == pytest.approx(mine)


def test_latents_and_confounds_of_a_task(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lensbench import interventions

    model = dense()
    prompts = entities(model)
    facts = answer(capsys, "select", "latents", *TASK, *QUICK, "--top", 3, "--out", tmp_path / "s")
    found = interventions.entity_separation(model, prompts, SITE, permutations=5)
    assert same(facts, found)
    assert len(facts["rows"]) == 3
    assert facts["classes"] == ["clean", "corrupted"]
    assert (tmp_path / "s" / "result.json").is_file()
    named = answer(capsys, "select", "confounds", *TASK, "--folds", 2)
    assert same(named, interventions.confounds(model, prompts, folds=2))


def test_a_study_steers_the_other_half(capsys: pytest.CaptureFixture[str]) -> None:
    from lensbench import interventions

    model = dense()
    facts = answer(capsys, "select", "study", *TASK, *QUICK, "--random", 1, "--within", 1,
                   "--strengths", 1, "--heads", "4.1")  # fmt: skip
    found = interventions.selection_study(
        model, entities(model), SITE, metric=interventions.answer_entropy(), random=1, within=1.0,
        strengths=(1.0,), heads=[(4, 1)], permutations=5,
    )  # fmt: skip
    assert same(facts, found)
    assert {row["kind"] for row in facts["rows"]} == {"clean", "corrupted", "random"}
    said = answer(capsys, "select", "study", *TASK, *QUICK, "--random", 1, "--within", 1,
                  "--strengths", 1, "--says", "B")  # fmt: skip
    assert 0 <= said["summary"]["clean"] <= 1


def test_heads_and_a_sibling_of_the_atlas_people(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of a few people; the same file cannot serve both models."""
    from lensbench import interventions
    from lensbench.app.workflows.entities import EntityAsk, entities_of

    model = dense()
    asked = entities_of(model, EntityAsk("people:train"))
    other = entities_of(model, EntityAsk("people:heldout"))
    assert not set(asked.entities) & set(other.entities)
    for name, some in (("a", asked), ("b", other)):
        chosen = [*some.entities[:4], *some.entities[-4:]]
        text = model.tokenizer.decode
        rows = [{"text": text(row[1:]), "entity": e, "first": bool(f), "answer": text([a])}
                for row, e, f, a in zip(some.rows, some.entity, some.first, some.answer or (),
                                        strict=True) if e in chosen]  # fmt: skip
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    one, two = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    facts = answer(capsys, "select", "heads", "--entities", one, "--top", 3)
    effects = interventions.attribute_effects(model, entities_of(model, EntityAsk(str(one))))
    assert max(abs(r["effect"]) for r in facts["rows"]) == pytest.approx(abs(effects).max())
    line = ("select", "sibling", "--entities", one, *QUICK, "--sibling", "atlas-early", "--random",
            1, "--within", 1, "--strengths", 1)  # fmt: skip
    tried = answer(capsys, *line, "--on", two, "--heads", 1)
    assert {row["kind"] for row in tried["rows"]} == {"known", "unknown", "random"}
    assert "entit" in refused(capsys, *line, "--on", one)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("people:tarin", "Did you mean 'train'?"),
        ("first_leter:word", "Did you mean 'first_letter'?"),
        ("first_letter:wrod", "Did you mean 'word'?"),
        ("everyone", "FILE.jsonl"),
        ("none.jsonl", "no file none.jsonl"),
    ],
)
def test_a_slip_in_the_entities_is_named(
    given: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(capsys, "select", "confounds", "--entities", given)


def test_a_slip_in_a_file_a_metric_or_a_head_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "e.jsonl"
    file.write_text('{"text": "Alice is", "entity": "Alice", "first": true, "gruop": "x"}\n')
    said = refused(capsys, "select", "confounds", "--entities", file)
    assert "line 1" in said
    assert "Did you mean 'group'?" in said
    line = ("select", "study", *TASK, *QUICK)
    assert "Did you mean 'entropy'?" in refused(capsys, *line, "--metric", "entropi")
    assert "LAYER.HEAD" in refused(capsys, *line, "--heads", "4")
