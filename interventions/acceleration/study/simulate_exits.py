"""Early exits without a check, and budgets of layers per position, told from the lens table.

With keys and values recomputed, the states below an exit are the full model's states on the same
text, so exits and tokens on that text are table look-ups. A free run shares the text until the
first token that differs (``ExitTrace.known``). With states copied upwards it is another network:
the look-up is then an approximation.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from lensbench.errors import ConfigError, UnknownNameError
from lensbench.interventions.acceleration.exits.confidence import threshold_at
from lensbench.interventions.acceleration.exits.live import check_exits
from lensbench.interventions.acceleration.study.lens_table import LensTable
from lensbench.interventions.acceleration.study.own import refuse_inexact
from lensbench.interventions.acceleration.study.trace import ExitTrace


def sim_calm(
    table: LensTable,
    threshold: float,
    *,
    measure: str = "softmax_diff",
    exits: Sequence[int] | None = None,
    decay: float | None = None,
    exact: bool = True,
) -> list[ExitTrace]:
    """Layers and tokens of :func:`early_exit` on every document, given the full model's text.

    Args:
        table: of a store of own text.
        threshold: 0 lets every token leave at the first exit; above 1 none before the last layer.
        measure: ``softmax_diff``, ``softmax_max``, ``entropy``, ``state``, or ``oracle``.
        exits: numbers of layers after which a token may leave; all by default.
        decay: lowers the threshold along the text; None keeps it.
        exact: refuse a table of other text; False makes a proxy of it.

    Raises:
        ConfigError: a setting out of range.
        UnknownNameError: a confidence the table does not hold.
        MismatchError: an exact prediction from other text than the model's own.

    Example:
        >>> left = acceleration.sim_calm(acceleration.lens_table(own, early), threshold=0.6)
        >>> left[0].exits
    """
    if exact:
        refuse_inexact(table.inexact)
    if not 0 <= threshold < float("inf"):
        raise ConfigError(f"threshold must be >= 0 (above 1: no exit), got {threshold!r}")
    found = exit_layers(table, threshold, measure, check_exits(exits, table.n_layers), decay)
    traces: list[ExitTrace] = []
    for document in table.documents():
        left = document.of(found)
        chosen = np.take_along_axis(document.of(table.best), left[None] - 1, 0)[0]
        differs = chosen != document.of(table.chosen)
        known = int(differs.argmax()) + 1 if differs.any() else len(left)
        tokens = tuple(int(i) for i in chosen)
        traces.append(ExitTrace(tuple(int(e) for e in left), tokens, document.n_prompt, known))
    return traces


def exit_layers(
    table: LensTable,
    threshold: float,
    measure: str,
    exits: tuple[int, ...],
    decay: float | None = None,
) -> Int[np.ndarray, " tokens"]:
    """First of ``exits`` whose confidence reaches the threshold, L where none does, per column."""
    layers = np.array([*exits, table.n_layers])
    if measure == "oracle":
        leaves = table.best[layers - 1] == table.best[-1]
        return layers[leaves.argmax(0)]
    sure = table.confidence(measure)[layers - 1]
    if measure == "state" and len(exits):
        sure = np.concatenate([np.zeros_like(sure[:1]), sure[1:]])  # the first exit has none before
    leaves = sure >= _thresholds(table, threshold, decay)
    leaves[-1] = True
    return layers[leaves.argmax(0)]


def _thresholds(table: LensTable, threshold: float, decay: float | None) -> np.ndarray:
    if decay is None:
        return np.full(table.step.shape, threshold)
    longest = int(table.step.max()) + 1
    steps = np.array([threshold_at(threshold, decay, t, longest) for t in range(longest)])
    return steps[np.maximum(table.step, 0)]


def exit_quality(
    table: LensTable, layers: Int[np.ndarray, " tokens"]
) -> dict[str, Float[np.ndarray, " new"]]:
    """Agreement, KL and log p of the text of tokens that leave after ``layers``, per new token."""
    new = table.new
    pick = lambda values: np.take_along_axis(values, layers[None] - 1, 0)[0][new]  # noqa: E731
    return {
        "agreement": pick(table.agrees).astype(np.float64),
        "kl": pick(table.kl).astype(np.float64),
        "log_target": pick(table.log_target).astype(np.float64),
        "layers": layers[new].astype(np.float64),
    }


def budget_layers(
    kind: str, n_layers: int, length: int, *, least: int, most: int | None = None
) -> Int[np.ndarray, " length"]:
    """Layers per new token of a schedule by position: exact, whatever the text.

    ``linear``: SkipDecode's line from ``most`` to ``least``. ``cosine``: n(t) = least + (most -
    least)(1 + cos(pi t / (T - 1))) / 2, the shifted-cosine decay of p-MoD along the text.

    Raises:
        UnknownNameError: another kind.
        ConfigError: a range outside the model.

    Example:
        >>> acceleration.budget_layers("linear", 6, 4, least=2).tolist()
    """
    from lensbench.interventions.acceleration.skipping.schedule import linear_budgets

    line = linear_budgets(n_layers, length, least=least, most=most)
    if kind == "linear":
        return np.array(line.layers)
    if kind != "cosine":
        raise UnknownNameError("budget", kind, known=("linear", "cosine"))
    top = n_layers if most is None else most
    share = (1 + np.cos(np.pi * np.arange(length) / max(1, length - 1))) / 2
    return np.rint(least + (top - least) * share).astype(np.int64)
