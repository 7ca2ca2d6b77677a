"""Every accepted form of text, and what is said of the others."""

import json
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.saes_evaluation_helpers import tiny_llama


def documents(texts, **options):
    from lensbench.harvest import read_text

    return [
        d if isinstance(d, str) else d.tolist() for d in read_text(texts, **options).documents()
    ]


def entry(texts, **options):
    from lensbench.harvest import read_text

    return read_text(texts, **options).entry


def test_a_text_file_is_split_at_endoftext_else_at_blank_lines(tmp_path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("One.\n\nStill one.\n<|endoftext|>\nTwo. \n<|endoftext|>\n")
    assert documents(path) == ["One.\n\nStill one.", "Two."]
    assert entry(str(path))["separator"] == "<|endoftext|>"
    path.write_text("One.\nStill one.\n\nTwo.")
    assert documents(str(path)) == ["One.\nStill one.", "Two."]
    assert documents(path, separator=".") == ["One", "Still one", "Two"]


def test_a_text_file_is_read_in_blocks_and_endless_documents_are_cut(tmp_path, monkeypatch) -> None:
    from lensbench.harvest import text

    path, parts = tmp_path / "a.txt", [f"story {i} " * (1 + i % 7) for i in range(50)]
    path.write_text("<|endoftext|>".join(parts))
    whole = documents(path)
    monkeypatch.setattr(text, "_BLOCK", 90)  # longer than any story, shorter than the file
    assert documents(path) == whole == [p.strip() for p in parts]
    path.write_text("word " * 100)
    pieces = documents(path)
    assert max(map(len, pieces)) <= 90
    assert " ".join(pieces).split() == ["word"] * 100


def test_jsonl_gives_its_field_and_names_a_bad_line(tmp_path) -> None:
    from lensbench.errors import DamagedDataError

    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "One", "story": "Eins"}\n\n{"text": "Two", "story": "Zwei"}\n')
    assert documents(path) == ["One", "Two"]
    assert documents(path, field="story") == ["Eins", "Zwei"]
    for bad in ('{"text": ', '["text"]', '{"title": "x"}', '{"text": 3}'):
        path.write_text('{"text": "One"}\n' + bad + "\n")
        with pytest.raises(DamagedDataError, match=r"a\.jsonl, line 2"):
            documents(path)
    path.write_bytes(b'{"text": "One"}\n{"text": "\xff"}\n')
    with pytest.raises(DamagedDataError, match=r"a\.jsonl, line 2.*utf-8"):
        documents(path)


def test_text_in_another_encoding_is_refused_with_its_cure(tmp_path) -> None:
    from lensbench.errors import DamagedDataError

    path = tmp_path / "a.txt"
    path.write_bytes("Le café".encode("latin-1"))
    with pytest.raises(DamagedDataError, match=r"not UTF-8 text .*byte 0xe9.*iconv -f latin1"):
        documents(path)


def test_a_dictionary_of_datasets_asks_for_one_of_them() -> None:
    from lensbench.errors import ConfigError

    with pytest.raises(ConfigError, match="pass one of its parts: train, test"):
        documents({"train": ["One"], "test": ["Two"]})


def test_ids_of_another_vocabulary_are_refused(tmp_path) -> None:
    from transformers import AutoTokenizer

    from lensbench import capture, load_model
    from lensbench.errors import MismatchError
    from lensbench.worlds.atlas import Atlas
    from lensbench.worlds.atlas.tokenizer import save_tokenizer

    corpus, site = Atlas(0).sample(4), "blocks.0.resid_post"
    module = tiny_llama(len(corpus.vocab))
    for words, fits in ((corpus.vocab, True), ((*corpus.vocab[:-2], "b", "a"), False)):
        save_tokenizer(words, tmp_path / str(fits))
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / str(fits))
        model = load_model(module, tokenizer=tokenizer, certify=False)
        if fits:
            assert capture(model, corpus, [site], out=tmp_path / "s").n_tokens > 0
        else:
            with pytest.raises(MismatchError, match="not that of model"):
                capture(model, corpus, [site], out=tmp_path / "t")


def test_documents_of_a_world_are_kept_apart_and_others_joined(tmp_path) -> None:
    from lensbench import capture, load_model
    from lensbench.worlds.atlas import Atlas

    corpus, site = Atlas(0).sample(6), "blocks.0.resid_post"
    model = load_model(tiny_llama(len(corpus.vocab)), certify=False)
    ids = [corpus.tokens[a:b] for a, b in pairwise(corpus.offsets)]
    for name, texts, options, layout in (
        ("world", corpus, {}, "pad"),
        ("asked", corpus, {"layout": "pack"}, "pack"),
        ("ids", ids, {}, "pack"),
    ):
        store = capture(model, texts, [site], out=tmp_path / name, **options)
        assert store.settings["layout"] == layout


