"""Runs the measures of the suite on latents that are already encoded, and keeps what they say.

A measure that cannot be computed (no labels, no tokenizer, no second seed ...) is left out with the
reason; it never ends the evaluation. What is dear and common to several dictionaries (activations
of the rows, the twin's scores) is made once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lensbench.errors import LensbenchError
from lensbench.results import Result
from lensbench.saes.evaluation.data import EvaluationRows
from lensbench.saes.evaluation.inputs import decoder_of, latents_of
from lensbench.saes.evaluation.labels import Latents
from lensbench.saes.evaluation.main_latents import LabelLatents
from lensbench.saes.evaluation.measures import (
    ON_ROWS,
    Scored,
    Subject,
    as_twin,
    meta_scores,
    over_labels,
)
from lensbench.saes.evaluation.passes import Dictionary
from lensbench.saes.evaluation.scores import Score
from lensbench.saes.evaluation.settings import ON_DECODERS, ON_WORDS, EvaluationConfig
from lensbench.saes.evaluation.shared import Shared
from lensbench.saes.evaluation.suite_rows import SuiteRows, activations_at
from lensbench.saes.evaluation.twin import Twins

if TYPE_CHECKING:
    from lensbench.store import ActivationStore

    Parts = list[tuple[ActivationStore, EvaluationRows]]


@dataclass
class Found:
    """What the suite has so far: rows of the common table, detailed results, what is missing."""

    rows: list[tuple[str, str, Score]] = field(default_factory=list[tuple[str, str, Score]])
    details: dict[str, dict[str, Result]] = field(default_factory=dict[str, dict[str, Result]])
    left_out: dict[str, str] = field(default_factory=dict[str, str])

    def add(self, measure: str, name: str, scores: Sequence[Score]) -> None:
        """Scores of one dictionary."""
        self.rows += [(measure, name, s) for s in scores]

    def keep(self, measure: str, name: str, found: Result) -> None:
        """The detailed result of one dictionary."""
        self.details.setdefault(measure, {})[name] = found

    def leave_out(self, measure: str, name: str, why: object) -> None:
        """Say why a measure of one dictionary is missing."""
        self.left_out[f"{measure}: {name}"] = str(why)

    def reasons(self, names: Sequence[str]) -> dict[str, str]:
        """The same, in one line where a measure is missing for all of them for one reason."""
        out: dict[str, str] = {}
        for measure in dict.fromkeys(key.split(": ")[0] for key in self.left_out):
            mine = {n: self.left_out.get(f"{measure}: {n}") for n in names}
            alike = set(mine.values())
            if len(alike) == 1 and None not in alike:
                out[measure] = str(next(iter(alike)))
            else:
                out |= {f"{measure}: {n}": why for n, why in mine.items() if why}
        others = {k: v for k, v in self.left_out.items() if k.split(": ", 1)[1] not in names}
        return out | others


@dataclass
class Suite:
    """The measures of labelled rows and of decoders, for one set of rows."""

    config: EvaluationConfig
    labels: SuiteRows
    letters: SuiteRows
    parts: "Parts"
    twins: Twins | None
    progress: Callable[..., None] | None = None
    found: Found = field(default_factory=Found)
    _shared: dict[Any, Shared] = field(default_factory=dict[Any, Shared])
    _main: dict[bool, LabelLatents] = field(default_factory=dict[bool, LabelLatents])
    """Main latents of the dictionary at hand (False) and of its twin (True)."""
    _twin: dict[tuple[str, str], list[Score]] = field(default_factory=dict[Any, Any])

    def run(self, dictionary: Dictionary, acts: Latents) -> None:
        """Every measure of one dictionary; ``acts`` are its latents of every evaluated row."""
        for measure in self.config.suite:
            if measure in ON_ROWS:
                self._try(measure, dictionary, lambda m=measure: self._on_rows(m, dictionary, acts))
            elif measure == "meta":
                self._try(measure, dictionary, lambda: self._meta(dictionary))
        self._main.clear()

    def _try(self, measure: str, dictionary: Dictionary, work: Callable[[], Scored]) -> None:
        if self.progress is not None:
            self.progress(f"{measure} of {dictionary.name}")
        try:
            detail, scores = work()
        except LensbenchError as error:
            self.found.leave_out(measure, dictionary.name, error)
            return
        self.found.keep(measure, dictionary.name, detail)
        self.found.add(measure, dictionary.name, scores)
        if self.twins is not None:
            self.found.add(measure, dictionary.name, self._of_twin(measure, dictionary))

    def _rows(self, measure: str) -> SuiteRows:
        return self.letters if measure in ON_WORDS and self.config.letters else self.labels

    def _on_rows(self, measure: str, dictionary: Dictionary, acts: Latents) -> Scored:
        rows = self._rows(measure)
        shared = self._shared_at(self.parts, probed_site(measure, dictionary), rows)
        subject = self._subject(dictionary.codec, acts[rows.at], shared)
        return ON_ROWS[measure](subject, self.config)

    def _meta(self, dictionary: Dictionary) -> Scored:
        return meta_scores(decoder_of(dictionary.codec), self.config)

    def _shared_at(self, parts: "Parts", site: str, rows: SuiteRows) -> Shared:
        """Activations of one store's site on these rows, and what is made of them alone."""
        labels = rows.usable()
        key = (id(parts[0][0]), site, rows is self.letters)
        if key not in self._shared:
            x = activations_at(parts, site, rows.at)
            self._shared[key] = Shared(x, labels, self.config.seed)
        return self._shared[key]

    def _subject(self, codec: Any, acts: Latents, shared: Shared, *, bare: bool = False) -> Subject:
        W_dec = decoder_of(codec)

        def main() -> LabelLatents:
            if bare not in self._main:
                self._main[bare] = LabelLatents(latents_of(acts), shared.rows, W_dec)
            return self._main[bare]

        return Subject(acts, W_dec, shared, main, bare)

    def _of_twin(self, measure: str, dictionary: Dictionary) -> list[Score]:
        """The same measure on the twin: once for all dictionaries that share one."""
        assert self.twins is not None
        twin = self.twins.of(dictionary)
        if (measure, twin.name) in self._twin:
            return self._twin[measure, twin.name]
        scores: list[Score] = []
        try:
            scores = as_twin(self._twin_scores(measure, twin))
        except LensbenchError as error:
            self.found.left_out[f"{measure}: the re-initialised twin"] = str(error)
        self._twin[measure, twin.name] = scores
        return scores

    def _twin_scores(self, measure: str, twin: Dictionary) -> list[Score]:
        assert self.twins is not None
        if measure == "meta":
            return self._meta(twin)[1]
        rows = self._rows(measure)
        site = probed_site(measure, twin)
        shared = self._shared_at([(self.twins.store, self.parts[0][1])], site, rows)
        acts = self.twins.latents(twin)[rows.at]
        subject = self._subject(twin.codec, acts, shared, bare=True)
        return ON_ROWS[measure](subject, self.config)[1]


def probed_site(measure: str, dictionary: Dictionary) -> str:
    """The site whose activations are set beside the latents.

    A measure that asks along which directions latents are written needs the site that is written;
    the others compare latents with what they are read from. Of an SAE these are one site.
    """
    return dictionary.writes if measure in ON_DECODERS else dictionary.site


def label_scores(table: Mapping[str, Any]) -> list[tuple[str, str, Score]]:
    """The label table as rows of the common one: mean F1 and AUROC over labels, every source."""
    names = list(table.get("name", ()))
    fixed = {"f1_low", "f1_high", "f1_selected"}
    out: list[tuple[str, str, Score]] = []
    for name in dict.fromkeys(names):
        mine = np.array([n == name for n in names])
        for column, values in table.items():
            metric, _, source = column.partition("_")
            if metric not in ("f1", "auroc") or column in fixed:
                continue
            mean = over_labels(np.asarray(values, float)[mine])
            called = "F1" if metric == "f1" else "AUROC"
            out.append(("labels", name, Score.of(called, source or "dictionary", mean, "0 to 1")))
        n = int(mine.sum())
        out.append(("labels", name, Score("AUROC", "chance", 0.5, n=n, unit="0 to 1")))
    return out
