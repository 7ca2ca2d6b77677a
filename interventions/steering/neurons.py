"""Clamp a neuron, or the rows of a table, before the gate, at it and behind it, at both signs.

Clamping ``up`` of a gated MLP writes ``c act(gate_j)``: where the gate is closed nothing happens,
and where ``act(gate_j) < 0`` (SiLU and GELU are, below zero) the effect has the opposite sign. So
the gate is reported beside the sweep, and ``post``, the product, is swept with it.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lensbench import provenance
from lensbench.arguments import refuse_no_model, whole
from lensbench.errors import ConfigError
from lensbench.interventions.experts.rows import Rows, rows_of
from lensbench.interventions.metrics import Ends, MetricLike, as_metric
from lensbench.interventions.patching.engine import pick_rows
from lensbench.interventions.steering.neuron_rows import (
    Neuron,
    NeuronRows,
    clamp_all,
    neurons_of,
    others_of,
    places_of,
)
from lensbench.interventions.steering.plans import Gate
from lensbench.interventions.steering.rows import Asked, batch_of
from lensbench.models.base import Model
from lensbench.results import Controls, Result
from lensbench.sites import Site
from lensbench.stats import bootstrap_mean

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

VALUES = (-20.0, -5.0, -1.0, 0.0, 1.0, 5.0, 20.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class NeuronClamps(Result):
    """A metric of one token under every clamp of a neuron, or of several; intervals: prompts."""

    layer: int
    neuron: int
    token: str
    metric: str
    unit: str
    at: tuple[str, ...]
    """``up``, ``gate``, ``post``: those the model has."""
    clamped: Float[np.ndarray, " values"]
    """What the neuron was set to, at every token."""
    values: Float[np.ndarray, "at values prompts"]
    clean: Float[np.ndarray, " prompts"]
    other: Float[np.ndarray, "at values prompts"]
    """The same of another neuron of the layer: the control."""
    gate: Float[np.ndarray, " prompts"]
    """The gate before its activation at the last token, mean over neurons; NaN without a gate."""
    gate_act: Float[np.ndarray, " prompts"]
    """``act(gate)``: what a clamped ``up`` is multiplied by; NaN without a gate."""
    neurons: tuple[tuple[int, int, int], ...] = ()
    """Layer, neuron and sign of all that are clamped together; the first is named above."""

    def to_frame(self) -> "pd.DataFrame":
        """One row per place and value, the clean run, and the other neuron."""
        import pandas as pd

        cells = [("clean", "", np.nan, self.clean)]
        for kind, values in (("clamp", self.values), ("other neuron", self.other)):
            for i, place in enumerate(self.at):
                cells += [(kind, place, c, values[i, j]) for j, c in enumerate(self.clamped)]
        gate, gate_act = float(self.gate.mean()), float(self.gate_act.mean())
        rows: list[dict[str, Any]] = []
        for kind, place, c, found in cells:
            mean = bootstrap_mean(found)
            rows.append({"kind": kind, "at": place, "clamped": c, "value": mean.mean,
                         "low": mean.low, "high": mean.high, "n": mean.n,
                         "gate": gate, "gate_act": gate_act})  # fmt: skip
        frame = pd.DataFrame(rows)
        frame.attrs["units"] = {"value": self.unit, "n": "prompts"}
        return frame

    def summary(self) -> dict[str, float]:
        """Mean at the lowest and highest value of every place, clean, and the gate."""
        found: dict[str, float] = {"clean": float(self.clean.mean())}
        low, high = int(self.clamped.argmin()), int(self.clamped.argmax())
        for i, place in enumerate(self.at):
            found[f"{place}_low"] = float(self.values[i, low].mean())
            found[f"{place}_high"] = float(self.values[i, high].mean())
        return {**found, "gate_act": float(self.gate_act.mean()), "prompts": float(len(self.clean))}

    def plot(self) -> "go.Figure":
        """The metric against the value, a line per place."""
        from lensbench.plots import lines

        what = f"neuron {self.layer}.{self.neuron}"
        what = f"{len(self.neurons)} neurons" if len(self.neurons) > 1 else what
        shown = self.to_frame().query("kind == 'clamp'").reset_index(drop=True)
        return lines(
            shown, x="clamped", y="value", color="at", low="low", high="high",
            title=f"{what}: {self.metric} of {self.token!r}",
            subtitle=f"act(gate) {float(self.gate_act.mean()):.3g} at the last token; clean "
            f"{float(self.clean.mean()):.3g}; {len(self.clean)} prompts; control: {self.controls}",
        )  # fmt: skip


def neuron_clamps(
    model: Model,
    prompts: Asked,
    layer: "int | NeuronRows",
    neuron: int | None = None,
    token: int | str | None = None,
    *,
    values: Sequence[float] = VALUES,
    at: Sequence[Gate] | None = None,
    metric: MetricLike = "probability",
    batch_size: int = 64,
    seed: int = 0,
) -> NeuronClamps:
    """Set neurons at all tokens and see what becomes of one token's probability at the end.

    Rows of a table are clamped *together*, each to its sign times the value:
    ``neuron_clamps(model, prompts, probes.decode_neurons(model).writes(" dog"), token=" dog")``.

    Args:
        model: any back end that has the MLP's sites.
        prompts: texts or ids.
        layer: of the neuron; or rows: a frame with columns ``layer``, ``neuron`` (and ``sign``),
            or a list of (layer, neuron) or (layer, neuron, sign).
        neuron: its number; left out with rows.
        token: id, or text of one token, such as ``" dog"``.
        values: what it is set to; both signs.
        at: ``up``, ``gate``, ``post``; left out, all that the model has.
        metric: ``probability``, ``loss``, ``rank`` or a function of one token.
        batch_size: most rows in one forward pass.
        seed: of the control, as many other neurons of the same layers.

    Raises:
        ConfigError: a layer, neuron or token that is not there, a table without its columns, or a
            metric of two tokens.

    Example:
        >>> found = interventions.neuron_clamps(
        ...     model, text, 2, 17, " Lima", values=(-5.0, 0.0, 5.0)
        ... )
    """
    refuse_no_model(model)
    began = time.monotonic()
    model.require_next_token("neuron clamping")
    neurons, measure = _neurons(model, layer, neuron), as_metric(metric)
    chosen = places_of(model, sorted({row[0] for row in neurons}), at)
    if measure.name == "logit_diff":
        raise ConfigError("logit_diff compares two tokens; measure one with 'probability'")
    rows, answer = rows_of(model, prompts), _token(model, token)
    sizes = _values(values)
    others = others_of(model, neurons, seed)

    def of(logits: Tensor, clean: Tensor) -> np.ndarray:
        same = torch.full((len(logits),), answer, device=logits.device)
        return measure(Ends(logits, same, same, clean)).double().cpu().numpy()

    tokens = batch_of(model, rows)
    out = model.run(tokens, logits="last").logits
    assert out is not None
    clean = out[:, -1]
    doses: list[tuple[Gate, float]] = [(p, c) for p in chosen for c in sizes]
    found = np.empty((2, len(doses), len(rows)))
    for which, some in enumerate((neurons, others)):
        for j, (place, c) in enumerate(doses):
            plans = [clamp_all(some, c, place)] * len(rows)
            got = model.run_many(
                pick_rows(tokens, range(len(rows))), plans, logits="last", batch_size=batch_size
            ).logits
            assert got is not None
            found[which, j] = of(got[:, -1], clean)
    found = found.reshape(2, len(chosen), len(sizes), len(rows))
    gate, gate_act = _gate(model, rows, neurons)
    shown = str(token) if model.tokenizer is None else str(model.tokenizer.decode([answer]))
    base = of(clean, clean)
    farthest = float(np.abs(found[1].mean(-1) - base.mean()).max())
    return NeuronClamps(
        layer=neurons[0][0], neuron=neurons[0][1], neurons=neurons, token=shown,
        metric=measure.name, unit=measure.unit, at=tuple(chosen),
        clamped=np.array(sizes), values=found[0],
        clean=base, other=found[1], gate=gate, gate_act=gate_act,
        config={"neurons": [list(row) for row in neurons], "token": answer,
                "others": [list(row) for row in others], "rows": rows},
        controls=Controls({"other_neuron": farthest},
                          f"farthest that clamping {_named(others)} moves the mean"),
        provenance=provenance.record(
            model=vars(model.card), seed=seed, seconds=time.monotonic() - began
        ),
    )  # fmt: skip


def _neurons(model: Model, layer: Any, neuron: Any) -> tuple[Neuron, ...]:
    """One neuron by its numbers, or the rows of a table."""
    if whole(layer) is not None:
        if whole(neuron) is None:
            width = model.width(Site("mlp.post", layer))
            raise ConfigError(f"layer {layer} has neurons 0..{width - 1}, got {neuron!r}")
        return neurons_of(model, [(layer, neuron)])
    if neuron is not None:
        raise ConfigError(
            f"with rows of a table leave neuron out, got {neuron!r}; the token is named by token="
        )
    return neurons_of(model, layer)


def _values(values: Any) -> list[float]:
    try:
        found = np.asarray(values, dtype=np.float64).ravel().tolist()
    except (TypeError, ValueError):
        found = []
    if not found:
        raise ConfigError(f"values must be one or more numbers to clamp at, got {values!r}")
    return found


def _named(neurons: Sequence[Neuron]) -> str:
    if len(neurons) == 1:
        return f"neuron {neurons[0][1]}"
    return f"{len(neurons)} other neurons of the same layers"


def _token(model: Model, token: Any) -> int:
    number = whole(token)
    if number is None and isinstance(token, str) and model.tokenizer is not None:
        ids: list[int] = model.tokenizer(token, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise ConfigError(f"{token!r} is {len(ids)} tokens, {ids}; name one of them by its id")
        number = int(ids[0])
    if number is None or not 0 <= number < model.card.d_vocab:
        raise ConfigError(f"token must be text or an id of 0..{model.card.d_vocab - 1}: {token!r}")
    return number


def _gate(model: Model, rows: Rows, neurons: Sequence[Neuron]) -> tuple[np.ndarray, np.ndarray]:
    """The gate at the last token, before and behind its activation; the mean over the neurons."""
    found: list[np.ndarray] = []
    for layer in sorted({row[0] for row in neurons}):
        gate, post = Site("mlp.gate", layer), Site("mlp.post", layer)
        if gate not in model.sites():
            return np.full(len(rows), np.nan), np.full(len(rows), np.nan)
        mine = [(n, one, 1) for n, one, _ in neurons if n == layer]
        # With up at 1 the product is the opened gate itself, where up alone could be 0.
        plan = clamp_all(mine, 1.0, "up")
        acts = model.run(batch_of(model, rows), plan, [gate, post], logits="none").acts
        at = [one for _, one, _ in mine]
        found.append(torch.stack([acts[s][:, -1, at] for s in (gate, post)]).double().cpu().numpy())
    mean = np.concatenate(found, -1).mean(-1)
    return mean[0], mean[1]
