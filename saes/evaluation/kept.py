"""Where the evaluation of a run lies: in the one folder that pages, reports and commands read.

``RUN/evaluation``, beside the folders of the dictionaries. ``saes.evaluate(..., save=True)`` and
``lensbench eval sae`` write it, ``saes.open_evaluation`` reads it.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lensbench.errors import ConfigError, DamagedDataError, MissingDataError
from lensbench.results import load
from lensbench.saes.evaluation.result import SAEEvaluation

FOLDER = "evaluation"
Place = str | os.PathLike[str]


def run_folder(dictionary: Any) -> Path | None:
    """The run folder of a trained dictionary; None where it lies in none.

    A run that was trained as an array (``RUN/part-0/NAME``) is the folder of its parts.
    """
    folder = str(getattr(dictionary, "folder", "") or "")
    if not folder:
        return None
    run = Path(folder).parent
    return run.parent if run.name.startswith("part-") else run


def find_evaluation(run: Path) -> SAEEvaluation | None:
    """The evaluation that is kept in a run folder; None where there is none.

    Raises:
        DamagedDataError: what lies there is something else.
    """
    folder = run / FOLDER
    if not (folder / "result.json").is_file():
        return None
    found = load(folder)
    if not isinstance(found, SAEEvaluation):
        raise DamagedDataError(f"{folder} holds a {found.kind}, not an SAEEvaluation")
    return found


def open_evaluation(run: Any) -> SAEEvaluation:
    """The evaluation of a run: of its folder, or of a dictionary that lies in one.

    Raises:
        MissingDataError: the run was not evaluated; says how to.
        ConfigError: neither a folder nor a dictionary of a run.

    Example:
        >>> made = saes.train(
        ...     store,
        ...     {
        ...         "train": {"tokens": 2048, "batch": 256},
        ...         "sweep": [
        ...             {"architecture": "topk", "d_sae": 64, "k": 8, "site": "blocks.3.resid_post"}
        ...         ],
        ...     },
        ...     out="measured",
        ...     progress=False,
        ... )
        >>> kept = saes.evaluate(made, store, config={"max_tokens": 1000}, save=True)
        >>> saes.open_evaluation("measured") == kept
        True
    """
    folder = Path(run) if isinstance(run, (str, os.PathLike)) else run_folder(run)
    if folder is None:
        raise ConfigError(
            "an evaluation is opened by the folder of a run or a dictionary that lies in one, got "
            f"a {type(run).__name__}"
        )
    found = find_evaluation(folder)
    if found is None:
        raise MissingDataError(
            f"{folder} was not evaluated; do: saes.evaluate(saes.open_runs({str(folder)!r}), "
            f"store, model, save=True), or: lensbench eval sae {folder} --store DIR --model M"
        )
    return found


def place_to_keep(
    dictionaries: Sequence[Any], save: bool | Place | Any, *, overwrite: bool = False
) -> Path | None:
    """Where an evaluation of these is to be kept; None where it is not.

    Raises:
        ConfigError: dictionaries of no run or of several, or an evaluation is there already.
    """
    if save is False:
        return None
    if save is True:
        run = _one_run(dictionaries)
    elif isinstance(save, (str, os.PathLike)):
        run = Path(save)
    else:
        raise ConfigError(f"save must be True, False or the folder of a run, got {save!r}")
    if not overwrite:
        refuse_to_replace(run)
    return run / FOLDER


def refuse_to_replace(run: Path) -> None:
    """An evaluation costs time, and the new one may hold less (no CE, fewer tokens).

    Raises:
        ConfigError: there is one; says what it holds.
    """
    found = find_evaluation(run)
    if found is None:
        return
    scored = f"{found.n_scored:,} predicted tokens" if found.n_scored else "no CE"
    raise ConfigError(
        f"{run / FOLDER} already holds an evaluation: {len(found.names)} dictionaries on "
        f"{found.n_tokens:,} tokens, {scored} ({', '.join(found.metrics)}), controls: "
        f"{found.controls}. Pass --overwrite to replace it (in Python: overwrite=True), or move "
        "that folder away first"
    )


def known_latents(evaluation: SAEEvaluation, name: str) -> Mapping[str, Any]:
    """Of a dictionary: ``density`` of every latent, and ``labels`` by latent in words.

    A label is told with the F1 of its best latent and the strongest control of that.
    """
    density = evaluation.density.get(name)
    labels: dict[int, str] = {}
    if evaluation.labels:
        from lensbench.saes.evaluation.labels_table import best_of_latents

        best = best_of_latents(evaluation.labels_frame(), name)
        rows: Iterable[Any] = best.itertuples(index=False)
        labels = {
            int(row.latent): f"{row.label} (F1 {row.f1:.2f}, control {row.control:.2f})"
            for row in rows
        }
    return {"density": density, "labels": labels, "n_tokens": evaluation.n_tokens}


def _one_run(dictionaries: Sequence[Any]) -> Path:
    folders = {run_folder(one) for one in dictionaries}
    if len(folders) == 1 and (only := next(iter(folders))) is not None:
        return only
    told = ", ".join(sorted(str(folder or "none") for folder in folders))
    raise ConfigError(
        "save=True keeps an evaluation in the folder of the run that the dictionaries are of; "
        f"these are of {told}. Say where: save=FOLDER (of a run, so that pages find it there)"
    )
