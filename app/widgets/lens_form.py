"""The form of a tuned lens: a store with the residual stream, and the settings of its schema."""

import streamlit as st

from lensbench.app.state import inside, root
from lensbench.app.widgets.form import fill
from lensbench.app.widgets.job_panel import show_jobs, start_job
from lensbench.app.widgets.states import command_line, guarded
from lensbench.app.workflows import capture_plan, forms, jobs


def lens_form(store: str) -> None:
    """Draw the form and what was started of its kind on this store."""
    url = str(inside(store))
    st.caption("A tuned lens is a linear map for each layer that translates its state into what "
               "the last layer would say. The page Lens reads with it.")  # fmt: skip
    values = fill(forms.lens_fields(), key="new-lens", first=3)
    name = st.text_input("Name of the lens", "tuned-lens", key="new-lens-name",
                         help="A folder below the one shown.")  # fmt: skip
    with guarded():
        out = capture_plan.place(root(), name.strip())
        settings: dict[str, object] = {
            "store": url,
            "out": out,
            **({"set": values} if values else {}),
        }
        if st.button("Train the lens", key="start-lens", type="primary"):
            forms.check_lens(values)
            start_job("tune", name.strip(), settings)
            st.rerun()
        command_line(jobs.command_of("tune", settings))
    show_jobs("tune", "store", url)
