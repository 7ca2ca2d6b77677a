"""The work of an evaluation by site: one pass over the rows, one over the model, the suite.

A transcoder's site is two: what it reads and what it writes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from scipy import sparse
from torch import Tensor

from lensbench.saes.evaluation import core, data
from lensbench.saes.evaluation.ce import LossSums, live_losses
from lensbench.saes.evaluation.controls import LabelMatcher, RandomDirections, skip_alone
from lensbench.saes.evaluation.labelled import Labelled
from lensbench.saes.evaluation.labels import Latents
from lensbench.saes.evaluation.passes import (
    Dictionary,
    Pass,
    blocks,
    encode,
    encode_all,
    to_csr,
)
from lensbench.saes.evaluation.scores import ITSELF
from lensbench.saes.evaluation.settings import ON_LABELS, ON_WORDS, EvaluationConfig
from lensbench.saes.evaluation.suite import Suite
from lensbench.saes.evaluation.suite_pairs import implant_scores
from lensbench.saes.evaluation.suite_rows import (
    SuiteRows,
    activations_at,
    letter_rows,
    some_documents,
)
from lensbench.saes.evaluation.twin import Twins

if TYPE_CHECKING:
    from lensbench.models.base import Model
    from lensbench.store import ActivationStore


_NO_IMPLANTS = (
    "{d.name} is a transcoder: directions are implanted in what it reads ({d.site}), its decoder "
    "rows are of what it writes ({d.target}). Train an SAE of {d.site} for this measure"
)
RANDOM, SKIP = "random_dictionary", "skip_alone"


@dataclass(frozen=True)
class _Control:
    """What is measured beside a dictionary, by the same steps."""

    of: str
    source: str
    dictionary: Dictionary

    @property
    def state(self) -> str:
        """Its name among the states of the losses."""
        return core.state_of(self.source, self.of)


@dataclass
class Work:
    """What an evaluation reads, and what it has found so far."""

    store: "ActivationStore"
    rows: data.EvaluationRows
    config: EvaluationConfig
    known: Labelled
    model: "Model | None"
    """Runs for CE and KL; None leaves them out."""
    tokenizer: Any
    implants: Float[Tensor, "directions d_model"] | None
    twins: Twins | None = None
    names: tuple[str, ...] = ()
    """All that are evaluated."""
    progress: Callable[..., None] | None = None
    metrics: dict[str, core.Metrics] = field(default_factory=dict[str, core.Metrics])
    density: dict[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])
    losses: list[LossSums] = field(default_factory=list[LossSums])
    tables: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])

    @cached_property
    def _directions(self) -> RandomDirections:
        return RandomDirections(self.config.seed)

    @cached_property
    def matcher(self) -> LabelMatcher | None:
        """What matches labels with single latents."""
        if self.known.rows is None or not self.config.asks("labels"):
            return None
        return LabelMatcher(self.known.rows, seed=self.config.seed)

    @cached_property
    def suite(self) -> Suite:
        """The other measures, on rows of their own."""
        config, labels = self.config, self.known.rows
        some = SuiteRows.none(self.known.split)
        if labels is not None and (config.asks(*ON_LABELS) or not config.letters):
            some = some_documents(labels, config.suite_tokens, config.seed)
        letters = SuiteRows.none("first letters were not asked for")
        if config.asks(*ON_WORDS) and config.letters:
            tokens = np.concatenate([rows.tokens for _, rows in self.known.parts])
            letters = letter_rows(tokens, self.tokenizer, config.suite_tokens, config.seed)
        return Suite(config, some, letters, self.known.parts, self.twins, self.progress)

    def site(self, ends: tuple[str, str], here: Sequence[Dictionary]) -> None:
        """Everything about the dictionaries that read one site and write one."""
        config = self.config
        keep = keeps(config, self.known)
        passed = encode_all(self.store, ends, self.rows, here, config.batch_size, keep)
        beside = self._controls(here, passed) if config.controls else []
        loss = self._losses(ends, here, passed, beside)
        for d in here:
            sums = passed.sums[d.name]
            self.density[d.name] = sums.density
            found = core.metrics_of(d, sums, loss, self.implants, config.seed)
            self.metrics[d.name] = found
            self.suite.found.add("core", d.name, core.mean_scores(found))
            mine = [c for c in beside if c.of == d.name]
            noise = [self._control(c, ends, passed, keep, loss) for c in mine]
            self._twin_scores(d)
            if keep:
                acts = self._all_rows(d, passed.acts.pop(d.name))
                if self.matcher is not None:
                    self._labels(d, acts, noise[0] if noise else None)
                self.suite.run(d, acts)
            else:
                self.suite.run(d, sparse.csr_array((0, d.codec.d_sae)))
            if config.asks("implants"):
                self._implants(d)

    def _losses(
        self,
        ends: tuple[str, str],
        here: Sequence[Dictionary],
        passed: Pass,
        beside: Sequence["_Control"],
    ) -> LossSums | None:
        if self.model is None:
            return None
        config = self.config
        found = live_losses(
            self.model,
            ends[1],
            [d.codec for d in [*here, *(c.dictionary for c in beside)]],
            data.scored_sequences(
                self.store, config.ce_sequences, config.sequence_batch, config.documents
            ),
            passed.mean.float(),
            names=[*(core.state_of(ITSELF, d.name) for d in here), *(c.state for c in beside)],
            score_first=config.score_first,
            reads=ends[0],
            n_controls=len(beside),
        )
        self.losses.append(found)
        return found

    def _controls(self, here: Sequence[Dictionary], passed: Pass) -> list["_Control"]:
        """Of each: a random dictionary of its width and L0; a skip connection without latents."""
        found: list[_Control] = []
        for d in here:
            found.append(_Control(d.name, RANDOM, self._directions.like(d, passed)))
            alone = skip_alone(d, passed)
            if alone is not None:
                found.append(_Control(d.name, SKIP, alone))
        return found

    def _control(
        self,
        control: "_Control",
        ends: tuple[str, str],
        passed: Pass,
        keep: bool,
        loss: LossSums | None,
    ) -> Pass:
        """A control on the same rows; its scores stand beside those of its dictionary."""
        d, config = control.dictionary, self.config
        matched = keep and self.matcher is not None and control.source == RANDOM
        found = encode_all(self.store, ends, self.rows, [d], config.batch_size, matched, passed)
        if matched:
            found.acts[d.name] = self._all_rows(d, found.acts[d.name])
        metrics = core.control_metrics(found.sums[d.name], loss, control.state, config.seed)
        if control.source == SKIP:
            metrics = {m: v for m, v in metrics.items() if m not in core.OF_LATENTS}
        scores = core.control_scores(metrics, control.source)
        self.suite.found.add("core", control.of, scores)
        return found

    def _twin_scores(self, d: Dictionary) -> None:
        """Reconstruction by the twin's dictionary; its CE would be that of another model.

        Where the twin repeats some of the dictionaries, only beside those: FVU at another width or
        sparsity is no control.
        """
        shared = self.twins.shared(self.names) if self.twins else []
        if self.twins is None or (shared and d.name not in shared):
            return
        twin = self.twins.of(d)
        sums = self.twins.passes[twin.ends].sums[twin.name]
        again = core.reconstruction(sums, self.config.seed)
        scores = core.control_scores(again, "reinitialised_twin")
        self.suite.found.add("core", d.name, scores)

    def _all_rows(self, d: Dictionary, first: Latents) -> Latents:
        """Latents of the rows of a second store after those of the first."""
        found = [first]
        for store, rows in self.known.parts[1:]:
            for x, _ in blocks(store, d.site, rows, self.config.batch_size):
                found.append(to_csr(encode(d.codec, x)))
        return first if len(found) == 1 else sparse.csr_array(sparse.vstack(found))

    def _labels(self, d: Dictionary, acts: Latents, noise: Pass | None) -> None:
        assert self.matcher is not None
        beside: dict[str, Any] = {}
        if self.twins is not None:
            twin = self.twins.of(d)
            beside["reinitialised_twin"] = (self.twins.latents(twin), self.matcher.labels)
        by_chance = None if noise is None else noise.acts[d.name]
        self.tables[d.name] = self.matcher.match(d, acts, by_chance, beside)

    def _implants(self, d: Dictionary) -> None:
        if d.target:
            self.suite.found.leave_out("implants", d.name, _NO_IMPLANTS.format(d=d))
            return
        some = np.arange(min(len(self.rows), self.config.suite_tokens))
        own = activations_at([(self.store, self.rows)], d.site, some)
        again = None
        if self.twins is not None and self.implants is None:
            twin = self.twins.of(d)
            again = activations_at([(self.twins.store, self.rows)], twin.site, some)
        implant_scores(self.suite.found, d, self.implants, own, again, self.config)


def keeps(config: EvaluationConfig, known: Labelled) -> bool:
    """Whether any measure reads the latents after the pass."""
    on_labels = config.asks("labels", *ON_LABELS) and known.rows is not None
    return on_labels or config.asks(*ON_WORDS)
