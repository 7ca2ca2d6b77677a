"""Side-by-side timing: cases run interleaved in one process, and a dated page says how it went.

Every round runs every case once, in a random order, so that drift of the machine meets all of them
alike; a ratio is taken *within* a round and its median and quartiles are over rounds. The clock is
process CPU time unless a case waits for a disk (then ``clock="wall"``). Import this file from a
script beside it: ``from benchmarks.harness import interleave, Page``.
"""

import gc
import os
import platform
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np

RESULTS = Path(__file__).resolve().parent / "results"
Clock = Literal["cpu", "wall"]


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of ``n`` values."""

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Median, 25 % and 75 % quantile of ``values``."""
        low, median, high = np.quantile(np.asarray(values, dtype=float), [0.25, 0.5, 0.75])
        return cls(float(median), float(low), float(high), len(values))

    def show(self, scale: float = 1.0, digits: int = 3) -> str:
        """``0.310 (0.305 to 0.322)``."""
        m, a, b = (f"{v * scale:.{digits}f}" for v in (self.median, self.low, self.high))
        return f"{m} ({a} to {b})"


@dataclass(frozen=True)
class Timings:
    """Seconds of every case in every round; entry ``r`` of each list belongs to round ``r``."""

    seconds: dict[str, list[float]]
    clock: Clock

    def spread(self, name: str) -> Spread:
        """Seconds of one case."""
        return Spread.of(self.seconds[name])

    def ratio(self, name: str, to: str) -> Spread:
        """Time of ``name`` over time of ``to``, paired by round; below 1 means faster."""
        pairs = zip(self.seconds[name], self.seconds[to], strict=True)
        return Spread.of([a / b for a, b in pairs])

    def fastest(self, names: Sequence[str]) -> str:
        """Case of smallest median."""
        return min(names, key=lambda name: self.spread(name).median)

    def table(self, to: str, *, unit_scale: float = 1e3, unit: str = "ms") -> list[list[str]]:
        """Rows for :meth:`Page.table`, fastest first, with the ratio to ``to``."""
        head = ["case", f"{self.clock} {unit}, median (quartiles)", f"x {to}"]
        names = sorted(self.seconds, key=lambda name: self.spread(name).median)
        body = [
            [name, self.spread(name).show(unit_scale), self.ratio(name, to).show()]
            for name in names
        ]
        return [head, *body]


def interleave(
    cases: Mapping[str, Callable[[], Any]],
    *,
    rounds: int = 7,
    warmup: int = 1,
    calls: int = 1,
    clock: Clock = "cpu",
    seed: int = 0,
    before: Callable[[], Any] | None = None,
    progress: bool = True,
) -> Timings:
    """Time every case once per round, in an order drawn anew each round.

    ``calls`` repeats a short case inside its measurement (seconds are per call); ``before`` runs,
    unmeasured, before every measurement.
    """
    order, read = random.Random(seed), time.process_time if clock == "cpu" else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(-warmup, rounds):
        names = list(cases)
        order.shuffle(names)
        for name in names:
            if before is not None:
                before()
            gc.collect()
            start = read()
            for _ in range(calls):
                cases[name]()
            taken = (read() - start) / calls
            if turn >= 0:
                seconds[name].append(taken)
        if progress:
            print(f"round {turn + 1}/{rounds}", file=sys.stderr, flush=True)
    return Timings(seconds, clock)


def threads(n: int = 1) -> None:
    """Hold torch to ``n`` threads, so that CPU time is comparable."""
    import torch

    torch.set_num_threads(n)


def device_name() -> str:
    """Short name for file names: ``cpu`` or the accelerator's."""
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        return str(sys.modules["torch"].cuda.get_device_name()).split()[-1].lower()
    return "cpu"


def versions(*packages: str) -> dict[str, str]:
    """Installed versions; ``absent`` where there is none."""
    found: dict[str, str] = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


@dataclass
class Page:
    """A dated markdown page of measurements, with command, versions and machine."""

    name: str
    title: str
    packages: tuple[str, ...] = ("torch", "transformers", "numpy")
    lines: list[str] = field(default_factory=list[str])

    def text(self, *paragraphs: str) -> None:
        """Add paragraphs."""
        for paragraph in paragraphs:
            self.lines += [paragraph, ""]

    def heading(self, text: str) -> None:
        """Add a second-level heading."""
        self.lines += [f"## {text}", ""]

    def table(self, rows: Sequence[Sequence[Any]]) -> None:
        """Add a table; the first row is its head."""
        head, *body = [[str(cell) for cell in row] for row in rows]
        self.lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        self.lines += ["| " + " | ".join(row) + " |" for row in body]
        self.lines.append("")

    def claim(self, text: str, measured: float, limit: float, *, at_most: bool = True) -> bool:
        """Add one line that says whether a stated limit holds; return whether it does."""
        holds = measured <= limit if at_most else measured >= limit
        sign = "at most" if at_most else "at least"
        verdict = "holds" if holds else "MISSED"
        self.lines.append(f"- **{verdict}**: {text}: {measured:.3f} ({sign} {limit:g}).")
        return holds

    def write(self, folder: Path = RESULTS) -> Path:
        """Write ``<date>-<device>-<name>.md`` and print it; return its path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{time.strftime('%Y-%m-%d')}-{device_name()}-{self.name}.md"
        text = "\n".join([*self._head(), *self.lines]).rstrip() + "\n"
        path.write_text(text, encoding="utf-8")
        print(text)
        return path

    def _head(self) -> list[str]:
        found = versions("lensbench", *self.packages)
        listed = ", ".join(f"{name} {number}" for name, number in found.items())
        return [
            f"# {self.title}",
            "",
            f"- command: `python {_command()}`",
            f"- when: {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}; commit {_commit()}",
            f"- machine: {_machine()}",
            f"- versions: python {platform.python_version()}, {listed}",
            "",
        ]


def _machine() -> str:
    cores = os.cpu_count()
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    return f"{device_name()}, {platform.machine()}, {cores} cores, load {load} at the end"


def _command() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = _relative(sys.argv[0]) if spec is None else f"-m {spec.name}"
    return " ".join([program, *map(_relative, sys.argv[1:])])


def _relative(argument: str) -> str:
    path, root = Path(argument), RESULTS.parent.parent
    return str(path.relative_to(root)) if path.is_absolute() and root in path.parents else argument


def _commit() -> str:
    out = subprocess.run(
        ["git", "-C", str(RESULTS.parent), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return out.stdout.strip() or "unknown"
