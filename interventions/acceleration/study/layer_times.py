"""How long the parts of a run take on this machine: the calibration of the third currency.

A call of some layers on q tokens behind c others costs ``call + layers T(q, c)``; T is measured on
a grid of q and c and interpolated in between, and so are heads and the bookkeeping of a round. CPU
time of the process (``time.process_time``), the least of several interleaved repetitions: on a busy
machine the wall clock says little. On a CUDA device the wall clock around a synchronised call is
taken. The numbers hold for the machine, the number of threads and the model they were taken of.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int

from lensbench import provenance
from lensbench.arguments import whole_number
from lensbench.errors import ConfigError
from lensbench.interventions.acceleration.decoding import native
from lensbench.interventions.acceleration.exits.confidence import of_logits
from lensbench.interventions.acceleration.sampling import Sampler, Warp
from lensbench.interventions.acceleration.study.work import Work
from lensbench.models.base import Model
from lensbench.results import Controls, Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerTimes(Result):
    """Seconds of layers, heads and bookkeeping on one machine."""

    tokens: Int[np.ndarray, " q"]
    """Tokens per call that were measured."""
    contexts: Int[np.ndarray, " c"]
    """Tokens before them."""
    layer: Float[np.ndarray, "q c"]
    """Seconds per layer."""
    cold: Float[np.ndarray, "q c"]
    """The same for layers that did not run while lower ones drafted: their weights have left the
    cache, and the check pays for it."""
    call: float
    """Seconds of a call beside its layers: the median over the grid."""
    head: Float[np.ndarray, " q"]
    """Seconds of norm, head and choice."""
    enter: Float[np.ndarray, " q"]
    """Seconds from ids to the stream."""
    read: float
    """Seconds to tell how sure one set of logits is."""
    round_: float
    """Seconds of joining states, cropping and noting a round."""
    fill: float
    """Seconds to store keys and values of one token in one layer, without running it."""

    def seconds(self, work: Work) -> float:
        """Predicted seconds of a run."""
        _, _, q, at = work.spans.T
        halves = 1 - len(work.omit) / (2.0 * self.n_layers)  # left out, spread evenly
        layer = np.where(work.cold, self._at(self.cold, q, at), self._at(self.layer, q, at))
        spent = (self.call + work.layers * halves * layer).sum()
        entered = work.spans[work.spans[:, 0] == 0, 2]
        spent += np.interp(entered, self.tokens, self.enter).sum()
        spent += np.interp(np.array(work.heads), self.tokens, self.head).sum()
        return float(
            spent + work.filled * self.fill + work.rounds * self.round_ + work.reads * self.read
        )

    @property
    def n_layers(self) -> int:
        """Layers of the model that was timed."""
        return int(self.config["n_layers"])

    def _at(self, table: np.ndarray, q: np.ndarray, context: np.ndarray) -> np.ndarray:
        """Bilinear in tokens and context; flat outside the grid in context, linear in tokens."""
        i = np.clip(np.searchsorted(self.tokens, q) - 1, 0, max(0, len(self.tokens) - 2))
        rows = [np.interp(context, self.contexts, row) for row in table]
        values = np.stack(rows)
        if len(self.tokens) == 1:
            return values[0]
        a, b = self.tokens[i], self.tokens[i + 1]
        share = (q - a) / (b - a)
        pick = np.arange(len(q))
        return values[i, pick] * (1 - share) + values[i + 1, pick] * share

    def to_frame(self) -> "pd.DataFrame":
        """One row per number of tokens and of tokens before; in times of one token's layer."""
        import pandas as pd

        q, c = np.indices(self.layer.shape)
        unit = float(self.layer[0, 0]) or 1.0
        frame = pd.DataFrame(
            {
                "tokens": self.tokens[q.ravel()],
                "context": self.contexts[c.ravel()],
                "layer": self.layer.ravel() / unit,
                "call": self.call / unit,
                "head": np.repeat(self.head, len(self.contexts)) / unit,
            }
        )
        frame.attrs["units"] = dict.fromkeys(("layer", "call", "head"), "layers of one token")
        return frame

    def summary(self) -> dict[str, float]:
        """Ratios that decide whether drafting can pay."""
        unit = float(self.layer[0, 0]) or 1.0
        return {
            "layer_of_last_q_over_one": float(self.layer[-1, 0] / unit),
            "last_q": float(self.tokens[-1]),
            "head_over_layer": float(self.head[0] / unit),
            "call_over_layer": self.call / unit,
        }

    def plot(self) -> "go.Figure":
        """Time of a layer by number of tokens, in times of one token's layer."""
        from lensbench.plots import lines

        frame = self.to_frame()
        frame["before"] = frame["context"].astype(str)
        return lines(
            frame, x="tokens", y="layer", color="before", title="What a layer costs",
            subtitle="in times of one token's layer", labels={"before": "tokens before"},
        )  # fmt: skip


