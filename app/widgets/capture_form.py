"""The form of a capture: model, text that fits it, sites, and how rows are laid out."""

import streamlit as st

from lensbench.app.state import below, root
from lensbench.app.widgets.choose import choose, not_here, several
from lensbench.app.widgets.model_choice import choose_model, opened
from lensbench.app.widgets.states import guarded, in_shell, plain
from lensbench.app.widgets.toggle import one_of, pick_of
from lensbench.app.workflows import capture_plan
from lensbench.app.workflows.capture_offers import save_text, text_files
from lensbench.app.workflows.capture_plan import CaptureAsk
from lensbench.app.workflows.fitting import worlds_for
from lensbench.app.workflows.live import hold_model
from lensbench.app.workflows.texts import splits_of

MODEL = "atlas-dense"
ABOUT = {
    "atlas": "sentences of a small world, with labels",
    "othello": "games of Othello on a 6x6 board",
    "words": "spelt words without spaces",
    "desk": "questions at a desk, answered or refused",
    "translate": "sentences to translate",
}
WORLD, FILE, TYPED = "world", "file", "typed"
SOURCES = {WORLD: "Documents of a world", FILE: "A file in this folder", TYPED: "My own words"}
PROFILES = {
    "resid": "Residual stream",
    "full": "Residual stream, attention, MLP neurons",
    "sae": "Only the sites I name",
}
LAYOUTS = {
    "": "automatic",
    "pad": "one document per row (pad)",
    "pack": "documents joined (pack)",
}
AUTOMATIC = "automatic"


def capture_form() -> CaptureAsk | None:
    """Draw the form, all of it part of the address; gives None until there is a text."""
    model = choose_model(default=MODEL) or MODEL
    opened(model)
    text = _text(model)
    st.header("What is kept")
    profile = one_of("Sites", PROFILES, key="profile")
    extra = "Sites by name" if profile == "sae" else "More sites"
    sites = several(extra, capture_plan.site_names(model), (), key="sites",
                    empty="a site of all layers (blocks.*), or of one")  # fmt: skip
    columns = st.columns(4)
    with columns[0]:
        layout = pick_of("Rows", list(LAYOUTS), "", key="layout", shown=LAYOUTS)
    context = columns[1].number_input(
        "Tokens per row", 2, None, None, key="context", bind="query-params", placeholder=AUTOMATIC,
        help="Longest row; automatic: 128, or what the model can read if that is less.",
    )  # fmt: skip
    with columns[2]:
        dtype = pick_of("Stored as", capture_plan.DTYPE_NAMES, "float16", key="dtype")
    most = columns[3].number_input(
        "Stop after tokens", 1, None, None, key="most", bind="query-params",
        placeholder="the whole text", help="The row that reaches it is kept whole.",
    )  # fmt: skip
    usual = f"acts-{model.rpartition('/')[2]}"  # not a value: that would stay with another model
    typed = st.text_input("Name of the store", "", key="out", bind="query-params",
                          placeholder=usual, help="A folder below the one shown.")  # fmt: skip
    name = (typed or "").strip() or usual
    if profile == "sae" and not sites:
        st.info("No site is named yet. Choose one or more above: of all layers "
                "(blocks.\\*.resid_post), or of one (blocks.3.resid_post).")  # fmt: skip
        return None
    if text is None:
        return None
    return CaptureAsk(
        model, text, capture_plan.place(root(), name), sites,
        "" if profile == "sae" else profile,
        None if most is None else int(most), layout, None if context is None else int(context),
        dtype=dtype,
    )  # fmt: skip


def example() -> str:
    """The command of a capture like the one that is being chosen, with a file to put in."""
    model = st.session_state.get("model") or MODEL
    only = st.session_state.get("profile") == "sae"
    kept = ("--sites", "blocks.3.resid_post") if only else ("--profile", "resid")
    out = root() / f"acts-{model.rpartition('/')[2]}"
    return in_shell("capture", "--model", model, "--text", "corpus.txt", *kept, "--out", out)


def _text(model: str) -> str | None:
    kind = one_of("Text", SOURCES, key="from")
    if kind == FILE:
        files = text_files(root())
        if not files:
            if "file" in st.query_params:
                not_here("File", st.query_params["file"])
            st.info(f"There is no text file below {plain(str(root()))} yet. Put one there (.txt, "
                    "blank lines part documents; or .jsonl, a “text” in every line), or choose "
                    "“My own words” above.")  # fmt: skip
            return None
        name = choose("Text file", files, key="file")
        if name is None:
            st.info("Choose a text file; what the capture takes is then told below.")
        return None if name is None else str(below(name))
    return _world(model) if kind == WORLD else _typed()


def _world(model: str) -> str | None:
    fitting = worlds_for(hold_model(model).model)
    if not fitting:
        st.info("This model has no tokenizer, so it reads token ids only; capture in Python.")
        return None
    columns = st.columns([2, 1, 1, 1])
    with columns[0]:
        shown = {world: f"{world}: {ABOUT[world]}" for world in fitting}
        world = pick_of("World that this model knows", fitting, fitting[0], key="world",
                        shown=shown)  # fmt: skip
    n = columns[1].number_input("Documents", 1, 10**7, 2000, key="documents", bind="query-params")
    splits = splits_of(world)
    with columns[2]:
        split = pick_of("Part", splits, splits[0], key="split")
    seed = columns[3].number_input("Seed", 0, 10**6, 0, key="seed", bind="query-params")
    return f"{world}:{int(n or 1)}:{split}:{int(seed or 0)}"


def _typed() -> None:
    st.caption("Words are kept as a text file below this folder, so that the capture can be "
               "repeated. Blank lines part documents.")  # fmt: skip
    text = st.text_area("Words", key="typed", placeholder="Type or paste a text")
    name = st.text_input("Name of the file", "mine", key="typed-name")

    def keep() -> None:
        with guarded():
            saved = save_text(root(), name, text or "")
            st.session_state.update({"from": FILE, "file": saved})

    st.button("Keep as a file and use it", key="keep", on_click=keep)
