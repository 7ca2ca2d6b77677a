"""``lensbench lens language | patchscope | decode``: the library's numbers, and slips in words."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.app.commands import answer, refused, run

MODEL = ("--model", "atlas-dense")
PROMPT = "List bag round , letter wooden , shoe clean ; recall letter"


def test_the_languages_of_the_layers_are_those_of_the_library(tmp_path: Path, capsys: Any) -> None:
    from lensbench import load_model, results
    from lensbench.probes import latent_language
    from lensbench.worlds.atlas import lexicon

    line = ("lens", "language", *MODEL, "--words", "atlas", "--source", "fr", "--target", "de",
            "--pivot", "en")  # fmt: skip
    facts = answer(capsys, *line, "--out", tmp_path / "l")
    words = {"en": 0, "fr": 1, "de": 3}
    table = {name: [row[i] for row in lexicon.DICTIONARY] for name, i in words.items()}
    prompts = [f"French : {row[1]} - German :" for row in lexicon.DICTIONARY]
    made = latent_language(load_model("atlas-dense"), prompts, table, target="de", pivot="en")
    np.testing.assert_allclose([r["de"] for r in facts["layers"]], made.prob[2].mean(-1), rtol=1e-5)
    assert facts["summary"]["target_last"] > 0.9
    assert results.load(facts["saved"]).kind == "LatentLanguage"
    assert run(*line) == 0
    assert "en shows" in capsys.readouterr().out
    path = tmp_path / "w.json"
    named = {"English": table["en"], "French": table["fr"], "German": table["de"]}
    path.write_text(json.dumps(named))
    own = (*line[:4], "--words", path, "--source", "French", "--target", "German", "--pivot",
           "English")  # fmt: skip
    form = "{source_name} : {source} - {target_name} : {target} ."
    again = answer(capsys, *own, "--shots", 0, "--template", form)
    assert [r["German"] for r in again["layers"]] == [r["de"] for r in facts["layers"]]
    assert "{target}" in refused(capsys, *own, "--template", "no place")
    path.write_text('{"en": "dog"}')
    assert "lists of words by language" in refused(capsys, *own)
    assert "no such file" in refused(capsys, *line[:4], "--words", "away.json", *line[6:])
    assert "no language named 'es'" in refused(capsys, *line[:-1], "es")


def test_a_state_is_put_into_another_text(tmp_path: Path, capsys: Any) -> None:
    """At the last layer the transplant is the logit lens, which is the model."""
    from lensbench import load_model

    line = ("lens", "patchscope", *MODEL, "--prompt", PROMPT, "--target", "I think the ring",
            "--layer", 5)  # fmt: skip
    facts = answer(capsys, *line, "--out", tmp_path / "t")
    assert [row["into"] for row in facts["layers"]] == [5] * 6
    model = load_model("atlas-dense")
    p = model.run(model.tokens(PROMPT)).logits[0, -1].softmax(-1)
    assert facts["layers"][-1]["probability"] == pytest.approx(float(p.max()), rel=1e-4)
    assert facts["layers"][-1]["top"].startswith("wooden")
    assert facts["layers"][-1]["without"] < 0.1, "control: the target left as it is"
    written = answer(capsys, *line, "--placeholder", "ring", "--new-tokens", 2)
    assert written["layers"][-1]["text"].split()[0] == "wooden"
    assert run(*line) == 0
    assert "'letter'" in capsys.readouterr().out
    assert "is the placeholder" in refused(capsys, *line, "--placeholder", "zebra")
    bare = ("lens", "patchscope", *MODEL, "--prompt", PROMPT)
    assert "give both" in refused(capsys, *bare, "--placeholder", "_")
    assert "--prompt" in refused(capsys, "lens", "patchscope", *MODEL)


def test_a_text_is_written_under_a_rule_with_the_layer_of_every_token(
    tmp_path: Path, capsys: Any
) -> None:
    from lensbench import load_model, results
    from lensbench.probes import DoLa, contrastive_decode

    line = ("lens", "decode", *MODEL, "--prompt", PROMPT, "--new-tokens", 4)
    dola = ("--depths", "0,2,4", "--divergence", "code_reverse")
    facts = answer(capsys, *line, *dola, "--out", tmp_path / "d")
    rule = DoLa(load_model("atlas-dense"), (0, 2, 4), divergence="code_reverse")
    made = contrastive_decode(rule, PROMPT, 4)
    assert [row["depth"] for row in facts["steps"]] == made.depth.tolist()
    assert facts["text"] == made.texts[0]
    assert facts["plain"] == made.plain_texts[0]
    assert results.load(facts["saved"]).kind == "ContrastiveText"
    for flag, norm in (("--norm", True), ("--no-norm", False)):
        rule = DoLa(load_model("atlas-dense"), (0, 2, 4), norm_intermediate=norm)
        told = contrastive_decode(rule, PROMPT, 4).measured
        steps = answer(capsys, *line, "--depths", "0,2,4", flag)["steps"]
        said = [[row[f"at {depth}"] for depth in (0, 2, 4)] for row in steps]
        np.testing.assert_allclose(said, told, rtol=1e-4, atol=1e-7)
    assert run(*line, "--rule", "deco") == 0
    assert "blocks." in capsys.readouterr().out
    context = answer(capsys, *line, "--rule", "context", "--without", "recall letter")
    assert context["depths"] == []
    same = answer(capsys, *line, "--rule", "contrastive", "--amateur", "atlas-dense")
    assert len(same["steps"]) == len(facts["steps"])
    assert "no rule of decoding named 'dolla'" in refused(capsys, *line, "--rule", "dolla")
    assert "context needs --without" in refused(capsys, *line, "--rule", "context")
    assert "has no option 'alpha'" in refused(capsys, *line, "--alpha", 1)
    assert "such as 0,2,4" in refused(capsys, *line, "--depths", "0,x")
    assert "paper_jsd" in refused(capsys, *line, "--divergence", "jsd")
