"""Run many patches of many prompts in full batches, and measure what the model then says.

Prompts are taken in groups, so that what is captured and the logits stay within a budget; inside a
group every (place, prompt) is a plan of one edit and a row of ``Model.run_many``.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lensbench import io, provenance
from lensbench.arguments import whole_number
from lensbench.interventions.metrics import Metric, ends_of
from lensbench.interventions.patching.result import PatchingResult
from lensbench.interventions.places import Place, columns
from lensbench.interventions.values import Planned, RandomSteps, Values, groups, run_of
from lensbench.models.base import Model
from lensbench.models.sweep import rows_told
from lensbench.plan import Plan
from lensbench.progress import bar
from lensbench.prompts.pairs import PromptPairs
from lensbench.prompts.score import check_pairs
from lensbench.results import Controls
from lensbench.stats import mean_there
from lensbench.tokens import Tokens

Given = Values | Planned
LOGITS_AT_ONCE = 64_000_000
"""Most logits kept of one call: 256 MB in float32."""


@dataclass(frozen=True)
class Group:
    """Some prompts, their two runs, and what the metric compares with."""

    pairs: PromptPairs
    rows: np.ndarray
    """Their numbers among all pairs."""
    base: Tokens
    """The prompts that are patched."""
    clean_logits: Tensor
    """Of the clean run: last logits (:class:`Engine`), or the answers' sums."""


