"""The sections of a report, from the data of one run; what is missing is said, not left out."""

from shlex import quote
from typing import Any

import numpy as np
import pandas as pd

from lensbench import plots
from lensbench.app.report import Block, Context, Figure, Latent, Pair, Section, Table, Text
from lensbench.app.workflows.evaluation import HEADLINE
from lensbench.app.workflows.latents import best_labels, records
from lensbench.app.workflows.run_data import RunData
from lensbench.saes.evaluation.front import front
from lensbench.saes.evaluation.labels_table import control_columns
from lensbench.saes.evaluation.result import UNITS
from lensbench.saes.latents.result import LatentDashboard
from lensbench.saes.runs import note_on_means

CONTEXTS = 4
LABELS = {
    "l0": "L0",
    "fvu": "FVU",
    "ce_recovered_zero": "CE recovered",
    "label_f1": "label F1",
    "d_sae": "latents",
}
_PER_TOKEN = {"l0": "active latents per token"}


def headline(data: RunData, prefix: str = "") -> Section:
    """The table of dictionaries and its controls."""
    title, result = f"{prefix}Dictionaries", data.evaluation
    if result is None:
        rows = [{"name": r.name, "site": r.site, "status": r.status, **r.summary()}
                for r in data.runs]  # fmt: skip
        note = note_on_means(r.window for r in data.runs)
        return Section(title, (Table(pd.DataFrame(rows), note), _not_evaluated(data)))
    wide = result.wide_frame()
    frame = wide.loc[:, ["name", "site", *[m for m in HEADLINE if m in wide.columns]]].copy()
    widths = {r.name: r.coder.d_sae for r in data.runs}
    frame.insert(2, "d_sae", [widths.get(str(n), 0) for n in frame["name"]])
    if frame["site"].nunique() == 1:  # the line under the title names it
        frame = frame.drop(columns="site")
    if result.labels:
        by_name: Any = result.labels_frame().groupby("name")["f1"].mean()
        frame["label_f1"] = [float(by_name.get(n, np.nan)) for n in frame["name"]]
    units = "; ".join(f"{c}: {UNITS[c]}" for c in frame.columns if c in UNITS)
    note = (
        f"{result.n_tokens:,} stored tokens of {result.n_documents:,} documents; CE and KL on "
        f"{result.n_scored:,} predicted tokens, live. Units: {units}."
    )
    control = f"Controls: {result.controls}. {result.controls.note}".strip()
    return Section(title, (Table(frame, note), Text(control)))


def pareto(data: RunData, prefix: str = "") -> Section:
    """L0 against CE recovered and against FVU, with intervals."""
    title, result = f"{prefix}Sparsity against fidelity", data.evaluation
    if result is None:
        return Section(title, (_not_evaluated(data),))
    pair: list[Block] = []
    for metric, best in (("ce_recovered_zero", "max"), ("fvu", "min")):
        if metric not in result.metrics:
            continue
        frame = result.front_frame(metric)
        drawn = front(
            frame, metric, best="max" if best == "max" else "min", height=420,
            title=f"{LABELS[metric]} ({'higher' if best == 'max' else 'lower'} is better)",
            subtitle=interval_note(frame),
        )  # fmt: skip
        drawn.update_layout(legend={"orientation": "h", "y": -0.28, "title": {"text": ""}})
        pair.append(Figure(drawn, _caption(metric)))
    return Section(title, (Pair(tuple(pair)),))


def training(data: RunData, prefix: str = "") -> Section:
    """FVU and L0 over training tokens, one line per dictionary."""
    frames = [r.to_frame() for r in data.runs if r.history]
    if not frames:
        empty = plots.empty_figure("no training history in this run")
        return Section(f"{prefix}Training", (Figure(empty),))
    whole = pd.concat(frames, ignore_index=True)
    whole["name"] = whole["name"].replace(short_names([r.name for r in data.runs]))
    figures: list[Block] = []
    for metric, log in (("fvu", True), ("l0", True)):
        part = whole.loc[whole["metric"] == metric].assign(**{metric: lambda f: f["value"]})
        part.attrs["units"] = {**UNITS, **_PER_TOKEN, "tokens": ""}
        drawn = plots.lines(
            part, x="tokens", y=metric, color="name", log_y=log, markers=False, labels=LABELS,
            title=f"{LABELS[metric]} while training", height=360,
        )  # fmt: skip
        figures.append(Figure(drawn, ""))
    note = "Each value is a mean over the steps since the one before; all dictionaries saw the "
    return Section(f"{prefix}Training", tuple(figures), note + "same batches.")


