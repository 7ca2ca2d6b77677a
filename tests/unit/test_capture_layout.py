"""Packing and padding: who sees whom, where BOS goes, which tokens get a row."""

import numpy as np
import pytest
import torch

from lensbench.tokens import Tokens
from tests.store_builder import word_tokenizer

WORDS = [f"w{i}" for i in range(20)]
PAD, BOS, EOS, W0 = 0, 1, 2, 4


def lay(texts, *, tokenizer=None, **changes):
    """Sequences as (ids, documents), forward batches, and the layout."""
    from lensbench.harvest import read_text
    from lensbench.harvest.layout import Layout

    options = {
        "name": "pack",
        "context": 4,
        "bos": True,
        "exclude": (),
        "positions": None,
        "batch_size": 2,
        "max_tokens": None,
    }
    layout = Layout(**(options | changes))
    tokenizer = tokenizer or word_tokenizer(WORDS)
    text = read_text(texts)
    rows = [(s.ids.tolist(), s.docs.tolist()) for s in layout.sequences(text, tokenizer)]
    return rows, list(layout.batches(layout.sequences(text, tokenizer))), layout


def test_packing_joins_documents_and_every_sequence_begins_with_bos() -> None:
    rows, batches, layout = lay(["w0 w1", "", "w2 w3 w4 w5 w6"])
    assert rows == [
        ([BOS, W0, W0 + 1, BOS], [0, 0, 0, 2]),
        ([BOS, W0 + 2, W0 + 3, W0 + 4], [2, 2, 2, 2]),
        ([BOS, W0 + 5, W0 + 6], [2, 2, 2]),
    ]
    assert layout.counts.empty_documents == 2  # laid out twice above
    assert sum(begins for _, begins in batches) == 2
    rows, _, _ = lay(["w0 w1", "w2 w3 w4 w5 w6"], bos=False)
    assert [ids for ids, _ in rows] == [[4, 5, 6, 7], [8, 9, 10]]


def test_padding_gives_each_document_its_own_sequence() -> None:
    rows, batches, layout = lay(["w0 w1", "w2 w3 w4 w5 w6", "w7"], name="pad")
    assert rows == [
        ([BOS, 4, 5], [0, 0, 0]),
        ([BOS, 6, 7, 8], [1, 1, 1, 1]),
        ([BOS, 11], [2, 2]),
    ]
    assert layout.counts.cut_documents == 2  # laid out twice
    first, _ = batches[0]
    assert first.ids.tolist() == [[BOS, 4, 5, 0], [BOS, 6, 7, 8]]
    assert first.real.tolist() == [[True, True, True, False], [True] * 4]
    assert first.docs.tolist() == [[0, 0, 0, -1], [1, 1, 1, 1]]
    assert np.array_equal(first.kept, first.real)


def test_ids_are_fed_as_given() -> None:
    for name in ("pack", "pad"):
        rows, _, _ = lay([[BOS, 4, 5], [6, EOS]], name=name, context=8)
        assert [i for ids, _ in rows for i in ids] == [BOS, 4, 5, 6, EOS]


def test_a_tokenizer_without_bos_adds_none() -> None:
    plain = word_tokenizer(WORDS, bos=False)
    assert lay(["w0 w1"], tokenizer=plain, bos=True)[0] == [([4, 5], [0, 0])]


@pytest.mark.parametrize(
    ("positions", "kept"),
    [
        (None, [[1, 1, 1, 0], [1, 1, 1, 1]]),
        (-1, [[0, 0, 1, 0], [0, 0, 0, 1]]),
        ([0, 3], [[1, 0, 0, 0], [1, 0, 0, 1]]),
        (slice(1, None), [[0, 1, 1, 0], [0, 1, 1, 1]]),
        (slice(None, None, 2), [[1, 0, 1, 0], [1, 0, 1, 0]]),
    ],
)
def test_positions_count_real_tokens(positions, kept) -> None:
    _, batches, layout = lay(["w0 w1", "w2 w3 w4"], name="pad", positions=positions)
    assert batches[0][0].kept.astype(int).tolist() == kept
    assert max(map(sum, kept)) <= layout.rows_per_sequence()


def test_special_tokens_are_fed_but_get_no_row() -> None:
    _, batches, _ = lay(["w0 w1", "w2"], name="pad", exclude=(BOS, 5))
    batch, _ = batches[0]
    assert batch.ids.tolist() == [[BOS, 4, 5], [BOS, 6, 0]]
    assert batch.kept.astype(int).tolist() == [[0, 1, 0], [0, 1, 0]]


