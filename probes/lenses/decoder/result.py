"""What the DecoderLens found: scores per encoder layer and sub-task, beside their controls."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from lensbench.errors import UnknownNameError
from lensbench.results import Result
from lensbench.stats import Interval, bootstrap_mean

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

FORCED = {
    "token_accuracy": "share of scored tokens",
    "agreement": "share of scored tokens",
    "cross_entropy": "nats",
    "kl_to_final": "KL(model ‖ this layer) [nats]",
}
"""Metrics with the right tokens before (teacher forcing), with their units."""
GENERATED = {"exact_match": "share of sentences", "same_output": "share of sentences"}
"""Metrics of what the decoder writes by itself, greedily."""
UNITS = {**FORCED, **GENERATED}


@dataclass(frozen=True, kw_only=True, eq=False)
class DecoderLens(Result):
    """Scores of the decoder on the states of every encoder layer; layer 0 is the embeddings.

    Per sentence, over its scored tokens, the right ones before them given: ``token_accuracy`` the
    share whose most probable token is right; ``agreement`` the share whose most probable token is
    that of the model itself; ``cross_entropy`` of the right one; ``kl_to_final`` KL(p_n || p_i).
    Of what it writes by itself: ``exact_match`` with the target, ``same_output`` as the model's.
    """

    layers: tuple[int, ...]
    metrics: tuple[str, ...]
    states: tuple[str, ...]
    """``model``, and the controls: ``shuffled``, ``reinitialised``."""
    values: Float[np.ndarray, "metrics states layers sentences"]
    tasks: tuple[str, ...]
    """Sub-task of every sentence."""
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    """Empty where none were given."""
    outputs: tuple[tuple[str, ...], ...]
    """Greedy text per layer and sentence; empty without generation."""
    first_equal: Int[np.ndarray, " sentences"]
    """First layer whose output is that of the last: its text, or its forced tokens without one."""

    def sentences(
        self, metric: str, states: str = "model"
    ) -> Float[np.ndarray, "layers sentences"]:
        """The scores behind the means.

        Raises:
            UnknownNameError: no such metric or kind of states here.
        """
        for what, name, known in (
            ("metric", metric, self.metrics),
            ("kind of states", states, self.states),
        ):
            if name not in known:
                raise UnknownNameError(what, name, known=known)
        return self.values[self.metrics.index(metric), self.states.index(states)]

    def interval(
        self, metric: str, layer: int, *, task: str = "", states: str = "model"
    ) -> Interval:
        """Mean over the sentences of a sub-task (all without one), bootstrap over sentences.

        Raises:
            UnknownNameError: no such metric, kind of states, sub-task or layer here.
        """
        if layer not in self.layers:
            known = [str(one) for one in self.layers]
            raise UnknownNameError("layer", str(layer), known=known)
        row = self.sentences(metric, states)[self.layers.index(layer)]
        return bootstrap_mean(row[self._of(task)].astype(np.float64))

    def _of(self, task: str) -> np.ndarray:
        if not task:
            return np.ones(len(self.tasks), bool)
        if task not in self.tasks:
            raise UnknownNameError("sub-task", task, known=self.task_names)
        return np.array(self.tasks) == task

    @property
    def task_names(self) -> tuple[str, ...]:
        """Sub-tasks in the order in which they were given."""
        return tuple(dict.fromkeys(self.tasks))

    def solved_from(self, share: float = 0.9, metric: str = "token_accuracy") -> dict[str, int]:
        """Per sub-task the first layer from which on its score stays at ``share`` of the last's.

        min { i : mean_j >= share * mean_n for all j >= i }. A metric of which more is better.
        """
        found: dict[str, int] = {}
        for task in self.task_names:
            means = self.sentences(metric)[:, self._of(task)].mean(1)
            below = np.flatnonzero(means < share * means[-1])
            found[task] = self.layers[0 if not len(below) else int(below[-1]) + 1]
        return found

    def to_frame(self) -> "pd.DataFrame":
        """One row per metric, kind of states, sub-task and layer."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for metric in self.metrics:
            for states in self.states:
                for task in self.task_names:
                    where = {"metric": metric, "states": states, "task": task}
                    for layer in self.layers:
                        found = self.interval(metric, layer, task=task, states=states)
                        at = {"layer": layer, "value": found.mean, "n": found.n}
                        rows.append({**where, **at, "low": found.low, "high": found.high})
        frame = pd.DataFrame(rows)
        frame.attrs["units"] = {"value": "see metric", "n": "sentences"}
        return frame

    def texts(self, sentence: int = 0) -> "pd.DataFrame":
        """What each layer makes of one sentence: layer, text, whether it is the last layer's."""
        import pandas as pd

        if not 0 <= sentence < len(self.tasks):
            known = [f"0 to {len(self.tasks) - 1}"]
            raise UnknownNameError("sentence", str(sentence), known=known)
        said = [row[sentence] for row in self.outputs]
        rows = {"layer": self.layers[: len(said)], "output": said}
        return pd.DataFrame({**rows, "same_as_last": [text == said[-1] for text in said]})

    def plot(self, metric: str = "", task: str = "") -> "go.Figure":
        """One metric over layers, a line per sub-task; with ``task``, beside its controls."""
        from lensbench.plots import lines

        metric = metric or self.metrics[0]
        self.sentences(metric)  # refuses an unknown one
        frame = self.to_frame()
        part = frame.loc[frame["metric"] == metric]
        if task:
            self._of(task)
            part = part.loc[part["task"] == task]
        else:
            part = part.loc[part["states"] == "model"]
        part = part.assign(**{metric: part["value"]})
        part.attrs["units"] = {metric: UNITS[metric], "n": "sentences"}
        return lines(
            part, x="layer", y=metric, color="states" if task else "task", low="low", high="high",
            title="DecoderLens" + (f": {task}" if task else ""),
            subtitle=f"{len(self.tasks):,} sentences; layer 0 is the embeddings",
            labels={"layer": "encoder layer that the decoder reads"},
        )  # fmt: skip

    def summary(self) -> dict[str, float]:
        """First layer with the last one's output, and the first metric by sub-task."""
        metric = self.metrics[0]
        out = {"first_equal_layer": float(self.first_equal.mean())}
        for task in self.task_names:
            out[f"{metric}_{task}"] = self.interval(metric, self.layers[-1], task=task).mean
        if metric == "token_accuracy":
            found = self.solved_from()
            out |= {f"solved_from_{task}": float(layer) for task, layer in found.items()}
        return out
