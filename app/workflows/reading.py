"""Lenses by names: model, store and text as a user typed them, answers as plain facts."""

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from lensbench import probes
from lensbench.app.workflows.answers import facts_of, rows_of_frame, saved_in
from lensbench.app.workflows.models import open_model
from lensbench.app.workflows.sequences import model_name
from lensbench.app.workflows.unknown import unknown_in
from lensbench.errors import ConfigError, DamagedDataError, MissingDataError
from lensbench.store import open_store

if TYPE_CHECKING:
    from lensbench.models.matrices import Side, Table
    from lensbench.results import Result

LAYERS = ("kl_to_final", "agreement", "target_prob", "target_rank", "entropy")


def read_layers(
    store: Path,
    model: str | None = None,
    *,
    site: str = "resid_post",
    max_tokens: int = 20_000,
    seed: int = 0,
    out: Path | None = None,
) -> dict[str, Any]:
    """The logit lens of every stored layer, beside states shuffled over tokens.

    Raises:
        LensbenchError: see :func:`lensbench.probes.logit_lens`.
    """
    opened = open_store(store)
    name, revision = (model, None) if model else model_name(opened)
    network = open_model(name, revision)
    found = probes.logit_lens(opened, network, site=site, max_tokens=max_tokens, seed=seed)
    frame = found.to_frame()
    wide: Any = frame[frame["states"] == "model"].pivot(
        index="layer", columns="metric", values="value"
    )
    control: Any = frame[(frame["states"] == "shuffled") & (frame["metric"] == "agreement")]
    wide["agreement_shuffled"] = control.set_index("layer")["value"]
    rows = rows_of_frame(wide.reset_index())
    facts = facts_of(network, found, site=site, tokens=found.n_tokens, documents=found.n_docs,
                     layers=rows)  # fmt: skip
    return {**facts, **saved_in(found, out)}