def test_max_tokens_stops_after_the_sequence_that_reaches_it() -> None:
    texts = ["w0 w1"] * 10
    for limit, sequences in ((1, 1), (3, 1), (4, 2), (6, 2), (7, 3)):
        assert len(lay(texts, name="pad", max_tokens=limit)[0]) == sequences


def test_padding_without_a_mask_is_refused() -> None:
    from lensbench.errors import ConfigError

    for bad in ([[PAD, 4, 5]], np.array([[4, 5, 6], [4, 5, PAD]])):
        with pytest.raises(ConfigError, match=r"padding token 0 but no mask.*Tokens\(ids, mask\)"):
            lay(bad)
    same = word_tokenizer(WORDS)
    same.pad_token = same.eos_token
    lay([[4, 5, EOS]], tokenizer=same)  # one EOS at the end is no padding
    with pytest.raises(ConfigError, match="document 1 begins or ends"):
        lay([[4, 5, 6], [4, EOS, EOS]], tokenizer=same)
    meant = Tokens(torch.tensor([[4, EOS, EOS]]), torch.ones(1, 3, dtype=torch.bool))
    assert lay(meant, tokenizer=same)[1][0][0].n_real > 3 - 1


@pytest.mark.illtyped
def test_what_cannot_be_laid_out_is_refused() -> None:
    from lensbench.errors import ConfigError

    with pytest.raises(ConfigError, match=r"no layout named 'packed'.*'pack'"):
        lay(["w0"], name="packed")
    for bad in ({"context": 1}, {"batch_size": 0}, {"max_tokens": 0}, {"positions": []},
                {"positions": [500]}, {"positions": -501}):  # fmt: skip
        with pytest.raises(ConfigError, match=next(iter(bad))):
            lay(["w0"], **bad)


def test_ids_are_those_of_the_model_s_own_tokens() -> None:
    import lensbench
    from tests.helpers import tiny

    model = lensbench.load_model(tiny(), tokenizer=word_tokenizer(WORDS), certify=False)
    texts = ["w0 w1 w2", "w3"]
    own = model.tokens(texts)
    expected = [ids[real].tolist() for ids, real in zip(own.ids, own.real, strict=True)]
    assert [ids for ids, _ in lay(texts, name="pad")[0]] == expected


def test_many_documents_pass_through_in_order() -> None:
    texts = [" ".join(WORDS[: 1 + i % 9]) for i in range(700)]
    rows, _, _ = lay(texts, context=16)
    docs = np.concatenate([docs for _, docs in rows])
    assert np.array_equal(np.unique(docs), np.arange(700))
    assert (np.diff(docs) >= 0).all()
    words = [i for ids, _ in rows for i in ids if i != BOS]
    assert words == [W0 + j for i in range(700) for j in range(1 + i % 9)]


@pytest.mark.illtyped
@pytest.mark.parametrize(
    "bad", ["last", "-1", 1.0, [0, "last"], [0.5], True, [None], slice("a", None), {"start": 0}]
)
def test_positions_that_are_none_are_refused_with_what_is_allowed(bad) -> None:
    from lensbench.errors import ConfigError

    with pytest.raises(ConfigError, match=r"positions must be .*; got .*last token is -1") as error:
        lay(["w0 w1"], positions=bad)
    assert repr(bad) in str(error.value)


@pytest.mark.illtyped
def test_positions_may_be_numbers_of_numpy() -> None:
    for same in (np.int64(-1), np.array([-1]), (np.int32(-1),)):
        assert lay(["w0 w1"], name="pad", positions=same)[1][0][0].kept.tolist() == [[0, 0, 1]]
        assert lay(["w0"], positions=same)[2].settings(given_as_ids=False)["positions"] == [-1]


def test_half_a_surrogate_pair_is_refused_by_document() -> None:
    from lensbench.errors import ConfigError
    from lensbench.harvest import Text

    def bad():
        yield from ["w0", "w1", "w2 \ud800 w3"]

    text = Text({"kind": "stream", "fingerprint": None}, bad)
    with pytest.raises(ConfigError, match=r"document 2 .*'\\ud800' at character 3.*surrogatepass"):
        lay(text)
