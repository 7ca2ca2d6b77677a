"""``lensbench experts``: from a model, prompts in a file and a phrase to experts; slips."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.app.commands import run
from tests.moe_worlds import EXPERT, LAYER, as_text, prompts, save_with_words


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_with_words(tmp_path_factory.mktemp("moe") / "planted")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prompts")
    world = prompts(48)
    rows = [
        {"text": as_text(row), "label": "trigger" if hit else "plain", "group": f"g{i // 2}"}
        for i, (row, hit) in enumerate(zip(world.rows, world.triggered, strict=True))
    ]
    (folder / "labelled.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    bare = [{"text": row["text"]} for row in rows]
    (folder / "bare.jsonl").write_text("\n".join(map(json.dumps, bare)) + "\n")
    (folder / "plain.txt").write_text("\n".join(as_text(r) for r in prompts(8, seed=5).rows[::2]))
    (folder / "broken.jsonl").write_text('{"text": "w8 w9"}\n{"txt": "w8"}\n')
    return folder


def answer(capsys: pytest.CaptureFixture[str], *args: object) -> dict[str, Any]:
    capsys.readouterr()
    code = run("experts", *args, "--json")
    said = capsys.readouterr()
    assert code == 0, said.err
    return json.loads(said.out)


def test_map_shows_the_busiest_experts(moe, files, tmp_path, capsys) -> None:
    from lensbench import results
    from lensbench.interventions import experts

    line = ("map", "--model", moe, "--prompts", files / "plain.txt", "--top", 5)
    facts = answer(capsys, *line, "--out", tmp_path / "map")
    loads = [row["load"] for row in facts["experts"]]
    assert len(loads) == 5
    assert loads == sorted(loads, reverse=True)
    saved = results.load(facts["saved"])
    assert isinstance(saved, experts.RoutingMaps)
    assert facts["summary"]["tokens"] == saved.n_tokens.sum() == 4 * 8  # BOS included
    assert run("experts", *line) == 0
    said = capsys.readouterr().out
    assert "evenness" in said
    assert "uncontrolled" in said


def test_map_reads_a_store_as_it_reads_prompts(moe, files, tmp_path, capsys) -> None:
    store = tmp_path / "routed"
    sites = ("blocks.*.router.weights", "blocks.*.router.indices")
    assert run("capture", "--model", moe, "--text", files / "bare.jsonl", "--sites", *sites,
               "--out", store, "--layout", "pad", "--context", 16) == 0  # fmt: skip
    line = ("map", "--model", moe, "--top", 3)
    stored = answer(capsys, *line, "--store", store)
    live = answer(capsys, *line, "--prompts", files / "bare.jsonl")
    for one, other in zip(stored["experts"], live["experts"], strict=True):
        assert one == pytest.approx(other, rel=1e-3)  # weights are stored in half precision
    for given in ((), ("--store", store, "--prompts", files / "bare.jsonl")):
        assert run("experts", *line, *given) == 2
        assert "--prompts" in capsys.readouterr().err


def test_rank_takes_the_labels_of_the_file_or_what_the_model_says(moe, files, capsys) -> None:
    common = ("rank", "--model", moe, "--top", 3, "--permutations", 99)
    by_file = answer(capsys, *common, "--prompts", files / "labelled.jsonl", "--target", "trigger")
    by_answer = answer(
        capsys, *common, "--prompts", files / "bare.jsonl", "--says", "sorry", "--new-tokens", 1
    )
    for facts in (by_file, by_answer):
        first = facts["experts"][0]
        assert (first["layer"], first["expert"]) == (LAYER, EXPERT)
        assert first["p"] == pytest.approx(0.01)
        assert facts["controls"]["permuted_labels_max"] < first["differential"]
    assert by_file["classes"] == {"plain": 24, "trigger": 24}
    assert set(by_answer["classes"]) == {"yes", "no"}


def test_suppress_finds_tests_and_controls(moe, files, tmp_path, capsys) -> None:
    facts = answer(
        capsys, "suppress", "--model", moe, "--prompts", files / "labelled.jsonl", "--says",
        "SORRY", "--new-tokens", 1, "--top", 1, "--draws", 2, "--neutral", files / "plain.txt",
        "--out", tmp_path / "study",
    )  # fmt: skip
    (found,) = facts["experts"]
    assert (found["layer"], found["expert"]) == (LAYER, EXPERT)
    rates = {row["condition"]: row["rate"] for row in facts["conditions"]}
    assert rates["suppressed"] < rates["clean"] / 3  # now and then a random model says it too
    assert rates["forced"] > rates["clean"]
    assert abs(rates["suppressed random 1"] - rates["clean"]) < 0.3 * rates["clean"]
    assert facts["neutral"] == "given"
    assert all(row["before"] == "yes" for row in facts["changed"])
    assert (tmp_path / "study" / "result.json").is_file()
    assert facts["verdicts"]["suppressed"]["random_sets"] == 2
    assert facts["verdicts"]["suppressed"]["stands_out"] is None  # 2 draws cannot tell
    line = ("experts", "suppress", "--model", moe, "--prompts", files / "bare.jsonl", "--says",
            "sorry", "--new-tokens", 1, "--experts", "1:6,1:3", "--draws", 1)  # fmt: skip
    assert run(*line) == 0
    said = capsys.readouterr().out
    assert "random suppressed" in said  # the sets as one row
    assert "suppressed random 1" not in said
    assert "give no p below 0.5; that takes 19" in said  # one set gives no small p
    assert "answers changed under suppression" in said


def test_suppress_ranks_its_rate_among_twenty_random_sets(moe, files, capsys) -> None:
    line = ("suppress", "--model", moe, "--prompts", files / "bare.jsonl", "--says", "sorry",
            "--new-tokens", 1)  # fmt: skip
    two = f"{LAYER}:{EXPERT},2:3,0:1"
    told = answer(capsys, *line, "--experts", two)["verdicts"]["suppressed"]
    assert told["random_sets"] == 20
    assert told["stands_out"] is True
    assert told["p"] == pytest.approx(1 / 21)
    assert "none of them moves it as far" in told["verdict"]
    other = answer(capsys, *line, "--experts", f"{LAYER}:{EXPERT - 1},2:3,0:1")
    other = other["verdicts"]["suppressed"]
    assert other["stands_out"] is False  # control: an expert that does nothing of the kind
    assert answer(capsys, *line, "--experts", "1:3", "--draws", 0)["verdicts"] == {}


def test_scan_puts_the_planted_expert_first(moe, files, capsys) -> None:
    facts = answer(
        capsys, "scan", "--model", moe, "--prompts", files / "bare.jsonl", "--says", "sorry",
        "--new-tokens", 1, "--layers", "1", "--top", 4,
    )  # fmt: skip
    assert [facts["experts"][0][k] for k in ("layer", "expert")] == [LAYER, EXPERT]
    assert len(facts["experts"]) == 4
    assert facts["summary"]["experts"] == 16


def test_questions_of_the_desk_are_named_like_a_file() -> None:
    from lensbench.app.workflows.expert_prompts import find_prompts

    asked, plain = find_prompts("desk:12"), find_prompts("desk:5", neutral=True)
    assert len(asked.texts) == len(asked.labels or ()) == len(asked.groups or ()) == 12
    assert set(asked.labels or ()) <= {"refuse", "answer"}
    assert set(plain.labels or ()) == {"neutral"}
    assert "cannot say" in asked.refusals


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("map --model atlas-dense --prompts {f}/plain.txt", 2, "has no experts"),
        ("map --model {m} --prompts {f}/nothing.jsonl", 3, "no such file; give a .jsonl file"),
        ("map --model {m} --prompts {f}/broken.jsonl", 3, "line 2 has no \"text\""),
        ("map --model {m} --prompts desk:none", 2, "write desk:N, or desk:N:SPLIT:SEED"),
        ("rank --model {m} --prompts {f}/bare.jsonl", 2, "has no labels"),
        ("rank --model {m} --prompts {f}/labelled.jsonl --activation wieght", 2, "'weight'"),
        ("suppress --model {m} --prompts {f}/bare.jsonl", 2, "--says 'cannot say'"),
        ("suppress --model {m} --prompts {f}/bare.jsonl --says x --experts 1-6", 2, "1:6,2:3"),
        ("suppress --model {m} --prompts {f}/bare.jsonl --says sorry --new-tokens 1 "
         "--experts 1:16", 2, "experts 0..15, got expert 16"),
        ("suppress --model {m} --prompts {f}/bare.jsonl --says nonsense --new-tokens 1", 2,
         "No prompt has it"),
        ("scan --model {m} --prompts {f}/bare.jsonl --says sorry --layers one", 2, "--layers"),
        ("scan --model {m} --prompts {f}/bare.jsonl --says sorry --how supress", 2,
         "Did you mean 'suppress'"),
    ],
)  # fmt: skip
def test_slips_are_named(moe, files, capsys, line: str, code: int, said: str) -> None:
    args = line.format(m=moe, f=files).split()
    if args[0] == "rank" and "wieght" not in line:
        args += ["--permutations", "5"]
    assert run("experts", *args, "--json") == code
    document = json.loads(capsys.readouterr().out)
    assert said in document["error"]["message"]


def test_help_loads_nothing_heavy_and_names_every_command(capsys) -> None:
    assert run("experts", "--help") == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in ("map", "rank", "suppress", "scan"))


def test_rates_are_of_experts_moved_by_weights_beside_random_ones(
    moe, files, tmp_path, capsys
) -> None:
    from lensbench.results import load

    line = ("rates", "--model", moe, "--prompts", files / "bare.jsonl", "--says", "SORRY",
            "--new-tokens", 1, "--draws", 3)  # fmt: skip
    gone = f"{LAYER}:{EXPERT}=-1"
    facts = answer(capsys, *line, "--weight", gone, "--out", tmp_path / "rates")
    rate = {row["experts"]: row["rate"] for row in facts["rates"]}
    assert rate["steered"] < rate["clean"] / 3
    assert all(rate[f"random {i}"] > rate["steered"] for i in (1, 2, 3))
    assert "of 48 prompts" in facts["verdict"]
    saved = load(tmp_path / "rates")
    assert saved.to_frame().to_dict("records") == facts["rates"]
    half = answer(capsys, *line, "--weight", f"{LAYER}:{EXPERT}=-0.5", "--weight", "0:1=0.25")
    assert half["rates"][1]["rate"] != rate["steered"]
    for wrong, told in (("1:6", "LAYER:EXPERT=WEIGHT"), ("1:6=-2", "-1 to 1"), ("1:6=0", "move")):
        assert run("experts", *line, "--weight", wrong) == 2
        assert told in capsys.readouterr().err
