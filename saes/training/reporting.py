"""What a run says while it goes: terminal, ``metrics.jsonl``, ``status.json``, and its end."""

import math
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor

from lensbench import provenance
from lensbench.errors import DataError, StoppedError
from lensbench.progress import bar
from lensbench.results import Controls
from lensbench.saes.configs import TrainConfig
from lensbench.saes.runs import RESULT_FOLDER, WAIT, SAERun, arrays, last_window
from lensbench.saes.step.export import export
from lensbench.saes.step.group import METRICS, Group
from lensbench.saes.training.folder import RunFolder
from lensbench.saes.training.sinks import Sinks
from lensbench.saes.training.stream import Stream

MANY_EPOCHS = 2
"""From here on a run is told that it repeats its store."""


class Totals:
    """Variance of the batches since the last log line, by site, in scaled units."""

    def __init__(self, sites: list[str], device: torch.device) -> None:
        self._sums = {s: torch.zeros((), dtype=torch.float64, device=device) for s in sites}
        self._steps = dict.fromkeys(sites, 0)

    def add(self, site: str, x: Tensor, scale: float) -> bool:
        """Add a batch; whether it is finite (waits only on a CPU, True elsewhere)."""
        total = (x - x.mean(0)).square_().sum() * (scale * scale)  # six times faster than x.var(0)
        if x.device.type == "cpu" and not math.isfinite(float(total)):
            return False
        self._sums[site] += total
        self._steps[site] += 1
        return True

    def read(self) -> tuple[dict[str, float], int]:
        """Sums by site and the number of steps in them; starts again from zero."""
        found, steps = self.peek(), next(iter(self._steps.values()))
        for site in self._sums:
            self._sums[site].zero_()
            self._steps[site] = 0
        return {site: value for site, (value, _) in found.items()}, steps

    def peek(self) -> dict[str, tuple[float, int]]:
        """Sum and number of steps, by site."""
        return {s: (float(v), self._steps[s]) for s, v in self._sums.items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`peek` gave."""
        for site in self._sums:  # another rank may have had more
            value, steps = state[site]
            self._sums[site].fill_(value)
            self._steps[site] = int(steps)


class Reporter:
    """Speaks on stderr, writes the run folder, and keeps the history."""

    def __init__(
        self,
        folder: RunFolder,
        train: TrainConfig,
        stream: Stream,
        *,
        progress: bool,
        total: Callable[[Tensor], Tensor] = lambda own: own,
    ) -> None:
        self._total = total
        self._folder, self._train, self._progress = folder, train, progress
        self._waits, (self._store, self._text) = stream.waits, stream.fingerprints
        self._history: dict[str, list[dict[str, float]]] = {}
        self._bar: Any = None
        self._waited = 0.0
        self._sinks = Sinks(train.sinks, self.say)

    @contextmanager
    def bar(self, steps: int, done: int) -> Generator[None, None, None]:
        """A bar on a terminal and in notebooks; the sinks begin where it does."""
        if self._folder.path is not None:
            self._sinks.open(self._folder.path, self._folder.settings, done)
        with bar("saes", steps, unit="step", done=done, show=self._progress) as shown:
            self._bar = None if shown.disable else shown
            yield
        self._bar = None

    def say(self, text: str) -> None:
        """One line in ``log.txt``, and on stderr where this process speaks."""
        self._folder.log(text)
        if not self._progress:
            return
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)  # noqa: T201 - progress is spoken on stderr

    def repeats(self, stored: int) -> None:
        """Warn where ``stored`` tokens are read several times over (0: not known)."""
        real = self._train.steps * self._train.batch_size
        if stored and real >= MANY_EPOCHS * stored:
            self.say(
                f"warning: {stored:,} stored tokens are few: training repeats them for "
                f"{real / stored:.1f} epochs; capture more text, or lower train.tokens (--tokens)"
            )

    def tick(self, step: int, states: dict[str, str]) -> None:
        """Called after every step."""
        if self._bar is not None:
            self._bar.update(1)
        if step == 1 or self._folder.due():
            self._beat("running", step, states)

    def rewind(self, name: str, step: int) -> None:
        """Forget what was logged after ``step``."""
        self._history[name] = self._folder.rewind(name, step)

    def lines(
        self,
        group: Group,
        variance: float,
        count: int,
        step: int,
        limits: list[int],
        factor: float,
        seconds: float,
    ) -> None:
        """Log every living dictionary of a group; one that is not finite is reported and left."""
        batch, self._waited = self._train.batch_size, self._waits.window(step)
        dead = group.state["since_fired"] >= torch.tensor(limits, device=group.device)[:, None]
        width = group.configs[0].d_sae  # a rank may hold some of the latents only
        dead_fractions = (self._total(dead.sum(1).float()) / width).tolist()
        sums, diverged = group.sums.tolist(), group.diverged.tolist()
        group.sums.zero_()
        for i, name in group.names():
            if not group.alive[i]:
                continue
            means = {m: v / count for m, v in zip(METRICS, sums[i], strict=True)}
            if diverged[i] or not all(math.isfinite(v) for v in means.values()):
                group.alive[i] = False
                self.say(f"{name} diverged by step {step}: loss or gradient is not finite; left")
                continue
            line = {
                "step": step,
                "tokens": step * batch,
                "loss": means["loss"],
                "fvu": sums[i][METRICS.index("sse")] / variance if variance > 0 else 0.0,
                "l0": means["l0"],
                "dead_fraction": dead_fractions[i],
                "lr": group.configs[i].learning_rate * factor,
                "grad_norm": means["grad_norm"],
                "seconds": seconds,
                WAIT: round(self._waited, 4),
            }
            self._history.setdefault(name, []).append(line)
            self._folder.metrics(name, line)
            self._sinks.log(name, line)

    def result(
        self, group: Group, i: int, card: dict[str, Any], step: int, seconds: float
    ) -> SAERun:
        """A dictionary as a result; written if there is a folder."""
        config, batch = group.configs[i], self._train.batch_size
        name = str(config.name)
        taken = step if group.alive[i] else int(group.state["steps"][i])
        metadata: dict[str, Any] = {"tokens_trained": taken * batch}
        if card:
            metadata |= {"model": card, "model_name": card.get("name", "")}
        if self._text:
            metadata["text_fingerprint"] = self._text
        kept = "" if self._folder.path is None else str(self._folder.of(name))
        run = SAERun.of(
            export(group, i, metadata),
            name=name,
            site=group.ends.key,
            status="finished" if group.alive[i] else "diverged",
            folder=kept,
            history=arrays(self._history.get(name, [])),
            provenance=provenance.record(
                model=card,
                seed=config.seed,
                device=str(group.device),
                seconds=seconds,
                store=self._store,
            ),
            controls=Controls(note="training alone has no control; evaluate() adds them"),
        )
        if self._folder.path is not None:
            run.save(self._folder.of(name) / RESULT_FOLDER)
        return run

    def done(self, step: int, states: dict[str, str]) -> None:
        """The run is complete."""
        self._sinks.close("finished")
        self._beat("finished", step, states)
        told = f"; {self._waits.share():.1%} of the time waiting for data"
        self.say(f"finished {step} steps{told if self._waits.counted else ''}")

    def failed(self, step: int, error: BaseException, states: dict[str, str]) -> None:
        """The run ends with ``error``."""
        stopped = isinstance(error, StoppedError | KeyboardInterrupt)
        state = "stopped" if stopped else "failed"
        self._sinks.close(state)
        with suppress(DataError):  # a full disk: the error itself is told, the run found lost
            self._beat(state, step, states, str(error))
            self._folder.log(f"{type(error).__name__}: {error}")

    def _beat(self, state: str, step: int, states: dict[str, str], note: str = "") -> None:
        train = self._train
        self._folder.status(
            state,
            step,
            train.steps,
            step * train.batch_size,
            states,
            note,
            round(self._waits.share(), 4),
        )

    def speak(self, step: int, seconds: float) -> None:
        """One line about the dictionary of smallest FVU, after all were logged at ``step``.

        Those that other processes train count as well, as they last logged them.
        """
        known = {n: lines for n, lines in self._history.items() if lines
                 and lines[-1]["step"] == step}  # fmt: skip
        if not known:
            return
        known |= self._folder.elsewhere()
        best = min(known, key=lambda name: known[name][-1]["fvu"])
        last, window = known[best][-1], last_window(ln["step"] for ln in known[best])
        steps = "step" if window == 1 else f"{window} steps"
        speed = step * self._train.batch_size / seconds if seconds > 0 else 0.0
        self.say(
            f"step {step}/{self._train.steps}  {speed:.0f} tokens/s  best {best}: "
            f"fvu {last['fvu']:.4f}  l0 {last['l0']:.1f}  (means of the last {steps})  "
            f"dead {last['dead_fraction']:.1%}"
        )
