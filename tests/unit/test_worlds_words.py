"""The words language as a value, its corpora, training on it, and the frames about texts."""

import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lensbench.errors import ConfigError
from lensbench.worlds.corpora import corpus_from_spec
from lensbench.worlds.exits import continuations, exit_agreement, mean_agreement
from lensbench.worlds.optimiser import AdamW, MuonAdam, optimiser_of
from lensbench.worlds.recipe import WorldTrainConfig
from lensbench.worlds.task import parse_recipe
from lensbench.worlds.training import train_world
from lensbench.worlds.words import (
    Words,
    WordsCorpus,
    acceptance_by_position,
    continuation_diversity,
    distinct_n,
)
from lensbench.worlds.words.language import BOS, SEPARATOR
from lensbench.worlds.words.task import WordsTask

TINY = {"model": "words", "steps": 6, "n_layers": 2, "d_model": 16, "n_heads": 2, "d_mlp": 16,
        "rows": 2, "width": 16, "warmup": 2, "evaluate_every": 0, "state_every": 2,
        "device": "cpu", "card": False}  # fmt: skip
WORLD = Words(0)


def tiny(out: Path, **changes: Any) -> Any:
    return parse_recipe({**TINY, "out": out, **changes})


class Killed(Exception):
    pass


def test_the_language_is_that_of_the_recipe_and_of_its_seed() -> None:
    assert (len(WORLD.words), WORLD.d_vocab, len(set(WORLD.words))) == (48, 40, 48)
    assert {len(word) for word in WORLD.words} <= set(range(5, 10))
    assert Words(0).words == WORLD.words
    assert Words(1).words != WORLD.words
    first = dict(enumerate(WORLD.successors[:, 0].tolist()))
    seen, word = set(), 0
    while word not in seen:
        seen.add(word)
        word = first[word]
    assert len(seen) == 48  # one cycle
    for row in WORLD.successors.T:
        assert sorted(row) == list(range(48))
    assert all(len(set(row)) == 3 for row in WORLD.successors.tolist())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"choice": (0.5, 0.4)}, "sum to 1"),
        ({"n_words": 3}, "n_words must lie in 4"),
        ({"n_symbols": 37}, r"1\.\.36"),
        ({"shortest": 4, "longest": 3}, "lengths must rise"),
    ],
)
def test_a_language_that_cannot_be_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Words(0, **settings)


def test_texts_of_the_language_are_possible_and_others_are_named() -> None:
    rng = Random(0)
    text = WORLD.document(60, rng)
    assert WORLD.next_symbol(text).possible.all()
    wrong = [*text[:30], BOS, *text[31:]]
    told = WORLD.next_symbol(wrong)
    assert told.possible.tolist() == [True] * 30 + [False] * 30
    assert (told.best[30:] == -1).all()
    assert np.isnan(told.entropy[30:]).all()
    assert not told.determined[30:].any()
    with pytest.raises(ConfigError, match="nothing continues it"):
        WORLD.continued(wrong, 2)
    for bad in ([], text[1:], [BOS, 99]):
        with pytest.raises(ConfigError, match="a text is BOS"):
            WORLD.next_symbol(bad)


def test_the_best_continuation_says_every_word_before_it_repeats_one() -> None:
    word = WORLD.words[0]
    text = [BOS, *word, SEPARATOR]
    whole = sum(len(w) + 1 for w in WORLD.words)
    said = WORLD.continued(text, whole)
    assert tuple(said[-len(word) - 1 : -1]) == word
    spelt = "".join(WORLD.vocab[i] for i in said).rstrip("/").split("/")
    assert len(set(spelt)) == len(spelt) == 48


def test_a_corpus_is_its_spec_and_knows_word_and_next_symbol() -> None:
    corpus = WordsCorpus.sample(20, 3, width=50)
    again = corpus_from_spec(json.loads(json.dumps(dict(corpus.spec))))
    assert np.array_equal(corpus.tokens, again.tokens)
    assert not np.array_equal(corpus.tokens, WordsCorpus.sample(20, 4, width=50).tokens)
    assert corpus.label_kinds["is_separator"] == "lexical"
    assert np.array_equal(corpus.labels["is_separator"], corpus.tokens == SEPARATOR)
    assert np.array_equal(corpus.labels["determined"], corpus.entropy < 1e-12)
    # every token but BOS is of exactly one word, which the symbols spell
    words = {n: on for n, on in corpus.labels.items() if n.startswith("word ")}
    assert np.array_equal(np.sum(list(words.values()), 0), corpus.tokens != BOS)
    for i, text in enumerate(corpus.texts()):
        for name, part in zip(corpus.said[i], text.replace(" ", "").split("/"), strict=False):
            spelt = "".join(corpus.vocab[s] for s in corpus.world.words[name])
            assert spelt.startswith(part)
    held, how = corpus.held(np.arange(20))
    assert held.sum() == 5
    assert "1 text in 4" in how
    with pytest.raises(ConfigError, match="at least one text"):
        WordsCorpus.sample(0)
    with pytest.raises(ConfigError, match="not of 'words'"):
        WordsCorpus.from_spec({"world": "atlas"})


