"""The cells of the Token page: a read-out from the store, and its check by one run of the model."""

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from lensbench.app.state import inside, lens_names
from lensbench.app.widgets.figures import show_figure
from lensbench.app.widgets.listing import show_listing
from lensbench.app.widgets.missing import missing
from lensbench.app.widgets.states import plain
from lensbench.app.widgets.toggle import pick_of
from lensbench.app.workflows import token_checks as checks
from lensbench.app.workflows import token_code as written
from lensbench.app.workflows.copying import python_of
from lensbench.app.workflows.token_checks import Check
from lensbench.app.workflows.token_experts import expert_cell
from lensbench.app.workflows.token_page import (
    Latents,
    exit_cell,
    latent_cells,
    lens_cell,
    lens_code,
    summary_of,
)
from lensbench.app.workflows.tuned import REMINDER
from lensbench.errors import LensbenchError
from lensbench.plots import visible
from lensbench.plots.columns import escape_all

RUN = "Verify by intervention"
MOST_ROWS = 16
"""Latents of a token that are seen without scrolling."""


def lens(url: str, row: int) -> None:
    """Lens trajectory."""
    with cell("Lens trajectory"):
        try:
            found = lens_cell(url, row)
        except LensbenchError as error:
            missing(str(error))
            return
        show_figure(found.plot(height=340), key="token-lens", frame=found.course,
                    code=written.trajectory_code(url, row),
                    alt="Probability of the followed tokens over the layers",
                    caption="Logit lens of the stored rows (n = 1 token); early layers need not "
                            "write in the basis the unembedding reads.")  # fmt: skip
        tuned(url, row)
        verify("lens", checks.check_lens, url, row, code=written.check_lens_code(url, row))


def tuned(url: str, row: int) -> None:
    """The same token through a tuned lens of the folder, where there is one."""
    names = lens_names()
    if not names:
        return
    name = names[0]
    if len(names) > 1:
        name = pick_of("Tuned lens", names, names[0], key="token-tuned")
    try:
        folder = str(inside(name))
        found = lens_cell(url, row, folder)
    except LensbenchError as error:
        st.caption(plain(f"The tuned lens {name} is not shown: {error}"))
        return
    figure = found.plot(height=340)
    figure.update_layout(title={"text": f"Tuned lens ({escape_all([name])[0]})"})
    show_figure(figure, key="token-tuned-lens", frame=found.course,
                code=lens_code(url, row, folder),
                alt="Probability of the followed tokens over the layers, through the tuned lens",
                caption=f"Tuned lens {plain(name)} on the same rows (n = 1 token); {REMINDER}. "
                        "Control: the logit lens above.")  # fmt: skip


def exit_depth(url: str, row: int) -> None:
    """Exit depth."""
    with cell("Exit depth"):
        try:
            found = exit_cell(url, row)
        except LensbenchError as error:
            missing(str(error))
            return
        st.metric("Final prediction kept from", f"block {found.layer}",
                  help="First block from which on the lens predicts what the model says in the "
                       f"end; blocks are counted from 0, the last is {found.last}")  # fmt: skip
        _table(found.best, "token-exit", written.exit_code(url, row))
        verify("exit", checks.check_exit, url, row, code=written.exit_code(url, row))


def experts(url: str, row: int) -> None:
    """Routed experts."""
    with cell("Routed experts"):
        try:
            found = expert_cell(url, row)
        except LensbenchError as error:
            missing(str(error))
            return
        layers = sorted({int(n) for n in found["layer"]})
        weighed = bool(found["weight"].notna().any())
        _table(found, "token-experts", written.experts_code(url, row, layers, weighed=weighed))
        layer = pick_of("Layer", layers, layers[0], key="expert-layer")
        verify("expert", checks.check_expert, url, row, layer)


def latents(root: Path, url: str, row: int) -> None:
    """Active latents of every dictionary of the store's sites."""
    with cell("Active latents"):
        found, refused = latent_cells(root, url, row)
        if not found:
            st.info("No dictionary in this folder was trained on a site of this store. Train one: "
                    f"`lensbench train sae --store {plain(url)}`")  # fmt: skip
        else:
            _dictionary(found, root, url, row)
        if refused:
            with st.expander(f"{len(refused)} dictionaries are not shown"):
                for why in refused:
                    st.text(why)


