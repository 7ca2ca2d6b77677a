"""What a model answers at the desk, beside what guessing scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Int

from lensbench.worlds.desk.people import ASKERS, ATTRIBUTES
from lensbench.worlds.desk.prompts import CLASSES, DeskPrompts
from lensbench.worlds.desk.world import Desk
from lensbench.worlds.scoring import next_log_probs


def said(model: Any, prompts: DeskPrompts) -> Int[np.ndarray, " prompts"]:
    """Id of the most probable next word of every prompt."""
    was_training = model.training
    model.eval()
    logp = next_log_probs(model, prompts.tokens)
    model.train(was_training)
    return np.array([p[-1].argmax() for p in logp])


def is_refusal(prompts: DeskPrompts, words: Int[np.ndarray, " prompts"]) -> np.ndarray:
    """Bool: the word begins a refusal, in either language."""
    return np.isin(words, list(prompts.refusals.values()))


def accuracy_by_class(desk: Desk, model: Any, *, n: int, seed: int) -> dict[str, float]:
    """Share of right next words on ``n`` held-out prompts per class."""
    out: dict[str, float] = {}
    for name in CLASSES:
        prompts = desk.prompts(n, seed=seed, of=name)
        out[name] = float((said(model, prompts) == prompts.answers).mean())
    return out


def guesses(prompts: DeskPrompts, fit: DeskPrompts) -> dict[str, np.ndarray]:
    """Hits (bool per prompt) of predictors that do not know the people, chosen on ``fit``.

    ``word``: the commonest right word. ``language``: the commonest in the language of the cue.
    ``class``: refused or answered (a hit needs no more), by who asks for what.
    """
    everything, rest = [""] * len(prompts), [""] * len(fit)
    language = prompts.languages.tolist(), fit.languages.tolist()
    refused = prompts.classes == "refuse"
    return {
        "word": _common(rest, fit.answers)(everything) == prompts.answers,
        "language": _common(language[1], fit.answers)(language[0]) == prompts.answers,
        "class": _common(_topics(fit), fit.classes == "refuse")(_topics(prompts)) == refused,
    }


def _common(keys: list[str], right: np.ndarray) -> Callable[[list[str]], np.ndarray]:
    """What is most often ``right`` per key; over all keys where one is new."""
    counts: dict[str, Counter[Any]] = {}
    for key, value in zip(keys, right.tolist(), strict=True):
        counts.setdefault(key, Counter())[value] += 1
    overall = Counter(right.tolist())
    return lambda asked: np.array([counts.get(k, overall).most_common(1)[0][0] for k in asked])


def _topics(prompts: DeskPrompts) -> list[str]:
    """Asker and attribute of every question."""
    kept = {*ASKERS, *ATTRIBUTES}
    return [" ".join(word for word in text.split() if word in kept) for text in prompts.texts]