def latents(data: RunData, prefix: str = "") -> Section:
    """Latents with contexts: those that match labels best, else a random sample."""
    title, result = f"{prefix}Latents", data.evaluation
    if result is None or not data.boards:
        return Section(title, (_not_evaluated(data),))
    cards: list[Block] = []
    if result.labels:
        lead = (
            "For each label the best single latent, chosen on one part of the text and scored on "
            f"another ({result.split}). Shown: the labels that beat their strongest control by "
            "most. Contexts: the strongest, then one from each lower quarter of the activations."
        )
        for row in records(best_labels(result.labels_frame())):
            board = _board(data, str(row["name"]), int(row["latent"]))
            if board is not None:
                cards.append(_latent(data, board, int(row["latent"]), _label_facts(row)))
        return Section(title, tuple(cards), lead)
    for board in data.boards:
        cards += [_latent(data, board, int(n), ("", "")) for n in board.latents]
    lead = (
        "The text has no labels, so these are a random sample (not the prettiest) of the latents "
        "that fire on 0.01 % to 5 % of the tokens (of those that fire at all, where none does so), "
        "of the dictionary with the highest CE recovered among those with L0 up to 64."
    )
    return Section(title, tuple(cards), lead)


def lens(data: RunData, prefix: str = "") -> Section:
    """The logit lens from the same store."""
    title = f"{prefix}Logit lens"
    if data.lens is None or data.grid is None:
        step = "capture with --profile resid, then `lensbench eval sae` again"
        empty = plots.empty_figure("the store has no residual stream of the last block",
                                   next_step=step)  # fmt: skip
        return Section(title, (Figure(empty),))
    lead = (
        "What every layer would predict if it were the last: the final norm and unembedding read "
        "from the stored residual stream, no block is run. A poor lens in early layers says that "
        "the basis differs, not that nothing is known. Control: states shuffled over tokens."
    )
    pair = Pair(
        tuple(
            Figure(_below(data.lens.plot(metric)), caption)
            for metric, caption in (
                ("kl_to_final", "KL(final ‖ this layer) [nats], mean over tokens."),
                ("agreement", "Share of tokens with the last layer's most probable token."),
            )
        )
    )
    heat = Figure(
        data.grid.plot("target_prob"),
        "Colour: probability of the token that follows. Each column is the prediction made at "
        "that token; cells name the most probable next token.",
    )
    return Section(title, (pair, heat), lead)


def controls(data: RunData, prefix: str = "") -> Section:
    """Label F1 of every dictionary beside the same procedure where nothing is to be found."""
    title, result = f"{prefix}Controls", data.evaluation
    if result is None:
        return Section(title, (_not_evaluated(data),))
    if not result.labels:
        return Section(title, (Text(f"Label matching was not run: {result.split}."),))
    table = result.labels_frame()
    frame = label_scores(table)
    frame.attrs["units"] = {"label_f1": "mean over labels"}
    drawn = plots.bars(frame, x="dictionary", y="label_f1", color="scored", labels=LABELS,
                       title="Label F1 beside its controls", height=420)  # fmt: skip
    caption = (
        "Every control runs the same choice of latent and threshold, or the best rule that needs "
        "no activations: always on, the current token alone, shuffled labels, a random dictionary."
    )
    return Section(title, (Figure(drawn, caption),))


