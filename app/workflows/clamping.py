"""Clamps by names: neurons, heads while a model learns, directions taken out of the weights."""

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lensbench import interventions, prompts
from lensbench.app.workflows.accelerating import read_prompts
from lensbench.app.workflows.answers import result_facts, rows_of_frame
from lensbench.app.workflows.circuits import CircuitAsk
from lensbench.app.workflows.dictionaries import open_dictionary
from lensbench.app.workflows.live import running
from lensbench.app.workflows.patching import numbers, pairs_of
from lensbench.errors import ConfigError, UnknownNameError
from lensbench.interventions import ClampCopy, ClampMatch, ClampOffset, Direction
from lensbench.results import load
from lensbench.tokens import unknown_words

CLAMPS = {"match": "share", "offset": "offset", "copy": ""}
"""Clamps while a model learns, and what stands behind the = of each."""
_NEURON = re.compile(r"(\d{1,6})\.(\d{1,9})(-?)")
_CLAMP = re.compile(r"(\w+)@(\d{1,6})\.(\d{1,6})(?:=(\S+))?")


def neurons(
    model: str, named: Sequence[str], token: str | int, *, prompt: Sequence[str] = (),
    file: str = "", values: Sequence[float], at: Sequence[str] = (), metric: str = "probability",
    batch_size: int = 64, revision: str | None = None, seed: int = 0, out: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Set neurons at all tokens, and see what becomes of one token's probability.

    Raises:
        LensbenchError: see :func:`lensbench.interventions.neuron_clamps`.
    """
    rows = [_neuron(name) for name in named]
    if bool(prompt) == bool(file):
        raise ConfigError("give --prompt TEXT (repeatable), or --prompts FILE")
    text = list(prompt) or read_prompts(file)
    places: Any = list(at) or None
    with running(model, revision) as opened:
        if isinstance(token, str) and unknown_words(opened.tokenizer, token):
            raise ConfigError(
                f"{model} has no token for {token!r}; name one that it knows, or an id"
            )
        found = interventions.neuron_clamps(
            opened, text, rows, token=token, values=tuple(values), at=places, metric=metric,
            batch_size=batch_size, seed=seed,
        )  # fmt: skip
    return result_facts(model, found, out, token=found.token, neurons=[list(r) for r in rows])


def training(
    clamps: Sequence[str], controls: Sequence[str], *, steps: int, evaluate_every: int,
    held_out: int, batch_size: int, lr: float, layers: int, heads: int, width: int,
    seeds: str, heads_alone: bool = True, out: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train a small model on exemplars, once free and once with each clamp.

    Raises:
        LensbenchError: see :func:`lensbench.interventions.train_clamped`.
    """
    data = interventions.Exemplars()

    def make(seed: int) -> Any:
        return interventions.attention_only(data.d_vocab, n_layers=layers, d_model=width,
                                            n_heads=heads, seed=seed)  # fmt: skip

    if not clamps:
        raise ConfigError(f"say what is clamped: --clamp {_shape()}")
    given = {text: clamp_of(text, layers, heads) for text in clamps}
    beside = {text: clamp_of(text, layers, heads) for text in controls}
    found = interventions.train_clamped(
        make, data, given, controls=beside, steps=steps, batch_size=batch_size, lr=lr,
        evaluate_every=evaluate_every, held_out=held_out, heads_alone=heads_alone,
        seeds=tuple(numbers(seeds, "seeds") or [0]),
    )  # fmt: skip
    facts = result_facts("attention-only", found, out, runs=list(found.runs))
    last = int(found.steps[-1])
    rows = [r for r in facts["rows"] if r["step"] == last and r["head"] < 0]
    return {**facts, "rows": rows, "all_rows": facts["rows"], "of": len(rows)}


def toy(
    factors: str, *, dim: int, lr: float, steps: int, seeds: str, out: Path | None = None
) -> dict[str, Any]:
    """Learn a rank-1 tensor free, and with factors clamped to the truth.

    Raises:
        ConfigError: see :func:`lensbench.interventions.rank_one_training`.
    """
    sets = [part for part in re.split(r"[,\s]+", factors) if part]
    given = tuple(numbers(seeds, "seeds") or [0])
    found = interventions.rank_one_training(sets, dim=dim, lr=lr, steps=steps, seeds=given)
    facts = result_facts("rank-1 tensor", found, out, runs=list(found.runs))
    rows = [r for r in facts["rows"] if r["step"] == int(found.steps[-1])]
    return {**facts, "rows": rows, "all_rows": facts["rows"], "of": len(rows)}


def without_directions(
    ask: CircuitAsk, directions: Sequence[str], *, dictionary: str = "", latents: str = "",
    random: int = 3, out: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Take directions out of the weights; what the task loses, beside random directions.

    Raises:
        ConfigError: no direction, or latents without their dictionary.
        LensbenchError: see :func:`lensbench.interventions.orthogonalised`.
    """
    with running(ask.model, ask.revision) as model:
        chosen = [_direction(name) for name in directions]
        chosen += _latents(model, dictionary, latents)
        if not chosen:
            raise ConfigError(
                "name a direction: --direction FOLDER (as `lensbench steer --out` saves it in "
                "OUT/direction), or --dictionary RUN/NAME --latents 3,17"
            )
        pairs = pairs_of(model, ask.task, ask.n, ask.seed, ask.pairs, ask.several)
        changed = interventions.orthogonalised(model, chosen)
        arms: list[tuple[str, Callable[[], Any]]] = [
            ("as they are", lambda: model), ("without", lambda: changed)
        ]  # fmt: skip
        for i in range(random):
            drawn = [interventions.random_directions(d, random, ask.seed + k)[i]
                     for k, d in enumerate(chosen)]  # fmt: skip
            arms.append(
                (f"without random {i}", lambda d=drawn: interventions.orthogonalised(model, d))
            )
        rows: list[dict[str, Any]] = []
        measure = ""
        for name, make in arms:
            score = prompts.score(make(), pairs, batch_size=ask.batch_size, seed=ask.seed)
            measure = score.measure
            (row, *_) = rows_of_frame(score.to_frame(), 1)
            rows.append({"weights": name, **{k: v for k, v in row.items() if k != "prompts"}})
        saved = {} if out is None else {"saved": _saved(changed, out)}
    null = [row[measure] for row in rows[2:]]
    return {
        "model": ask.model, "task": pairs.task, "directions": [d.label for d in chosen],
        "rows": rows, "of": len(rows),
        "units": {measure: "nats", "accuracy": "share of pairs with the answer above the foil"},
        "summary": {f"{measure}_before": rows[0][measure], f"{measure}_without": rows[1][measure],
                    "pairs": float(len(pairs))},
        "controls": {f"{measure}_random_{i}": v for i, v in enumerate(null)},
        "control": f"{random} random directions of each site, taken out of the weights alike",
        **saved,
    }  # fmt: skip


def clamp_of(text: str, layers: int, heads: int) -> Any:
    """``match@1.0``, ``match@1.0=0.5``, ``offset@0.2=1`` or ``copy@1.0``.

    Raises:
        ConfigError: cannot be read, or a head that the model will not have.
        UnknownNameError: another kind.
    """
    found = _CLAMP.fullmatch(text.strip())
    if found is None:
        raise ConfigError(f"--clamp {text!r} cannot be read; write {_shape()}")
    kind, layer, head, value = found[1], int(found[2]), int(found[3]), found[4]
    if kind not in CLAMPS:
        raise UnknownNameError("clamp", kind, known=tuple(CLAMPS))
    if layer >= layers or head >= heads:
        raise ConfigError(f"{text}: the model has layers 0..{layers - 1} and heads 0..{heads - 1}")
    if value is not None and not CLAMPS[kind]:
        raise ConfigError(f"{text}: {kind} takes no value; write {kind}@{layer}.{head}")
    try:
        if kind == "copy":
            return ClampCopy(layer, head)
        if kind == "offset":
            return ClampOffset(layer, head, 1 if value is None else int(value))
        return ClampMatch(layer, head, 1.0 if value is None else float(value))
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"{text}: the {CLAMPS[kind]} of {kind} is a number; got {value}"
        ) from error


def _shape() -> str:
    return "KIND@LAYER.HEAD, such as match@1.0, match@1.0=0.5, offset@0.2=1 or copy@1.0"


def _neuron(text: str) -> tuple[int, int, int]:
    found = _NEURON.fullmatch(text.strip())
    if found is None:
        raise ConfigError(
            f"--neuron {text!r} cannot be read; write LAYER.NUMBER, such as 2.17 (2.17- sets it to "
            "minus the value)"
        )
    return int(found[1]), int(found[2]), -1 if found[3] else 1


def _direction(folder: str) -> Direction:
    found = load(folder)
    if not isinstance(found, Direction):
        raise ConfigError(f"{folder} holds a {type(found).__name__}, not a direction; use the "
                          "folder OUT/direction of `lensbench steer --out OUT`")  # fmt: skip
    return found


def _latents(model: Any, dictionary: str, latents: str) -> list[Direction]:
    chosen = numbers(latents, "latents") or []
    if bool(dictionary) != bool(chosen):
        raise ConfigError("latents are those of a dictionary: give --dictionary and --latents")
    if not chosen:
        return []
    coder = open_dictionary(dictionary)
    return [interventions.latent_direction(model, coder, i) for i in chosen]


def _saved(model: Any, out: Path) -> str:
    """The weights in hub format; the folder appears whole.

    Raises:
        ConfigError: something is there already.
    """
    if out.exists():
        raise ConfigError(f"--out {out} is there already; a model is saved in a new folder")
    part = out.with_name(f".{out.name}.part")
    try:
        model.module.save_pretrained(part)
        if model.tokenizer is not None:
            model.tokenizer.save_pretrained(part)
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return str(out)