def _name(root: Path, run: str) -> str:
    """A run as the address names it."""
    return Path(run).resolve().relative_to(root.resolve()).as_posix()


def _dictionary(found: list[Latents], root: Path, url: str, row: int) -> None:
    names = {one.title: one for one in found}
    st.caption(f"{len(found)} dictionaries read this token; the row is encoded now, from the store")
    show_listing(
        summary_of(found), alt="dictionaries that read this token", take="token-dictionaries",
        code=written.dictionaries_code(root, url, row, found),
    )  # fmt: skip
    left, right = st.columns(2)
    with left:
        one = names[pick_of("Dictionary", list(names), next(iter(names)), key="dictionary")]
        show_listing(
            _without_repeats(one.active), alt="latents that fire on this token", data=one.active,
            take="token-latents", height=height_of(len(one.active)),
            code=written.latents_code(url, row, one),
        )  # fmt: skip
    if one.active.empty:
        st.info("None of its latents is active at this token.")
        return
    with right:
        active = [int(n) for n in one.active["latent"]]
        latent = pick_of("Latent", active, active[0], key="token-latent")
        about = urlencode({"run": _name(root, one.run), "dictionary": one.name, "latent": latent})
        st.markdown(f"[Where else this latent fires](latent?{about})")
        verify("latent", checks.check_latent, url, row, one.run, one.name, latent)


def height_of(rows: int) -> int:
    """Pixels of a table: its heading and every row, up to a number of them."""
    return 35 * (min(rows, MOST_ROWS) + 1) + 3


def _without_repeats(active: pd.DataFrame) -> pd.DataFrame:
    """Decoder rows of length 1 give what a latent adds the length of its activation."""
    same = np.allclose(active["norm"], active["activation"], rtol=1e-3)
    return active.drop(columns="norm") if same else active


def cell(title: str) -> DeltaGenerator:
    """A framed cell of the page."""
    box = st.container(border=True)
    box.markdown(f"**{title}**")
    return box


def verify(name: str, check: Callable[..., Check], *given: object, code: str = "") -> None:
    """A button that runs the check once; its outcome stays until something else is asked.

    ``code`` gives the same table; left out, it calls the check.
    """
    if st.button(RUN, key=f"verify-{name}", help="Runs the model once, with its control"):
        try:
            with st.spinner("Running the model once"):
                st.session_state[f"checked-{name}"] = (given, check(*given))
        except LensbenchError as error:
            st.error(plain(str(error)))
            return
    asked, outcome = st.session_state.get(f"checked-{name}", (None, None))
    if asked == given and isinstance(outcome, Check):
        _outcome(outcome, f"check-{name}",
                 code or python_of(check, *given, then=".table"))  # fmt: skip


def _outcome(check: Check, key: str, code: str) -> None:
    st.markdown(plain(check.verdict))
    value, control = st.columns(2)
    value.metric(f"Measured ({check.unit})", f"{check.value:.4g}")
    control.metric(f"Control ({check.unit})", f"{check.control:.4g}")
    st.caption(plain(f"{check.what}. Control: {check.details.get('control', '')}."))
    for name in sorted(set(check.details) - {"control"}):
        st.caption(plain(f"{name}: {check.details[name]}"))
    _table(check.table, key, code)
    st.caption(f"One run of the model, {check.seconds:.2f} s")


def _table(frame: pd.DataFrame, key: str, code: str) -> None:
    """A table whose tokens show their spaces, and which cannot be mistaken for markup."""
    shown = frame.drop(columns="id", errors="ignore")
    if "token" in shown:
        shown["token"] = [visible(str(t)) for t in shown["token"]]
    words = {str(c): str(c).replace("_", " ") for c in shown}
    show_listing(shown, alt="numbers of this cell", headings=words, take=key, data=frame, code=code)
