"""Slips of a user with lenses and token attribution: refused in words, and NaN is never a score."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import lensbench
from lensbench import probes
from lensbench.app.workflows import hyper
from lensbench.app.workflows.probing import _positions  # pyright: ignore[reportPrivateUsage]
from lensbench.app.workflows.probing import facts as probe_facts
from lensbench.app.workflows.reading import lines_of, paired_lines, read_tokens
from lensbench.app.workflows.shapes import ShapeAsk, measure, short_names
from lensbench.errors import ConfigError, LensbenchError, NonFiniteError
from lensbench.probes.lenses import measures
from lensbench.probes.saliency.asked import Question, sampler_of, targets_of

TEXT = "The capital of Ecuador is"


@pytest.fixture(scope="module")
def model() -> lensbench.Model:
    return lensbench.load_model("atlas-dense")


@pytest.mark.parametrize("final_too", [False, True])
def test_a_prediction_that_is_no_number_has_no_rank_and_agrees_with_nothing(final_too: bool):
    broken, fine = torch.full((2, 10), torch.nan), torch.randn(2, 10)
    found = measures.measure(broken, broken if final_too else fine, torch.tensor([3, 0]))
    assert found.isnan().all()


def test_a_final_prediction_that_is_no_number_is_agreed_with_by_none():
    found = measures.measure(
        torch.eye(10)[:2], torch.full((2, 10), torch.nan), torch.tensor([3, 0])
    )
    rows = dict(zip(measures.METRICS, found, strict=True))
    assert rows["agreement"].isnan().all()
    assert rows["target_rank"].isfinite().all()


def test_a_layer_whose_agreement_is_unknown_is_not_settled():
    assert measures.prediction_depth(np.array([[1.0], [np.nan], [1.0]])).tolist() == [2]


def test_one_id_in_a_tensor_is_a_target_and_not_a_count(model: lensbench.Model):
    ids = model.tokens(TEXT).ids[0]
    assert targets_of(model, ids, torch.tensor([5])) == [5]
    assert targets_of(model, ids, np.array([5])) == [5]
    assert len(targets_of(model, ids, torch.tensor(2))) == 2


@pytest.mark.parametrize(
    "slip",
    [{"targets": 2.5}, {"replacement": 5}, {"seed": -1}, {"seed": "x"}, {"methods": 3},
     {"search": probes.ReagentSettings(share="a")}],  # pyright: ignore[reportArgumentType] - the slip
)  # fmt: skip
def test_slips_in_an_attribution_are_told(model: lensbench.Model, slip: dict[str, object]):
    with pytest.raises(LensbenchError):
        probes.attribute_tokens(model, TEXT, **{"methods": "leave_one_out", **slip})  # pyright: ignore[reportArgumentType] - the slip


def test_probabilities_that_are_no_numbers_are_not_scored(model: lensbench.Model):
    nan = torch.full((1, 1, model.card.d_vocab), torch.nan)
    broken = SimpleNamespace(run=lambda *_, **__: SimpleNamespace(logits=nan))
    asked = Question(broken, torch.tensor([1, 2]), 3, sampler_of(model, "uniform"))  # pyright: ignore[reportArgumentType] - a stand-in
    with pytest.raises(NonFiniteError, match="finite"):
        asked.probs(torch.tensor([[1, 2]]))


def test_an_empty_prompt_has_no_tokens_to_attribute():
    with pytest.raises(ConfigError, match="empty"):
        read_tokens("atlas-dense", " ")


@pytest.mark.parametrize("k", [2.5, True, 0, 10**6])
def test_k_of_a_lens_is_a_whole_number_of_tokens(model: lensbench.Model, k: object):
    with pytest.raises(ConfigError, match="k must be"):
        probes.site_lens(model, TEXT, k=k)  # pyright: ignore[reportArgumentType] - the slip


@pytest.mark.parametrize("rule", [probes.DoLa, probes.DeCo])
def test_one_depth_alone_is_told_to_be_a_list(model: lensbench.Model, rule: type):
    with pytest.raises(ConfigError, match=r"depths.*got 3"):
        rule(model, depths=3)


@pytest.mark.parametrize("layers", [3, [0, 0]])
def test_layers_of_neurons_are_a_list_of_different_ones(model: lensbench.Model, layers: object):
    with pytest.raises(ConfigError, match="layers"):
        probes.decode_neurons(model, layers=layers)  # pyright: ignore[reportArgumentType] - the slip


def test_sentences_keep_their_targets_where_lines_are_blank(tmp_path: Path):
    said, right = tmp_path / "said.txt", tmp_path / "right.txt"
    said.write_text("a\n\nb\nc\n")
    right.write_text("A\n\nB\nC\n\n")
    assert paired_lines(said, right) == (["a", "b", "c"], ["A", "B", "C"])
    right.write_text("A\nB\n\nC\n")  # as many sentences, but the second has another's target
    with pytest.raises(ConfigError, match="line 2"):
        paired_lines(said, right)
    right.write_text("A\n\nB\n")
    with pytest.raises(ConfigError, match="lines"):
        paired_lines(said, right)


def test_a_file_that_is_no_text_is_told(tmp_path: Path):
    (tmp_path / "bin").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(LensbenchError, match="UTF-8"):
        lines_of(tmp_path / "bin")


@pytest.mark.parametrize(("typed", "meant"), [("0,-1", [0, -1]), ("--5", "--5"), ("²", "²")])
def test_places_of_rows_are_numbers_or_a_name(typed: str, meant: object):
    assert _positions((typed,)) == meant


def test_two_controls_of_one_name_are_told_apart_and_one_given_twice_is_refused():
    named = short_names(("/somewhere/acts", "/elsewhere/acts"))
    assert list(named.values()) == ["somewhere/acts", "elsewhere/acts"]
    with pytest.raises(ConfigError, match="named twice"):
        measure(ShapeAsk((), controls=("/somewhere/acts", "/somewhere/acts")))


@pytest.fixture(scope="module")
def translator() -> lensbench.Model:
    return lensbench.load_model("atlas-translate")


@pytest.mark.parametrize(
    "slip",
    [{"targets": "xy"}, {"targets": ["x", None]}, {"targets": [[5], [99999]]}, {"layers": 3},
     {"seed": -1}, {"tasks": "ab"}],
)  # fmt: skip
def test_slips_in_a_decoder_lens_are_told(translator: lensbench.Model, slip: dict[str, object]):
    with pytest.raises(ConfigError):
        probes.decoder_lens(translator, ["a", "b"], **slip)  # pyright: ignore[reportArgumentType] - the slip


def test_a_lens_on_a_text_refuses_a_model_that_predicts_no_next_token():
    from transformers import BertConfig, BertForMaskedLM

    tiny = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                      intermediate_size=32)  # fmt: skip
    encoder = lensbench.load_model(BertForMaskedLM(tiny).eval())
    with pytest.raises(ConfigError, match="next token"):
        probes.states_of_text(encoder, [[1, 2, 3]])


def test_a_score_that_is_unknown_for_one_seed_is_not_averaged_away():
    frame = pd.DataFrame({"site": "s", "label": ["a", "a", "b", "b"], "method": "m",
                          "position": "all",
                          "seed": [0, 1] * 2,
                          "score": [0.9, np.nan, 0.6, 0.8]})  # fmt: skip
    members = {"to_frame": lambda _: frame, "__len__": lambda _: 2, "summary": dict, "left_out": {},
               "n_documents": 1, "metric": "accuracy", "missing": {},
               "unit": "documents"}  # fmt: skip
    rows = {row["label"]: row["score"] for row in probe_facts(type("Sweep", (), members)())["rows"]}
    assert rows["b"] == pytest.approx(0.7)
    assert np.isnan(rows["a"])


def test_an_entropy_that_is_no_number_is_not_averaged_away(model: lensbench.Model):
    lens = probes.states_of_text(model, model.tokens(TEXT)).lens(model)
    assert np.isfinite(list(lens.summary().values())).all()  # the end has no target, and is no gap
    lens.values[:, -1, 1] = np.nan
    assert all(np.isnan(v) for k, v in lens.summary().items() if k.endswith("_last"))


def test_code_for_a_hyperdimensional_study_repeats_its_seed_and_revision():
    ask = hyper.HDAsk("atlas-dense", seed=3, revision="step_10")
    assert "--seed 3 --revision step_10" in hyper.command_of(ask)
    assert "revision='step_10'" in hyper.python_of(ask)
    assert "seed=3" in hyper.python_of(ask)
    assert "--seed" not in hyper.command_of(hyper.HDAsk("atlas-dense"))


def test_no_model_is_told_where_a_model_is_asked_for():
    with pytest.raises(ConfigError, match="got None"):
        probes.site_lens(None, TEXT)  # pyright: ignore[reportArgumentType] - the slip
