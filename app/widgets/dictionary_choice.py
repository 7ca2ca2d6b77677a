"""A run and one of its dictionaries, as part of the address."""

from pathlib import Path

from streamlit.delta_generator import DeltaGenerator

from lensbench.app.state import inside, root, run_names
from lensbench.app.widgets.choose import choose
from lensbench.app.widgets.states import in_shell, nothing_yet
from lensbench.app.workflows.latent_page import dictionaries_of


def choose_dictionary(left: DeltaGenerator, right: DeltaGenerator) -> tuple[Path, str] | None:
    """Folder of the run and name of the dictionary; None, with what to do, until both are there."""
    names = run_names()
    with left:
        chosen = choose("Run", names, key="run")
    if not names:
        nothing_yet("No runs in this folder yet.", in_shell("demo", "--out", root() / "demo-run"),
                    next_step="Start one on the page Train, or make the demo.")  # fmt: skip
        return None
    if chosen is None:
        nothing_yet("Choose a run, then one of its dictionaries.", in_shell("runs", "ls", root()))
        return None
    run = inside(chosen)
    known = dictionaries_of(run)
    if not known:
        nothing_yet("No dictionary of this run is finished yet.", in_shell("runs", "show", run),
                    next_step="Follow it on the page Runs.")  # fmt: skip
        return None
    with right:
        name = choose("Dictionary", known, key="dictionary")
    if name is None:
        nothing_yet(f"Choose one of {len(known)} dictionaries.",
                    in_shell("latents", "ls", run / known[0]))  # fmt: skip
        return None
    return run, name
