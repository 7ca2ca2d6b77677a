"""What a hyperdimensional probe reads off one stored token: an encoder fitted once, then no run.

1. Fit (a button): prompts of the atlas through the model, an encoder of its upper layers, and how
   often it names the right word on held-out prompts. Kept in ``hyper/`` below the root.
2. Read: the stored rows of the same layers become a hypervector; the words before the token that
   are in the codebook are the query that is unbound from it.

The encoder learnt the last token of a prompt: elsewhere in a text it reads what it was not fitted
for, and the page says so.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from lensbench import io
from lensbench.app.workflows.finding import once
from lensbench.app.workflows.live import hold_store, running
from lensbench.app.workflows.sequences import model_name, model_of, sequence_at
from lensbench.errors import MissingDataError
from lensbench.probes.hd.atlas import TASKS, atlas_prompts
from lensbench.probes.hd.encoder import HDEncoder, fit_encoder
from lensbench.probes.hd.ingest import ingest_layers, prompt_states, stored_states, upper_half
from lensbench.probes.hd.memory import ItemMemory
from lensbench.probes.hd.probe import read_concepts
from lensbench.probes.hd.prompts import ConceptPrompts
from lensbench.probes.hd.study import DEFAULT_ENCODER

if TYPE_CHECKING:
    from lensbench.store import ActivationStore

HYPER, ABOUT = "hyper", "about.json"
N_TRAIN, N_TEST, DIM = 1500, 200, 2048
SHOWN = 5
SOLVER = "threshold"
"""Queries as published, so that a page can say which one was used."""
MOST_WORDS = 6
"""Words of the text that a query is made of, the last ones."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """What is read at one token, and what chance would read."""

    words: tuple[str, ...]
    """Concepts of the text up to the token, subsets of which were tried as queries."""
    query: str
    """Those that were unbound; empty: none, the hypervector itself."""
    answered: bool
    """Whether a concept passed the threshold."""
    threshold: float
    found: pd.DataFrame
    """The nearest concepts: similarity, and whether it is the token that follows."""
    following: str
    """The next token where it is a concept, else empty."""
    about: dict[str, Any]
    """Task, held-out precision, n, chance, model."""


def folder_for(root: Path, store: "ActivationStore", task: str) -> Path:
    """Where the encoder of a model and a task is kept."""
    print_ = str(store.model.get("fingerprint", ""))[:8]
    return root / HYPER / f"{store.model['name']}-{print_}-{task}".replace("/", "-")


def fit_hyper(root: Path, url: str, task: str, seed: int = 0) -> Path:
    """Run the prompts of a task, fit an encoder, score it on held-out prompts, and keep it.

    Raises:
        UnknownNameError: no such task.
        MissingDataError, MismatchError: the store's model is not to be found, or is another.
    """
    store = hold_store(url)
    model_of(store)
    dealt = atlas_prompts(task, "pair", n_train=N_TRAIN, n_test=N_TEST, seed=seed)
    sides = (dealt.train, dealt.validation, dealt.test)
    memory = ItemMemory.random(dealt.concepts, dim=DIM, pairs=len(dealt.train.pairs[0]),
                               seed=seed + 101)  # fmt: skip
    with running(*model_name(store)) as model:
        layers = upper_half(model.n_layers)
        x = [ingest_layers(prompt_states(model, list(s.texts), layers=layers)) for s in sides]
    numbers = [s.numbers(memory) for s in sides]
    fitted = fit_encoder(x[0], numbers[0], memory, DEFAULT_ENCODER, validation=(x[1], numbers[1]))
    reading = read_concepts(memory, fitted.encode(x[2], seed=seed + 3), dealt.test,
                            solver=SOLVER)  # fmt: skip
    right = reading.precision(1)
    folder = fitted.save(memory.save(folder_for(root, store, task)))
    io.write_json(folder / ABOUT, {
        "task": task, "precision": right.mean, "low": right.low, "high": right.high,
        "n": len(dealt.test), "chance": 1 / len(memory), "layers": list(layers),
        "n_train": len(dealt.train), "model": store.model.get("name"),
        "fingerprint": store.model.get("fingerprint"),
    })  # fmt: skip
    return folder


def hyper_cell(root: Path, url: str, row: int, task: str) -> Decoded:
    """Read the concepts off one stored row; no run of the model.

    Raises:
        MissingDataError: no encoder is kept, or the store lacks the upper layers; says what to do.
    """
    store = hold_store(url)
    fitted, memory, about = opened(root, store, task)
    sequence = sequence_at(url, row)
    at = sequence.position_of(row)
    words = [w.strip() for w in sequence.words]
    before = list(dict.fromkeys(w for w in words[: at + 1] if w in memory.names))[-MOST_WORDS:]
    after = words[at + 1] if at + 1 < len(words) else ""
    following = after if after in memory.names else ""
    pair = (before[-1] if before else memory.names[0], following or memory.names[0])
    prompts = ConceptPrompts(
        texts=(" ".join(words[: at + 1]),), pairs=((pair,) * fitted.pairs,),
        mentioned=(tuple(before),), relations=(task,),
    )  # fmt: skip
    states = stored_states(store, np.array([row]), layers=about["layers"])
    vectors = fitted.encode(ingest_layers(states), seed=3)
    found = read_concepts(memory, vectors, prompts, states=states, solver=SOLVER)
    names = list(found.found[0])[:SHOWN]
    frame = pd.DataFrame({
        "concept": names, "similarity": found.similarity[0, : len(names)],
        "above the threshold": ["✓" if v > found.threshold else ""
                                for v in found.similarity[0, : len(names)]],
        "follows": ["✓" if n == following else "" for n in names],
    })  # fmt: skip
    frame.attrs["units"] = {"similarity": "cosine, -1 to 1"}
    return Decoded(tuple(before), found.query[0], bool(found.answered[0]), found.threshold, frame,
                   following, about)  # fmt: skip


def opened(
    root: Path, store: "ActivationStore", task: str
) -> tuple[HDEncoder, ItemMemory, dict[str, Any]]:
    """The encoder, its codebook and what is known of them.

    Raises:
        MissingDataError: none is kept here.
    """
    folder = folder_for(root, store, task)
    if not (folder / ABOUT).is_file():
        raise MissingDataError(
            f"no hyperdimensional encoder of {store.model['name']} for {task} prompts is kept here"
        )
    about: Any = once(folder / ABOUT, "hyper", io.read_json)
    pair: Any = once(folder / "encoder.json", "encoder", lambda p: (
        HDEncoder.load(p.parent), ItemMemory.load(p.parent)))  # fmt: skip
    return pair[0], pair[1], about


def tasks_kept(root: Path, url: str) -> list[str]:
    """Tasks whose encoder is kept for this store's model."""
    store = hold_store(url)
    return [t for t in TASKS if (folder_for(root, store, t) / ABOUT).is_file()]


def reading_direction(
    root: Path, url: str, row: int, task: str, concept: str
) -> "tuple[int, torch.Tensor]":
    """The layer read first, and the direction in the state along which a concept is read more.

    The gradient, by central differences, of the cosine of the encoder's last value output with the
    concept's hypervector, in the vector that the encoder reads.

    Raises:
        MissingDataError: as :func:`hyper_cell`.
    """
    store = hold_store(url)
    fitted, memory, about = opened(root, store, task)
    states = stored_states(store, np.array([row]), layers=about["layers"])
    x = ingest_layers(states)[0]
    eye = torch.eye(len(x)) * 1e-2 * x.std()
    raw = fitted.raw(torch.cat([x + eye, x - eye]))[:, -1]
    wanted = memory.space.real(memory.vector(concept)[None])[0].float()
    score = torch.nn.functional.cosine_similarity(raw.float(), wanted[None, : raw.shape[1]], dim=1)
    direction = score[: len(x)] - score[len(x) :]
    return int(about["layers"][0]), direction / direction.norm().clamp_min(1e-12)
