"""Trained dictionaries as results, and the folder of a run.

``RUN/{sweep.yaml, status.json, provenance.json, log.txt}`` and, per dictionary,
``RUN/<name>/{config.json, metrics.jsonl, checkpoints/step_N/, result/}``. ``result/`` holds both
the result and the dictionary in SAELens' format. ``metrics.jsonl`` grows while training runs, so a
page or ``tail -f`` can follow; ``status.json`` is replaced whole, with a heartbeat.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lensbench import io
from lensbench.errors import DamagedDataError, MismatchError, MissingDataError
from lensbench.results import Result, load
from lensbench.saes import formats
from lensbench.saes.coder import SparseCoder
from lensbench.saes.crosscoder import Crosscoder
from lensbench.saes.sae import SAE
from lensbench.saes.transcoder import Transcoder

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

COLUMNS = ("step", "tokens", "loss", "fvu", "l0", "dead_fraction", "lr", "grad_norm", "seconds")
"""Columns of ``metrics.jsonl``; losses and norms are in scaled units (see ``saes.start``)."""
UNITS = {
    "loss": "squared norm per token, scaled",
    "fvu": "share of variance",
    "l0": "latents per token",
    "dead_fraction": "share of latents",
    "lr": "per step",
    "grad_norm": "scaled",
    "seconds": "seconds since the start",
}
STATUS_FILE, SWEEP_FILE, METRICS_FILE = "status.json", "sweep.yaml", "metrics.jsonl"
STATUS: dict[str, type] = {
    **dict.fromkeys(("step", "steps", "tokens"), int),
    **dict.fromkeys(("state", "started", "heartbeat"), str),
    "dictionaries": dict,
}
"""What ``status.json`` holds at least."""
CODERS: dict[str, Any] = {c.role: c for c in (SAE, Transcoder, Crosscoder)}
CONFIG_FILE, RESULT_FOLDER = "config.json", "result"
WAIT = "wait_fraction"
"""Share of the time waiting for data, in ``status.json`` and ``metrics.jsonl`` (a machine's, so no
column of the history, which a resumed run repeats bit for bit)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SAERun(Result):
    """One trained dictionary with the course of its training.

    ``status`` is ``finished``, ``running``, ``stopped`` or ``diverged`` (its weights are those
    before the first gradient that was not finite).

    Example:
        >>> sorted(run.summary())
        ['dead_fraction', 'fvu', 'l0', 'loss']
        >>> W_dec = run.sae.W_dec
    """

    name: str
    site: str
    status: str
    folder: str = ""
    """Folder of the run on disk; empty if it was not kept."""
    history: dict[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])
    """One array per entry of ``COLUMNS``; each value is a mean since the line before."""
    weights: dict[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])
    activation: str = "relu"
    k: int | None = None
    role: str = "sae"
    """``sae``, ``transcoder`` or ``crosscoder``."""
    several: dict[str, Any] = field(default_factory=dict[str, Any])
    """Of a crosscoder: its sites, their widths and scales."""
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def coder(self) -> SparseCoder:
        """The dictionary: an SAE, a transcoder or a crosscoder."""
        tensors: dict[str, Any] = {n: torch.from_numpy(a) for n, a in self.weights.items()}
        several = {name: tuple(values) for name, values in self.several.items()}
        return CODERS[self.role](
            **tensors,
            **several,
            activation=self.activation,
            k=self.k,
            config=self.config,
            metadata=self.metadata,
        )

    @property
    def sae(self) -> SAE:
        """The dictionary, where it is a sparse autoencoder.

        Raises:
            MismatchError: it is a transcoder or a crosscoder.
        """
        coder = self.coder
        if not isinstance(coder, SAE):
            raise MismatchError(
                f"{self.name} is a {self.role} ({self.site}); this takes autoencoders, which "
                "reconstruct the one site that they read. In Python its value is run.coder"
            )
        return coder

    @property
    def window(self) -> int:
        """Number of steps that the last value of the history is a mean of."""
        return last_window(self.history.get("step", ()))

    @classmethod
    def of(cls, coder: SparseCoder, **fields: Any) -> "SAERun":
        """A run around a dictionary."""
        several = {}
        if isinstance(coder, Crosscoder):
            several = {n: list(getattr(coder, n)) for n in ("sites", "widths", "scales")}
        return cls(
            weights={n: t.numpy() for n, t in coder.tensors().items()},
            activation=coder.activation,
            k=coder.k,
            role=coder.role,
            several=several,
            config=coder.config,
            metadata=coder.metadata,
            **fields,
        )

    def save(self, folder: Path | str) -> Path:
        """Write the result, and beside it the dictionary: an SAE in SAELens' format."""
        formats.keep(self.coder, folder)
        return super().save(folder)

    def summary(self) -> dict[str, float]:
        """Last logged loss, fvu, l0 and dead fraction.

        The first three are means over the last :attr:`window` steps, not of the final weights: a
        short run looks worse here than in ``evaluate``, which measures those.
        """
        names = ("loss", "fvu", "l0", "dead_fraction")
        return {n: float(self.history[n][-1]) for n in names if len(self.history.get(n, ()))}

    def __repr__(self) -> str:
        """One line: the name and the last logged numbers."""
        return super().__repr__().replace("(", f"({self.name!r}: ", 1)

    def to_frame(self) -> "pd.DataFrame":
        """One row per logged value: name, step, tokens, metric, value."""
        import pandas as pd

        if not self.history:
            return pd.DataFrame(columns=["name", "step", "tokens", "metric", "value"])
        wide = pd.DataFrame(self.history)
        frame = wide.melt(["step", "tokens"], var_name="metric", value_name="value")
        frame.insert(0, "name", self.name)
        frame.attrs["units"] = UNITS
        return frame

    def _html_body(self) -> str:
        """The last logged steps, a row each."""
        import pandas as pd

        from lensbench.plots.tables import html_table

        wide = pd.DataFrame(self.history)
        wide.attrs["units"] = UNITS
        return html_table(wide.tail(10), caption=f"{self.status}; logged {len(wide):,} times")

    def plot(self) -> "go.Figure":
        """FVU over tokens."""
        from lensbench.plots import lines

        frame = self.to_frame().query("metric == 'fvu'")
        steps = f"means over {self.window} steps each; " if self.window else ""
        n = max((int(t) for t in self.history.get("tokens", ())), default=0)
        return lines(frame, x="tokens", y="value", unit=UNITS["fvu"], title=f"FVU of {self.name}",
                     subtitle=f"{steps}n = {n:,} training tokens",
                     labels={"value": "FVU", "tokens": "training tokens"})  # fmt: skip


