"""Python that draws what a finished run logged, with nothing but the library's own calls."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lensbench.app.workflows.curves import COLOURED, LINEAR, MOST, TITLES, names_in
from lensbench.app.workflows.runs import sound_parts
from lensbench.app.workflows.sweep_code import short_code
from lensbench.saes.runs import RESULT_FOLDER

UNKEPT = ("wait_fraction",)
"""Curves of the logs that no result holds."""


def curve_code(
    run: Path, metric: str, over: str, chosen: Sequence[str], frame: pd.DataFrame
) -> str:
    """Python that draws the same figure of a ``frame`` of curves.

    A run that goes on, or stopped, is read from its logs, and so is what is no part of a result:
    that the library does not do.
    """
    names, parts = [str(name) for name in dict.fromkeys(frame["name"])], sound_parts(run)
    done = [n for part in parts for n in names
            if (part / n / RESULT_FOLDER / "result.json").is_file()]  # fmt: skip
    if len(done) < len(names) or metric in UNKEPT:
        return (
            "from pathlib import Path\n\n"
            "from lensbench.app.workflows.curves import curve_figure, curves_of\n\n"
            f"frame = curves_of(Path({str(run)!r}))\n"
            f"curve_figure(frame, {metric!r}, over={over!r}, chosen={list(chosen)!r})[0]\n"
        )
    linear, unit = metric in LINEAR, frame.attrs["units"][metric]
    kept = f"frame[{metric!r}].notna()" if linear else f"frame[{metric!r}] > 0"
    lines = ["import pandas as pd", "from lensbench import plots, saes\n"]
    if parts == [run]:
        lines += [f"runs = saes.open_runs({str(run)!r})"]
    else:
        lines += [f"parts = {[str(part) for part in parts]!r}",
                  "runs = [run for part in parts for run in saes.open_runs(part)]"]  # fmt: skip
    every = int(frame.attrs.get("every", 1)) > 1
    lines += [
        "frames = []",
        "for run in runs:",
        "    one = pd.DataFrame(run.history)",
        *[
            f"    every = -(-len(one) // {MOST})  # as many lines as a screen shows, and the last",
            "    one = one[(one.index % every == 0) | (one.index == one.index[-1])]",
        ]
        * every,
        f"    frames.append(one.assign(name={short_code(names, 'run.name')}))",
        "frame = pd.concat(frames, ignore_index=True)",
        f"frame = frame[{kept}]",
    ]
    title = f"{TITLES.get(metric, metric)} while training"
    draw = (
        f"x={over!r}, y={metric!r}, color='name', log_y={not linear}, markers=False,\n"
        f"    unit={unit!r}, title={title!r}"
    )
    short = names_in(frame)
    if len(short) <= COLOURED:
        return "\n".join([*lines, f"plots.lines(frame, {draw})\n"])
    named = [n for n in short if n in chosen] or short[:COLOURED]
    return "\n".join([
        *lines,
        f"named = {named!r}  # in colour; the others are grey",
        f"figure = plots.lines(frame[frame['name'].isin(named)], {draw})",
        "coloured = figure.data",
        "for name, one in frame[~frame['name'].isin(named)].groupby('name', sort=False):",
        f"    figure.add_scatter(x=one[{over!r}], y=one[{metric!r}], name=name, mode='lines',",
        "                       line={'color': 'lightgrey', 'width': 1}, showlegend=False)",
        "figure.data = (*figure.data[len(coloured):], *coloured)  # colours on top",
        "figure\n",
    ])  # fmt: skip
