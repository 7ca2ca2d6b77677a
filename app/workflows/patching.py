"""Patching and ablation of a prompt task: from what a user typed or chose to a result.

One request serves the command line and the page, so that they cannot disagree; the page keeps the
last results by their request.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lensbench import prompts
from lensbench.app.workflows.live import running
from lensbench.errors import ConfigError, UnknownNameError
from lensbench.interventions.patching.ablation import ablation_sweep
from lensbench.interventions.patching.result import PatchingResult
from lensbench.interventions.patching.sweep import DIRECTIONS, patch_sweep
from lensbench.interventions.values import ABLATIONS
from lensbench.prompts.pairs import PromptPairs

if TYPE_CHECKING:
    from lensbench.models import Model

HOWS = {
    "denoise": "Denoise: clean states into the corrupted run",
    "noise": "Noise: corrupted states into the clean run",
    "zero": "Ablate: zero",
    "mean": "Ablate: mean over prompts",
    "resample": "Ablate: state of another prompt",
    "solo": "Ablate: token without context",
}
"""Interventions, as a reader is told of them."""
SITES_SHOWN = {
    "resid_pre": "Residual stream, before a block",
    "attn_out": "Output of attention",
    "mlp_out": "Output of the MLP",
    "attn.z": "Heads (all tokens)",
    "attn.pattern": "Attention patterns (all tokens)",
    "attn.v": "Values of heads (all tokens)",
}
METRICS_SHOWN = {
    "logit_diff": "Logit difference",
    "kl": "KL to the clean run",
    "probability": "Probability",
    "rank": "Rank",
    "loss": "Loss",
}
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
    random_patches: int = 16
    batch_size: int = 64
    seed: int = 0


def patch(ask: PatchAsk) -> PatchingResult:
    """Run the sweep.

    Raises:
        ConfigError, UnknownNameError, UnknownSiteError: something that does not fit.
        NotEnoughDataError: a task that this tokenizer cannot express.
    """
    if ask.how not in (*DIRECTIONS, *ABLATIONS):
        raise UnknownNameError("intervention", ask.how, known=(*DIRECTIONS, *ABLATIONS))
    with running(ask.model, ask.revision) as model:
        pairs = pairs_of(model, ask.task, ask.n, ask.seed, ask.pairs)
        where: dict[str, Any] = {
            "metric": ask.metric,
            "layers": numbers(ask.layers, "layers"),
            "heads": each_of(ask.heads, "heads"),
            "dims": numbers(ask.dims, "dims"),
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


def pairs_of(model: "Model", task: str, n: int, seed: int, file: str = "") -> PromptPairs:
    """Pairs of a task of ours, or those of a JSON file (``PromptPairs.to_json``)."""
    if file:
        path = Path(file)
        if not path.is_file():
            raise ConfigError(f"--pairs: there is no file {file}")
        return PromptPairs.from_json(path.read_text(encoding="utf-8"))
    return prompts.TASKS[task](model, n=n, seed=seed)


def numbers(text: str, name: str) -> list[int] | None:
    """``0,3-5`` as ``[0, 3, 4, 5]``; None for nothing.

    Raises:
        ConfigError: anything else.
    """
    found: list[int] = []
    for part in filter(None, re.split(r"[,\s]+", text.strip())):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if match is None:
            raise ConfigError(f"{name} must be numbers such as 0,3-5; got {part!r}")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ConfigError(f"{name}: the range {part} has no number; write {last}-{first}")
        found += range(first, last + 1)
    return found or None


def each_of(text: str, name: str) -> Any:
    """``each``, ``together``, or numbers; ``each`` for nothing."""
    return text if text in ("each", "together") else numbers(text, name) or "each"


def positions_of(text: str) -> Any:
    """``each``, ``together``, or a list of numbers and roles."""
    if text in ("each", "together"):
        return text
    parts = [p for p in re.split(r"[,\s]+", text.strip()) if p]
    return [int(p) if re.fullmatch(r"-?\d+", p) else p for p in parts]


@lru_cache(maxsize=16)
def kept(ask: PatchAsk) -> PatchingResult:
    """The result of a sweep, kept for the page."""
    return patch(ask)


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
        "prompts": result.n,
        "places": len(result.site),
        "clean": float(result.clean.mean()),
        "corrupted": float(result.corrupted.mean()),
        "top": rows,
        "controls": dict(result.controls.values),
    }


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
    arguments = ", ".join(["model", "pairs", repr(list(ask.sites)), f"{word}={ask.how!r}", *named])
    return (
        "import lensbench\nfrom lensbench import interventions, prompts\n\n"
        f"model = lensbench.load_model({ask.model!r})\n"
        f"pairs = prompts.{ask.task}(model, n={ask.n}, seed={ask.seed})\n"
        f"result = interventions.{call}({arguments})\n"
        "result.plot()\n"
    )


def command_of(ask: PatchAsk) -> str:
    """The same on the command line."""
    options = {"model": ask.model, "sites": ",".join(ask.sites), "how": ask.how,
               "metric": ask.metric, "positions": ask.positions}  # fmt: skip
    return f"lensbench patch {ask.task} " + " ".join(f"--{k} {v}" for k, v in options.items() if v)


_CALL = ("metric", "batch_size", "seed")
