"""Pictures of the study, each of one frame through one primitive."""

from typing import TYPE_CHECKING

import numpy as np

from lensbench.interventions.acceleration.study.lens_table import LensTable
from lensbench.interventions.acceleration.study.simulate import sim_fixed
from lensbench.interventions.acceleration.study.trace import rates

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

_DRAFTS = (1, 2, 3, 4, 6, 8)
_STAGES = ("local_attention", "mlp_norm", "prediction_neurons", "suppression_neurons")


def pareto(frame: "pd.DataFrame", x: str = "layers_per_token", y: str = "agreement") -> "go.Figure":
    """Quality against compute, with the front of what nothing beats."""
    from lensbench.plots import scatter

    known = frame.dropna(subset=[x, y]).copy()
    known.attrs = frame.attrs
    return scatter(
        known, x=x, y=y, color="method", text="label", front="max",
        title="Quality against compute",
        subtitle=f"{_counted(known)}lossless methods keep the text and pay for drafts that are "
        "thrown away",
        labels={x: x.replace("_", " ")},
    )  # fmt: skip


def _counted(frame: "pd.DataFrame") -> str:
    most = max(frame["n"].tolist(), default=0)
    return f"n = {most:,} documents · " if most else ""


def predicted_against_measured(
    frame: "pd.DataFrame", x: str = "pred_speedup_calibrated"
) -> "go.Figure":
    """Predicted against measured speed-up; on the dashed line the prediction is right."""
    from lensbench.plots import empty_figure, scatter

    known = frame.dropna(subset=[x, "meas_speedup"]).copy()
    if known.empty:
        return empty_figure("no live run yet: verify(), with times for the calibrated column")
    known.attrs = frame.attrs
    figure = scatter(
        known, x=x, y="meas_speedup", color="method", text="label",
        title="Predicted and measured speed-up", subtitle="times plain decoding, CPU time",
    )  # fmt: skip
    values = known[[x, "meas_speedup"]].to_numpy(float)
    low, high = float(values.min()), float(values.max())
    figure.add_shape(
        type="line", x0=low, y0=low, x1=high, y1=high, line={"dash": "dash", "width": 1}
    )
    return figure


def exit_depths(table: LensTable) -> "go.Figure":
    """How many layers new tokens need: until the choice is right, and until it stays so."""
    import pandas as pd

    from lensbench.plots import bars

    layers = np.arange(1, table.n_layers + 1)
    parts = {
        "first right": np.bincount(table.first_correct(), minlength=table.n_layers + 1)[1:],
        "right for good": np.bincount(table.stable(), minlength=table.n_layers + 1)[1:],
    }
    total = int(table.new.sum())
    frame = pd.concat(
        [
            pd.DataFrame({"exit_layer": layers, "share": n / total, "choice": name, "n": total})
            for name, n in parts.items()
        ]
    )
    return bars(
        frame, x="exit_layer", y="share", color="choice", unit="share of new tokens",
        title="Layers that new tokens need", subtitle=_n(table),
        labels={"exit_layer": "layers executed"},
    )  # fmt: skip


def acceptance_frame(
    frame: "pd.DataFrame", table: LensTable, drafts: tuple[int, ...] = _DRAFTS
) -> "pd.DataFrame":
    """Acceptance of a fixed exit by exit layer and draft length, predicted and (where run) live."""
    import json

    import pandas as pd

    told = [
        {"exit_layer": e, "draft": g, "what": "predicted",
         "acceptance": rates(sim_fixed(table, e, g, exact=False)).acceptance}
        for e in range(1, table.n_layers + 1)
        for g in drafts
    ]  # fmt: skip
    live = frame.loc[frame["method"] == "fixed_exit"].dropna(subset=["meas_acceptance"])
    seen = [
        {**json.loads(row.config), "what": "measured", "acceptance": row.meas_acceptance}
        for row in live.itertuples()
    ]
    found = pd.DataFrame([*told, *seen])
    found.attrs["units"] = {"acceptance": "accepted / drafted"}
    return found


def acceptance(frame: "pd.DataFrame", table: LensTable, what: str = "both") -> "go.Figure":
    """Heat map of acceptance; live values stand as text in their cells, or alone.

    ``what``: ``predicted``, ``measured`` or ``both``.
    """
    from lensbench.plots import empty_figure, heatmap

    found = acceptance_frame(frame, table)
    keys = ["exit_layer", "draft"]
    cells = found.loc[found["what"] == ("measured" if what == "measured" else "predicted")]
    if cells.empty:
        return empty_figure("no live run of a fixed exit yet")
    live = found.loc[found["what"] == "measured"].set_index(keys)["acceptance"]
    cells = cells.copy()
    marks = [live.get((e, g)) for e, g in cells[keys].itertuples(index=False)]
    cells["live"] = ["" if m is None else f"live {m:.3f}" for m in marks]
    cells.attrs = found.attrs
    return heatmap(
        cells, x="draft", y="exit_layer", value="acceptance", text="live", span=(0.0, 1.0),
        title="How much of a draft is kept",
        subtitle=f"{'live runs' if what == 'measured' else 'colour: predicted from the store'} · "
        f"accepted / drafted · {_n(table)}",
        labels={"exit_layer": "layers of the draft", "draft": "tokens drafted"},
    )  # fmt: skip


def lens_layers(table: LensTable, stages: "pd.DataFrame | None" = None) -> "go.Figure":
    """Agreement and normalised KL per exit layer, with stages of inference beside them.

    ``stages``: ``inference_stages(...).to_frame()``; each measure as a share of its largest value.
    """
    import pandas as pd

    from lensbench.plots import lines

    whole = table.to_frame()
    kl = whole.loc[whole["metric"] == "kl"]
    largest = float(kl["value"].max()) or 1.0
    parts = [
        whole.loc[whole["metric"] == "agreement", ["exit_layer", "value"]].assign(
            measure="agreement"
        ),
        kl[["exit_layer"]].assign(value=kl["value"] / largest, measure="KL(final ‖ exit)"),
    ]
    if stages is not None:
        parts += [_stage(stages, name) for name in _STAGES]
    return lines(
        pd.concat(parts), x="exit_layer", y="value", color="measure",
        unit="share, or share of the largest value", title="Agreement with the full model by layer",
        subtitle=_n(table), labels={"exit_layer": "layers executed", "value": "value"},
    )  # fmt: skip


def _n(table: LensTable) -> str:
    return f"n = {int(table.new.sum()):,} new tokens of {len(list(table.documents())):,} texts"


def _stage(stages: "pd.DataFrame", name: str) -> "pd.DataFrame":
    import pandas as pd

    values = np.asarray(stages[name], dtype=np.float64).clip(min=0)
    layers = np.asarray(stages["layer"], dtype=np.int64) + 1
    share = values / (float(values.max()) or 1.0)
    return pd.DataFrame({"exit_layer": layers, "value": share, "measure": name.replace("_", " ")})
