"""The hyperdimensional study by names, for the command line and for pages.

On a page it is a job (``lensbench probe hd --out``) whose folder lies in ``hyper/`` below the root:
the study, and the fitted encoder with its codebook, with which the page Token reads stored rows.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lensbench import probes
from lensbench.app.workflows import jobs
from lensbench.app.workflows.answers import facts_of, rows_of_frame, saved_in
from lensbench.app.workflows.finding import kept_in, once
from lensbench.app.workflows.models import open_model
from lensbench.errors import NotEnoughDataError
from lensbench.probes.hd.atlas import SPLITS, TASKS
from lensbench.probes.hd.decoding import CONTROL
from lensbench.probes.hd.encoder import EncoderConfig
from lensbench.probes.hd.study_result import HDStudy
from lensbench.results import load

if TYPE_CHECKING:
    from lensbench.models import Model
    from lensbench.probes.hd.atlas import Split
    from lensbench.probes.hd.augment import Augment
    from lensbench.probes.hd.solving import Solver

TASK_NAMES, SPLIT_NAMES = tuple(TASKS), tuple(SPLITS)
PUBLISHED: dict[str, Any] = {"kind": "mlp", "max_epochs": 6}
HYPER, FILE = "hyper", "result.json"
SHOWN = ("source", "score", "value", "low", "high", "chance", "cosine", "n")


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


def study(
    ask: HDAsk, model: "Model | None" = None, *, keep: Path | None = None,
    progress: Callable[..., None] | None = None,
) -> HDStudy:  # fmt: skip
    """Fit and score the probe and its baselines.

    Raises:
        LensbenchError: see :func:`lensbench.probes.hd_study`.
    """
    opened = model or open_model(ask.model, ask.revision)
    return probes.hd_study(
        opened, ask.task, cast("Split", ask.split), dim=ask.dim, n_train=ask.n_train,
        n_test=ask.n_test, when="after" if ask.after else "before", seed=ask.seed,
        solver=cast("Solver", ask.solver), augment=cast("Augment", ask.augment),
        encoder=None if ask.augment == "none" else EncoderConfig(**PUBLISHED), keep=keep,
        progress=progress,
    )  # fmt: skip


def facts(
    ask: HDAsk, out: Path | None = None, progress: Callable[..., None] | None = None
) -> dict[str, Any]:
    """What the command line says of a study; ``out`` gets its result and the fitted encoder.

    Raises:
        LensbenchError: as :func:`study`.
    """
    model = open_model(ask.model, ask.revision)
    found = study(ask, model, keep=out, progress=progress)
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


def folder_for(root: Path, ask: HDAsk) -> Path:
    """Where the job of a page keeps the study: another folder for every request."""
    print_ = sha256(repr(ask).encode()).hexdigest()[:6]
    return root / HYPER / f"{Path(ask.model).name}-{ask.task}-{ask.split}-{print_}"


def saved(root: Path, ask: HDAsk) -> HDStudy | None:
    """The study that the job has left; None until it is finished.

    Raises:
        DamagedDataError: it cannot be read.
    """
    return _opened(folder_for(root, ask))


def told_of(found: HDStudy) -> str:
    """Where a study is from, in a line."""
    model = found.provenance.model
    return f"{model.get('name')} {model.get('fingerprint')}, {found.provenance.when}"


def chances(found: HDStudy) -> str:
    """Chance of every score of the figure, each its own."""
    told = ", ".join(f"{v:.4f} of {score}" for score, v in found.chance().items())
    return f"chance {told} (of the gold score only its control: the answer picks the query)"


def scored(found: HDStudy) -> str:
    """How often the first concept is right on held-out prompts, beside chance and control."""
    i = found.sources.index("probe")
    share = f"{found.score[i, 0]:.3f} [{found.low[i, 0]:.3f}, {found.high[i, 0]:.3f}]"
    others = [s for s in found.sources if s == CONTROL]
    control = "".join(f", {s} {found.value(s):.3f}" for s in others)
    return (
        f"On n = {int(found.right.sum())} held-out prompts that the model gets right the first "
        f"concept is right in {share}; chance {1 / found.n_concepts:.4f}{control}"
    )


def studies(root: Path, fingerprint: str) -> list[tuple[Path, HDStudy]]:
    """Finished studies of a model that keep their encoder and read the end of a prompt.

    Facts held out come before other splits, and many training prompts before few.

    Raises:
        DamagedDataError: one cannot be read.
    """
    known = [f for f in sorted(kept_in(root, HYPER)) if (f / "encoder.json").is_file()]
    found = [(folder, one) for folder in known if (one := _opened(folder)) is not None]
    mine = [(f, s) for f, s in found if s.config["when"] == "before"
            and s.provenance.model.get("fingerprint") == fingerprint]  # fmt: skip
    return sorted(mine, key=lambda one: (one[1].split != SPLIT_NAMES[0], -one[1].n_train))


def _opened(folder: Path) -> HDStudy | None:
    if not (folder / FILE).is_file():
        return None
    found = once(folder / FILE, "study", lambda path: load(path.parent))
    return found if isinstance(found, HDStudy) else None


def settings_of(ask: HDAsk, out: Path | None = None) -> dict[str, Any]:
    """The request as the settings of a job, and of the command line."""
    usual = {f.name: f.default for f in fields(HDAsk)}
    said = ("model", "task", "split", "n_train", "n_test")
    told = {k: v for k, v in vars(ask).items() if k in said or v != usual[k]}
    return told | ({} if out is None else {"out": str(out)})


def command_of(ask: HDAsk) -> str:
    """The same on the command line."""
    return jobs.command_of("hd", settings_of(ask))


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


def decode_code(ask: HDAsk, concepts: bool) -> str:
    """The decode table in a notebook."""
    return table_code(ask, ".by_concept()" if concepts else ".decoded()")


def table_code(ask: HDAsk, then: str) -> str:
    """A table of the study in a notebook; ``then`` follows the study."""
    return python_of(ask).removesuffix(".plot()") + then
