"""Typed words that a model does not know are read as one token, and pages and commands say so."""

import json
from pathlib import Path

import pytest

from tests.app.driver import open_page, words

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
TEXT, TOLD = "Alice likes pizza sushi", "2 words are unknown to this model and read as [UNK]: pizza"
KNOWN = "The capital of Peru is"


@pytest.mark.parametrize(
    ("page", "query"),
    [
        ("lens", {"from": "My own text", "text": TEXT}),
        ("lens", {"from": "My own text", "text": TEXT, "lens": "Site lens"}),
        ("lens", {"view": "pair", "text": KNOWN, "text2": TEXT}),
        ("attention", {"from": "My own text", "text": TEXT}),
        ("steering", {"prompt": TEXT, "plus": KNOWN, "minus": "The river"}),
    ],
)
def test_a_page_reads_the_text_and_names_them(
    monkeypatch, tmp_path: Path, page: str, query: dict[str, str]
) -> None:
    shown = open_page(monkeypatch, tmp_path, page, model="atlas-dense", **query)
    assert not shown.exception
    assert not shown.error, [e.value for e in shown.error]
    assert any(TOLD in warning.value.replace("\\", "") for warning in shown.warning), words(shown)
    assert not open_page(
        monkeypatch, tmp_path, page, model="atlas-dense",
        **{k: KNOWN if v == TEXT else v for k, v in query.items()},
    ).warning  # fmt: skip


def test_a_latent_on_such_a_text_says_so(monkeypatch, small_root: Path) -> None:
    name = next(p.name for p in (small_root / "runs" / "small").iterdir() if "k8" in p.name)
    page = open_page(monkeypatch, small_root, "latent", run="runs/small", dictionary=name,
                     latent="3", part="On my text", text=TEXT)  # fmt: skip
    assert any(TOLD in warning.value.replace("\\", "") for warning in page.warning), words(page)


def test_the_command_says_so_too(capsys) -> None:
    from lensbench.app.cli.main import main

    line = ["lens", "text", "--model", "atlas-dense", "--prompt"]
    assert main([*line, TEXT]) == 0
    assert TOLD in capsys.readouterr().out
    assert main([*line, KNOWN, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unknown"] == ""


def test_words_are_told_once_in_order_and_its_own_name_is_no_word() -> None:
    from lensbench.tokens import unknown_words
    from tests.store_builder import word_tokenizer

    made = word_tokenizer(["w1", "w2"])
    text = f"xx w1 yy xx {made.unk_token} w2"
    assert unknown_words(made, text) == ("xx", "yy")
    assert unknown_words(made, "w1 w2") == ()
    assert unknown_words(None, text) == ()