def test_the_nll_of_the_language_averages_to_its_entropy() -> None:
    corpus = WordsCorpus.sample(300, 0, width=100)
    ends = corpus.offsets[1:] - 1
    inside = np.ones(len(corpus.tokens), bool)
    inside[ends] = False
    gap = corpus.nll[inside] - corpus.entropy[inside]
    assert abs(gap.mean()) < 4 * gap.std() / np.sqrt(inside.sum())
    assert (corpus.nll[ends] == 0).all()
    hits = corpus.bayes[:-1][inside[:-1]] == corpus.tokens[1:][inside[:-1]]
    assert hits[corpus.labels["determined"][:-1][inside[:-1]]].all()
    assert not hits.all()  # control: choices are missed


def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path) -> None:
    def kill(row: dict[str, object]) -> None:
        if row["step"] == 5:
            raise Killed

    whole = load_file(train_world(tiny(tmp_path / "whole")) / "model.safetensors")
    with pytest.raises(Killed):
        train_world(tiny(tmp_path / "cut", evaluate_every=5), kill)
    cut = load_file(train_world(tiny(tmp_path / "cut", resume=True)) / "model.safetensors")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    plain = load_file(train_world(tiny(tmp_path / "plain", plain=True)) / "model.safetensors")
    assert not all(torch.equal(whole[name], plain[name]) for name in whole)  # control


def test_the_plain_variant_is_the_mean_cross_entropy_of_the_last_layer(tmp_path: Path) -> None:
    task = WordsTask(tiny(tmp_path, plain=True))
    model, rows = task.new_model(), torch.from_numpy(task.rows_at(3))
    logits = model(rows[:, :-1]).logits.flatten(0, 1)
    expected = nn.functional.cross_entropy(logits, rows[:, 1:].flatten())
    torch.testing.assert_close(task.loss(model, 3), expected)
    skipping = WordsTask(tiny(tmp_path, layer_skip={"rotation": 1, "e_scale": 9.0}, n_layers=3))
    deeper = skipping.new_model()
    last = nn.functional.cross_entropy(
        deeper(rows[:, :-1]).logits.flatten(0, 1), rows[:, 1:].flatten()
    )
    assert abs(skipping.loss(deeper, 3) - last) > 1e-4  # control


def test_rows_are_functions_of_the_step_and_no_texts_that_are_scored(tmp_path: Path) -> None:
    task = WordsTask(tiny(tmp_path, rows=64))
    assert np.array_equal(task.rows_at(0), task.rows_at(0))
    assert not np.array_equal(task.rows_at(0), task.rows_at(1))
    assert task.rows_at(0).shape == (64, 17)


def test_adamw_is_torchs_on_matrices_and_decays_no_norm() -> None:
    torch.manual_seed(0)
    ours, theirs = (nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3)) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    groups = [{"params": [p], "weight_decay": 0.1 if p.ndim > 1 else 0.0}
              for p in theirs.parameters()]  # fmt: skip
    reference = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95))
    optimiser = AdamW(ours, lr=0.02, weight_decay=0.1)
    for t in range(1, 6):
        x = torch.randn(8, 4)
        for model in (ours, theirs):
            model(x).square().sum().backward()
        optimiser.step(t, 0.5)
        reference.step()
        reference.zero_grad()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other)
    assert isinstance(optimiser_of(WorldTrainConfig(), ours), MuonAdam)


def test_the_learning_rate_warms_up_and_falls_along_a_cosine(tmp_path: Path) -> None:
    config = tiny(tmp_path, steps=300, warmup=100)
    assert [config.scale(s) for s in (0, 99, 100, 200)] == pytest.approx([0.01, 1, 1, 0.5])
    assert config.scale(299) < 1e-4
    assert not config.is_flat(50)  # a longer run falls later: another run
    with pytest.raises(ConfigError, match="muon_lr"):
        tiny(tmp_path, muon_lr=0.1)
    with pytest.raises(ConfigError, match="even multiple"):
        tiny(tmp_path, d_model=18, n_heads=4)


def test_the_folder_has_a_tokenizer_of_symbols_and_a_card(tmp_path: Path) -> None:
    import lensbench

    folder = train_world(tiny(tmp_path, card=True, evaluate_every=6))
    model = lensbench.load_model(str(folder))
    text = WordsCorpus.sample(1, 0, width=12)
    assert model.tokens(text.texts()).ids.tolist() == [text.document(0).tolist()]
    card = (folder / "README.md").read_text()
    assert "Agreement of early exits" in card
    assert str(tmp_path) not in card
    rows = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert rows["agreement_2"] == 1.0


