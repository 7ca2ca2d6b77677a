"""The hyperdimensional study by names, for the command line and its page."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lensbench import probes
from lensbench.app.workflows.answers import facts_of, rows_of_frame, saved_in
from lensbench.app.workflows.live import Shelf, running
from lensbench.app.workflows.models import open_model
from lensbench.errors import NotEnoughDataError
from lensbench.probes.hd.atlas import SPLITS, TASKS
from lensbench.probes.hd.encoder import EncoderConfig
from lensbench.probes.hd.study_result import HDStudy

if TYPE_CHECKING:
    import pandas as pd

    from lensbench.models import Model
    from lensbench.probes.hd.atlas import Split
    from lensbench.probes.hd.augment import Augment
    from lensbench.probes.hd.solving import Solver

TASK_NAMES, SPLIT_NAMES = tuple(TASKS), tuple(SPLITS)
PUBLISHED: dict[str, Any] = {"kind": "mlp", "max_epochs": 6}
SHOWN = ("source", "score", "value", "low", "high", "cosine", "n")


@dataclass(frozen=True)
class HDAsk:
    """A model of the atlas, a kind of prompts, how they are split, and how many."""

    model: str
    task: str = "analogy"
    split: str = "pair"
    dim: int = 2048
    n_train: int = 6000
    n_test: int = 400
    after: bool = False
    """Read at the word the model has said, not at the end of the prompt."""
    seed: int = 0
    revision: str | None = None
    solver: str = "threshold"
    augment: str = "none"
    """Anything else is for the published encoder, which is then fitted."""


def study(ask: HDAsk, model: "Model | None" = None) -> HDStudy:
    """Fit and score the probe and its baselines.

    Raises:
        LensbenchError: see :func:`lensbench.probes.hd_study`.
    """
    opened = model or open_model(ask.model, ask.revision)
    return probes.hd_study(
        opened, ask.task, cast("Split", ask.split), dim=ask.dim, n_train=ask.n_train,
        n_test=ask.n_test, when="after" if ask.after else "before", seed=ask.seed,
        solver=cast("Solver", ask.solver), augment=cast("Augment", ask.augment),
        encoder=None if ask.augment == "none" else EncoderConfig(**PUBLISHED),
    )  # fmt: skip


def facts(ask: HDAsk, out: Path | None = None) -> dict[str, Any]:
    """What the command line says of a study.

    Raises:
        LensbenchError: as :func:`study`.
    """
    model = open_model(ask.model, ask.revision)
    found = study(ask, model)
    told = facts_of(model, found, task=ask.task, split=ask.split, concepts=found.n_concepts,
                    parameters=found.n_parameters, rows=rows_of_frame(found.to_frame()),
                    by_relation=rows_of_frame(found.by_relation()))  # fmt: skip
    told["failures"], told["no_failures"] = failures(found)
    return {**told, **saved_in(found, out)}


def failures(found: HDStudy) -> tuple[list[dict[str, Any]], str]:
    """Rows on telling the model's errors, or why there are none."""
    try:
        return rows_of_frame(found.failures().to_frame()), ""
    except NotEnoughDataError as error:
        return [], str(error)


_kept: "Shelf[HDStudy]" = Shelf(4)


def kept(ask: HDAsk) -> HDStudy:
    """The study of a page, made once.

    Raises:
        LensbenchError: as :func:`study`.
    """

    def make() -> HDStudy:
        with running(ask.model, ask.revision) as model:
            return study(ask, model)

    return _kept.get(ask, make)


def readings(found: HDStudy, n: int = 20) -> "pd.DataFrame":
    """The first test prompts: what the model said, and what the probe read."""
    import pandas as pd

    read = found.reading
    return pd.DataFrame({
        "prompt": read.texts[:n], "model says": found.answers[:n],
        "probe reads": [words[0] if words else "" for words in read.found[:n]],
        "rank of the answer": read.rank[:n],
    })  # fmt: skip


def command_of(ask: HDAsk) -> str:
    """The same on the command line."""
    words = ["lensbench", "probe", "hd", "--model", ask.model, "--task", ask.task, "--split",
             ask.split, "--dim", str(ask.dim), "--n-train", str(ask.n_train), "--n-test",
             str(ask.n_test), *(["--after"] if ask.after else []),
             *(["--seed", str(ask.seed)] if ask.seed else []),
             *(["--solver", ask.solver] if ask.solver != "threshold" else []),
             *(["--augment", ask.augment] if ask.augment != "none" else []),
             *(["--revision", ask.revision] if ask.revision else [])]  # fmt: skip
    return shlex.join(words)


def python_of(ask: HDAsk) -> str:
    """The same in a notebook."""
    when = "after" if ask.after else "before"
    revision = f", revision={ask.revision!r}" if ask.revision else ""
    seed = f", seed={ask.seed}" if ask.seed else ""
    seed += f", solver={ask.solver!r}" if ask.solver != "threshold" else ""
    if ask.augment != "none":
        seed += f", augment={ask.augment!r}, encoder=probes.EncoderConfig(**{PUBLISHED!r})"
    return "\n".join([
        "import lensbench", "from lensbench import probes",
        f"model = lensbench.load_model({ask.model!r}{revision})",
        f"probes.hd_study(model, {ask.task!r}, {ask.split!r}, dim={ask.dim}, "
        f"n_train={ask.n_train}, n_test={ask.n_test}, when={when!r}{seed}).plot()",
    ])  # fmt: skip
