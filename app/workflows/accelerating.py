"""``lensbench accelerate``: the acceleration study, from what a user typed to a result."""

import json
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lensbench.app.workflows.answers import facts_of, saved_in
from lensbench.app.workflows.method_calls import methods_of
from lensbench.app.workflows.models import open_model
from lensbench.app.workflows.texts import find_text
from lensbench.app.workflows.typed_files import is_there, utf8
from lensbench.errors import ConfigError, DamagedDataError, MismatchError, MissingDataError
from lensbench.interventions.acceleration.study.layer_times import time_layers
from lensbench.interventions.acceleration.study.own import capture_own, why_inexact
from lensbench.interventions.acceleration.study.study import AccelerationStudy, acceleration_study
from lensbench.store.manifest import MANIFEST

if TYPE_CHECKING:
    from lensbench.models import Model
    from lensbench.store import ActivationStore

BEGINNINGS, BEGINNING = 8, 8
"""Texts of a store that are continued where nothing else is said, and most tokens of each."""


@dataclass(frozen=True)
class AccelerateAsk:
    """A model, the texts to predict from, methods, and whether to run them."""

    model: str
    revision: str | None = None
    store: str = ""
    prompts: str = ""
    """A file with a prompt per line, ``.jsonl`` with a "prompt" or "text" field, ``atlas:N``, or
    the folder of a store, the beginnings of whose texts are continued."""
    methods: str = ""
    """Names, or calls such as ``fixed_exit(exit_layer=2, draft=2|4)``; empty: all of them."""
    new_tokens: int = 48
    keep: str = ""
    """Folder of the store that is captured from prompts; empty: it is thrown away."""
    live: bool = False
    calibrate: bool = False
    texts: int | None = None
    """First texts of the store or prompts that count; None: all."""
    repeats: int = 1
    proxy: bool = False


def accelerate(ask: AccelerateAsk) -> tuple["Model", AccelerationStudy]:
    """Capture where prompts are given, predict, and verify where asked.

    Raises:
        ConfigError: no text or two, a setting out of range, a model whose layers cannot be run one
            by one, a prompt that does not fit into the context.
        MismatchError: a store of other text than the model's own; says how to capture that.
        MissingDataError: no such model, store or file, or a store without the stream of a layer.
        UnknownNameError: no such method or setting.
    """
    if bool(ask.store) == bool(ask.prompts):
        what = "both" if ask.store else "neither"
        raise ConfigError(
            f"give one of --store (a captured store) and --prompts (a file; the model continues "
            f"them and that is captured), got {what}"
        )
    if ask.keep and ask.store:
        raise ConfigError("--keep names the store that --prompts captures; leave it out")
    if ask.texts is not None and ask.texts < 1:
        raise ConfigError(f"--texts must be at least 1, got {ask.texts}")
    model = open_model(ask.model, ask.revision)
    chosen = methods_of(ask.methods, model.n_layers)
    with _store_of(ask, model) as store:
        found = acceleration_study(
            model, store, chosen, exact=not ask.proxy, max_tokens=_rows_of(store, ask)
        )
        found = timed(found, model) if ask.live or ask.calibrate else found
        return model, found.verify(model, repeats=ask.repeats) if ask.live else found


@contextmanager
def _store_of(ask: AccelerateAsk, model: "Model") -> "Generator[ActivationStore]":
    """The store asked for, or one of the prompts' continuations for as long as it is needed."""
    if ask.store:
        from lensbench.store import open_store

        store = open_store(ask.store)
        store.check_model(model.card)
        why = why_inexact(store, model).partition(". Capture")[0]
        if why and not ask.proxy:
            raise MismatchError(
                f"an exact prediction is not possible: {why}. Give --prompts FILE instead: the "
                "model continues each prompt and that is captured (--keep FOLDER keeps it); or "
                "--proxy, to predict as if the text were the model's own"
            )
        yield store
        return
    prompts = _prompts_for(ask, model)
    if ask.keep:
        yield capture_own(model, prompts, ask.keep, ask.new_tokens)
        return
    with tempfile.TemporaryDirectory(prefix="lensbench-own-") as folder:
        yield capture_own(model, prompts, Path(folder) / "own", ask.new_tokens)


def write_own(ask: AccelerateAsk, progress: Callable[..., Any] | None = None) -> dict[str, Any]:
    """Let the model continue the prompts into ``ask.keep``, and stop there.

    Raises:
        ConfigError: no prompts, or no folder to keep their continuations in.
        LensbenchError: as :func:`accelerate`.
    """
    if not (ask.prompts and ask.keep):
        raise ConfigError("--text-only writes the text of --prompts into --keep; give both")
    model = open_model(ask.model, ask.revision)
    prompts = _prompts_for(ask, model)
    if progress is not None:
        progress(f"{ask.model} continues {len(prompts)} texts by {ask.new_tokens} tokens each")
    store = capture_own(model, prompts, ask.keep, ask.new_tokens)
    return {"model": model.card.name, "texts": len(prompts), "new_tokens": ask.new_tokens,
            "tokens": store.n_tokens, "store": str(store.url)}  # fmt: skip


