"""A weighted set of templates: sampling, and the exact next-word distribution given a prefix."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from lensbench.errors import ConfigError, DataError
from lensbench.worlds.atlas.grammar import Bindings, Dist, HoldOut, Step, Template

_EARLY = 4
"""Prefixes up to this many words are kept in a cache: there few distinct ones exist."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """The exact distribution of the next word given a visible prefix."""

    probs: dict[str, float]

    @property
    def entropy(self) -> float:
        """Entropy in nats, >= 0."""
        return max(0.0, -sum(p * math.log(p) for p in self.probs.values() if p > 0))

    @property
    def bayes(self) -> str:
        """The most probable next word (the first by spelling among exact ties)."""
        best = max(self.probs.values())
        return min(w for w, p in self.probs.items() if p >= best * (1 - 1e-12))


_Live = tuple[tuple[Template, float, Bindings], ...]


@dataclass(eq=False)
class Mixture:
    """Templates with priors; ``held_out`` filters the key step, ``pool`` shrinks fixed pools."""

    templates: Sequence[Template]
    held_out: HoldOut | None = None
    pool: float = 1.0
    _dists: dict[tuple[int, ...] | tuple[int, tuple[str, ...]], Dist] = field(default_factory=dict)
    _cache: dict[tuple[str, ...], tuple[Prediction, _Live]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Normalise the priors and drop templates that never speak."""
        total = sum(t.prior for t in self.templates)
        if total <= 0:
            raise ConfigError("a mixture needs at least one template with a positive prior")
        self.templates = [t for t in self.templates if t.prior > 0]
        self.priors = [t.prior / total for t in self.templates]
        self._choose = Dist(tuple(str(i) for i in range(len(self.priors))), tuple(self.priors))

    # ---- sampling -------------------------------------------------------------------------
    def sample(self, rng: random.Random) -> tuple[int, list[str]]:
        """One document without its BOS: (index of the template, words)."""
        index = int(self._choose.draw(rng))
        return index, self.speak(self.templates[index], rng)

    def speak(self, template: Template, rng: random.Random) -> list[str]:
        """One sentence of ``template``."""
        words: list[str] = []
        bound: Bindings = {}
        for i, step in enumerate(template.steps):
            word = step.literal or self._speak_step(template, i, step, bound, rng)
            if step.slot:
                bound[step.slot] = word
            words.append(word)
        return words

    def _speak_step(
        self, template: Template, i: int, step: Step, bound: Bindings, rng: random.Random
    ) -> str:
        dist = self._base(template, i, step, bound)
        if isinstance(dist, str):
            return dist
        banned = [bound[name] for name in step.excluding]
        for _ in range(10_000):
            word = dist.draw(rng)
            if word not in banned:
                return word
        raise DataError(f"{template.name}: step {step.slot!r} found no word outside {banned}")

    # ---- exact prediction -----------------------------------------------------------------
    def step_dist(self, template: Template, i: int, bound: Bindings) -> Dist | str:
        """The exact distribution of word ``i`` of ``template`` given its earlier words."""
        step = template.steps[i]
        dist = self._base(template, i, step, bound)
        if isinstance(dist, str) or not step.excluding:
            return dist
        banned = {bound[name] for name in step.excluding}
        return dist.where(lambda word: word not in banned)

    def _base(self, template: Template, i: int, step: Step, bound: Bindings) -> Dist | str:
        """The step's distribution after pool and hold-out filters, before exclusions."""
        if step.literal:
            return step.literal
        filtered = self.held_out is not None and i == template.key_step
        if step.rule is not None:
            dist = step.dist(bound)
            if isinstance(dist, str) or not filtered:
                return dist
            return self._trainable(template, step, dist, bound)
        key = (
            id(step),
            tuple(bound[k] for k in template.key if k != step.slot) if filtered else (),
        )
        found = self._dists.get(key)
        if found is None:
            dist = step.pool
            if dist is None:
                raise ConfigError(f"{template.name}: step {step.slot!r} has no pool")
            dist = dist.top(self.pool) if self.pool < 1 else dist
            found = self._trainable(template, step, dist, bound) if filtered else dist
            self._dists[key] = found
        return found

    def _trainable(self, template: Template, step: Step, dist: Dist, bound: Bindings) -> Dist:
        hold = self.held_out
        if hold is None:
            return dist

        def keep(word: str) -> bool:
            return not hold.holds(
                template, [word if k == step.slot else bound[k] for k in template.key]
            )

        kept = dist.where(keep)
        if not kept.words:
            raise ConfigError(
                f"{template.name}: every combination is held out given {bound}; use another seed"
            )
        return kept

    def trace(self, words: Sequence[str]) -> list[Prediction]:
        """Predictions before word 0, word 1, ... of ``words`` (so ``len(words)`` of them).

        Raises:
            DataError: this mixture could not have written ``words``.
        """
        out: list[Prediction] = []
        live: _Live = ()
        for i, word in enumerate(words):
            prediction, live = self._advance(tuple(words[:i]), live)
            out.append(prediction)
            if prediction.probs.get(word, 0.0) <= 0:
                raise DataError(f"the mixture cannot say {word!r} after {' '.join(words[:i])!r}")
        return out

    def continued(self, words: Sequence[str], n: int, *, stop: str) -> list[str]:
        """Up to ``n`` words after ``words``, each the most probable one; ``stop`` ends them.

        Raises:
            DataError: this mixture could not have written ``words``.
        """
        self.trace(words)
        said = list(words)
        prediction, live = self._advance((), ())
        for i in range(len(words) + n):
            if i >= len(words):
                said.append(prediction.bayes)
            if i >= len(words) and said[-1] == stop:
                break
            prediction, live = self._advance(tuple(said[: i + 1]), live)
        return said[len(words) :]

    def _advance(self, prefix: tuple[str, ...], live: _Live) -> tuple[Prediction, _Live]:
        """Condition ``live`` on the last word of ``prefix``, then predict the next word."""
        cached = self._cache.get(prefix) if len(prefix) <= _EARLY else None
        if cached is not None:
            return cached
        if not prefix:
            live = tuple((t, p, {}) for t, p in zip(self.templates, self.priors, strict=True))
        else:
            live = self._condition(live, prefix[-1], len(prefix) - 1)
        result = (self._predict(live, len(prefix)), live)
        if len(prefix) <= _EARLY:
            self._cache[prefix] = result
        return result

    def _condition(self, live: _Live, word: str, i: int) -> _Live:
        kept: list[tuple[Template, float, Bindings]] = []
        for template, weight, bound in live:
            if i >= len(template.steps):
                continue
            dist = self.step_dist(template, i, bound)
            p = float(dist == word) if isinstance(dist, str) else dist.table.get(word, 0.0)
            if p > 0:
                slot = template.steps[i].slot
                kept.append((template, weight * p, {**bound, slot: word} if slot else bound))
        total = sum(weight for _, weight, _ in kept)
        return tuple((t, w / total, b) for t, w, b in kept)

    def _predict(self, live: _Live, i: int) -> Prediction:
        probs: dict[str, float] = {}
        for template, weight, bound in live:
            if i >= len(template.steps):
                continue
            dist = self.step_dist(template, i, bound)
            items = ((dist, 1.0),) if isinstance(dist, str) else dist.table.items()
            for word, p in items:
                probs[word] = probs.get(word, 0.0) + weight * p
        return Prediction(probs)