def last_window(steps: "Iterable[float] | np.ndarray") -> int:
    """Steps between the last two log lines (the first one counts from 0)."""
    before, last = [0, 0, *steps][-2:]
    return int(last - before)


def note_on_means(windows: Iterable[int]) -> str:
    """What the last logged numbers of runs are; empty where nothing was logged."""
    found = sorted({w for w in windows if w})
    if not found:
        return ""
    many = " to ".join(str(w) for w in dict.fromkeys((found[0], found[-1])))
    return (
        f"loss, fvu and l0 are means over the last {many} training step{'s' * (many != '1')}, not "
        "of the final weights; `lensbench eval sae` measures those"
    )


def open_runs(folder: Path | str) -> list[SAERun]:
    """All finished or diverged dictionaries of a run folder, in the order of the sweep.

    Raises:
        MissingDataError: no run there, or none of its dictionaries is finished.

    Example:
        >>> again = saes.open_runs(f"{run.folder}/..")
        >>> torch.equal(again[0].sae.W_dec, run.sae.W_dec)
        True
    """
    run = Path(folder)
    names = read_status(run)["dictionaries"]
    done = [n for n in names if (run / n / RESULT_FOLDER / "result.json").is_file()]
    if not done:
        raise MissingDataError(f"no dictionary in {run} is finished; {how_to_resume(run)}")
    return [_opened(run / name) for name in done]


def how_to_resume(run: Path) -> str:
    """How to go on with a run, by the command line and by the library."""
    return (
        f"go on from its last checkpoint with `lensbench train sae --resume {run}` (in Python: "
        "saes.train with the same source, sweep and out, and resume=True)"
    )


def _opened(folder: Path) -> SAERun:
    found = load(folder / RESULT_FOLDER)
    if not isinstance(found, SAERun):
        raise DamagedDataError(f"{folder / RESULT_FOLDER} holds a {found.kind}, not an SAERun")
    return replace(found, folder=str(folder))


def read_status(run: Path) -> dict[str, Any]:
    """``status.json`` of a run folder.

    Raises:
        MissingDataError, DamagedDataError: no run there; not what a run writes there.
    """
    path = run / STATUS_FILE
    if not path.is_file():
        raise MissingDataError(f"no run in {run} (no {STATUS_FILE})")
    try:
        told = io.read_json(path)
    except DamagedDataError as error:
        again = f"that file; lensbench train sae --resume {run} then goes on"
        how = f"Remove {again if (run / SWEEP_FILE).is_file() else 'the folder, or copy it anew'}"
        raise DamagedDataError(f"{error}. It was cut or altered. {how}") from error
    wrong = [key for key, kind in STATUS.items()
             if not isinstance(told, dict) or not isinstance(told.get(key), kind)]  # fmt: skip
    if wrong:
        raise DamagedDataError(
            f"{path} is not what a run of this version writes ({', '.join(wrong)} missing or of "
            "another kind); it was altered, or written by another version. Dictionaries with a "
            "folder result/ may be whole: saes.load opens it"
        )
    return told


def read_history(folder: Path, *, up_to: int | None = None) -> list[dict[str, float]]:
    """Lines of a dictionary's ``metrics.jsonl``; a last line cut short by a kill is left out."""
    path = folder / METRICS_FILE
    if not path.is_file():
        return []
    lines: list[dict[str, float]] = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            break
        if up_to is None or line["step"] <= up_to:
            lines.append(line)
    return lines


def newest_lines(folder: Path, most: int = 16384) -> list[dict[str, float]]:
    """The last lines of a dictionary's ``metrics.jsonl``, of at most so many bytes."""
    path = folder / METRICS_FILE
    if not path.is_file():
        return []
    with path.open("rb") as file:
        begin = max(0, file.seek(0, 2) - most)
        file.seek(begin)
        rows = file.read().split(b"\n")
    whole = rows[1 if begin else 0 : -1]  # the first may be cut by us, the last is being written
    return [json.loads(row) for row in whole if row]


def arrays(lines: list[dict[str, float]]) -> dict[str, np.ndarray]:
    """History as one array per column."""
    return {
        name: np.array([line[name] for line in lines], dtype=np.int64 if i < 2 else np.float64)
        for i, name in enumerate(COLUMNS)
    }
