"""Patching and ablation of a prompt task: from what a user typed or chose to a result.

One request serves the command line and the page, so that they cannot disagree; the page keeps the
last results by their request.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import numpy as np

from lensbench import io, prompts
from lensbench.app.workflows.live import Shelf, running
from lensbench.app.workflows.own_pairs import Rows, own_pairs, texts_code
from lensbench.app.workflows.patch_names import HOWS as HOWS
from lensbench.app.workflows.patch_names import METRICS_SHOWN as METRICS_SHOWN
from lensbench.app.workflows.patch_names import SITES_SHOWN as SITES_SHOWN
from lensbench.app.workflows.typed_files import utf8
from lensbench.errors import ConfigError, LensbenchError, UnknownNameError
from lensbench.interventions.patching.ablation import ablation_sweep
from lensbench.interventions.patching.result import PatchingResult
from lensbench.interventions.patching.sweep import DIRECTIONS, patch_sweep
from lensbench.interventions.values import ABLATIONS
from lensbench.prompts.pairs import PromptPairs
from lensbench.prompts.several import known_several
from lensbench.results import Result
from lensbench.sites import Site

if TYPE_CHECKING:
    from lensbench.models import Model

TASKS = tuple(prompts.TASKS)


@dataclass(frozen=True)
class PatchAsk:
    """A sweep: which task on which model, what is patched where, and what is measured."""

    task: str
    model: str = "atlas-dense"
    revision: str | None = None
    sites: tuple[str, ...] = ("resid_pre",)
    how: str = "denoise"
    metric: str = "logit_diff"
    layers: str = ""
    positions: str = ""
    heads: str = "each"
    dims: str = ""
    pairs: str = ""
    """A JSON file of pairs instead of a task of ours."""
    n: int = 32
    random_patches: int = 20
    batch_size: int = 64
    seed: int = 0
    several: str = ""
    """``sum``, ``first`` or ``refuse``; empty: as the task or the file says."""
    subspace: str = ""
    """A safetensors file, or the folder of an ``AlignedSubspace``; empty: whole vectors."""
    own: Rows = ()
    """Pairs that were typed: clean, corrupted, answer, foil of each."""


def patch(ask: PatchAsk) -> PatchingResult:
    """Run the sweep.

    Raises:
        ConfigError, UnknownNameError, UnknownSiteError: something that does not fit.
        NotEnoughDataError: a task that this tokenizer cannot express.
    """
    if ask.how not in (*DIRECTIONS, *ABLATIONS):
        raise UnknownNameError("intervention", ask.how, known=(*DIRECTIONS, *ABLATIONS))
    with running(ask.model, ask.revision) as model:
        pairs = pairs_for(model, ask)
        where: dict[str, Any] = {
            "metric": ask.metric,
            "layers": numbers(ask.layers, "layers"),
            "heads": each_of(ask.heads, "heads"),
            "dims": numbers(ask.dims, "dims"),
            "subspace": subspace_of(ask.subspace) if ask.subspace else None,
            "batch_size": ask.batch_size,
            "seed": ask.seed,
        }
        if ask.positions:
            where["positions"] = positions_of(ask.positions)
        if ask.how in DIRECTIONS:
            direction: Any = ask.how
            return patch_sweep(
                model, pairs, ask.sites, direction=direction,
                random_patches=ask.random_patches, **where,
            )  # fmt: skip
        how: Any = ask.how
        return ablation_sweep(model, pairs, ask.sites, how=how, **where)


def pairs_for(model: "Model", ask: PatchAsk) -> PromptPairs:
    """The pairs of a request: typed ones, or as :func:`pairs_of`."""
    if ask.own:
        return own_pairs(model, ask.own)
    return pairs_of(model, ask.task, ask.n, ask.seed, ask.pairs, ask.several)


def pairs_of(
    model: "Model", task: str, n: int, seed: int, file: str = "", several: str = ""
) -> PromptPairs:
    """Pairs of a task of ours, or those of a JSON file (``PromptPairs.to_json``).

    Raises:
        ConfigError: no such file; answers of several tokens with ``several="refuse"``.
        UnknownNameError: no such task, or another word for ``several``.
    """
    pairs = _read(file) if file else prompts.TASKS[task](model, n=n, seed=seed)
    return pairs.scored(known_several(several)) if several else pairs


def _read(file: str) -> PromptPairs:
    path = Path(file)
    if not path.is_file():
        raise ConfigError(f"--pairs: there is no file {file}")
    return PromptPairs.from_json(utf8(path))


def subspace_of(file: str) -> Any:
    """Directions of a safetensors file: its ``directions``, or those of every site by name.

    Raises:
        MissingDataError: no such file.
        DamagedDataError: not one of safetensors.
        ConfigError: tensors of other names.
    """
    path = Path(file)
    found = io.read_arrays(path / "arrays.safetensors" if path.is_dir() else path)
    if "directions" in found:
        return found["directions"]
    try:
        return {Site.parse(name): rows for name, rows in found.items()}
    except LensbenchError as error:
        raise ConfigError(
            f"--subspace: {file} must hold a tensor 'directions' [k, d], or one for each site by "
            f"its name, such as 'blocks.3.resid_pre'; it holds {', '.join(sorted(found)[:6])}"
        ) from error


MOST_NUMBERS = 1_000_000
"""Most numbers that a text may list: more than any model has layers, heads or dimensions."""


def numbers(text: str, name: str) -> list[int] | None:
    """``0,3-5`` as ``[0, 3, 4, 5]``; None for nothing.

    Raises:
        ConfigError: anything else, or a range of more than :data:`MOST_NUMBERS`.
    """
    found: list[int] = []
    for part in _items(text, name, "0,3-5"):
        match = re.fullmatch(r"(\d{1,18})(?:-(\d{1,18}))?", part)
        if match is None:
            raise ConfigError(f"{name} must be numbers such as 0,3-5; got {part[:40]!r}")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ConfigError(f"{name}: the range {part} has no number; write {last}-{first}")
        if len(found) + last - first >= MOST_NUMBERS:
            raise ConfigError(
                f"{name}: {part} is {last - first + 1} numbers, and at most {MOST_NUMBERS} can be "
                "listed; name those that the model has"
            )
        found += range(first, last + 1)
    return found or None


def _items(text: str, name: str, example: str) -> list[str]:
    """What stands between commas and spaces; nothing for nothing."""
    if not text.strip():
        return []
    parts = [part.split() for part in text.split(",")]
    if [] in parts:
        raise ConfigError(
            f"{name}: {text!r} has nothing between or beside its commas; write it as {example}, or "
            f"leave {name} out"
        )
    return [item for part in parts for item in part]


def each_of(text: str, name: str) -> Any:
    """``each``, ``together``, or numbers; ``each`` for nothing."""
    return text if text in ("each", "together") else numbers(text, name) or "each"


def positions_of(text: str) -> Any:
    """``each``, ``together``, or a list of numbers and roles."""
    if text in ("each", "together"):
        return text
    parts = _items(text, "positions", "subject,end")
    return [int(p) if re.fullmatch(r"-?\d{1,18}", p) else p for p in parts]


def kept(ask: PatchAsk) -> PatchingResult:
    """The result of a sweep, kept for the page."""
    return _results.get(ask, lambda: patch(ask))


def keep(ask: PatchAsk, result: PatchingResult | None) -> None:
    """Take the result of a sweep that a job has made; None: forget it."""
    if result is None:
        _results.drop(ask)
    elif _results.peek(ask) is not result:
        _results.put(ask, result)


def facts(result: PatchingResult, top: int = 10) -> dict[str, Any]:
    """What the command line says of a result."""
    rows = [
        {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in row.items()}
        for row in result.top(top).drop(columns="kind").to_dict("records")
    ]
    for row in rows:
        for name in ("head", "dim", "layer"):
            if row[name] == -1:
                del row[name]
        if not row["position"]:
            row["position"] = "all"
    return {
        "task": result.task,
        "intervention": result.intervention,
        "metric": result.metric,
        "unit": "0 = corrupted, 1 = clean",
        **({"subspace": result.config["subspace"]} if "subspace" in result.config else {}),
        "prompts": result.n,
        "places": len(result.site),
        "clean": float(result.clean.mean()),
        "corrupted": float(result.corrupted.mean()),
        "top": rows,
        "controls": dict(result.controls.values),
        **scoring_of(result),
    }


def scoring_of(result: Result) -> dict[str, Any]:
    """How answers of several tokens were scored, where there were such."""
    return {k: result.config[k] for k in _SCORING if k in result.config}


def scoring_told(told: Mapping[str, Any]) -> str:
    """The same as a sentence; empty where every answer is one token."""
    if "several" not in told:
        return ""
    first = told["several"] == "first"
    how = "the first token alone" if first else "the sum of log-probabilities"
    return (
        f"answers: {told['pairs_of_several_tokens']} of {told['prompts']} pairs have an answer or "
        f"foil of several tokens, scored by {how}"
    )


def python_of(ask: PatchAsk) -> str:
    """The code that makes the same result in a notebook."""
    named = [f"{f.name}={getattr(ask, f.name)!r}" for f in fields(ask) if f.name in _CALL
             and getattr(ask, f.name) != f.default]  # fmt: skip
    more: Mapping[str, Sequence[Any] | str | None] = {
        "layers": numbers(ask.layers, "layers"),
        "positions": positions_of(ask.positions) if ask.positions else None,
        "heads": None if ask.heads == "each" else each_of(ask.heads, "heads"),
        "dims": numbers(ask.dims, "dims"),
    }
    named += [f"{name}={value!r}" for name, value in more.items() if value is not None]
    call, word = (
        ("patch_sweep", "direction") if ask.how in DIRECTIONS else ("ablation_sweep", "how")
    )
    scored = f".scored({ask.several!r})" if ask.several else ""
    arguments = ", ".join(["model", "pairs", repr(list(ask.sites)), f"{word}={ask.how!r}", *named])
    made = texts_code(ask.own) or (
        f"pairs = prompts.{ask.task}(model, n={ask.n}, seed={ask.seed}){scored}\n"
    )
    return (
        "import lensbench\nfrom lensbench import interventions, prompts\n\n"
        f"model = lensbench.load_model({ask.model!r})\n"
        f"{made}"
        f"result = interventions.{call}({arguments})\n"
        "result.plot()\n"
    )


def command_of(ask: PatchAsk) -> str:
    """The same on the command line."""
    options = {
        "model": ask.model, "sites": ",".join(ask.sites), "how": ask.how, "metric": ask.metric,
        "positions": ask.positions, "several": ask.several, "subspace": ask.subspace,
    }  # fmt: skip
    what = "--pairs pairs.json" if ask.own else f"{ask.task} --n {ask.n} --seed {ask.seed}"
    return f"lensbench patch {what} " + " ".join(
        f"--{k} {quote(str(v))}" for k, v in options.items() if v
    )


_results: "Shelf[PatchingResult]" = Shelf(16)
_SCORING = ("several", "pairs_of_several_tokens")
_CALL = ("metric", "batch_size", "seed")
