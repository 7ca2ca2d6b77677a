"""The result of a sweep as it grows: all labels at one place, by one method, on one split."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from lensbench import provenance
from lensbench.probes.linear.fitting import Fitted, Fold, fit_labels, usable
from lensbench.probes.linear.labels import Label
from lensbench.probes.linear.scores import Scores, score_probes
from lensbench.probes.linear.splits import Split
from lensbench.probes.linear.sweep_plan import Part, Plan
from lensbench.probes.linear.sweep_result import (
    BESIDE,
    COUNTED,
    MEASURED,
    MISSING,
    REACHED,
    ProbeSweep,
)  # fmt: skip
from lensbench.results import Controls


@dataclass(eq=False)
class SweepRows:
    """The result as it grows."""

    plan: Plan
    at: list[tuple[int, int, int, int, int]] = field(default_factory=list[Any])
    columns: dict[str, list[np.ndarray]] = field(default_factory=dict[str, Any])
    weights: dict[str, list[np.ndarray]] = field(default_factory=dict[str, Any])
    bias: dict[str, list[np.ndarray]] = field(default_factory=dict[str, Any])

    def add(self, where: tuple[int, int, int, int], fold: Fold, twin: Fold | None) -> None:
        """Fit and score all labels at one site, by one method, on one split, at one position."""
        _, method, seed, position = where
        plan, part, name = self.plan, self.plan.parts[position], self.plan.methods[method]
        moved = {
            control: [(i, one) for i, one in enumerate(found)
                      if one is not None and not usable(one, fold.split, name)]
            for control, found in part.moved[seed].items()
        }  # fmt: skip
        every = [*part.labels, *(one for found in moved.values() for _, one in found)]
        fitted = fit_labels(fold, every, name, plan.options)  # 3
        n = len(part.labels)
        own = self._scored(fold, part, part.labels, fitted[:n], seed, details=True)  # 4
        columns = {c: np.full(n, np.nan) for c in (*MEASURED, *REACHED, *COUNTED)}
        columns |= {"score": own.score, **own.details, "n": own.n_docs, "n_test": own.n_rows}
        columns["low"], columns["high"] = own.bounds()
        first = n
        for control, found in moved.items():
            labels, at = [one for _, one in found], np.array([i for i, _ in found], int)
            scores = self._scored(fold, part, labels, fitted[first : first + len(found)], seed)
            first += len(found)
            columns[control][at] = scores.score
            if control == "control_task" and len(at):
                kept = Scores(own.score[at], own.draws[:, at], {}, own.n_rows[at], own.n_docs[at])
                for column, value in zip(("", "_low", "_high"), kept.minus(scores), strict=True):
                    columns[f"selectivity{column}"][at] = value
        self._baselines(columns, part, fold.split, seed)
        if twin is not None:  # 5
            again = fit_labels(twin, part.labels, name, plan.options)
            columns["reinitialised_twin"] = self._scored(twin, part, part.labels, again, seed).score
        self._keep(where, fold, fitted[:n], columns)

    def _scored(
        self, fold: Fold, part: Part, labels: Sequence[Label], fitted: Sequence[Fitted], seed: int,
        *, details: bool = False,
    ) -> Scores:  # fmt: skip
        test = fold.split.test
        outputs = _outputs(fold, fitted)
        held = [label.at(test) for label in labels]
        units = part.data.units[test]  # what the split dealt: groups where there are some
        return score_probes(
            outputs, held, units, metric=self.plan.metric, n_boot=self.plan.n_boot,
            seed=self.plan.seeds[seed], details=details,
        )  # fmt: skip

    def _baselines(
        self, columns: dict[str, np.ndarray], part: Part, split: Split, seed: int
    ) -> None:
        """Scores of what needs no activations, and rows trained on."""
        labels, fixed = part.labels, part.fixed[seed]
        units = part.data.units[split.test]
        held = [label.at(split.test) for label in labels]
        for name in fixed[0]:
            outputs = [one[name] for one in fixed]
            columns[name] = score_probes(
                outputs, held, units, metric=self.plan.metric, n_boot=0, details=False
            ).score
        columns["n_train"] = np.array([(one.known & split.train).sum() for one in labels])

    def _keep(
        self, where: tuple[int, int, int, int], fold: Fold, fitted: Sequence[Fitted],
        columns: dict[str, np.ndarray],
    ) -> None:  # fmt: skip
        site, method, seed, position = where
        names = [one.name for one in self.plan.labels]
        for i, one in enumerate(fitted):
            label = names.index(self.plan.parts[position].labels[i].name)
            self.at.append((site, label, method, seed, position))
            for name, value in one.settings.items():
                if name in columns:
                    columns[name][i] = value
        columns["scale"][:] = fold.scale
        for name, values in columns.items():
            self.columns.setdefault(name, []).append(np.asarray(values, np.float64))
        weights, bias = fold.basis.back(torch.cat([one.theta for one in fitted], 1))
        self.weights.setdefault(fold.site, []).append(weights.astype(np.float32))
        self.bias.setdefault(fold.site, []).append(bias)

    def result(self, start: float, device: str) -> ProbeSweep:
        """Everything, frozen."""
        plan, data = self.plan, self.plan.data
        columns = {name: np.concatenate(parts) for name, parts in self.columns.items()}
        beside = {n: float(np.nanmean(columns[n])) for n in BESIDE if np.isfinite(columns[n]).any()}
        without = ", ".join(name for name in MISSING if name not in beside)
        note = "mean over probes, in the unit of score" + (f"; without {without}" * bool(without))
        return ProbeSweep(
            sites=plan.sites,
            labels=tuple(one.name for one in plan.labels),
            label_kinds=tuple(one.kind for one in plan.labels),
            classes=tuple(one.classes for one in plan.labels),
            methods=plan.methods,
            seeds=plan.seeds,
            positions=tuple(part.position for part in plan.parts),
            documents_at=tuple(part.data.n_docs for part in plan.parts),
            at=np.array(self.at, np.int64),
            columns=columns,
            weights={site: np.concatenate(parts) for site, parts in self.weights.items()},
            bias={site: np.concatenate(parts) for site, parts in self.bias.items()},
            model={k: data.model.get(k) for k in ("name", "fingerprint")},
            left_out=plan.left_out,
            n_documents=data.n_docs,
            metric=plan.metric,
            unit=data.unit_name,
            n_units=len(np.unique(data.units)),
            config={
                "positions": data.selected, "split": plan.parts[0].splits[0].how,
                "n_boot": plan.n_boot, **asdict(plan.options),
            },
            controls=Controls(beside, note),
            provenance=provenance.record(
                model=dict(data.model), seed=plan.seeds[0], device=device,
                seconds=time.monotonic() - start, store=data.store,
            ),
        )  # fmt: skip


def _outputs(fold: Fold, fitted: Sequence[Fitted]) -> list[Float[np.ndarray, "..."]]:
    """What each probe says of the test rows: one product for all of them."""
    if not fitted:
        return []
    x = fold.x[fold.mask(fold.split.test)]
    theta = torch.cat([one.theta.to(x) for one in fitted], 1)
    said = (x @ theta[:-1] + theta[-1]).cpu().numpy().astype(np.float64)
    ends = np.cumsum([one.theta.shape[1] for one in fitted])[:-1]
    parts = np.split(said, ends, axis=1)
    return [part[:, 0] if part.shape[1] == 1 else part for part in parts]
