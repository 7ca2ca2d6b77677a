"""What can be done with a run: evaluate it, keep its latents, remove it."""

from pathlib import Path

import streamlit as st

from lensbench.app.state import inside, root, store_names
from lensbench.app.widgets.choose import several
from lensbench.app.widgets.job_panel import show_jobs, start_job
from lensbench.app.widgets.links import go_to
from lensbench.app.widgets.share_work import share
from lensbench.app.widgets.states import command_line, guarded, plain
from lensbench.app.widgets.toggle import pick_of
from lensbench.app.workflows import jobs, run_jobs
from lensbench.app.workflows.capture_plan import size
from lensbench.app.workflows.overview import is_evaluated
from lensbench.app.workflows.removing import holdings, remove_run


def run_work(run: Path) -> None:
    """Draw what a run that has ended offers."""
    with guarded():
        names = run_jobs.dictionaries_of(run)
        stores = store_names()
        if names and stores:
            own = run_jobs.own_store(root(), run)
            with st.expander("Evaluate", expanded=_open(run), key="evaluate"):
                _evaluate(run, stores, own)
                show_jobs("evaluate", "run", str(run))
            with st.expander("Keep the latents of a dictionary on disk", key="encode"):
                _encode(run, names, stores, own)
        if names:
            with st.expander("Share a dictionary", key="share"):
                share(run, names)
    with guarded():
        _remove(run)


def _open(run: Path) -> bool:
    """Whether evaluating is what is next, or goes on."""
    return not is_evaluated(run) or any(
        job.live and job.settings["run"] == str(run) for job in jobs.all_jobs(root(), "evaluate")
    )


def _evaluate(run: Path, stores: list[str], own: str) -> None:
    store = pick_of("On the store", stores, own or stores[0], key="eval-store")
    st.caption("Reconstruction, sparsity, what the model loses, labels: each number beside its "
               "controls. Pages Sweep, Compare and Latents read them.")  # fmt: skip
    measures = several("Measures", list(run_jobs.MEASURES), run_jobs.DEFAULT, key="measures",
                       empty="one or more")  # fmt: skip
    left, middle, right = st.columns([2, 2, 1], vertical_alignment="bottom")
    sequences = left.number_input("Sequences for cross-entropy", 0, 10**6, 256, key="sequences",
                                  help="Rows the model runs live; 0: none.")  # fmt: skip
    twin = middle.checkbox("Also a twin of the model with random weights", key="twin",
                           help="One more control; captures the text again.")  # fmt: skip
    again = right.checkbox("Replace", key="again") if is_evaluated(run) else False
    if is_evaluated(run) and not again:
        st.info("This run is evaluated already; tick Replace to do it again.")
        return
    with guarded():
        settings = run_jobs.evaluation(run, inside(store), measures=measures,
                                       sequences=int(sequences or 0), twin=twin,
                                       again=again)  # fmt: skip
        if st.button("Evaluate", key="start-evaluate", type="primary"):
            start_job("evaluate", _name(run), settings)
            st.rerun()
        command_line(jobs.command_of("evaluate", settings))


def _encode(run: Path, names: list[str], stores: list[str], own: str) -> None:
    left, right = st.columns(2)
    with left:
        name = pick_of("Dictionary", names, names[0], key="encode-name")
    with right:
        store = pick_of("Store", stores, own or stores[0], key="encode-store")
    settings = run_jobs.encoding(run, name, inside(store))
    with guarded():
        if st.button("Encode", key="start-encode", type="primary"):
            start_job("encode", f"{_name(run)}/{name} on {store}", settings)
            st.rerun()
    command_line(jobs.command_of("encode", settings))
    show_jobs("encode", "dictionary", str(run))


def _remove(run: Path) -> None:
    facts = holdings(run)
    with st.popover("Remove the run", key="remove"):
        stays = (
            f" What is not a run's stays: {', '.join(facts['stays'])}." if facts["stays"] else ""
        )
        st.write(plain(f"{facts['dictionaries']} dictionaries in {facts['files']} files, "
                       f"{size(facts['bytes'])}, would be gone for good.{stays}"))  # fmt: skip
        if st.button("Remove for good", key="remove-sure", type="primary"):
            with guarded():
                remove_run(run)
                st.toast(plain(f"{_name(run)} is removed."))
                go_to("runs")


def _name(run: Path) -> str:
    return run.relative_to(root()).as_posix()
