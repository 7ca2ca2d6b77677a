"""Streamlit entry point: ``lensbench app`` runs this file.

It only looks: runs under a folder, and each run's sections, the same ones that ``lensbench report``
writes. Forms that compute come with the dashboard proper.
"""

import sys
from pathlib import Path

import streamlit as st

from lensbench.app.views.blocks import show_section
from lensbench.app.workflows.reports import build
from lensbench.app.workflows.run_data import read_run
from lensbench.app.workflows.runs import list_runs
from lensbench.errors import LensbenchError


def main(root: Path) -> None:
    """One page: choose a run, read it."""
    st.set_page_config(page_title="lensbench", layout="wide")
    st.title("lensbench")
    try:
        found = list_runs(root)["runs"]
        if not found:
            st.info(f"No runs under {root}. `lensbench demo` makes one; so does `train sae`.")
            return
        chosen = st.sidebar.selectbox("Run", [str(row["run"]) for row in found])
        report = build([read_run(Path(str(chosen)))], title=str(chosen))
    except LensbenchError as error:
        st.error(str(error))
        return
    st.header(report.title)
    st.caption(report.lead)
    for section in report.sections:
        show_section(section)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path())
