"""Token strips: everything visible, everything inert, every value in its place."""

import re
from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensbench.errors import ConfigError


def test_white_space_is_made_visible() -> None:
    from lensbench.plots import visible

    assert visible(" a\n\tb\r") == "␣a↵⇥b␍"
    assert visible("") == "∅"


def test_model_text_cannot_become_markup() -> None:
    from lensbench.plots import token_strip

    html = token_strip(["<script>alert(1)</script>", '"><img src=x onerror=1>'], [1.0, 2.0])
    assert "<script" not in html
    assert "<img" not in html
    assert "&lt;script&gt;" in html


def test_strength_follows_value_against_the_given_largest() -> None:
    from lensbench.plots import token_strip

    html = token_strip(["a", "b", "c"], [2.0, -1.0, 0.0], largest=4.0, focus=1, unit="nats")
    grounds = re.findall(r"background:rgba\((\d+),\d+,\d+,([\d.]+)\)", html)
    assert grounds == [("213", "0.375"), ("0", "0.188")], "zero has no ground"
    assert html.count('class="t f"') == 1
    assert "2 nats" in html


def test_values_must_match_tokens() -> None:
    from lensbench.plots import token_strip

    with pytest.raises(ConfigError, match="one value per token"):
        token_strip(["a"], [1.0, 2.0])


@given(st.lists(st.text(max_size=5), max_size=8))
def test_the_text_can_be_read_back(tokens: list[str]) -> None:
    from lensbench.plots import token_strip, visible

    html = token_strip(tokens)
    text = unescape(re.sub(r"<[^>]*>", "", html))
    assert text == "".join(visible(t) for t in tokens)


def test_control_characters_in_a_token_are_shown_not_obeyed() -> None:
    from lensbench.plots import token_strip

    strip = token_strip(["\x1b[31m", "\u202etxt", "a\u200bb", "<b>\x00"], [1.0, 2.0, 3.0, 4.0])
    assert not any(ord(c) < 32 for c in strip)
    assert not any(c in strip for c in "\u202e\u200b")
    assert "␛[31m" in strip
    assert "[U+202E]txt" in strip
    assert "&lt;b&gt;␀" in strip
