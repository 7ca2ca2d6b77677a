"""Python that draws an evaluated run as its page does, with nothing but the library's own calls."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from lensbench.app.workflows.densities import BINS
from lensbench.app.workflows.fronts import FRONTS, HEADLINE, MEAN, bars_note
from lensbench.app.workflows.sections import short_names
from lensbench.saes.evaluation.front import LABEL_F1, NAMES
from lensbench.saes.evaluation.result import SAEEvaluation

if TYPE_CHECKING:
    import plotly.graph_objects as go

OFF = " (off this axis)"


def open_code(run: Path) -> str:
    """The line that opens the evaluation of a run."""
    return f"found = saes.open_evaluation({str(run)!r})"


def short_code(names: Sequence[str], name: str) -> str:
    """An expression for the name of a dictionary as figures call it."""
    short = short_names(list(names))
    return f'{name}.split("-lr")[0]' if any(k != v for k, v in short.items()) else name


def fronts_code(runs: Mapping[str, Path], metric: str, frame: pd.DataFrame,
                drawn: "go.Figure") -> str:  # fmt: skip
    """Python that draws the front of a ``frame`` again, as ``drawn``, with its control."""
    best, label = FRONTS[metric][0], metric == LABEL_F1
    row: Any = frame.loc[frame["architecture"] == "control"].iloc[0]
    name, own = str(row["name"]), frame.loc[frame["architecture"] != "control"]
    own.attrs.update(frame.attrs)
    made = "label_front_frame(one)" if label else f"one.front_frame({metric!r})"
    several = len(runs) > 1
    lines = ["import pandas as pd"] * several + ["from lensbench import saes"]
    lines += [f"from lensbench.saes.evaluation.front import front{', label_front_frame' * label}\n"]
    if several:
        lines += [f"runs = { {label: str(run) for label, run in runs.items()}!r}",
                  "every = {label: saes.open_evaluation(run) for label, run in runs.items()}",
                  f"frames = {{label: {made} for label, one in every.items()}}",
                  "for label, one in frames.items():",
                  '    one["architecture"] = label + ": " + one["architecture"]',
                  "frame = pd.concat(frames.values(), ignore_index=True)",
                  'frame.attrs["units"] = one.attrs["units"]']  # fmt: skip
    else:
        lines += [open_code(next(iter(runs.values()))).replace("found", "one"), f"frame = {made}"]
    lines += [
        f"figure = front(frame, {metric!r}, best={best!r}, "
        f"title={f'{NAMES[metric]} against L0'!r},\n               subtitle={bars_note(own)!r})"
    ]
    traces: Any = drawn.data
    told = traces[-1].name if traces else ""  # nothing is drawn where no value is a number
    if told and told.startswith(name):
        off = OFF if told.endswith(OFF) else ""
        lines += _control(metric, name, best, several)
        lines += [
            'ends = [frame["l0"].min(), frame["l0"].max()]',
            'figure.add_scatter(x=ends, y=[level, level], mode="lines", line={"dash": "dash"},',
            f'                   name=f"{name}, {{level:.3g}}{off}")',
        ]
        layout: Any = drawn.layout
        span = layout.yaxis.range
        lines += [f"figure.update_yaxes(range=[{span[0]:.5g}, {span[1]:.5g}])"] * bool(off)
        lines += ["figure"]
    return "\n".join([*lines, ""])


def _control(metric: str, name: str, best: str, several: bool) -> list[str]:
    """Lines that give ``level``, what the control reaches: the strongest, of several runs."""
    if metric == "fvu":
        return ["level = 1.0  # of the mean activation, by definition"]
    if metric == LABEL_F1:
        return ['level = frame["control"].max()']
    if name == MEAN:
        made = [
            "zero, mean, clean = (wide[f'ce_{of}'] for of in "
            "('zero_ablated', 'mean_ablated', 'clean'))",
            "level = ((zero - mean) / (zero - clean))[zero > clean].max()",
        ]
        return [_all("wide", "wide_frame", several), *made]
    return [
        _all("table", "to_frame", several),
        f'random = (table["metric"] == {metric!r}) & (table["source"] == "random_dictionary")',
        f'level = table.loc[random, "value"].{best}()',
    ]


def _all(name: str, method: str, several: bool) -> str:
    made = f"pd.concat(one.{method}() for one in every.values())" if several else f"one.{method}()"
    return f"{name} = {made}"


def labels_code(run: Path, result: SAEEvaluation) -> str:
    """Python that draws label F1 beside its controls."""
    return "\n".join([
        "from lensbench import plots, saes\n",
        open_code(run),
        "table = found.labels_frame()",
        'own = ("f1_low", "f1_high", "f1_selected")',
        'scored = [c for c in table if c.startswith("f1") and c not in own]  # and its controls',
        'frame = table.melt("name", scored, "scored", "label_f1")',
        'frame = frame.groupby(["name", "scored"], sort=False, as_index=False).mean()',
        'frame["scored"] = [c.replace("f1_", "").replace("_", " ").replace("f1", "latents")',
        '                   for c in frame["scored"]]',
        f'frame["dictionary"] = [{short_code(result.names, "name")} for name in frame["name"]]',
        'frame.attrs["units"] = {"label_f1": "mean over labels"}',
        'plots.bars(frame, x="dictionary", y="label_f1", color="scored",',
        '           title="Label F1 beside its controls", labels={"label_f1": "label F1"})\n',
    ])  # fmt: skip


def density_code(run: Path, result: SAEEvaluation) -> str:
    """Python that draws how often the latents of every dictionary fire."""
    return "\n".join([
        "import numpy as np", "import pandas as pd", "from lensbench import plots, saes\n",
        open_code(run),
        "logs = {name: np.log10(d[d > 0]) for name, d in found.density.items()}",
        f"edges = np.histogram_bin_edges(np.concatenate([*logs.values()]), bins={BINS})",
        "frame = pd.concat([pd.DataFrame({",
        f'    "dictionary": {short_code([*result.density], "name")},',
        '    "density": 10 ** ((edges[1:] + edges[:-1]) / 2),',
        '    "share": np.histogram(log, edges)[0] / len(found.density[name]),',
        "}) for name, log in logs.items()])",
        'frame.attrs["units"] = {"density": "share of tokens", "share": "share of its latents"}',
        'plots.lines(frame, x="density", y="share", color="dictionary", log_x=True, markers=False,',
        '            title="How often latents fire", labels={"share": "latents"})\n',
    ])  # fmt: skip


def scores_code(runs: Mapping[str, Path], labelled: Sequence[str]) -> str:
    """Python that gives every metric of every dictionary; ``labelled``: runs with label F1."""
    first = [c for c in HEADLINE if c != "label_f1"]
    several = len(runs) > 1
    lines = ["import pandas as pd"] * several + ["from lensbench import saes\n"]
    if several:
        lines += [f"runs = { {label: str(run) for label, run in runs.items()}!r}", "tables = []",
                  "for label, run in runs.items():",
                  "    found = saes.open_evaluation(run)",
                  "    table = found.wide_frame()"]  # fmt: skip
    else:
        lines += [open_code(next(iter(runs.values()))), "table = found.wide_frame()"]
    space = "    " * several
    if labelled:
        only = "if found.labels:\n        " * (several and len(labelled) < len(runs))
        lines += [
            f'{space}{only}means = found.labels_frame().groupby("name")["f1"].mean()',
            f'{space}{"    " * bool(only)}table["label_f1"] = table["name"].map(means)',
        ]
    lines += [f'{space}tables.append(table.assign(run=label))',
              "table = pd.concat(tables, ignore_index=True)"] * several  # fmt: skip
    begin = [*["run"] * several, "name", "site", "architecture", *first, "label_f1"]
    return "\n".join([
        *lines,
        f"first = [c for c in {begin!r}\n         if c in table]",
        "table[[*first, *table.columns.difference(first, sort=False)]]\n",
    ])  # fmt: skip


def suite_code(run: Path, names: Sequence[str], measure: str) -> str:
    """Python that gives the detailed results of a measure, a block per dictionary."""
    return "\n".join([
        "import pandas as pd", "from lensbench import saes\n",
        open_code(run),
        "parts = []",
        f"for name, one in found.suite[{measure!r}].items():",
        "    part = one.to_frame()",
        f'    part.insert(0, "of dictionary", {short_code(names, "name")})',
        "    parts.append(part)",
        "table = pd.concat(parts, ignore_index=True)",
        'table.loc[:, table.fillna("").astype(str).ne("").any()]  # without empty columns\n',
    ])  # fmt: skip
