"""The work of an evaluation by site: one pass over the rows, one over the model, the suite."""

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
from lensbench.saes.evaluation.controls import LabelMatcher, random_of
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
    progress: Callable[..., None] | None = None
    metrics: dict[str, core.Metrics] = field(default_factory=dict[str, core.Metrics])
    density: dict[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])
    losses: list[LossSums] = field(default_factory=list[LossSums])
    tables: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])

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

    def site(self, site: str, here: Sequence[Dictionary]) -> None:
        """Everything about the dictionaries of one site."""
        config = self.config
        keep = keeps(config, self.known)
        passed = encode_all(self.store, site, self.rows, here, config.batch_size, keep)
        loss = self._losses(site, here, passed)
        for d in here:
            sums = passed.sums[d.name]
            self.density[d.name] = sums.density
            found = core.metrics_of(d, sums, loss, self.implants, config.seed)
            self.metrics[d.name] = found
            noise = self._random(d, passed, keep) if config.controls else None
            self._core_controls(d, found, noise)
            if keep:
                acts = self._all_rows(d, passed.acts.pop(d.name))
                if self.matcher is not None:
                    self._labels(d, acts, noise)
                self.suite.run(d, acts)
            else:
                self.suite.run(d, sparse.csr_array((0, d.codec.d_sae)))
            if config.asks("implants"):
                self._implants(d)

    def _losses(self, site: str, here: Sequence[Dictionary], passed: Pass) -> LossSums | None:
        if self.model is None:
            return None
        config = self.config
        found = live_losses(
            self.model,
            site,
            [d.codec for d in here],
            data.scored_sequences(self.store, config.ce_sequences, config.sequence_batch),
            passed.mean.float(),
            names=[d.name for d in here],
            score_first=config.score_first,
        )
        self.losses.append(found)
        return found

    def _random(self, d: Dictionary, passed: Pass, keep: bool) -> Pass:
        """A random dictionary of its width and L0 on the same rows."""
        noise, config = random_of(d, passed, self.config.seed), self.config
        matched = keep and self.matcher is not None
        found = encode_all(
            self.store, d.site, self.rows, [noise], config.batch_size, matched, passed.mean
        )
        if matched:
            found.acts[d.name] = self._all_rows(noise, found.acts[d.name])
        return found

    def _core_controls(self, d: Dictionary, found: core.Metrics, noise: Pass | None) -> None:
        add, seed = self.suite.found.add, self.config.seed
        add("core", d.name, core.mean_scores(found))
        if noise is not None:
            by_chance = core.reconstruction(noise.sums[d.name], seed)
            add("core", d.name, core.control_scores(by_chance, "random_dictionary"))
        if self.twins is not None:
            twin = self.twins.of(d)
            sums = self.twins.passes[twin.site].sums[twin.name]
            again = core.control_scores(core.reconstruction(sums, seed), "reinitialised_twin")
            add("core", d.name, again)

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
