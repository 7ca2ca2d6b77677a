"""Two runs, or two dictionaries, side by side: what was asked for, what they reach, and on what.

The order is that of a reader who wants to know why two numbers differ: settings first, then whether
the numbers may be compared at all, then the numbers with their controls.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lensbench import io
from lensbench.app.workflows.curves import flat, settings_of, spelled
from lensbench.app.workflows.runs import evaluation_of, parts_of, run_row, sound_parts
from lensbench.app.workflows.sections import short_names
from lensbench.errors import UnknownNameError
from lensbench.saes.evaluation.result import SAEEvaluation
from lensbench.saes.evaluation.seen import UNKNOWN, disclosure, text_trained_on
from lensbench.saes.runs import CONFIG_FILE, UNITS, read_history, read_status

ABSENT, UNTOLD = "absent", "not recorded"
TRAINING, EVALUATION = "last steps of training", "evaluation"
METRICS = {
    "l0": "L0", "fvu": "FVU", "ce_recovered_zero": "CE recovered",
    "kl_recovered_zero": "KL recovered", "cosine": "Cosine", "dead_fraction": "Dead fraction",
    "F1": "Label F1", "loss": "Loss",
}  # fmt: skip
"""Metrics that are compared, as people call them; ``F1`` is a mean over labels."""
SAID = {"dictionary": "dictionary", "random_dictionary": "random dictionary",
        "mean_activation": "mean activation", "reinitialised_twin": "reinitialised twin",
        "always_on": "always on", "current_token": "current token",
        "shuffled_labels": "shuffled labels"}  # fmt: skip
"""Sources of a number, in words."""
_COLUMNS = ["side", "dictionary", "metric", "source", "value", "low", "high", "n", "unit",
            "measured by"]  # fmt: skip


@dataclass(frozen=True)
class Side:
    """One side of a comparison: a run, and one of its dictionaries (empty: all of them)."""

    run: Path
    name: str
    dictionary: str = ""

    @property
    def names(self) -> list[str]:
        """The dictionaries that are compared, in the order of the sweep."""
        return [self.dictionary] if self.dictionary else dictionaries(self.run)


def dictionaries(run: Path) -> list[str]:
    """Every dictionary of a run and of its parts, finished or not."""
    return [str(n) for part in sound_parts(run) for n in read_status(part)["dictionaries"]]


def sides(one: Path, other: Path, first: str = "", second: str = "") -> tuple[Side, Side]:
    """Both sides with names that tell them apart.

    Raises:
        MissingDataError: no run there.
        UnknownNameError: a run has no such dictionary.
    """
    for run, wanted in ((one, first), (other, second)):
        known = dictionaries(run)
        if wanted and wanted not in known:
            raise UnknownNameError("dictionary", wanted, known=known)
    short = short_names([n for n in (first, second) if n])
    tries = (
        (one.name, other.name),
        (f"{one.parent.name}/{one.name}", f"{other.parent.name}/{other.name}"),
        (short.get(first, first), short.get(second, second)),
        (f"A: {one.name}", f"B: {other.name}"),
    )
    left, right = next(pair for pair in tries if len({*pair, ""}) == 3)
    return Side(one, left, first), Side(other, right, second)


def compare_runs(one: Path, other: Path, first: str = "", second: str = "") -> dict[str, Any]:
    """Everything that two runs differ in, as one JSON-able document.

    ``first`` and ``second`` name one dictionary of each; the two runs may be the same folder then.

    Raises:
        MissingDataError: no run there.
        UnknownNameError: a run has no such dictionary.
    """
    left, right = sides(one, other, first, second)
    held = compared(left, right)
    numbers = held.numbers.astype(object)
    return {
        "one": {"run": str(one), "name": left.name, "dictionary": first},
        "other": {"run": str(other), "name": right.name, "dictionary": second},
        "settings": held.settings.to_dict("records"),
        "not_comparable": held.reasons,
        "trained_on": held.trained_on,
        "reached": numbers.where(numbers.notna(), None).to_dict("records"),
        "provenance": held.provenance.to_dict("records"),
    }


@dataclass(frozen=True)
class Comparison:
    """What a page shows of two sides, read once."""

    settings: pd.DataFrame
    reasons: list[str]
    trained_on: dict[str, str]
    numbers: pd.DataFrame
    provenance: pd.DataFrame


def compared(left: Side, right: Side) -> Comparison:
    """Settings, comparability, numbers and provenance of two sides."""
    return Comparison(settings(left, right), not_comparable(left, right), trained_on(left, right),
                      reached(left, right), provenance(left, right))  # fmt: skip


def settings(left: Side, right: Side) -> pd.DataFrame:
    """Settings in which the two differ, one row each; ``absent`` where one has no such key."""
    a, b = _settings(left), _settings(right)
    keys = [k for k in dict.fromkeys([*a, *b]) if a.get(k, ABSENT) != b.get(k, ABSENT)]
    return _facts("setting", keys, a, b)


def provenance(left: Side, right: Side) -> pd.DataFrame:
    """Where both come from: code, packages, model, store, text, seed, device, time."""
    a, b = _origin(left), _origin(right)
    frame = _facts("fact", list(dict.fromkeys([*a, *b])), a, b)
    same = ["yes" if a.get(k) == b.get(k) else "no" for k in frame["fact"]]
    return frame.assign(same=same)


def not_comparable(left: Side, right: Side) -> list[str]:
    """Reasons why a difference of two numbers is not one of the dictionaries; empty is best."""
    a, b = _origin(left), _origin(right)
    told: list[str] = []
    for fact, why in (
        ("model", "they read another model"),
        ("site", "they read another site"),
        ("measured by", "one was evaluated, the other has only means over its training"),
        ("evaluation store", "they were evaluated on other rows"),
        ("evaluation tokens", "they were evaluated on another number of tokens"),
        ("evaluation seed", "their evaluations drew other tokens and controls"),
    ):
        ours, theirs = a.get(fact, ABSENT), b.get(fact, ABSENT)
        if ABSENT not in (ours, theirs) and ours != theirs:
            told.append(f"{why}: {spelled(ours)} and {spelled(theirs)}")
    if a.get("text") == UNTOLD or b.get("text") == UNTOLD:
        told.append("nothing tells on which text one of them was trained")
    elif a.get("text") != b.get("text"):
        told.append(f"they were trained on another text: {a['text']} and {b['text']}")
    if a["measured by"] == b["measured by"] == TRAINING:
        told.append("neither was evaluated: the numbers are means over the last steps of training, "
                    "without controls")  # fmt: skip
    seen = trained_on(left, right)
    if len(set(seen.values())) > 1:
        told.append("; ".join(f"{name}: {words}" for name, words in seen.items()))
    return told


def trained_on(left: Side, right: Side) -> dict[str, str]:
    """Per evaluated side, in words: whether it is scored on what it was trained on."""
    told: dict[str, str] = {}
    for side in (left, right):
        result = evaluation_of(side.run)
        if result is not None:
            known = {n: result.seen.get(n, UNKNOWN) for n in side.names if n in result.names}
            told[side.name] = disclosure(known)
    return {name: words for name, words in told.items() if words}


def reached(left: Side, right: Side) -> pd.DataFrame:
    """One row per side, dictionary, metric and source: value, 95 % interval, n, unit, where from.

    Source ``dictionary`` is the dictionary; every other source is a control. Of a run that was not
    evaluated the last logged means of training, without interval or control.
    """
    frame = pd.DataFrame([row for side in (left, right) for row in _reached(side)],
                         columns=_COLUMNS)  # fmt: skip
    frame.attrs["units"] = {"value": "as the column unit says"}
    return frame


def _reached(side: Side) -> Iterator[dict[str, Any]]:
    result = evaluation_of(side.run)
    if result is not None and set(side.names) & set(result.names):
        frame = result.to_frame()
        kept = frame["metric"].isin(list(METRICS)) & frame["name"].isin(side.names)
        kept &= frame["measure"].isin(["core", "labels"])
        for row in frame.loc[kept].to_dict("records"):
            yield {
                "side": side.name, "dictionary": row["name"], "metric": METRICS[row["metric"]],
                "source": SAID.get(row["source"], str(row["source"]).replace("_", " ")),
                **{k: row[k] for k in ("value", "low", "high", "n", "unit")},
                "measured by": f"{EVALUATION} on {result.n_tokens:,} tokens",
            }  # fmt: skip
        return
    for part in sound_parts(side.run):
        for name in (n for n in read_status(part)["dictionaries"] if n in side.names):
            last = (read_history(part / name) or [{}])[-1]
            for metric in (m for m in METRICS if m in last):
                yield {
                    "side": side.name, "dictionary": name, "metric": METRICS[metric],
                    "source": "dictionary", "value": last[metric], "unit": UNITS[metric],
                    "measured by": TRAINING,
                }  # fmt: skip


def _settings(side: Side) -> dict[str, Any]:
    """What was asked for: of a run its sweep, of a dictionary its own settings and the training."""
    asked = settings_of(side.run)
    path = folder_of(side) / CONFIG_FILE
    if not side.dictionary or not path.is_file():
        return asked
    shared = {k: v for k, v in asked.items() if not k.startswith("sweep")}
    own = {k: v for k, v in flat(io.read_json(path)).items() if k != "name"}
    return own | shared


def folder_of(side: Side) -> Path:
    """Where the first compared dictionary of a side lies."""
    wanted = side.names[0] if side.names else ""
    parts = parts_of(side.run)
    return next((p / wanted for p in parts if (p / wanted).is_dir()), parts[0] / wanted)


def _origin(side: Side) -> dict[str, Any]:
    """Facts of a run, of its training text, and of its evaluation where there is one."""
    part, row = parts_of(side.run)[0], run_row(side.run)
    path = part / "provenance.json"
    told: dict[str, Any] = io.read_json(path) if path.is_file() else {}
    model: dict[str, Any] = told.get("model") or {}
    asked = settings_of(side.run)
    facts: dict[str, Any] = {
        "state": row["state"],
        "started": str(row["started"]),
        "code version": told.get("git") or UNTOLD,
        **{f"{package} version": version for package, version in
           (told.get("versions") or {}).items()},
        "python": told.get("python") or UNTOLD,
        "device": told.get("device") or UNTOLD,
        "model": " ".join(str(v) for k in ("name", "fingerprint") if (v := model.get(k))) or UNTOLD,
        "site": ", ".join(sorted(_sites(asked))),
        "store": str(asked.get("source.store") or UNTOLD),
        "text": text_trained_on(folder_of(side)) or UNTOLD,
        "seed": ", ".join(sorted({spelled(v) for k, v in _settings(side).items()
                                  if k.rpartition(".")[2] == "seed"})),
        "measured by": TRAINING,
    }  # fmt: skip
    result = evaluation_of(side.run)
    return facts if result is None else facts | _of_evaluation(result)


def _sites(asked: Mapping[str, Any]) -> set[str]:
    """Sites a run reads, wherever its file names them: one, or a list that is a grid."""
    named = [v for k, v in asked.items() if k.endswith("site") and v]
    return {str(one) for v in named for one in (v if isinstance(v, (list, tuple)) else (v,))}


def _of_evaluation(result: SAEEvaluation) -> dict[str, Any]:
    return {
        "measured by": EVALUATION,
        "evaluation store": result.provenance.store or UNTOLD,
        "evaluation tokens": f"{result.n_tokens:,} of {result.n_documents:,} documents",
        "evaluation seed": result.config.get("seed", UNTOLD),
        "evaluation code version": result.provenance.git or UNTOLD,
        "evaluation device": result.provenance.device,
    }


def _facts(what: str, keys: list[str], *values: dict[str, Any]) -> pd.DataFrame:
    rows = [[k, *(spelled(v[k]) if k in v else ABSENT for v in values)] for k in keys]
    return pd.DataFrame(rows, columns=[what, "one", "other"])