def read_text(
    model: str,
    text: str,
    *,
    at: int = -1,
    k: int = 5,
    tuned: Path | None = None,
    revision: str | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """What every layer would say after one token of a text, by the logit lens or a tuned one.

    Raises:
        ConfigError: a token that is not there, or no text.
        MismatchError: a tuned lens of another model.
        LensbenchError: see :func:`lensbench.probes.states_of_text`.
    """
    opened = open_model(model, revision)
    if not text.strip():
        raise ConfigError("the text is empty; type a few words")
    lens = None if tuned is None else probes.load_tuned_lens(tuned, opened)
    refuse_unknown(opened, text)
    found = probes.states_of_text(opened, opened.tokens(text)).lens(opened, k=k, readout=lens)
    n = len(found.tokens)
    if not -n <= at < n:
        raise ConfigError(f"--at {at}: the text has tokens {-n}..{n - 1}")
    column = at % n
    rows = [
        {"layer": layer,
         "top": ", ".join(word if word.strip() else repr(word) for word in found.top[i][column]),
         "probability": float(found.top_prob[i, column, 0]),
         **{name: float(found.values[j, i, column])
            for j, name in enumerate(("target_prob", "target_rank", "entropy", "kl_to_final"))}}
        for i, layer in enumerate(found.layers)
    ]  # fmt: skip
    facts = facts_of(opened, found, token=found.tokens[column], position=column,
                     unknown=unknown_in(opened, text),
                     target=found.targets[column], layers=rows)  # fmt: skip
    return {**facts, **saved_in(found, out)}


def read_neurons(
    model: str,
    side: str = "down",
    *,
    against: str | None = None,
    table: str = "raw",
    norm: bool = True,
    top: int = 20,
    revision: str | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """The clearest neurons by their weights; with another model, how many decode alike.

    Raises:
        LensbenchError: see :func:`lensbench.probes.decode_neurons`.
    """
    opened = open_model(model, revision)
    how: dict[str, Any] = {"norm": norm, "table": cast("Table", table)}
    found = probes.decode_neurons(opened, cast("Side", side), **how)
    rows = rows_of_frame(found.specialised(0.0).drop(columns=["side"]), top)
    facts = facts_of(opened, found, side=side, neurons=rows) | saved_in(found, out)
    if against is not None:
        other = probes.decode_neurons(open_model(against), cast("Side", side), **how)
        agreement = probes.neuron_agreement(found, other)
        facts["agreement"] = {"against": against, **agreement.summary()}
        facts |= _beside(agreement, out, "agreement")
    return facts


def read_encoder(
    model: str,
    sentences: Sequence[str],
    *,
    tasks: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
    norm: bool = True,
    seed: int = 0,
    revision: str | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """The DecoderLens: what the decoder says of every layer of its encoder.

    Raises:
        LensbenchError: see :func:`lensbench.probes.decoder_lens`.
    """
    opened = open_model(model, revision)
    found = probes.decoder_lens(opened, list(sentences), targets, tasks=tasks, norm=norm, seed=seed)
    facts = facts_of(
        opened, found, sentences=len(sentences), layers=rows_of_frame(found.to_frame())
    )
    return {**facts, **saved_in(found, out)}


def read_tokens(
    model: str,
    prompt: str,
    *,
    targets: int | str = 1,
    methods: Sequence[str] | None = None,
    test: bool = False,
    top: int = 5,
    seed: int = 0,
    revision: str | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """The tokens that each target rests on, by every method; with ``test`` their faithfulness.

    Raises:
        LensbenchError: see :func:`lensbench.probes.attribute_tokens`.
    """
    if not prompt.strip():
        raise ConfigError("the prompt is empty; type a few words")
    opened = open_model(model, revision)
    found = probes.attribute_tokens(opened, prompt, targets, methods=methods, seed=seed)
    frame = found.to_frame()
    kept = frame.take(np.flatnonzero(frame["rank"] <= top)).sort_values(
        ["target_pos", "method", "rank"]
    )
    facts = facts_of(opened, found, targets=[found.tokens[found.start + j] for j in
                     range(len(found.targets))], left_out=found.left_out,
                     tokens=rows_of_frame(kept)) | saved_in(found, out)  # fmt: skip
    if test:
        tested = probes.faithfulness(opened, found, seed=seed)
        facts["faithfulness"] = rows_of_frame(tested.to_frame())
        facts |= _beside(tested, out, "faithfulness")
    return facts


def _beside(result: "Result", out: Path | None, name: str) -> dict[str, str]:
    """A second result of one command, in a folder of its own within that of the first."""
    saved = saved_in(result, None if out is None else out / name)
    return {f"{key}_{name}": where for key, where in saved.items()}


def refuse_unknown(model: Any, text: str) -> None:
    """A text of which the model's vocabulary has no word says nothing about the model.

    Raises:
        ConfigError: every word of it is unknown.
    """
    tokenizer = model.tokenizer
    unknown = getattr(tokenizer, "unk_token_id", None)
    if tokenizer is None or unknown is None:
        return
    ids = tokenizer.encode(text, add_special_tokens=False)
    if ids and all(i == unknown for i in ids):
        raise ConfigError(
            f"{model.card.name} knows no word of {text[:40]!r}; its vocabulary has "
            f"{len(tokenizer)} words. Write with those (for some of the bundled models': lensbench "
            "world sample --out w.jsonl)"
        )


def lines_of(path: Path) -> list[str]:
    """The lines of a text file that are not empty.

    Raises:
        MissingDataError: no such file.
        DamagedDataError: a file that is no text.
        ConfigError: nothing in it.
    """
    return [line for line in _lines(path) if line]


def paired_lines(sentences: Path, targets: Path) -> tuple[list[str], list[str]]:
    """The lines of two files that belong together; a blank line must be one in both.

    Raises:
        ConfigError: more lines in one of them, or a line with nothing beside it.
        LensbenchError: as :func:`lines_of`.
    """
    pairs = list(zip_longest(_lines(sentences), _lines(targets), fillvalue=""))
    for number, (said, right) in enumerate(pairs, start=1):
        if bool(said) != bool(right):
            raise ConfigError(
                f"lines of {sentences} and {targets} belong together, and line {number} is empty "
                f"in {targets if said else sentences} only; give one line per sentence in both"
            )
    kept = [pair for pair in pairs if pair[0]]
    return [said for said, _ in kept], [right for _, right in kept]


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise MissingDataError(f"{path}: no such file; give one sentence per line")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise DamagedDataError(f"{path} is no text in UTF-8 ({error.reason})") from error
    if not any(lines):
        raise ConfigError(f"{path} holds no sentence; give one per line")
    return lines