def test_another_stream_is_another_text(tmp_path) -> None:
    from datasets import Dataset

    from lensbench import capture, load_model
    from lensbench.errors import MismatchError

    first, second = (
        Dataset.from_list([{"input_ids": [n, 5, 6, 7]} for n in range(k, k + 9)])
        .to_iterable_dataset()
        .map(lambda row: row)
        for k in (1, 20)
    )
    model, site = load_model(tiny_llama(64), certify=False), "blocks.0.resid_post"
    store = capture(model, first, [site], out=tmp_path / "s")
    assert store.n_tokens == 36
    with pytest.raises(MismatchError, match="text fingerprint"):
        capture(model, second, [site], out=tmp_path / "s")
    assert capture(model, first, [site], out=tmp_path / "s").n_tokens == 36  # control: the same


def test_ids_in_every_form() -> None:
    from lensbench.tokens import Tokens

    rows = [[5, 6, 7], [8, 9, 10]]
    for form in (rows, torch.tensor(rows), np.array(rows), tuple(rows), Tokens(torch.tensor(rows))):
        assert documents(form) == rows
    assert documents([5, 6, 7]) == [[5, 6, 7]]
    assert documents([np.array([5]), [6, 7]]) == [[5], [6, 7]]
    masked = Tokens(torch.tensor(rows), torch.tensor([[False, True, True], [True] * 3]))
    assert documents(masked) == [[6, 7], [8, 9, 10]]


def test_a_world_corpus_carries_its_spec() -> None:
    corpus = SimpleNamespace(
        tokens=np.arange(6, dtype=np.int32), offsets=np.array([0, 2, 6]), spec={"seed": 3}
    )
    assert documents(corpus) == [[0, 1], [2, 3, 4, 5]]
    assert entry(corpus)["kind"] == "atlas"
    assert entry(corpus)["spec"] == {"seed": 3}
    assert entry(corpus)["name"] is None


def test_an_atlas_corpus_has_the_name_the_command_line_gives_it() -> None:
    from lensbench.app.workflows.texts import find_text

    corpus = find_text("atlas:3:heldout:5")
    assert entry(corpus)["name"] == "atlas:3:heldout:5"
    assert entry(find_text("atlas:3:heldout:5"))["fingerprint"] == entry(corpus)["fingerprint"]


def test_a_dataset_gives_its_text_or_ids() -> None:
    datasets = pytest.importorskip("datasets")
    from lensbench.errors import UnknownNameError

    texts = datasets.Dataset.from_dict({"text": ["One", "Two"], "label": [0, 1]})
    assert documents(texts) == ["One", "Two"]
    assert entry(texts)["fingerprint"] == texts._fingerprint
    assert documents(texts.to_iterable_dataset()) == ["One", "Two"]
    assert documents(datasets.Dataset.from_dict({"input_ids": [[1, 2], [3]]})) == [[1, 2], [3]]
    with pytest.raises(UnknownNameError, match=r"no column named 'txt'.*mean 'text'"):
        documents(texts, field="txt")


def test_fingerprints_follow_the_content(tmp_path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one two")
    before = entry(path)["fingerprint"]
    assert before == entry(path)["fingerprint"] != entry(path, separator=" ")["fingerprint"]
    path.write_text("one too")
    assert entry(path)["fingerprint"] != before
    assert entry(["ab", "c"])["fingerprint"] != entry(["a", "bc"])["fingerprint"]
    assert entry([[1, 2], [3]])["fingerprint"] != entry([[1], [2, 3]])["fingerprint"]
    json.dumps(entry(path))


def test_what_is_no_text_is_refused() -> None:
    from lensbench.errors import ConfigError, MissingDataError

    with pytest.raises(MissingDataError, match=r"no text file nowhere\.txt\.$"):
        documents("nowhere.txt")
    with pytest.raises(MissingDataError, match="pass a list of strings"):
        documents("Once upon a time")
    for bad in ([], 3, ["a", 3], [[1.5, 2.0]], [[[1]]], torch.ones(2, 3)):
        with pytest.raises(ConfigError):
            documents(bad)


def test_half_a_surrogate_pair_names_its_document_and_the_cure_works(tmp_path) -> None:
    from lensbench.errors import ConfigError, DamagedDataError

    bad, whole = "a \ud83d\ude00 b \ud800", "a \U0001f600 b \ufffd"
    with pytest.raises(ConfigError, match=r"document 1 .*'\\ud83d' at character 2") as error:
        documents(["fine", bad])
    cure = str(error.value).split("Repair with ")[1]
    assert eval(cure, {"text": bad}) == whole
    assert documents(["fine", whole]) == ["fine", whole]  # control
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "fine"}) + "\n" + json.dumps({"text": "x \ud800"}) + "\n")
    with pytest.raises(DamagedDataError, match=r"a\.jsonl, line 2 .*'\\ud800' at character 2"):
        documents(path)
    path.write_text(json.dumps({"text": whole}) + "\n")  # a whole pair, escaped, is text
    assert documents(path) == [whole]
    rows = [{"text": "fine"}, {"text": bad}]
    kind = type("Stream", (SimpleNamespace,), {"__iter__": lambda _: iter(rows)})
    info = SimpleNamespace(dataset_name="s")
    stream = kind(column_names=["text"], features={"text": 0}, info=info)
    with pytest.raises(ConfigError, match="document 1 "):
        documents(stream)
