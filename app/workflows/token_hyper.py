"""What a hyperdimensional probe reads off one stored token: an encoder fitted once, then no run.

The encoder is one that a study has kept (``hyper``): fitted on prompts of the atlas, scored on
held-out ones beside its controls. The stored rows of its layers become a hypervector; the words
before the token that are in the codebook are the query that is unbound from it.

The encoder learnt the last token of a prompt: elsewhere in a text it reads what it was not fitted
for, and the page says so.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from lensbench.app.workflows import hyper
from lensbench.app.workflows.finding import once
from lensbench.app.workflows.hyper import HDAsk
from lensbench.app.workflows.live import hold_store
from lensbench.app.workflows.sequences import model_name, model_of, sequence_at
from lensbench.errors import MissingDataError
from lensbench.probes.hd.atlas import TASKS
from lensbench.probes.hd.encoder import HDEncoder
from lensbench.probes.hd.ingest import ingest_layers, stored_states
from lensbench.probes.hd.memory import ItemMemory
from lensbench.probes.hd.probe import read_concepts
from lensbench.probes.hd.prompts import ConceptPrompts

if TYPE_CHECKING:
    from lensbench.probes.hd.study_result import HDStudy
    from lensbench.store import ActivationStore

N_TRAIN, N_TEST = 1500, 200
"""Prompts of a study that the page starts: those that its own page begins with."""
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
    study: "HDStudy"
    """Scores on held-out prompts, chance and controls."""


def ask_for(url: str, task: str) -> HDAsk:
    """The study whose encoder the page reads with, of the store's own model.

    Raises:
        MissingDataError, MismatchError: the store's model is not to be found, or is another.
    """
    store = hold_store(url)
    model_of(store)
    name, revision = model_name(store)
    return HDAsk(name, task, n_train=N_TRAIN, n_test=N_TEST, revision=revision)


def hyper_cell(root: Path, url: str, row: int, task: str) -> Decoded:
    """Read the concepts off one stored row; no run of the model.

    Raises:
        MissingDataError: no encoder is kept, or the store lacks the upper layers; says what to do.
    """
    store = hold_store(url)
    fitted, memory, study = opened(root, store, task)
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
    states = stored_states(store, np.array([row]), layers=study.layers)
    vectors = fitted.encode(ingest_layers(states), seed=3)
    found = read_concepts(memory, vectors, prompts, states=states, solver=SOLVER)
    names = list(found.found[0])[:SHOWN]
    frame = pd.DataFrame({
        "concept": names, "similarity": found.similarity[0, : len(names)],
        "above the threshold": ["yes" if v > found.threshold else "no"
                                for v in found.similarity[0, : len(names)]],
        "follows": ["yes" if n == following else "no" for n in names],
    })  # fmt: skip
    frame.attrs["units"] = {"similarity": "cosine, -1 to 1"}
    return Decoded(tuple(before), found.query[0], bool(found.answered[0]), found.threshold, frame,
                   following, study)  # fmt: skip


def opened(
    root: Path, store: "ActivationStore", task: str
) -> "tuple[HDEncoder, ItemMemory, HDStudy]":
    """The encoder, its codebook and the study that fitted it.

    Raises:
        MissingDataError: none is kept here.
    """
    kept = hyper.studies(root, str(store.model.get("fingerprint")))
    folder, study = next(((f, s) for f, s in kept if s.task == task), (None, None))
    if folder is None or study is None:
        raise MissingDataError(
            f"no hyperdimensional encoder of {store.model['name']} for {task} prompts is kept here"
        )
    pair: Any = once(folder / "encoder.json", "encoder", lambda p: (
        HDEncoder.load(p.parent), ItemMemory.load(p.parent)))  # fmt: skip
    return pair[0], pair[1], study


def tasks_kept(root: Path, url: str) -> list[str]:
    """Tasks whose encoder is kept for this store's model."""
    kept = hyper.studies(root, str(hold_store(url).model.get("fingerprint")))
    return [t for t in TASKS if t in {study.task for _, study in kept}]


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
    fitted, memory, study = opened(root, store, task)
    states = stored_states(store, np.array([row]), layers=study.layers)
    x = ingest_layers(states)[0]
    eye = torch.eye(len(x)) * 1e-2 * x.std()
    raw = fitted.raw(torch.cat([x + eye, x - eye]))[:, -1]
    wanted = memory.space.real(memory.vector(concept)[None])[0].float()
    score = torch.nn.functional.cosine_similarity(raw.float(), wanted[None, : raw.shape[1]], dim=1)
    direction = score[: len(x)] - score[len(x) :]
    return int(study.layers[0]), direction / direction.norm().clamp_min(1e-12)