def test_distinct_n_counts_by_hand() -> None:
    texts = [[1, 2, 1, 2], [1, 2, 3]]
    assert distinct_n(texts, 1) == 3 / 7
    assert distinct_n(texts, 2) == 3 / 5  # 12, 21, 12 and 12, 23
    assert np.isnan(distinct_n([[1]], 2))
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        distinct_n(texts, 0)


def test_a_collapsed_model_fails_the_gate_that_the_text_itself_passes() -> None:
    reference = [WORLD.document(60, Random(i)) for i in range(20)]
    other = [WORLD.document(60, Random(100 + i)) for i in range(20)]
    collapsed = [[5] * 60] * 20
    gate = {name: continuation_diversity(own, reference).set_index("n")
            for name, own in (("text", other), ("collapsed", collapsed))}  # fmt: skip
    assert gate["text"].varied.all()
    assert not gate["collapsed"].varied.any()
    assert gate["collapsed"].own[2] == 1 / (20 * 59)
    # every text a loop of its own: all together they are varied, each alone is not
    loops = [(WORLD.document(10, Random(i)) * 6)[:60] for i in range(200)]
    many = [WORLD.document(60, Random(i)) for i in range(200)]
    looped = continuation_diversity(loops, many).set_index("n")
    assert looped.ratio[2] > 0.9
    assert looped.ratio_per_text[2] < 0.3
    assert not looped.varied[2]
    # a shorter side cuts the other: distinct-n falls with the amount of text
    short = continuation_diversity([text[:10] for text in reference], reference)
    assert (short.ratio == 1).all()
    assert (short.tokens == 200).all()
    with pytest.raises(ConfigError, match="one reference per prompt"):
        continuation_diversity(reference, reference[:3])


def test_acceptance_is_split_by_what_the_language_says_of_the_token_before() -> None:
    text = WORLD.document(40, Random(1))
    told = WORLD.next_symbol(text)
    yes = np.zeros(40, bool)
    yes[1:] = told.determined[:-1]
    frame = acceptance_by_position(WORLD, [text], [yes]).set_index("position")
    assert frame.acceptance["determined"] == 1.0
    assert frame.acceptance["undetermined"] == 0.0
    assert frame.n["impossible"] == 0
    assert np.isnan(frame.acceptance["impossible"])
    assert frame.acceptance["all"] == pytest.approx(yes[1:].mean())
    assert frame.n["all"] == 39
    assert frame.entropy["determined"] == 0.0
    assert frame.entropy["undetermined"] > 0.5
    # control: flags read one token late mix the two
    late = acceptance_by_position(WORLD, [text], [np.roll(yes, 1)]).set_index("position")
    assert late.acceptance["determined"] < 1.0
    broken = [*text[:20], BOS, *text[21:]]
    frame = acceptance_by_position(WORLD, [broken], [np.zeros(40, bool)]).set_index("position")
    assert frame.n["impossible"] == 19  # the wrong token itself comes after a possible text


def test_acceptances_that_do_not_fit_are_refused() -> None:
    text, yes = WORLD.document(10, Random(1)), np.zeros(10, bool)
    for accepted, drafted, said in (
        ([yes[:5]], None, "text 0 has 10 tokens, 5 acceptances"),
        ([yes, yes], None, "as many, got 1, 2"),
        ([~yes], [yes], "accepted that was not drafted"),
        ([yes], [~yes], "cannot be drafted"),
    ):
        with pytest.raises(ConfigError, match=said):
            acceptance_by_position(WORLD, [text], accepted, drafted)


def test_agreement_of_exits_does_not_depend_on_the_batch_and_is_that_of_the_module(
    tmp_path: Path,
) -> None:
    module = WordsTask(tiny(tmp_path, n_layers=3)).new_model().eval()
    documents = [np.array(WORLD.document(n, Random(n))) for n in (16, 7, 12)]
    whole, single = (exit_agreement(module, documents, batch=b) for b in (3, 1))
    for a, b in zip(whole, single, strict=True):
        assert np.array_equal(a, b)
    with torch.no_grad():
        out = module(torch.from_numpy(documents[0])[None], output_hidden_states=True)
        first = module.lm_head(module.model.norm(out.hidden_states[1])).argmax(-1)[0]
    assert np.array_equal(whole[0][0], (first == out.logits[0].argmax(-1)).numpy())
    assert whole[0][-1].all()
    shares = mean_agreement(module, documents)
    assert shares[0] == pytest.approx(np.concatenate([w[0] for w in whole]).mean())


def test_continuations_are_the_greedy_ones_of_each_prompt_alone(tmp_path: Path) -> None:
    module = WordsTask(tiny(tmp_path)).new_model().eval()
    prompts = [WORLD.document(n, Random(n)) for n in (6, 4, 6)]
    found = continuations(module, prompts, 5)
    for prompt, said in zip(prompts, found, strict=True):
        ids = list(prompt)
        for _ in range(5):
            ids.append(int(module(torch.tensor([ids])).logits[0, -1].argmax()))
        assert said == ids[len(prompt) :]
