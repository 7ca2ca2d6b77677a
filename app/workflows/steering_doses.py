"""Every strength of one direction on one prompt: what moves, what is written, and at what cost.

1. Strengths, length and controls are those of :mod:`.steering_beside`, so that a dose here is the
   step shown there.
2. The divergence is read along the clean text, which every dose is therefore compared on.
3. Texts take the most probable token at each step, many doses to a batch; the unsteered model
   says how likely it finds them.
"""

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lensbench import provenance
from lensbench.app.workflows.latent_steering import RANDOM, changed, kl_of, logits_of
from lensbench.app.workflows.live import Shelf
from lensbench.app.workflows.steering_beside import STRENGTHS, BesideAsk, opened, plan_of
from lensbench.app.workflows.steering_code import dose_code, is_public
from lensbench.interventions.steering.continuations import continue_rows, surprise
from lensbench.interventions.steering.controls import random_directions
from lensbench.plan import Plan
from lensbench.progress import bar
from lensbench.results import Controls, Result

if TYPE_CHECKING:
    import plotly.graph_objects as go

MEASURES = {
    "kl": "KL(clean ‖ steered)",
    "changed": "Share of tokens not in the clean text",
    "loss": "Loss of the text",
}
UNITS = {
    "kl": "KL(clean ‖ steered) [nats]",
    "changed": "of what is written",
    "loss": "nats per token",
}
BATCH = 32
"""Texts that are written at once."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptDoses(Result):
    """A direction and its controls at every strength; rows: direction, then random ones."""

    site: str
    unit: float
    """Length of a step of strength 1, units of the site."""
    n: int
    """Tokens of the clean text."""
    values: dict[str, np.ndarray]
    """By measure, ``[directions, strengths]``; NaN where nothing was written."""

    def summary(self) -> dict[str, float]:
        """Each measure of the direction at its strongest step, and tokens of the clean text."""
        strongest = {name: float(own[0, -1]) for name, own in self.values.items()}
        return {"strength": STRENGTHS[-1], **strongest, "tokens": float(self.n)}

    def to_frame(self) -> pd.DataFrame:
        """The direction's values and, of the random ones, mean, least and most."""
        rows = [self._row(name, part, j) for name, part in
                (("this direction", slice(0, 1)), (f"{RANDOM} random directions", slice(1, None)))
                for j in range(len(STRENGTHS))]  # fmt: skip
        frame = pd.DataFrame(rows)
        frame.attrs["units"] = dict(UNITS)
        return frame

    def _row(self, name: str, part: slice, j: int) -> dict[str, Any]:
        row = {"direction": name, "strength": STRENGTHS[j], "place": j,
               "length": abs(STRENGTHS[j]) * self.unit}  # fmt: skip
        for measure, values in self.values.items():
            own = values[part, j]
            row |= {measure: own.mean(), f"{measure}_low": own.min(), f"{measure}_high": own.max()}
        return row

    def plot(self, measure: str = "kl") -> "go.Figure":
        """One measure at every strength; strengths stand evenly, as they double."""
        from lensbench.plots import lines

        figure = lines(
            self.to_frame(), x="place", y=measure, color="direction", low=f"{measure}_low",
            high=f"{measure}_high", height=340, hover_columns=("strength", "length"),
            labels={"place": "strength, in lengths of the state", measure: MEASURES[measure]},
            title=f"{MEASURES[measure]}, dose by dose", subtitle="random: mean, band from "
            f"least to most; n = {self.n} tokens",
        )  # fmt: skip
        ticks = [f"{s:+g}" if s else "0" for s in STRENGTHS]
        return figure.update_xaxes(tickvals=list(range(len(ticks))), ticktext=ticks)


_kept: "Shelf[PromptDoses]" = Shelf(16)


def doses_of(ask: BesideAsk) -> PromptDoses:
    """All strengths of what is asked for, made once; its own strength and temperature do not count.

    Raises:
        ConfigError, LensbenchError: as :func:`.steering_beside.steered`.
    """
    one = alike(ask)
    return _kept.get(one, lambda: _made(one))


def keep(ask: BesideAsk, found: PromptDoses | None) -> None:
    """Take what a job has made; None: forget it."""
    if found is None:
        _kept.drop(alike(ask))
    elif _kept.peek(alike(ask)) is not found:
        _kept.put(alike(ask), found)


def alike(ask: BesideAsk) -> BesideAsk:
    """What requests of the same doses have in common."""
    return replace(ask, strength=0.0, temperature=0.0)


def _made(ask: BesideAsk) -> PromptDoses:
    began = time.monotonic()
    with opened(ask) as (model, prompt, unit):
        ways = [unit, *random_directions(unit, RANDOM, ask.seed)]
        cells = [(i, j) for i in range(len(ways)) for j, s in enumerate(STRENGTHS) if s]
        dosed = [replace(ask, strength=s) for s in STRENGTHS]
        clean_ids = continue_rows(model, [prompt], [Plan()], ask.new_tokens, 1)[0]
        plans = [plan_of(dosed[j], ways[i], len(prompt)) for i, j in cells]
        with bar("doses", 2 * len(cells), unit="run") as shown:
            said = continue_rows(model, [prompt] * len(cells), plans, ask.new_tokens, BATCH,
                                 shown.update)  # fmt: skip
            whole = [*prompt, *clean_ids]
            steps = slice(len(prompt) - 1, len(whole) - 1)
            clean, moved = logits_of(model, whole, Plan()), list[Any]()
            for i, j in cells:
                plan = plan_of(dosed[j], ways[i], len(prompt), len(whole))
                moved.append(kl_of(clean, logits_of(model, whole, plan), steps).mean())
                shown.update(1)
        nll = surprise(model, [prompt] * (len(cells) + 1), [clean_ids, *said], BATCH)
        card = vars(model.card)
    shape = (len(ways), len(STRENGTHS))
    found = {"kl": np.zeros(shape), "changed": np.zeros(shape),
             "loss": np.full(shape, nll[0])}  # fmt: skip
    for (i, j), ids, cost, kl in zip(cells, said, nll[1:], moved, strict=True):
        found["kl"][i, j], found["loss"][i, j] = kl, cost
        found["changed"][i, j] = np.mean(changed(clean_ids, ids)) if ids else np.nan
    drawn = float(found["kl"][1:, -1].mean())
    return PromptDoses(
        site=unit.site, unit=unit.norm, n=len(clean_ids), values=found,
        config={"direction": unit.config, "prompt": prompt, "where": ask.where,
                "new_tokens": ask.new_tokens, "seed": ask.seed},
        controls=Controls({"random_directions": drawn}, f"KL(clean ‖ steered) of {RANDOM} random "
                          f"directions as long, mean, at strength {STRENGTHS[-1]:g}: {drawn:.4g}"),
        provenance=provenance.record(model=card, seed=ask.seed, seconds=time.monotonic() - began),
    )  # fmt: skip


def python_of(ask: BesideAsk, measure: str, unit: float) -> str:
    """Python that makes the same doses and draws the same figure."""
    if measure == "kl" and is_public(ask):
        return dose_code(alike(ask), unit, STRENGTHS)
    task = "from lensbench.app.workflows.steering import SteerAsk\n" if ask.task else ""
    return (
        f"{task}from lensbench.app.workflows.steering_beside import BesideAsk\n"
        "from lensbench.app.workflows.steering_doses import doses_of\n\n"
        f"found = doses_of({ask!r})  # found.to_frame()\n"
        f"found.plot({measure!r})\n"
    )
