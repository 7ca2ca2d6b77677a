"""The tokens to come, read off the states of a text: the fit, its scores, a map, one cell of it."""

import streamlit as st

from lensbench.app.state import inside, root, store_names
from lensbench.app.widgets.choose import choose
from lensbench.app.widgets.figures import show_figure
from lensbench.app.widgets.fit_job import fit_job
from lensbench.app.widgets.heat import click_map
from lensbench.app.widgets.listing import show_listing
from lensbench.app.widgets.states import command_line, guarded, in_shell, nothing_yet, plain
from lensbench.app.widgets.text_source import Source
from lensbench.app.widgets.toggle import one_of, pick_of
from lensbench.app.workflows import jobs
from lensbench.app.workflows import lens_future as future
from lensbench.app.workflows.copying import python_of
from lensbench.app.workflows.lens_future import FutureAsk
from lensbench.app.workflows.lenses import LensAsk
from lensbench.app.workflows.sequences import name_of_model
from lensbench.plots import visible

HEADINGS = {"ahead": "Tokens further on", "says": "The state says", "prob": "Probability",
            "prob_without": "The same of no state", "bigram": "Bigrams say",
            "bigram_share": "Their share", "bigram_n": "n (bigrams)",
            "text": "The text has"}  # fmt: skip


FITS = ("A least-squares map for every layer and distance, scored on documents that had no part in "
        "it; a process of its own, the page can be left.")  # fmt: skip
NO_STORE = ("No store of this model holds the stream after its last block, which the maps are "
            "fitted on. Capture some text of the model.")  # fmt: skip


def ask_future(source: Source) -> None:
    """Draw it for one text: the store of the fit, then what was fitted."""
    with guarded():
        lens = LensAsk(store=source.store, row=source.row, model=source.model, text=source.text)
        with st.spinner("Opening the model"):
            names = future.stores_of({n: str(inside(n)) for n in store_names()}, lens)
        if not names:
            nothing_yet(NO_STORE, in_shell("capture", "--model",
                                           source.model or name_of_model(lens.store),
                                           "--text", "corpus.txt", "--profile", "resid", "--out",
                                           root() / "resid"))  # fmt: skip
            return
        left, right = st.columns(2)
        with left:
            name = choose("Fitted on", names, key="fitted", placeholder="Choose a store")
        with right:
            target = one_of("Maps lead to", future.TARGETS, key="to")
        if name is None:
            nothing_yet("Choose the store whose text the maps are fitted on.",
                        jobs.command_of("future", future.settings_of(
                            str(inside(names[0])), target, root() / "future-lens")))  # fmt: skip
            return
        store = str(inside(name))
        folder = future.folder_for(root(), store, target)
        settings = future.settings_of(store, target, folder)
        if not future.is_fitted(folder):
            fit_job("future", settings, "Fit the future lens", key="start-future", told=FITS)
            return
        _read(FutureAsk(str(folder), store, lens))
        command_line(jobs.command_of("future", settings))


@st.fragment
def _read(ask: FutureAsk) -> None:
    with guarded():
        far = pick_of("Tokens further on than the next", list(future.AHEAD), 1, key="far")
        with st.spinner("Reading the states of this text"):
            grid = future.grid_of(ask)
        places, layers = grid.positions.tolist(), list(grid.layers)
        seen = "The lens was fitted on this very text, among others. " * future.had_part(ask)
        shown = {p: f"{p} {visible(grid.tokens[p])}" for p in places}
        left, right = st.columns(2)
        with left:
            position = pick_of(
                "Token whose state is asked",
                places,
                places[len(places) // 2],
                key="pos",
                shown=shown,
            )
        with right:
            layer = pick_of("Taken after block", layers, layers[len(layers) // 2], key="layer")

        def pick(x: float, y: float) -> None:
            st.session_state["pos"], st.session_state["layer"] = int(x), int(y)

        click_map(
            future.grid_figure(ask, far), pick, key="future-map", chosen=(position, layer),
            frame=future.grid_frame(ask, far), code=python_of(future.grid_figure, ask, far),
            alt=f"What every state foretells, {far} tokens further on than the next",
            caption=f"n = 1 text, {len(places)} tokens. Colours: 0 to 1. Control, in the hover: "
                    f"the same token read off no state in particular. {seen}Whether the lens may "
                    "be believed is below.",
        )  # fmt: skip
        _cell(ask, position, layer)
        _scores(ask, far)


def _cell(ask: FutureAsk, position: int, layer: int) -> None:
    cell = future.cell_of(ask, position, layer)
    word = plain(visible(future.grid_of(ask).tokens[position]))
    st.markdown(f"**What “{word}” foretells after block {layer}**")
    shares = [f"{v:.3f}" if v == v else "" for v in cell["bigram_share"]]
    show_listing(cell.assign(bigram_share=shares),
                 alt="What the state foretells at every distance, beside bigrams",
                 headings=HEADINGS, digits=3, take="future-cell", data=cell,
                 caption="Bigrams: what most often stands there after this token in the store's "
                         "other documents; n: how often the token stood there.",
                 code=python_of(future.cell_of, ask, position, layer))  # fmt: skip


def _scores(ask: FutureAsk, far: int) -> None:
    metric = one_of("Score", future.METRICS, key="score-of")
    found = future.scores_of(ask.folder)
    show_figure(
        future.scores_figure(ask.folder, metric, far), key="future-scores",
        frame=future.scores_frame(ask.folder, metric, far),
        code=python_of(future.scores_figure, ask.folder, metric, far),
        alt=f"{future.METRICS[metric]}, over the layers, beside its controls",
        caption=f"n = {found.n_tokens:,} tokens of {found.n_docs:,} documents that had no part in "
                "the fit; bands: 95 % over documents. Only what lies above the bigrams is more "
                "than the token itself tells.",
    )  # fmt: skip
