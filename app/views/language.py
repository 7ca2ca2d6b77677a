"""The page Latent language: which language each layer speaks while a model translates words."""

from typing import Any

import streamlit as st

from lensbench.app.state import root
from lensbench.app.widgets.figures import show_figure
from lensbench.app.widgets.fit_job import fit_job
from lensbench.app.widgets.language_words import choose_languages
from lensbench.app.widgets.listing import show_listing
from lensbench.app.widgets.model_choice import choose_model, opened
from lensbench.app.widgets.states import command_line, guarded, nothing_yet, plain
from lensbench.app.widgets.toggle import one_of
from lensbench.app.workflows import jobs
from lensbench.app.workflows import languages as spoken
from lensbench.app.workflows.copying import python_of

VIEWS = {"probability": "Probability of each language", "energy": "How much tokens read of it"}


def show() -> None:
    """Draw the page."""
    st.title("Latent language")
    st.caption("Ask a model for translations and read at every layer which language's word it "
               "leans to.")  # fmt: skip
    model = choose_model()
    if model is None:
        nothing_yet("Choose a model; the bundled atlases know words of three languages.",
                    "lensbench lens language --model atlas-equal --words atlas --source fr "
                    "--target de --pivot en")  # fmt: skip
        return
    with guarded():
        opened(model)
        ask = choose_languages(model)
        if ask is None:
            return
        with st.spinner("Asking for every word"):
            found = spoken.found_for(root(), ask)
        if found is None:
            _job(ask)
            return
        prompt = spoken.prompts_of(ask)[0].splitlines()[-1]
        st.caption(f"A question: “{plain(prompt)}”")
        view = one_of("Shown", VIEWS, key="curve")
        show_figure(found.plot(view), key="language", frame=found.to_frame(), caption=_told(found),
                    code=python_of(spoken.language_of, ask, then=f".plot({view!r})"),
                    alt=f"{VIEWS[view]} over the layers")  # fmt: skip
        show_listing(spoken.layers_of(found), alt="Means by layer", digits=4, take="by-layer",
                     headings={"layer": "After block"}, file="language-layers",
                     code=python_of(spoken.table_for, ask))  # fmt: skip
        command_line(jobs.command_of("language", spoken.settings_of(ask)))
        if ask.words:
            st.download_button("The file words.json", spoken.as_file(ask.words),
                               spoken.WORDS_FILE, key="words-file", on_click="ignore")  # fmt: skip


def _told(found: Any) -> str:
    """n, what was left out, the controls, and whether the pivot shows."""
    left = "; ".join(f"{reason}: {n}" for reason, n in found.dropped.items())
    shows = ", ".join(map(str, found.pivot_layers())) or "at no layer"
    n = f"n = {found.n_items} words" + (f" (left out: {left})" if left else "")
    return plain(f"{n}; bands: 95 % over words. Controls: {found.pivot} words of other items, "
                 f"drawn; random tokens, as many, {found.controls.values['random_tokens']:.2g} "
                 f"where {found.pivot} is highest. {found.pivot} shows (at least .1, above "
                 f"{found.target} and above other items' words): {shows}. What the unembedding "
                 "reads at a layer need not be what later layers use.")  # fmt: skip


def _job(ask: spoken.LanguageAsk) -> None:
    spoken.keep_words(root(), ask)
    fit_job("language", spoken.settings_of(ask, spoken.folder_for(root(), ask)), "Ask the model",
            key="start-language", told="A process of its own; the page can be left.")  # fmt: skip