def label_scores(table: pd.DataFrame) -> pd.DataFrame:
    """Mean F1 over labels, per dictionary: of its latents and of each control."""
    rows: list[dict[str, Any]] = []
    names = [str(n) for n in table["name"].unique()]
    for name, short in short_names(names).items():
        part = table.loc[table["name"] == name]
        for column in ["f1", *control_columns(table)]:
            values = np.asarray(part[column], dtype=np.float64)
            values = values[np.isfinite(values)]
            who = "latents" if column == "f1" else column.removeprefix("f1_").replace("_", " ")
            mean = float(values.mean()) if len(values) else float("nan")
            rows.append({"dictionary": short, "scored": who, "label_f1": mean, "n": len(values)})
    return pd.DataFrame(rows)


def short_names(names: list[str]) -> dict[str, str]:
    """Names without learning rate and seed, where they stay apart."""
    short = {name: name.split("-lr")[0] for name in names}
    return short if len(set(short.values())) == len(set(names)) else {name: name for name in names}


def interval_note(frame: pd.DataFrame) -> str:
    """What the bars of ``frame`` (columns ``low``, ``high``, ``n``) are, or why there are none."""
    n = int(np.asarray(frame["n"]).max())
    if np.isfinite(np.asarray(frame[["low", "high"]], dtype=np.float64)).any():
        return f"95 % bootstrap over {n:,} documents"
    few = "one document says" if n == 1 else f"{n:,} documents say"
    return f"no interval: {few} nothing about the spread"


def _caption(metric: str) -> str:
    if metric == "fvu":
        return "FVU: share of the variance of the activations that is not reconstructed."
    return (
        "CE recovered: (CE with the site zeroed - CE with the reconstruction) / (CE zeroed - CE "
        "clean), measured by running the model with the reconstruction in place."
    )


def _board(data: RunData, name: str, latent: int) -> LatentDashboard | None:
    found = [b for b in data.boards if b.name == name and latent in b.latents.tolist()]
    return found[0] if found else None


def _label_facts(row: dict[str, Any]) -> tuple[str, str]:
    facts = (
        f"F1 {row['f1']:.2f} [{row['f1_low']:.2f}, {row['f1_high']:.2f}] on "
        f"{row['n_documents']:,} documents, strongest control {row['control']:.2f}, "
        f"AUROC {row['auroc']:.2f}, {row['n_positive']:,} labelled tokens"
    )
    return str(row["label"]), facts


def _latent(data: RunData, board: LatentDashboard, latent: int, label: tuple[str, str]) -> Latent:
    i = board.index(latent)
    places = [p for band in range(len(board.bands)) for p in _of_band(board, i, band)]
    contexts: list[Context] = []
    for j in places[: CONTEXTS + 2]:
        inside = board.tokens[i, j] >= 0
        ids = board.tokens[i, j, inside]
        words = tuple(data.words.get(int(t), f"#{t}") for t in ids)
        values = tuple(float(v) for v in np.nan_to_num(board.acts[i, j, inside]))
        contexts.append(Context(words, values, int(inside[: board.before].sum())))
    promoted = ", ".join(data.words.get(int(t), f"#{t}").strip() for t in board.top_tokens[i][:5])
    facts = [label[1], f"fires on {100 * board.density[i]:.2f} % of {board.n_tokens:,} tokens",
             f"writes towards: {promoted}" if promoted else ""]  # fmt: skip
    heading = f"{label[0]} · " if label[0] else ""
    return Latent(f"{heading}latent {latent} of {board.name}", " · ".join(filter(None, facts)),
                  tuple(contexts))  # fmt: skip


def _of_band(board: LatentDashboard, i: int, band: int) -> list[int]:
    places = np.flatnonzero((board.band == band) & (board.rows[i] >= 0))
    return places[: CONTEXTS - 1 if band == 0 else 1].tolist()


def _below(figure: Any) -> Any:
    figure.update_layout(legend={"orientation": "h", "y": -0.28, "title": {"text": ""}})
    return figure


def _not_evaluated(data: RunData) -> Figure:
    return Figure(
        plots.empty_figure(
            f"{data.folder} was not evaluated",
            next_step=f"lensbench eval sae {quote(str(data.folder))} --store DIR --model M",
        )
    )
