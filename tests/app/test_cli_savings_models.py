"""``savings`` of a second model's drafts, of drafts with labels, and of texts with masks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.app.commands import answer, refused

PROMPTS = ("Alice the baker lives in", "The capital of Peru is", "The king that the boys know")
WORDS = tuple(f"w{i}" for i in range(24))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts, drafts with labels, and sentences for a model that fills in masks."""
    folder = tmp_path_factory.mktemp("drafts")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    drafts = [{"prompt": p, "draft": " Lima . The", "right": [True, False, i % 2 == 0]}
              for i, p in enumerate(PROMPTS * 2)]  # fmt: skip
    (folder / "drafts.jsonl").write_text("\n".join(map(json.dumps, drafts)) + "\n")
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(WORDS, 10 + i % 3)) for i in range(6)]
    (folder / "texts.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of the BERT family with words of its own."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    names = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS)
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(names)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    ends: Any = [("[CLS]", 2), ("[SEP]", 3)]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]",
                                                        special_tokens=ends)  # fmt: skip
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(names), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=32, initializer_range=0.5,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("bert") / "tiny"
    transformers.BertForMaskedLM(config).save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]",
    ).save_pretrained(folder)  # fmt: skip
    return folder


def test_drafts_of_a_second_model_are_counted(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lensbench import load_model
    from lensbench.interventions import acceleration
    from lensbench.results import load

    line = ("savings", "drafts", "--prompts", place / "prompts.txt", "--new-tokens", 8)
    facts = answer(capsys, *line, "--draft-model", "atlas-dense", "--lengths", "1,3",
                   "--out", tmp_path / "r", "--html", tmp_path / "r.html")  # fmt: skip
    model, small = load_model("atlas-early"), load_model("atlas-dense")
    for row in facts["rows"]:
        every = [acceleration.speculative_baseline(model, model.tokens(p), small, row["draft"], 8)
                 for p in PROMPTS]  # fmt: skip
        drafted, kept = (sum(getattr(d, n) for d in every) for n in ("drafted", "accepted"))
        assert row["acceptance"] == pytest.approx(kept / drafted)
        assert row["tokens_per_round"] == pytest.approx(24 / sum(len(d.rounds) for d in every))
        assert row["same"] == 1  # the text is the model's own
        assert row["plain_blocks"] > row["blocks"] > 0
    own = answer(capsys, *line, "--draft-model", "atlas-early", "--lengths", "3")["rows"][0]
    assert own["acceptance"] == 1  # control: a model agrees with itself
    assert load(tmp_path / "r").to_frame().to_dict("records") == facts["rows"]
    assert "Drafts of atlas-dense" in (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "vocabulary" in refused(capsys, *line, "--draft-model", "othello")
    assert "lengths" in refused(capsys, *line, "--draft-model", "atlas-dense", "--lengths", "x")


def test_when_drafts_of_a_second_model_should_stop(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ("savings", "lengths", "--prompts", place / "prompts.txt", "--new-tokens", 8)
    how = ("--thresholds", "0.5", "--most", 3)
    facts = answer(capsys, *line, *how, "--draft-model", "atlas-dense")
    rows = {row["policy"]: row for row in facts["rows"]}
    assert set(rows) >= {"fixed 1", "fixed 3", "p >= 0.5", "oracle"}
    assert facts["draft_model"] == "atlas-dense"
    itself = answer(capsys, *line, *how, "--draft-model", "atlas-early")
    (fixed,) = [row for row in itself["rows"] if row["policy"] == "fixed 3"]
    assert fixed["acceptance"] == 1  # control: all its own drafts are kept
    assert "who drafts" in refused(capsys, *line)
    assert "who drafts" in refused(capsys, *line, "--exit", 2, "--draft-model", "atlas-dense")


def test_a_judge_is_trained_on_labelled_drafts(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ("savings", "judge", "--drafts")
    facts = answer(capsys, *line, place / "drafts.jsonl", "--out", tmp_path / "r")
    rules = {row["rule"]: row for row in facts["rows"]}
    assert rules["strict"]["lossless"] is True
    assert rules["keep all"]["accepted"] == 3  # control: all of each draft
    assert rules["keep all"]["right_drafts"] == 1  # the second token of each is wrong
    assert facts["controls"]["moved_labels_auroc"] is not None
    assert (tmp_path / "r" / "result.json").is_file()
    assert "no file" in refused(capsys, *line, "none.jsonl")
    bad = tmp_path / "bad.jsonl"
    for row, said in (
        ({"prompt": "The king", "draft": " is"}, '"right"'),
        ({"prompt": "The king", "draft": " is nice", "right": [True]}, "a list of 2"),
        ({"prompt": "The king", "draft": "", "right": True}, "token of its own"),
    ):
        bad.write_text(json.dumps(row) + "\n")
        assert said in refused(capsys, *line, bad)


def test_a_text_with_masks_is_committed_when_it_is_settled(
    place: Path, bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ("savings", "commit", "--model", bert, "--prompts", place / "texts.txt")
    early = answer(capsys, *line, "--masked", 4, "--thresholds", "0,0,0", "--out", tmp_path / "r")
    assert {row["exit_step"] for row in early["rows"]} == {1}  # a gap of 0 is always reached
    assert {row["n_steps"] for row in early["rows"]} == {4}
    never = answer(capsys, *line, "--masked", 4, "--thresholds", "1e9,1e9,1e9")
    assert {row["exit_step"] for row in never["rows"]} == {4}  # control: then never
    assert all(row["same"] for row in never["rows"])
    found = answer(capsys, *line, "--masked", 4, "--rule", "filter", "--steps", 2)
    assert len(found["rows"]) == 3  # half of the texts is held out
    assert (tmp_path / "r" / "result.json").is_file()
    assert "'prophet'" in refused(capsys, *line, "--rule", "prophte")
    assert "--masked fewer" in refused(capsys, *line, "--masked", 40)
    assert "three" in refused(capsys, *line, "--thresholds", "1,2")
    other = ("savings", "commit", "--model", "atlas-dense", "--prompts", place / "texts.txt")
    assert "no mask" in refused(capsys, *other)


def test_the_last_words_are_masked_and_the_end_stays() -> None:
    from lensbench.app.workflows.draft_models import _masked

    rows, where = _masked([[2, 5, 6, 7, 8, 3], [2, 9, 10, 11, 12, 13, 14, 3]], 2, 4, {2, 3})
    assert [row.tolist() for row in rows] == [[2, 5, 6, 4, 4, 3], [2, 11, 12, 4, 4, 3]]
    assert where == [3, 4]
