"""Which words in which languages, and which language is given, asked for, and perhaps between."""

from dataclasses import replace
from pathlib import Path

import streamlit as st

from lensbench.app.widgets.lens_choice import DECODER
from lensbench.app.widgets.links import go_to
from lensbench.app.widgets.states import nothing_yet, plain
from lensbench.app.widgets.text_source import TYPED
from lensbench.app.widgets.toggle import one_of, pick_of
from lensbench.app.workflows import jobs, languages
from lensbench.app.workflows.languages import LanguageAsk
from lensbench.app.workflows.lens_decoder import is_encoder_decoder

ATLAS, OWN = "atlas", "own"
WORDS = {ATLAS: "Words of the atlas (English, French, German)", OWN: "My own words"}


def choose_languages(model: str) -> LanguageAsk | None:
    """Widgets of a request; None, with what to do, until there are words.

    Raises:
        ConfigError: lines that do not fit.
    """
    if is_encoder_decoder(model):
        _two_stacks(model)
        return None
    kind = one_of("Words", WORDS, key="words")
    text = _typed() if kind == OWN else ""
    if kind == OWN and not text.strip():
        nothing_yet("Type a line of languages and a line for each word, or take the example.",
                    jobs.command_of("language", languages.settings_of(
                        LanguageAsk(model, "fr", "de", "en", "en, fr, de"))))  # fmt: skip
        return None
    names = list(languages.words_of(text))
    one, two, three, four = st.columns(4)
    with one:
        source = pick_of("Language given", names, names[min(1, len(names) - 1)], key="source")
    with two:
        rest = [name for name in names if name != source] if len(names) > 1 else names
        target = pick_of("Language asked for", rest, rest[-1], key="into-language")
    with three:
        others = [name for name in names if name != target]
        pivot = pick_of("Language in between?", others, others[0], key="pivot")
    most = max(0, min(8, len(languages.words_of(text)[names[0]]) - 1))
    first = min(languages.SHOTS, most) if kind == OWN else 0
    if (st.session_state.get("shots") or 0) > most:
        st.session_state["shots"] = most  # chosen for more words
    shots = four.number_input("Translations shown first", 0, most, first, key="shots",
                              bind="query-params")  # fmt: skip
    ask = LanguageAsk(model, source, target, pivot, text, int(shots))
    if kind != OWN:
        return ask
    line = st.text_input("A line of the prompt", key="template", bind="query-params",
                         placeholder=languages.template_of(ask),
                         help="{source_name}, {source}, {target_name} and {target} are filled "
                         "in; the question ends before {target}")  # fmt: skip
    return replace(ask, template=line or "")


def _two_stacks(model: str) -> None:
    """Say what reads a model with an encoder, and lead there."""
    told = (f"{Path(model).name} has an encoder and a decoder; this page asks models with one "
            "stack. The decoder lens reads what such a model writes from each layer.")  # fmt: skip
    st.info(plain(told))
    if st.button("Read it with the decoder lens", key="to-decoder"):
        go_to("lens", **{"from": TYPED, "model": str(st.session_state["model"]), "lens": DECODER})


def _typed() -> str:
    def fill() -> None:
        st.session_state["lexicon"] = languages.EXAMPLE

    st.button("Take an example", key="example-words", on_click=fill)
    text = st.text_area(
        "Words, a line each, set off by commas; the first line names the languages", key="lexicon",
        max_chars=languages.MOST_TEXT, height=160, bind="query-params",
        placeholder=languages.EXAMPLE,
    )  # fmt: skip
    return text or ""
