"""What a sweep will cost before it runs: parameters, memory, disk, and time from a short probe."""

import math
import time
from dataclasses import dataclass
from typing import Any

import torch

from lensbench.devices import as_device
from lensbench.harvest.sequences import TOKENS
from lensbench.saes.architectures import DictionaryConfig, FixedK, Penalised
from lensbench.saes.configs import SweepConfig
from lensbench.saes.ends import Ends, all_sites
from lensbench.saes.step.encode import Workspace
from lensbench.saes.step.engines import Stepper, choose
from lensbench.saes.step.rules import rule_of
from lensbench.saes.step.rules.base import Now
from lensbench.saes.step.start import scale_of
from lensbench.saes.training.downstream import downstream_of, objectives, taken
from lensbench.saes.training.groups import started, together
from lensbench.saes.training.stream import Stream, open_source

PROBE_STEPS = 2


@dataclass(frozen=True)
class MemoryPlan:
    """Counts and bytes of a sweep."""

    dictionaries: int
    parameters: int
    """Numbers trained, all dictionaries together."""
    state_bytes: int
    """Parameters and both moments of Adam, float32: 12 bytes per parameter, and counters."""
    work_bytes: int
    """Largest gradients and pre-activations held at one time."""
    checkpoint_bytes: int
    """One checkpoint of all dictionaries."""
    disk_bytes: int
    """At its largest: all checkpoints kept, and the one being written or the results (weights
    twice: result and SAELens' format)."""
    flops_per_token: int
    """Floating-point operations of the dictionaries: one dense product with the encoder, and what
    follows on the latents that are to fire. The model is not counted."""

    @property
    def memory_bytes(self) -> int:
        """What training holds at its largest."""
        return self.state_bytes + self.work_bytes


@dataclass(frozen=True)
class Forecast:
    """A :class:`MemoryPlan` with measured time."""

    memory: MemoryPlan
    steps: int
    seconds_per_step: float
    """Reading a batch and stepping every dictionary, measured on a few steps."""
    engines: dict[str, str]
    done: int = 0
    """Steps that a run which is to go on has behind it."""

    @property
    def seconds(self) -> float:
        """Expected time of the steps that are left."""
        return (self.steps - self.done) * self.seconds_per_step

    def lines(self) -> list[str]:
        """The forecast for people."""
        memory = self.memory
        return [
            f"dictionaries     {memory.dictionaries}",
            f"parameters       {memory.parameters:,}",
            f"memory           {size(memory.memory_bytes)}",
            f"disk             {size(memory.disk_bytes)}",
            f"work             {memory.flops_per_token:.3g} FLOP per token",
            f"steps            {self.steps - self.done:,}"
            + (f" of {self.steps:,} are left" if self.done else ""),
            f"time             {_duration(self.seconds)} "
            f"({self.seconds_per_step * 1e3:.1f} ms per step, probed)",
            *(f"engine           {key}: {how}" for key, how in self.engines.items()),
        ]


def plan_memory(sweep: SweepConfig, d_model: int | dict[str, int], default: str = "") -> MemoryPlan:
    """Bytes of a sweep on sites of width ``d_model`` (one number, or one per site).

    ``default`` is the site of dictionaries that name none.

    Example:
        >>> entry = {"architecture": "topk", "d_sae": 512, "k": 8, "site": "blocks.3.resid_post"}
        >>> sweep = saes.SweepConfig.parse({"train": {"tokens": 4096}, "sweep": [entry]})
        >>> plan = saes.plan_memory(sweep, d_model=128)
    """
    configs, batch = sweep.expand(), sweep.train.batch_size
    ends = [Ends.of(c, default) for c in configs]
    sizes = [(_width(e.reads, d_model), _width(e.writes, d_model)) for e in ends]
    counts = [
        rule_of(c).count(c.d_sae, *wide) + c.skip_connection * math.prod(wide)
        for c, wide in zip(configs, sizes, strict=True)
    ]
    counters = sum(9 * c.d_sae for c in configs)
    work = max(
        4 * (c.d_sae * sum(wide) + batch * (2 * c.d_sae + 2 * sum(wide)))
        for c, wide in zip(configs, sizes, strict=True)
    )
    state = 12 * sum(counts) + counters
    # A new checkpoint is whole before the oldest goes; at the end the results are written instead.
    disk = sweep.train.keep * state + max(state, 8 * sum(counts))
    flops = sum(_flops(c, *wide) for c, wide in zip(configs, sizes, strict=True))
    return MemoryPlan(len(configs), sum(counts), state, work, state, disk, flops)


def _flops(config: DictionaryConfig, d_in: int, d_out: int) -> int:
    """Encoder; then decode, gradient of the codes, gradients of decoder and encoder."""
    fire = config.k if isinstance(config, FixedK) else 0
    if isinstance(config, Penalised):
        fire = config.aim
    skip = 4 * d_in * d_out * config.skip_connection
    return round(2 * config.d_sae * d_in + fire * (6 * d_out + 2 * d_in) + skip)


def dry_run(
    source: Any, sweep: SweepConfig | dict[str, Any], *, device: torch.device | str | None = None
) -> Forecast:
    """Measure a few steps of every group on real batches; nothing is written.

    The batches come from ``source``, which moves on by as many.

    Example:
        >>> entry = {"architecture": "topk", "d_sae": 512, "k": 8, "site": "blocks.3.resid_post"}
        >>> cost = saes.dry_run(store, {"train": {"tokens": 4096}, "sweep": [entry]})
    """
    if isinstance(sweep, dict):
        sweep = SweepConfig.parse(sweep)
    configs: list[DictionaryConfig] = list(sweep.expand())
    where = as_device(device)
    source, ends = open_source(source, configs)
    sites, downstream = all_sites(ends), downstream_of(source, configs, ends)
    read = sites + [TOKENS] * (downstream is not None)
    stream = Stream(source, read, sweep.train.batch_size, where)
    began = time.perf_counter()
    batch = stream.next()
    for _ in range(PROBE_STEPS):
        batch = stream.next()
    seconds = (time.perf_counter() - began) / (PROBE_STEPS + 1)
    batch = taken(downstream, batch)
    scales = {site: scale_of(x) for site, x in batch.items()}
    space, engines = Workspace(precision=sweep.train.precision), dict[str, str]()
    for key, own, members in together(configs, ends):
        group = started(members, own, batch, scales)
        x, y = own.x(batch), own.y(batch)
        engine, engines[key] = choose(group, x, space, y)
        stepper = Stepper(group, engine, space)
        start = time.perf_counter()
        for _ in range(PROBE_STEPS):
            stepper.step(x, [1e-6] * group.n, Now(), y, objectives(downstream, group, batch))
        seconds += (time.perf_counter() - start) / PROBE_STEPS
    widths = {site: x.shape[1] for site, x in batch.items()}
    return Forecast(plan_memory(sweep, widths, sites[0]), sweep.train.steps, seconds, engines)


def _width(sites: tuple[str, ...], d_model: int | dict[str, int]) -> int:
    return sum(d_model if isinstance(d_model, int) else d_model[site] for site in sites)


def size(count: int) -> str:
    """Bytes for people."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
