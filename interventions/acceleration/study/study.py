"""The acceleration study: one row per method and setting, predicted from one store.

1. The lens table and the similarities are read from the store; no block runs.
2. Every method is predicted from them, and its costs are counted.
3. :func:`verify` decodes live, holds every prediction to its class, and fills the measured columns.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lensbench import provenance
from lensbench.arguments import refuse_no_model
from lensbench.errors import ConfigError, MissingDataError, UnknownNameError
from lensbench.interventions.acceleration.speculative.kangaroo_adapter import KangarooAdapter
from lensbench.interventions.acceleration.study import figures
from lensbench.interventions.acceleration.study.cost import LayerCosts
from lensbench.interventions.acceleration.study.counter import count_block_forwards
from lensbench.interventions.acceleration.study.layer_times import LayerTimes
from lensbench.interventions.acceleration.study.lens_read import lens_table
from lensbench.interventions.acceleration.study.lens_table import LensTable
from lensbench.interventions.acceleration.study.methods import Evidence, Method
from lensbench.interventions.acceleration.study.methods_searched import Kangaroo
from lensbench.interventions.acceleration.study.own import refuse_inexact
from lensbench.interventions.acceleration.study.registry import default_methods, method
from lensbench.interventions.acceleration.study.rows import UNITS, predicted_row
from lensbench.interventions.acceleration.study.similarity import SimilarityTable, similarity_table
from lensbench.interventions.acceleration.study.simulate_kangaroo import Drafts, adapter_drafts
from lensbench.models.base import Model
from lensbench.results import Controls, Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lensbench.store import ActivationStore

_SHOWN = ("label", "prediction_class", "lossless", "agreement", "agreement_low", "agreement_high",
          "kl", "layers_per_token", "flops_saved", "tokens_per_round", "acceptance",
          "pred_speedup_serial", "pred_speedup_calibrated", "meas_speedup", "held",
          "n")  # fmt: skip
"""Columns in a notebook."""


@dataclass(frozen=True, kw_only=True, eq=False)
class AccelerationStudy(Result):
    """Every method and setting beside the full model: quality, compute, memory, speed.

    Speed-ups are ratios to plain decoding of the same prompts. ``pred_speedup_flops`` and
    ``_serial`` are counted, ``_calibrated`` is the time a run should take by ``times``,
    ``meas_speedup`` CPU time of a live run; ``flops_saved`` is never a speed.

    Example:
        >>> found = acceleration.acceleration_study(early, own, ["early_exit"])
        >>> figure, table = found.plot("pareto"), found.to_frame()
    """

    rows: tuple[dict[str, Any], ...]
    table: LensTable
    similarity: SimilarityTable
    costs: LayerCosts
    times: LayerTimes | None = None
    drafts: dict[str, Drafts] = field(default_factory=dict[str, Drafts])
    """What trained adapters say of the texts, by folder."""
    block_forwards: int = 0
    """Blocks run to predict all rows; 0."""
    left_out: tuple[str, ...] = ()
    """Methods of the default grid that this store cannot predict, and why."""

    @property
    def evidence(self) -> Evidence:
        """What every prediction is made from."""
        return Evidence(self.table, self.similarity, self.costs, self.times, self.drafts)

    @property
    def methods(self) -> tuple[Method, ...]:
        """The adapters behind the rows."""
        return tuple(method(row["method"], **row["config"]) for row in self.rows)

    def row(self, chosen: Method) -> dict[str, Any]:
        """The predicted row of any method and setting, from the tables alone: for sliders.

        Raises:
            ConfigError: a setting out of range.
            MissingDataError: the tables lack what the method chooses by.
        """
        return predicted_row(chosen, chosen.predict(self.evidence), self.evidence)

    def with_methods(self, more: Sequence[Method]) -> "AccelerationStudy":
        """This study with rows of more methods, predicted from the same tables."""
        known = {row["label"] for row in self.rows}
        new = tuple(self.row(m) for m in more if m.label not in known)
        return replace(self, rows=self.rows + new)

    def to_frame(self) -> "pd.DataFrame":
        """One row per method and setting; ``config`` as text, measured columns NaN before."""
        import json

        import pandas as pd

        frame = pd.DataFrame([{**r, "config": json.dumps(r["config"])} for r in self.rows])
        frame.attrs["units"] = dict(UNITS)
        return frame

    def _html_body(self) -> str:
        """What is compared first, without columns of what was not measured."""
        from lensbench.plots.tables import html_table

        frame = self.to_frame()
        shown = [c for c in frame.columns if c in _SHOWN]
        some = frame.reindex(columns=sorted(shown, key=_SHOWN.index))
        some = some.dropna(axis="columns", how="all")
        some = some.astype(object).where(some.notna(), None)  # what a method has not is no number
        some.attrs.update(frame.attrs)
        unmeasured = len(frame) and frame["held"].isna().all()
        more = "; verify(model) decodes live and adds what is measured" * bool(unmeasured)
        return html_table(some) + f"<div>to_frame() has every column{more}</div>"

    def summary(self) -> dict[str, float]:
        """Best predicted and measured gains, how many predictions held, and blocks run.

        What was not measured is NaN.
        """
        best = lambda name: float(  # noqa: E731 - two uses
            np.nanmax([float(r[name]) for r in self.rows] + [-np.inf])
        )
        held = [bool(r["held"]) for r in self.rows if r["held"] is not None]
        tested = [bool(r["tested"]) for r in self.rows if r["tested"] is not None]
        share = lambda flags: float(np.mean(flags)) if flags else float("nan")  # noqa: E731
        found = {
            "methods": float(len(self.rows)),
            "best_pred_speedup_serial": best("pred_speedup_serial"),
            "best_pred_speedup_calibrated": best("pred_speedup_calibrated"),
            "best_meas_speedup": best("meas_speedup"),
            "held": share(held),
            "lossless_confirmed": share(tested),
            "block_forwards": float(self.block_forwards),
        }
        return {k: v if v != -np.inf else float("nan") for k, v in found.items()}

    def absent(self, name: str) -> str:
        """A study that was not verified has measured nothing; without times nothing is timed."""
        if name == "best_pred_speedup_calibrated" and self.times is None:
            return "no times of this machine given"
        measured = any(row["held"] is not None for row in self.rows)
        return super().absent(name) if measured else "not measured live yet"

    def plot(self, what: str = "pareto") -> "go.Figure":
        """``pareto``, ``speedup``, ``exits``, ``acceptance`` or ``lens``; see ``figures``.

        Raises:
            UnknownNameError: another picture.
        """
        pictures = {
            "pareto": lambda: figures.pareto(self.to_frame()),
            "speedup": lambda: figures.predicted_against_measured(self.to_frame()),
            "exits": lambda: figures.exit_depths(self.table),
            "acceptance": lambda: figures.acceptance(self.to_frame(), self.table),
            "lens": lambda: figures.lens_layers(self.table),
        }
        if what not in pictures:
            raise UnknownNameError("picture", what, known=tuple(pictures))
        return pictures[what]()

    def verify(
        self,
        model: Model,
        documents: Sequence[int] | None = None,
        *,
        repeats: int = 1,
        score: Any = None,
    ) -> "AccelerationStudy":
        """Run live and hold every prediction to its class; see :func:`study.verify.verify`."""
        from lensbench.interventions.acceleration.study.verify import verify

        return verify(self, model, documents, repeats=repeats, score=score)


def acceleration_study(
    model: Model,
    store: "ActivationStore",
    methods: Sequence[Method | str] | None = None,
    *,
    times: LayerTimes | None = None,
    exact: bool = True,
    max_tokens: int | None = None,
) -> AccelerationStudy:
    """Predict what every method would do and cost on the texts of a store; no block runs.

    Args:
        model: the one whose states these are; only its final norm and head are used.
        store: made by :func:`capture_own`, or any with the stream of every layer.
        methods: adapters of ``registry.method``, or names, whose default settings are taken;
            default: all of them.
        times: of :func:`time_layers` on this machine, for the calibrated column; None leaves it
            empty.
        exact: refuse a store of other text than the model's own; False calls every row a proxy.
        max_tokens: read whole documents until so many rows are found; default: all.

    Raises:
        MissingDataError: the store lacks the stream of some layer, or what a named method needs.
        MismatchError: states of another model, or other text where exact predictions are asked.
        ConfigError: a setting out of range, times of another model, or no method.

    Example:
        >>> found = acceleration.acceleration_study(early, own, ["fixed_exit", "early_exit"])
        >>> checked = found.verify(early, documents=[0])
    """
    began = time.monotonic()
    refuse_no_model(model)
    if times is not None and times.n_layers != model.n_layers:
        raise ConfigError(
            f"times were taken of {times.n_layers} layers, the model has {model.n_layers}"
        )
    with count_block_forwards(model) as blocks:
        table = lens_table(store, model, max_tokens=max_tokens)
        if exact:
            refuse_inexact(table.inexact)
        similar = similarity_table(store, model, max_tokens=max_tokens)
        drafts = {
            m.adapter: adapter_drafts(store, model, table, KangarooAdapter.load(m.adapter, model))
            for m in methods or ()
            if isinstance(m, Kangaroo)
        }
        evidence = Evidence(table, similar, LayerCosts.of(model), times, drafts)
        rows, left_out = _rows(evidence, methods, model.n_layers)
    if not rows:
        raise ConfigError("no method to predict; name some, or leave methods out for all")
    return AccelerationStudy(
        rows=rows, table=table, similarity=similar, costs=evidence.costs, times=times,
        drafts=drafts,
        block_forwards=blocks.count, left_out=left_out,
        config={"store": store.url, "exact": exact, "max_tokens": max_tokens},
        controls=Controls(
            {"oracle_layers_per_token": float(table.first_correct().mean())},
            note="an exit that knew the answer; verify() runs every method live",
        ),
        provenance=provenance.record(
            model=vars(model.card), seconds=time.monotonic() - began, store=store
        ),
    )  # fmt: skip


def _rows(
    evidence: Evidence, asked: Sequence[Method | str] | None, n_layers: int
) -> tuple[tuple[dict[str, Any], ...], tuple[str, ...]]:
    """Rows, and what of a grid the store cannot predict (a method asked for by value must be)."""
    rows: list[dict[str, Any]] = []
    left_out: list[str] = []
    names = None if asked is None else [m for m in asked if isinstance(m, str)]
    given = [m for m in asked or () if not isinstance(m, str)]
    grid = default_methods(n_layers, names) if names is None or names else []
    for chosen in (*given, *grid):
        try:
            rows.append(predicted_row(chosen, chosen.predict(evidence), evidence))
        except MissingDataError as error:
            if chosen in given:
                raise
            left_out.append(f"{chosen.label}: {error}")
    return tuple(rows), tuple(left_out)