def time_layers(
    model: Model,
    room: int,
    *,
    most_tokens: int = 8,
    prompt_tokens: int | None = None,
    repeats: int = 5,
    seed: int = 0,
) -> LayerTimes:
    """Measure layers, heads and bookkeeping of a model on this machine.

    Args:
        model: a decoder-only model whose layers can be run one by one.
        room: tokens of the longest text that will be predicted.
        most_tokens: tokens of the largest check (drafted tokens and one).
        prompt_tokens: longest prompt; default: half of ``room``.
        repeats: measurements of each point, interleaved; the least counts.
        seed: of the random tokens.

    Raises:
        ConfigError: no room for the tokens, or an architecture whose layers cannot be run one by
            one.

    Example:
        >>> times = acceleration.time_layers(early, room=16, repeats=1)
    """
    began = time.monotonic()
    runnable = native(model)
    whole_number("room", room, least=4)
    whole_number("repeats", repeats, least=1)
    prompt = room // 2 if prompt_tokens is None else whole_number("prompt_tokens", prompt_tokens)
    if max(most_tokens, prompt) >= room:
        raise ConfigError(f"{most_tokens} and {prompt} tokens do not fit into room for {room}")
    rounds = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32}
    sizes = sorted({n for n in rounds if n <= most_tokens} | {most_tokens, max(1, prompt)})
    contexts = sorted({0, room // 2, room - 1})
    bench = _Bench(runnable, room, seed)
    found = bench.grid(sizes, contexts, repeats)
    return LayerTimes(
        tokens=np.array(sizes), contexts=np.array(contexts), **found,
        config={"room": room, "repeats": repeats, "threads": torch.get_num_threads(),
                "n_layers": runnable.n_layers, "clock": bench.clock_name},
        controls=Controls(note="held to live runs by AccelerationStudy.verify"),
        provenance=provenance.record(
            model=vars(model.card), seed=seed, seconds=time.monotonic() - began,
            device=str(runnable.device),
        ),
    )  # fmt: skip


class _Bench:
    """One runner, filled with random tokens, whose calls are timed."""

    def __init__(self, model: Any, room: int, seed: int) -> None:
        self.model, self.room = model, room
        self.runner = model.layers(room)
        rng = torch.Generator().manual_seed(seed)
        self.ids = torch.randint(model.card.d_vocab, (1, room), generator=rng).to(model.device)
        self.entry = self.runner.embed(self.ids, 0)
        self.cuda = model.device.type == "cuda"
        self.clock_name = "wall" if self.cuda else "process"
        self.sampler = Sampler(Warp(), seed)
        self.runner.run(self.entry, 0, self.runner.n_layers, 0)

    def grid(self, sizes: Sequence[int], contexts: Sequence[int], repeats: int) -> dict[str, Any]:
        """Least times per point, all points in turn in every repetition."""
        n_layers = self.runner.n_layers
        shape = (len(sizes), len(contexts))
        one, all_, above = (np.full(shape, np.inf) for _ in range(3))
        head, enter = np.full(len(sizes), np.inf), np.full(len(sizes), np.inf)
        rounds = read = fill = np.inf
        half = n_layers // 2
        for repeat in range(repeats + 1):  # the first warms up
            for j, context in reversed(list(enumerate(contexts))):
                # All sizes before the next depth: a place met twice running is sliced but once.
                for first, last, least in (
                    (0, 1, one),
                    (0, n_layers, all_),
                    (half, n_layers, above),
                ):
                    for i, size in enumerate(sizes):
                        spent = self._run(size, min(context, self.room - size), first, last)
                        least[i, j] = min(least[i, j], spent) if repeat else np.inf
                        # Behind layers, as in a run, so that their weights have left the cache.
                        head[i], enter[i] = (
                            min(head[i], self._head(size)), min(enter[i], self._enter(size))
                        )  # fmt: skip
                rounds, read = min(rounds, self._round()), min(read, self._read())
                fill = min(fill, self._fill())
        # One number for all calls: a point of its own would hand its noise on to the layers.
        rest = (one * n_layers - all_) / (n_layers - 1) if n_layers > 1 else np.zeros(1)
        call = max(float(np.median(rest)), 0.0)
        layer = np.maximum((all_ - call) / n_layers, 0.0)
        cold = np.maximum((above - call) / (n_layers - half), layer)
        return {"layer": layer, "cold": cold, "call": call, "head": head, "enter": enter,
                "round_": float(rounds), "read": float(read), "fill": float(fill)}  # fmt: skip

    def _run(self, q: int, at: int, first: int, last: int) -> float:
        runner = self.runner
        runner.crop(at)
        if first:  # as after drafts of the layers below
            for _ in range(3):
                runner.run(self.entry[:, at : at + 1], 0, first, at)
                runner.crop(at, range(first))
        h = self.entry[:, at : at + q]
        spent = self._clock(lambda: runner.run(h, first, last, at))
        # Keys behind the crop are still in place: hold them again for the next, larger, context.
        runner.cache.lengths = [self.room] * runner.n_layers
        return spent

    def _head(self, size: int) -> float:
        h = self.entry[:, :size]
        return self._clock(lambda: self.sampler.draw(self.runner.logits(h)[0, -1]))

    def _enter(self, size: int) -> float:
        rows = self.ids[0, :size].tolist()
        device = self.model.device
        return self._clock(lambda: self.runner.embed(torch.tensor([rows], device=device), 0))

    def _round(self) -> float:
        states = [self.entry[:, i : i + 1] for i in range(4)]
        logits = self.runner.logits(self.entry[:, :4])[0]

        def once() -> None:
            torch.cat(states, 1)
            self.sampler.check([0, 0, 0], [None] * 3, logits)
            self.runner.crop(self.room)

        return self._clock(once)

    def _fill(self) -> float:
        """Of the last token, in all layers, per layer."""
        runner, at = self.runner, self.room - 1
        runner.crop(at)
        h = self.entry[:, at:]
        return self._clock(lambda: runner.fill(h, range(runner.n_layers), at)) / runner.n_layers

    def _read(self) -> float:
        logits = self.runner.logits(self.entry[:, 0])
        return self._clock(lambda: float(of_logits("softmax_diff", logits)[0]))

    def _clock(self, call: Callable[[], Any]) -> float:
        if not self.cuda:
            start = time.process_time()
            call()
            return time.process_time() - start
        torch.cuda.synchronize(self.model.device)
        start = time.perf_counter()
        call()
        torch.cuda.synchronize(self.model.device)
        return time.perf_counter() - start