def _prompts_for(ask: AccelerateAsk, model: "Model") -> list[Any]:
    folder = Path(ask.prompts)
    if not (folder / MANIFEST).is_file():
        return list(read_prompts(ask.prompts)[: ask.texts])
    from lensbench.store import open_store

    store = open_store(folder)
    store.check_model(model.card)
    return list(beginnings(store, ask.texts or BEGINNINGS))


def beginnings(store: "ActivationStore", n: int = BEGINNINGS) -> list[list[int]]:
    """The first tokens of the first texts of a store, as the model saw them.

    Raises:
        ConfigError: the store has no token.
    """
    docs = store.index().doc_ids
    firsts = [int(i) for i in np.flatnonzero(np.diff(docs, prepend=-1))][:n]
    if not firsts:
        raise ConfigError(f"the store in {store.url} holds no token yet")
    found: list[list[int]] = []
    for first in firsts:
        whole = store.sequence_of(first)
        ids = whole.tokens.ids[0].numpy()[whole.doc_ids[0] == docs[first]]
        found.append([int(i) for i in ids[: max(1, min(BEGINNING, len(ids) // 2))]])
    return found


def read_prompts(name: str) -> list[str]:
    """Prompts of a file, or the first halves of ``atlas:N`` held-out documents.

    Raises:
        MissingDataError: no such file.
        DamagedDataError: a line that is no JSON with a prompt.
        ConfigError: no prompt in it.
    """
    path = Path(name)
    if not path.exists() and name.startswith("atlas:"):
        spec = name if name.count(":") > 1 else f"{name}:heldout:1"
        return [" ".join(t.split()[: max(1, len(t.split()) // 2)]) for t in find_text(spec).texts()]
    if not is_there(path):
        what = "is a folder" if path.is_dir() else "does not exist"
        raise MissingDataError(
            f"--prompts {name}: {what}; give a text file with a prompt per line (- for stdin), a "
            '.jsonl file with a "prompt" field, atlas:N, or a store'
        )
    lines = [line.strip() for line in utf8(path).splitlines()]
    found = [line for line in lines if line]
    if path.suffix == ".jsonl":
        found = [_field(path, number, line) for number, line in enumerate(found, 1)]
    if not found:
        raise ConfigError(f"--prompts: {name} has no prompt")
    return found


def _field(path: Path, number: int, line: str) -> str:
    try:
        row = json.loads(line)
        text = row.get("prompt", row.get("text"))
    except (ValueError, AttributeError) as error:
        raise DamagedDataError(f"{path}: line {number} is no JSON object") from error
    if not isinstance(text, str):
        raise DamagedDataError(f'{path}: line {number} has no "prompt" and no "text"')
    return text


def timed(found: AccelerationStudy, model: "Model", repeats: int = 5) -> AccelerationStudy:
    """The same predictions, with times of layers on this machine."""
    texts = list(found.table.documents())
    settings = [m.config() for m in found.methods]
    drafts = [int(s.get("draft") or s.get("most") or s.get("gamma_max") or 1) for s in settings]
    room = max(d.n_prompt + d.n_new for d in texts)
    times = time_layers(
        model, room, most_tokens=min(max(drafts) + 1, room - 1), repeats=repeats,
        prompt_tokens=min(max(d.n_prompt for d in texts), room - 1),
    )  # fmt: skip
    return replace(found, rows=(), times=times).with_methods(found.methods)


def _rows_of(store: "ActivationStore", ask: AccelerateAsk) -> int | None:
    """Rows of the texts that count; the last token of a text predicts nothing."""
    if ask.texts is None:
        return None
    lengths = np.unique(store.index().doc_ids, return_counts=True)[1]
    return max(1, int((lengths[: ask.texts] - 1).sum()))


def facts(model: "Model", found: AccelerationStudy, ask: AccelerateAsk) -> dict[str, Any]:
    """What the command line says of a study."""
    table = found.table
    return facts_of(
        model, found,
        texts=len(set(table.doc[table.new].tolist())), new_tokens=int(table.new.sum()),
        exact=not table.inexact, why_inexact=table.inexact, live=ask.live,
        rows=list(found.rows), left_out=list(found.left_out),
        layers=[r for r in table.to_frame().to_dict("records") if r["metric"] == "agreement"],
    )  # fmt: skip


def live_job(settings: dict[str, Any], progress: Callable[..., Any]) -> dict[str, Any]:
    """What the job of a live run does.

    Raises:
        LensbenchError: as :func:`accelerate`.
    """
    out = Path(settings.pop("out"))
    progress("decoding with every method, and plainly")
    _, found = accelerate(AccelerateAsk(**settings))
    saved_in(found, out)
    return {"methods": len(found.rows)}


def own_job(settings: dict[str, Any], progress: Callable[..., Any]) -> dict[str, Any]:
    """What the job does that writes a model's own text.

    Raises:
        LensbenchError: as :func:`write_own`.
    """
    settings.pop("text_only")
    told = write_own(AccelerateAsk(**settings), progress)
    return {name: told[name] for name in ("texts", "tokens")}
