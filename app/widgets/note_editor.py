"""Say what you think of a latent: a star, a label, a note; each is saved when it is changed."""

from collections.abc import Callable

import streamlit as st

from lensbench.app.widgets.states import guarded, in_shell, plain
from lensbench.app.workflows.notes import (
    LONGEST_LABEL,
    LONGEST_NOTE,
    LatentNotes,
    import_text,
    text_of,
)
from lensbench.errors import LensbenchError


def note_editor(kept: LatentNotes, latent: int) -> None:
    """Star, label and note of one latent."""
    with guarded():
        now = kept[latent]
    key = f"note-{kept.fingerprint}-{latent}"
    values: dict[str, bool | str] = {"starred": now.starred, "label": now.label, "note": now.note}
    for name, value in values.items():
        st.session_state[f"{key}-{name}"] = value  # what is on disk, whoever wrote it
    star, label, note = st.columns([1, 3, 5], vertical_alignment="bottom")
    star.toggle("Star", key=f"{key}-starred", on_change=_saving(kept, latent, "starred", key))
    label.text_input(
        "My label", key=f"{key}-label", max_chars=LONGEST_LABEL, placeholder="A short name",
        on_change=_saving(kept, latent, "label", key),
    )  # fmt: skip
    note.text_area(
        "My note", key=f"{key}-note", max_chars=LONGEST_NOTE, height=68,
        placeholder="What speaks for it, and against",
        on_change=_saving(kept, latent, "note", key),
    )  # fmt: skip
    if told := st.session_state.pop("note-error", ""):
        st.error(plain(told))
    if now:
        when = now.changed[:16].replace("T", " ")
        st.caption(plain(f"Saved in {kept.path.name}, {when} UTC."))


def _saving(kept: LatentNotes, latent: int, name: str, key: str) -> Callable[[], None]:
    """Writes one field, before the page is drawn again; the others may have changed elsewhere."""

    def save() -> None:
        value = st.session_state[f"{key}-{name}"]
        try:
            kept.set(latent, **{name: value})
        except LensbenchError as error:
            st.session_state["note-error"] = str(error)

    return save


def notes_files(run: str, count: int) -> None:
    """Take the notes of a run away, or bring some in."""
    with st.popover(f"Notes: {count}", key="notes-files"):
        st.caption("All notes of this run, with the fingerprint of each one's dictionary.")
        for ending in (".json", ".csv"):
            st.download_button(ending[1:].upper(), lambda e=ending: text_of(run, e),
                               f"notes{ending}", key=f"notes{ending}")  # fmt: skip
        sent = st.file_uploader("Add notes from a file", ["json", "csv"], key="notes-sent")
        overwrite = st.checkbox("Replace those that are here", key="notes-overwrite")
        if sent is not None and st.button("Add", key="notes-add"):
            with guarded():
                told = import_text(run, sent.name, sent.getvalue().decode("utf-8", "replace"),
                                   overwrite=overwrite)  # fmt: skip
                st.success(f"{told['added']} added, {told['replaced']} replaced, "
                           f"{told['kept']} left out (here already).")  # fmt: skip
        st.caption("On the command line:")
        st.code(in_shell("runs", "notes", "ls", run), language="bash", wrap_lines=True)
