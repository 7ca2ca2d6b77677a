"""Train the dictionaries of a sweep on one stream of activations.

1. Expand the sweep, open the source, take one batch: scales and first biases (``step.start``).
2. Group dictionaries by site, architecture and width; choose an engine per group by measurement.
3. Each step reads one batch and updates every dictionary. Nothing is random after the start.
4. Log, write checkpoints (with equal threads, on a GPU ``deterministic``, a resumed run is
   bit-exact), stop cleanly on Ctrl-C; a dictionary that diverges is left as it was.
"""

import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lensbench.errors import ConfigError, NonFiniteError, StoppedError
from lensbench.harvest.sequences import TOKENS
from lensbench.saes.architectures import DictionaryConfig
from lensbench.saes.configs import SweepConfig
from lensbench.saes.distributed.ranks import Ranks, join
from lensbench.saes.ends import Ends, all_sites
from lensbench.saes.runs import SAERun, open_runs
from lensbench.saes.step.encode import Workspace
from lensbench.saes.step.engines import Stepper, deterministic
from lensbench.saes.step.group import Group, dead_limit
from lensbench.saes.step.rules.base import Now
from lensbench.saes.step.schedule import rate
from lensbench.saes.step.start import scale_of
from lensbench.saes.training import checkpoint, room
from lensbench.saes.training.downstream import downstream_of, objectives, taken
from lensbench.saes.training.folder import RunFolder
from lensbench.saes.training.groups import together
from lensbench.saes.training.reporting import Reporter, Totals
from lensbench.saes.training.stream import card_of, open_source, open_stream
from lensbench.stopping import stop_requested

DEAD_REFRESH = 32  # steps between two looks at which latents are dead: the only wait


def train(
    source: Any,
    sweep: SweepConfig | dict[str, Any],
    *,
    out: Path | str | None = None,
    resume: bool = False,
    device: torch.device | str | None = None,
    progress: bool = True,
    model_card: dict[str, Any] | None = None,
) -> list[SAERun]:
    """Train every dictionary of ``sweep`` on ``source``, in one pass.

    Args:
        source: a store, a live capture, any ``ActivationSource``, or tensors ``[batch_size, d]``.
        sweep: what to train.
        out: run folder; without it nothing is written.
        resume: go on from the newest checkpoint in ``out``, if any, bit-exact on a CPU.
        device: default: a GPU if there is one.
        progress: a bar on a terminal, otherwise lines.
        model_card: model of the activations, kept with every dictionary; default: the source's.

    Raises:
        ConfigError: a setting that cannot be used, or a source that cannot be resumed.
        MismatchError: another sweep in ``out``, or another site or width.
        BudgetError: more than the memory of the device, or the disk, can hold.
        BackendUnavailableError: a sink without its package.
        NonFiniteError: NaN or infinity in the activations, or every dictionary diverged.
        StoppedError: interrupted; a checkpoint is in the folder.

    Example:
        >>> sweep = [{"architecture": "topk", "d_sae": 64, "k": 8, "site": "blocks.3.resid_post"}]
        >>> runs = saes.train(store, {"train": {"tokens": 4096}, "sweep": sweep}, out="run")
    """
    if isinstance(sweep, dict):
        sweep = SweepConfig.parse(sweep)
    if resume and out is None:
        raise ConfigError("resume=True needs the folder of the run (out=...)")
    configs: list[DictionaryConfig] = list(sweep.expand())
    path = None if out is None else Path(out)
    with join(sweep.train, path) as ranks, deterministic(sweep.train.deterministic):
        folder, where = ranks.folder(path, [str(c.name) for c in configs]), ranks.device(device)
        if resume and folder.finished() and path is not None:
            folder.check(sweep)
            return open_runs(path)
        card = card_of(source) if model_card is None else model_card
        own = ranks.own(configs, open_source(source, configs)[0])
        source, ends = open_source(source, own or configs)
        here = (ranks.part(sweep, own), source, ends, where, folder.path)
        held = room.required(*here, ranks.portion) if own else ""  # before anything is written
        folder.open(sweep, configs, card, resume=resume)
        if not own:
            return ranks.idle(folder)
        if held:
            source.hold(where)
            folder.log(held)
        run = _Training(sweep, own, ends, source, folder, where, progress, card, ranks)
        return run.run(resume=resume)