@dataclass(frozen=True)
class Engine:
    """One sweep: where, how, measured by what."""

    model: Model
    pairs: PromptPairs
    where: Sequence[Place]
    intervention: str
    metric: Metric
    batch_size: int
    seed: int

    def run(
        self, values: Callable[[Group], tuple[Given, Given | None]], tried: Sequence[int]
    ) -> PatchingResult:
        """Every group of prompts, then the result."""
        began = time.monotonic()
        self.model.require_next_token(f"{self.intervention} patching")
        whole_number("batch_size", self.batch_size, least=1)
        check_pairs(self.model, self.pairs)
        n = len(self.pairs)
        clean, corrupted = np.empty(n), np.empty(n)
        found = np.full((len(self.where), n), np.nan)
        control = np.full((len(tried), n), np.nan)
        with bar(self.intervention, n * (len(self.where) + len(tried)), unit="run") as shown:
            for rows in groups(n, self._at_once()):
                part = self.pairs.select(rows)
                good, bad = (self._end(part, tokens) for tokens in (part.clean, part.corrupted))
                clean[rows] = self._measure(part, good, good)
                corrupted[rows] = self._measure(part, bad, good)
                base = part.corrupted if self.intervention == "denoise" else part.clean
                group = Group(part, rows, base, good)
                patch, random = values(group)
                found[:, rows] = self._patched(group, self.where, patch, shown.update)
                if random is not None and tried:
                    some = [self.where[i] for i in tried]
                    control[:, rows] = self._patched(group, some, random, shown.update)
        return self._result(found, clean, corrupted, control, tried, time.monotonic() - began)

    def _at_once(self) -> int:
        """Prompts in a group: enough to fill batches, few enough to hold what is captured."""
        rows = max(self.batch_size, LOGITS_AT_ONCE // self.model.card.d_vocab)
        return max(1, min(self.batch_size, rows // len(self.where)))

    def _end(self, part: PromptPairs, tokens: Tokens) -> Tensor:
        """What is measured of prompts as they are: their last logits."""
        return run_of(self.model, tokens, part, [])[1]

    def _measure(self, part: PromptPairs, logits: Tensor, clean: Tensor) -> np.ndarray:
        ends = ends_of(part, logits[:, None], clean)
        return self.metric(ends).double().cpu().numpy()

    def _patched(
        self, group: Group, where: Sequence[Place], values: Given, tick: Callable[[int], object]
    ) -> np.ndarray:
        """The metric ``[places, prompts]`` under each patch; NaN where a prompt lacks the place."""
        found = np.full((len(where), len(group.pairs)), np.nan)
        todo: list[tuple[int, int, Plan]] = []
        for i, place in enumerate(where):
            for row in range(len(group.pairs)):
                plan = self._plan(group, place, row, values)
                if plan is not None:
                    todo.append((i, row, plan))
        size = max(self.batch_size, LOGITS_AT_ONCE // self.model.card.d_vocab)
        for start in range(0, len(todo), size):
            part = todo[start : start + size]
            rows = [row for _, row, _ in part]
            with rows_told(tick, len(part)):
                logits = self._logits(group, rows, [plan for *_, plan in part])
            measured = self._measure(group.pairs.select(rows), logits, group.clean_logits[rows])
            found[[i for i, *_ in part], rows] = measured
        return found

    def _plan(self, group: Group, place: Place, row: int, values: Given) -> Plan | None:
        """What is done for one place of one prompt; None where it lacks the place."""
        if isinstance(values, Planned | RandomSteps):
            return values.plan(place, row)
        op = values.op(place, row)
        return None if op is None else Plan((place.edit(op, place.at(group.pairs, row)),))

    def _logits(self, group: Group, rows: list[int], plans: list[Plan]) -> Tensor:
        alone = len(group.pairs) == 1
        tokens = group.base if alone else pick_rows(group.base, rows)
        out = self.model.run_many(tokens, plans, logits="last", batch_size=self.batch_size)
        assert out.logits is not None
        return out.logits[:, -1]

    def _result(
        self,
        found: np.ndarray,
        clean: np.ndarray,
        corrupted: np.ndarray,
        control: np.ndarray,
        tried: Sequence[int],
        seconds: float,
    ) -> PatchingResult:
        where = self.where
        result = PatchingResult(
            task=self.pairs.task,
            intervention=self.intervention,
            metric=self.metric.name,
            unit=self.metric.unit,
            **columns(where),
            values=found, clean=clean, corrupted=corrupted,
            random=control, tried=np.array(tried, dtype=np.int64),
            config=self.config(),
            provenance=provenance.record(
                model=vars(self.model.card), seed=self.seed, seconds=seconds
            ),
        )  # fmt: skip
        return with_control(result)

    def config(self) -> dict[str, Any]:
        """What was asked, as results record it."""
        return {
            "pairs": self.pairs.fingerprint(),
            "prompts": [mark_of(ids) for ids in self.pairs.clean_ids],
            "intervention": self.intervention,
            "metric": self.metric.name,
            "places": [str(p) for p in self.where],
            "seed": self.seed,
            **self._subspaces(),
            **self.pairs.scoring(),
        }

    def _subspaces(self) -> dict[str, Any]:
        """Dimensions and content of every site's subspace, where such are patched."""
        found = {str(p.site): p.subspace for p in self.where if p.subspace is not None}
        told = {site: {"k": s.k, "fingerprint": s.fingerprint} for site, s in found.items()}
        return {"subspace": told} if told else {}


def mark_of(ids: Sequence[int]) -> str:
    """A mark of one prompt, by which a result knows on which prompts it was measured."""
    return io.fingerprint([int(i) for i in ids])[:12]


def with_control(result: PatchingResult) -> PatchingResult:
    """The result with its random steps named as control."""
    if not len(result.tried):
        return result
    effect = result.random_effect
    note = f"{len(effect)} steps of the patch's length in random directions, at places of the sweep"
    far = np.abs(effect - result.base)
    farthest = float(np.nanmax(far)) if np.isfinite(far).any() else float("nan")
    values = {"random_patch": float(mean_there(effect)), "random_patch_farthest": farthest}
    return replace(result, controls=Controls(values, note))


def pick_rows(tokens: Tokens, rows: Sequence[int]) -> Tokens:
    """Some rows of a batch, in this order, repeats allowed."""
    index = torch.tensor(list(rows), device=tokens.ids.device)
    mask = None if tokens.mask is None else tokens.mask[index]
    return Tokens(tokens.ids[index], mask)
