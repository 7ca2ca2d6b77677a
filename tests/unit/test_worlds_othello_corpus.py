"""Boards as labels of tokens: joined with stores, split by openings, refused if they do not fit."""

import json
from pathlib import Path

import numpy as np
import pytest

from lensbench.errors import ConfigError, MismatchError, UnknownNameError
from lensbench.worlds.corpora import corpus_from_spec
from lensbench.worlds.othello import games as g
from lensbench.worlds.othello.corpus import OthelloCorpus, write_jsonl
from lensbench.worlds.othello.rules import Position
from lensbench.worlds.othello.vocabulary import EOS, square_name, vocabulary


@pytest.fixture(scope="module")
def corpus() -> OthelloCorpus:
    return OthelloCorpus.sample(60, "all", seed=3)


def test_labels_are_the_board_after_each_token(corpus: OthelloCorpus) -> None:
    """Every label of every token of every game, from the plain rules."""
    for i in range(corpus.n_docs):
        position, start = Position.start(6), int(corpus.offsets[i])
        for j, word in enumerate(corpus.words(i)):
            if word == "[EOS]":
                assert not any(column[start + j] for column in corpus.labels.values())
                continue
            if word != "[BOS]":
                square = next(s for s in range(36) if square_name(s, 6) == word)
                position = position.play(square)
            for s, disc in enumerate(position.discs):
                kind = {position.side: "mine", -position.side: "yours", 0: "empty"}[disc]
                for k in ("mine", "yours", "empty"):
                    assert corpus.labels[f"{k} {square_name(s, 6)}"][start + j] == (k == kind)
            legal = {vocabulary(6).index(square_name(s, 6)) for s in position.legal_moves()}
            assert set(np.flatnonzero(corpus.legal[start + j])) == (legal or {EOS})


def test_every_token_is_allowed_by_the_one_before(corpus: OthelloCorpus) -> None:
    for i in range(corpus.n_docs):
        rows = np.arange(corpus.offsets[i], corpus.offsets[i + 1])
        assert corpus.legal[rows[:-1], corpus.tokens[rows[1:]]].all()
        assert not corpus.legal[rows[-1]].any()
    shifted = np.roll(corpus.tokens, -2)  # control: the token after that is not
    assert corpus.legal[np.arange(len(shifted)), shifted].mean() < 0.7


def test_corners_and_edges_are_those_of_the_token(corpus: OthelloCorpus) -> None:
    words = np.array([corpus.vocab[t] for t in corpus.tokens])
    corner = np.isin(words, ["a1", "a6", "f1", "f6"])
    assert np.array_equal(corpus.labels["plays corner"], corner)
    edge = np.array([w[0] in "af" or w[1] in "16" for w in words]) & ~np.char.startswith(words, "[")
    assert np.array_equal(corpus.labels["plays edge"], edge)
    assert set(corpus.label_kinds.values()) == {"contextual", "history", "lexical"}
    assert set(corpus.label_kinds) == set(corpus.labels)


@pytest.mark.parametrize("size", [4, 8])
def test_other_boards_have_their_own_labels(size: int) -> None:
    corpus = OthelloCorpus.sample(5, size=size)
    assert len(corpus.labels) == 3 * size**2 + 2
    board = np.sum([x for name, x in corpus.labels.items() if "plays" not in name], 0)
    assert set(board[corpus.tokens != EOS]) == {size**2}  # each square is exactly one of three


def test_the_spec_gives_the_corpus_again(corpus: OthelloCorpus) -> None:
    again = corpus_from_spec(corpus.spec)
    assert np.array_equal(corpus.tokens, again.tokens)
    assert all(np.array_equal(x, again.labels[name]) for name, x in corpus.labels.items())
    with pytest.raises(UnknownNameError, match="Did you mean 'othello'"):
        corpus_from_spec({"world": "otello"})
    with pytest.raises(ConfigError, match="not of 'othello'"):
        OthelloCorpus.from_spec({"world": "atlas"})


def test_no_opening_is_on_both_sides_of_a_split(corpus: OthelloCorpus) -> None:
    for split, says in (("all", "held out of the model's training"), ("train", "1 in 4 scores")):
        some = OthelloCorpus.sample(400, split, seed=1)
        held, how = some.held(np.arange(400))
        assert says in how
        codes = g.opening_codes(some.games)
        assert not set(codes[held].tolist()) & set(codes[~held].tolist())
        assert 0.01 < held.mean() < 0.4
    few = some.held(np.array([5, 17, 200]))[0]
    assert np.array_equal(few, held[[5, 17, 200]])
    assert np.array_equal(corpus.held(np.arange(60))[0], g.is_held_out(corpus.games))


def test_labels_are_joined_to_a_store_and_another_corpus_is_refused(tmp_path: Path) -> None:
    from lensbench import capture, load_model
    from lensbench.saes.evaluation import data
    from lensbench.worlds.othello.recipe import OthelloTrainConfig
    from lensbench.worlds.othello.task import OthelloTask

    task = OthelloTask(
        OthelloTrainConfig(n_layers=1, d_model=16, n_heads=2, d_mlp=16, out=tmp_path)
    )
    corpus = OthelloCorpus.sample(30, "all", seed=3)
    task.save_tokenizer(tmp_path)
    from transformers import AutoTokenizer

    model = load_model(task.new_model(), tokenizer=AutoTokenizer.from_pretrained(tmp_path))
    store = capture(model, corpus, ["blocks.0.resid_post"], out=tmp_path / "acts")
    assert store.text["kind"] == "othello"
    assert store.text["name"] == "othello:30:all:3"
    found = data.corpus_of(store)
    assert isinstance(found, OthelloCorpus)
    rows = data.choose_rows(store, 10_000, seed=0)
    labels = data.labelled_rows(rows, found, ("contextual",))
    assert len(labels.names) == 72
    at = corpus.rows(rows.doc_ids, rows.positions)
    assert np.array_equal(labels.values[:, 0], corpus.labels[labels.names[0]][at])
    with pytest.raises(MismatchError):
        data.labelled_rows(rows, OthelloCorpus.sample(30, "all", seed=4), ("contextual",))


def test_games_are_written_with_their_result(tmp_path: Path, corpus: OthelloCorpus) -> None:
    lines = write_jsonl(corpus, tmp_path / "g.jsonl").read_text().splitlines()
    assert len(lines) == 60
    for i, line in enumerate(map(json.loads, lines)):
        position = Position.start(6)
        for word in line["text"].split():
            position = position.play(next(s for s in range(36) if square_name(s, 6) == word))
        assert not position.legal_moves()
        assert line == {
            "id": i,
            "text": corpus.texts()[i],
            "black": position.discs.count(1),
            "white": position.discs.count(-1),
        }
