"""``lensbench probe capacity | concepts | decode``: the library's numbers, and slips in words."""

from pathlib import Path

import pytest

from tests.app.cli_workspace import analogies
from tests.app.commands import answer, refused


def test_capacity_is_measured_beside_theory(capsys: pytest.CaptureFixture[str]) -> None:
    from lensbench import probes

    facts = answer(capsys, "probe", "capacity", "--space", "BSC", "--dim", 128, "--names", 20,
                   "--sizes", "1,4", "--trials", 10, "--seed", 3)  # fmt: skip
    made = probes.capacity_curve("BSC", dim=128, n_items=20, sizes=(1, 4), trials=10, seed=3)
    assert facts["summary"] == pytest.approx(made.summary())
    assert [row["recovered"] for row in facts["rows"]] == [h / 10 for h in made.hits]
    assert facts["controls"] == pytest.approx(dict(made.controls.values))
    assert "known: MAP, BSC, HRR, FHRR" in refused(capsys, "probe", "capacity", "--space", "MAPP")
    assert "--sizes" in refused(capsys, "probe", "capacity", "--size", "x,y")


def test_own_analogies_are_dealt_by_question() -> None:
    from lensbench import probes
    from lensbench.app.workflows.hyper_decode import deal

    dealt = deal(probes.from_analogies(analogies(60)), seed=1)
    sides = [{pairs[-1] for pairs in side.pairs} for side in (dealt.train, dealt.validation,
                                                              dealt.test)]  # fmt: skip
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]
    assert set(dealt.held_out) == sides[2]


def test_a_probe_of_own_analogies_is_fitted_kept_and_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lensbench import load_model, probes
    from lensbench.app.workflows.hyper_decode import deal

    file, out = tmp_path / "a.txt", tmp_path / "hd"
    rows = analogies(60)
    file.write_text("\n".join(rows))
    line = ("probe", "concepts", "--model", "atlas-dense", "--text", file, "--dim", 256,
            "--baseline", "constant vector")  # fmt: skip
    facts = answer(capsys, *line, "--out", out)
    model = load_model("atlas-dense")
    made = probes.hd_study(model, prompts=deal(probes.from_analogies(rows)), dim=256,
                           baselines=("constant vector",))  # fmt: skip
    assert facts["summary"] == pytest.approx(made.summary(), nan_ok=True)
    assert facts["controls"] == pytest.approx(dict(made.controls.values))
    prompt, _, target = rows[0].rpartition(" : ")
    asked = prompt.rpartition(" ")[2]
    read = answer(capsys, "probe", "decode", "--encoder", out, "--model", "atlas-dense",
                  "--prompt", f"{prompt} :", "--query", asked, "--top", 3)  # fmt: skip
    from lensbench.probes.hd.encoder import HDEncoder

    encoder, memory = HDEncoder.load(out / "encoder"), probes.ItemMemory.load(out / "encoder")
    x = probes.ingest_layers(probes.prompt_states(model, [f"{prompt} :"]))
    bound = memory.space.unbind(encoder.encode(x, seed=3), memory.vector(asked))
    expected = memory.cleanup(bound, 3)[0]
    assert [(r["concept"], r["similarity"]) for r in read["rows"]] == [
        (name, pytest.approx(value)) for name, value in expected
    ]
    assert target in memory.names
    assert 0 < read["controls"]["largest similarity of a random hypervector"] < 1
    assert "Did you mean" in refused(
        capsys, "probe", "decode", "--encoder", out, "--model", "atlas-dense", "--prompt",
        f"{prompt} :", "--query", f"{asked}x",
    )  # fmt: skip
    assert refused(
        capsys, "probe", "decode", "--encoder", out, "--model", "atlas-moe", "--prompt", prompt
    )
    assert "no encoder in" in refused(
        capsys, "probe", "decode", "--encoder", tmp_path, "--model", "atlas-dense", "--prompt", "x"
    )
    assert "Did you mean 'constant vector'" in refused(capsys, *line[:-1], "constant vectr")
    file.write_text("France is to Paris\n" * 12)
    assert "row 0" in refused(capsys, *line)
    file.write_text("\n".join(rows[:4]))
    assert "at least 10" in refused(capsys, *line)
