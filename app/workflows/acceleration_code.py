"""Python that tells exits and drafts of a store, with nothing but the library's own calls."""

from collections.abc import Sequence
from pathlib import Path

from lensbench.app.workflows.acceleration import DRAFTS, MAX_ROWS, ExitAsk, exit_layers_of, held
from lensbench.app.workflows.latent_code import load_code
from lensbench.app.workflows.live import hold_store
from lensbench.app.workflows.sequences import model_name
from lensbench.app.workflows.studies import load_code as study_code


def _table(ask: ExitAsk, first: Sequence[str] = (), plots: bool = True) -> list[str]:
    """Lines that read the lens table of a store."""
    return [
        "import lensbench", *first, *["from lensbench import plots"] * plots,
        "from lensbench.interventions import acceleration", "",
        f"store = lensbench.open_store({ask.store!r})",
        load_code(*model_name(hold_store(ask.store))),
        f"table = acceleration.lens_table(store, model, max_tokens={MAX_ROWS})",
    ]  # fmt: skip


def agreement_code(ask: ExitAsk) -> str:
    """Python that draws the agreement of every exit layer."""
    return "\n".join([*_table(ask, plots=False), 'table.plot("agreement")\n'])


def exits_code(ask: ExitAsk) -> str:
    """Python that draws where tokens leave at a threshold."""
    return "\n".join([
        *_table(ask, ["import numpy as np", "import pandas as pd"]),
        f"texts = acceleration.sim_calm(table, {ask.threshold!r}, measure={ask.measure!r}, "
        "exact=False)",
        "exits = np.concatenate([text.exits for text in texts])  # layers, of every new token",
        "counts = np.bincount(exits, minlength=table.n_layers + 1)[1:]",
        'frame = pd.DataFrame({"exit_layer": range(1, table.n_layers + 1),',
        '                      "share": counts / len(exits)})',
        'plots.bars(frame, x="exit_layer", y="share", title="Where tokens leave",',
        '           labels={"exit_layer": "layers executed"}, unit="share of new tokens")\n',
    ])  # fmt: skip


def drafts_code(ask: ExitAsk) -> str:
    """Python that draws the drafts that would be kept."""
    layers = exit_layers_of(held(ask.store).table.n_layers)
    return "\n".join([
        *_table(ask, ["import pandas as pd"]),
        "def kept(layers, draft):",
        "    texts = acceleration.sim_fixed(table, layers, draft, exact=False)",
        "    return acceleration.rates(texts).acceptance",
        "",
        'frame = pd.DataFrame([{"exit_layer": e, "draft": d, "acceptance": kept(e, d)}',
        f"                      for e in {layers!r} for d in {list(DRAFTS)!r}])",
        *_grid("acceptance", "Drafts kept, predicted"),
    ])  # fmt: skip


def live_code(folder: Path, value: str) -> str:
    """Python that draws the drafts of a live run: ``predicted`` or ``measured``."""
    key = "acceptance" if value == "predicted" else "meas_acceptance"
    return study_code(folder, "\n".join([
        'rows = [row for row in found.rows if row["method"] == "fixed_exit"]',
        f'frame = pd.DataFrame([{{**row["config"], {value!r}: row[{key!r}]}} for row in rows])',
        *_grid(value, f"Drafts kept, {value}"),
    ]), "import pandas as pd", "from lensbench import plots")  # fmt: skip


def _grid(value: str, title: str) -> list[str]:
    """Lines that draw a number of every exit layer and draft length."""
    return [
        f"figure = plots.heatmap(frame, x='draft', y='exit_layer', value={value!r}, span=(0.0, 1),",
        f"                       title={title!r}, labels={{'exit_layer': 'layers of the draft'}})",
        "figure.update_xaxes(type='category').update_yaxes(type='category')\n",
    ]
