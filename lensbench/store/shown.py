"""A store as notebooks show it: a static table of its sites."""

from typing import TYPE_CHECKING

from lensbench.plots.tables import html_table

if TYPE_CHECKING:
    from lensbench.store.reader import ActivationStore


def store_table(store: "ActivationStore") -> str:
    """One row per site (rows, shape, type of the numbers), what the store is of above it."""
    import pandas as pd

    frame = pd.DataFrame(
        {
            "site": list(store.sites),
            "rows": store.n_tokens,
            "shape": [" x ".join(map(str, store.shape(site))) for site in store.sites],
            "numbers": str(store.dtype),
        }
    )
    model = dict(store.model or {})
    about = f"{model.get('name', 'a model')} ({model.get('fingerprint', '')})"
    return html_table(frame, caption=f"{store!r}; {about}, {store.n_docs:,} documents")