class _Training:
    """State of one call of :func:`train`."""

    def __init__(
        self,
        sweep: SweepConfig,
        configs: list[DictionaryConfig],
        ends: list[Ends],
        source: Any,
        folder: RunFolder,
        device: torch.device,
        progress: bool,
        card: dict[str, Any],
        ranks: Ranks,
    ) -> None:
        self._train, self._folder, self._card = sweep.train, folder, card
        self._configs, self._ends, self._ranks = configs, ends, ranks
        self._names = [str(c.name) for c in configs]
        unique, self._downstream = all_sites(ends), downstream_of(source, configs, ends)
        read = unique + [TOKENS] * (self._downstream is not None)
        self._stream = open_stream(source, read, self._train, device)
        told, said = ranks.told(self._train), progress and ranks.speaks
        self._report = Reporter(folder, told, self._stream, progress=said, total=ranks.total)
        self._totals = Totals(unique, device)
        self._space = Workspace(precision=self._train.precision, whole=ranks.whole)
        self._steppers: dict[str, Stepper] = {}
        self._scales: dict[str, float] = {}
        self._step, self._seconds, self._saved = 0, 0.0, 0
        self._pending: dict[str, Tensor] | None = None

    def run(self, *, resume: bool) -> list[SAERun]:
        """Make or restore the groups, step to the end, give the dictionaries."""
        try:
            self._start(resume=resume)
            return self._loop()
        except BaseException as error:
            self._report.failed(self._step, error, self._states("stopped"))
            raise
        finally:
            self._stream.close()

    def _start(self, *, resume: bool) -> None:
        step = self._ranks.latest(self._folder, self._names) if resume else None
        if step is None:
            if resume:
                self._rewind(0)
                self._report.say("no checkpoint of all dictionaries yet: starting at step 0")
            self._report.repeats(self._stream.stored)
            first = self._stream.next()
            self._scales = {s: self._scale(s, x) for s, x in first.items() if s != TOKENS}
            self._make(first, {})
            self._pending = first
            return
        state = checkpoint.read_states([self._folder.of(n) for n in self._names], step)
        self._stream.restore(state.source, self._folder.path)
        self._step = self._saved = step
        self._seconds, self._scales = state.seconds, state.scales
        self._totals.restore(state.variance)
        self._stream.expect(state.widths)
        self._space.guesses.update(state.guesses)
        none = {s: torch.zeros(1, w, device=self._stream.device) for s, w in state.widths.items()}
        self._make(none, state.engines)
        for group in self._groups():
            for i, name in group.names():
                self._ranks.restore(self._folder, step, group, i, name)
            group.refresh_lists()
        self._rewind(step)
        if state.threads != torch.get_num_threads():
            self._report.say(
                f"resuming with {torch.get_num_threads()} threads, not {state.threads}: equal up "
                "to rounding, not bit for bit"
            )
        self._report.say(f"resumed at step {step} of {self._train.steps}")

    def _rewind(self, step: int) -> None:
        """Forget what was written after ``step``: all of it will be written again."""
        self._ranks.rewind(self._folder, self._names, step)
        for name in self._names:
            self._report.rewind(name, step)

    def _loop(self) -> list[SAERun]:
        steps, began = self._train.steps, time.perf_counter() - self._seconds
        with stop_requested() as stop, self._report.bar(steps, self._step):
            while self._step < steps:
                batch = self._pending or self._stream.next()
                self._pending = None
                self._advance(batch)
                self._seconds = time.perf_counter() - began
                if self._step % self._train.log_every == 0 or self._step == steps:
                    self._log()
                if self._ranks.stopping(stop):
                    self._stop()
                if self._step % self._train.checkpoint_every == 0 and self._step < steps:
                    self._checkpoint()
        return self._finish()

    def _advance(self, batch: dict[str, Tensor]) -> None:
        step, steps = self._step, self._train.steps
        factor = rate(step, steps, self._train.warmup, self._train.decay)
        batch = taken(self._downstream, batch)
        for site, x in batch.items():
            if not self._totals.add(site, x, self._scales[site]) and x.device.type == "cpu":
                self._bad_activations(site)
        batch = self._ranks.share(batch)
        for stepper in self._steppers.values():
            group = stepper.group
            if step % DEAD_REFRESH == 0:
                group.refresh_dead([dead_limit(c, self._train.tokens) for c in group.configs])
            rates = [factor * c.learning_rate for c in group.configs]
            x, y = group.ends.x(batch), group.ends.y(batch)
            stepper.step(x, rates, Now(step, steps), y, objectives(self._downstream, group, batch))
        self._step += 1
        self._report.tick(self._step, self._states("running"))

    def _log(self) -> None:
        factor = rate(self._step - 1, self._train.steps, self._train.warmup, self._train.decay)
        variance, count = self._totals.read()
        for site, value in variance.items():
            if not math.isfinite(value):
                self._bad_activations(site)
        for group in self._groups():
            limits = [dead_limit(c, self._train.tokens) for c in group.configs]
            total = sum(variance[site] for site in group.ends.writes)
            self._report.lines(group, total, count, self._step, limits, factor, self._seconds)
        self._report.speak(self._step, self._seconds)
        if not (self._ranks.apart or any(any(group.alive) for group in self._groups())):
            raise NonFiniteError(
                f"every dictionary diverged by step {self._step} (loss not finite); {self._last()}."
                " Lower the learning rate"
            )

    def _bad_activations(self, site: str) -> None:
        b = self._train.batch_size
        raise NonFiniteError(
            f"the activations of {site} contain NaN or infinity in step {self._step + 1} (rows "
            f"{self._step * b} to {(self._step + 1) * b - 1} of the stream); {self._last()}"
        )

    def _last(self) -> str:
        if not self._saved:
            return "no checkpoint yet"
        where = checkpoint.place(self._folder.of(self._names[0]), self._saved)
        return f"the last good checkpoint is {where}"

    def _checkpoint(self, *, stopped: bool = False) -> None:
        if self._folder.path is None:
            return
        state = checkpoint.RunState(
            step=self._step,
            before=self._saved,
            source=self._ranks.position(self._stream, self._folder, self._step),
            engines={key: s.engine for key, s in self._steppers.items()},
            scales=self._scales,
            widths=self._stream.widths,
            variance=self._totals.peek(),
            seconds=self._seconds,
            guesses=dict(self._space.guesses),
            threads=torch.get_num_threads(),
        )
        self._ranks.save(self._folder, self._groups(), state, self._train.keep, stopped=stopped)
        self._saved = self._step

    def _stop(self) -> None:
        self._checkpoint(stopped=True)
        kept = f"step {self._step} is in {self._folder.path}; resume=True goes on"
        lost = "nothing was kept, because no folder was given (out=...)"
        why = f" ({found})" if (found := self._ranks.why()) else ""
        raise StoppedError(f"stopped{why}: {kept if self._folder.path else lost}")

    def _finish(self) -> list[SAERun]:
        facts = (self._card, self._step, self._seconds)
        states = self._states("finished")
        return self._ranks.results(self._report, self._folder, self._groups(), facts, states)

    def _states(self, state: str) -> dict[str, str]:
        return {
            name: state if group.alive[i] else "diverged"
            for group in self._groups()
            for i, name in group.names()
        }

    def _groups(self) -> list[Group]:
        return [s.group for s in self._steppers.values()]

    def _scale(self, site: str, x: Tensor) -> float:
        if not bool(torch.isfinite(x).all()):
            self._bad_activations(site)
        return scale_of(x) if self._train.normalize else 1.0

    def _make(self, first: dict[str, Tensor], engines: dict[str, str]) -> None:
        for key, ends, configs in together(self._configs, self._ends):
            group = self._ranks.group(configs, ends, first, self._scales)
            if key in engines:
                engine: Any = engines[key]
            elif self._train.engine != "auto":
                engine = self._train.engine
            else:
                engine, how = self._ranks.choose(group, first, self._space)
                self._report.say(f"{key}: {how}")
            self._steppers[key] = self._ranks.stepper(group, engine, self._space, self._report.say)
