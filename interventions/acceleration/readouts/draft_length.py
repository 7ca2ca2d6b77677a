"""Whether to go on drafting, by a classifier (DISCO; Mamou et al. 2024).

1. Walk the model's own text in rounds of drafts of one exit layer, up to the first wrong token of
   each round: these drafts are made in the context of the text, so a store holds all about them.
2. Fit a classifier of "this token is kept" on the draft's ten largest probabilities, its entropy
   and its place in the draft.
3. On other documents, stop where the chance falls below a threshold; beside it fixed lengths, a
   classifier of moved labels, and the bound that stops just before every wrong token.

Accepted tokens are exact; drafts after the first wrong token are not in the store, so drafted ones
lie between two bounds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from lensbench import provenance
from lensbench.arguments import whole_number
from lensbench.errors import ConfigError
from lensbench.interventions.acceleration.decoding import check_exit
from lensbench.interventions.acceleration.readouts.logistic import Logistic, fit_logistic
from lensbench.interventions.acceleration.readouts.rows import (
    documents,
    require_exits,
    split,
    states,
)
from lensbench.interventions.acceleration.study.own import (
    prompt_lengths,
    refuse_inexact,
    why_inexact,
)
from lensbench.models.base import Model
from lensbench.results import Controls, Result
from lensbench.stats import auroc

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lensbench.store import ActivationStore

TOP = 10
GoOn = Callable[[np.ndarray], bool]
"""Features of the token drafted last to: draft another?"""


@dataclass(frozen=True, eq=False)
class DraftText:
    """What one exit layer drafts at every place of one text that the full model wrote itself."""

    features: Float[np.ndarray, "tokens features"]
    """Ten largest probabilities and entropy of the draft of each new token."""
    kept: Bool[np.ndarray, " tokens"]
    """Is it the full model's token?"""


@dataclass(frozen=True, kw_only=True, eq=False)
class DraftLengthReport(Result):
    """Rounds of every policy over held-out documents."""

    policies: tuple[str, ...]
    rounds: Int[np.ndarray, " policies"]
    accepted: Int[np.ndarray, " policies"]
    drafted_least: Int[np.ndarray, " policies"]
    drafted_most: Int[np.ndarray, " policies"]
    exit_layer: int
    n_layers: int
    auroc: float
    """Of the classifier's chance against "kept", on the drafts of held-out rounds."""
    n_docs: int

    def to_frame(self) -> "pd.DataFrame":
        """One row per policy."""
        import pandas as pd

        new = self.accepted + self.rounds
        checks = self.rounds * self.n_layers
        frame = pd.DataFrame(
            {
                "policy": self.policies,
                "tokens_per_round": new / self.rounds,
                "acceptance": self.accepted / np.maximum(self.drafted_least, 1),
                "drafted_least": self.drafted_least,
                "drafted_most": self.drafted_most,
                "serial_layers_least": (self.drafted_least * self.exit_layer + checks) / new,
                "serial_layers_most": (self.drafted_most * self.exit_layer + checks) / new,
                "n_rounds": self.rounds,
                "n_docs": self.n_docs,
            }
        )
        frame.attrs["units"] = {
            "serial_layers_least": "layers one after another, per token",
            "acceptance": "accepted / drafted at least",
        }
        return frame

    def plot(self) -> "go.Figure":
        """Tokens per round against serial layers per token."""
        from lensbench.plots import scatter

        other = self.config.get("draft_model")
        who = f"drafts of {other}" if other else f"exit after {self.exit_layer} layers"
        return scatter(
            self.to_frame(), x="serial_layers_most", y="tokens_per_round", text="policy",
            front="max", title=f"When to stop drafting, {who}",
            subtitle=f"{self.n_docs} held-out documents; a check counts as {self.n_layers} layers",
        )  # fmt: skip

    def summary(self) -> dict[str, float]:
        """Least serial layers per token: classifier, fixed length, bound."""
        layers = self.to_frame()["serial_layers_most"]
        found_layers = list(zip(self.policies, layers, strict=True))
        groups = {"classifier": "p >=", "fixed": "fixed", "oracle": "oracle"}
        found = {
            f"{name}_layers": min(float(v) for p, v in found_layers if p.startswith(start))
            for name, start in groups.items()
        }
        return {**found, "auroc": self.auroc}


def draft_length(
    store: "ActivationStore",
    model: Model,
    exit_layer: int,
    *,
    thresholds: Sequence[float] = (0.3, 0.5, 0.7, 0.9),
    most: int = 8,
    test: float = 0.5,
    seed: int = 0,
) -> DraftLengthReport:
    """Train and judge the classifier on a store of the model's own text; no block runs.

    Args:
        store: made by ``capture_own``, with the stream after ``exit_layer`` and after all layers.
        model: only its final norm and head are used.
        exit_layer: layers of the draft, 1 to L - 1.
        thresholds: chances below which the classifier stops.
        most: tokens drafted per round at most.
        test: share of documents that the policies are judged on.
        seed: of the split and of the moved labels.

    Raises:
        ConfigError: an exit layer out of range.
        MismatchError: a store of other text, or of another model.
        NotEnoughDataError: fewer than two documents.

    Example:
        >>> found = acceleration.draft_length(own, early, exit_layer=2)
    """
    check_exit(exit_layer, model.n_layers, full=False)
    model.require_next_token("drafting")
    store.check_model(model.card)
    refuse_inexact(why_inexact(store, model))
    require_exits(store, [exit_layer, model.n_layers])
    lengths = prompt_lengths(store)
    texts: list[DraftText] = []
    for doc, n_prompt in zip(documents(store), lengths, strict=True):
        # The state of a new token but the last predicts the next new one.
        rows = doc.rows[n_prompt - 1 : -1]
        draft = model.unembed(states(store, exit_layer, rows)).float().softmax(-1).cpu()
        full = model.unembed(states(store, model.n_layers, rows)).argmax(-1).cpu()
        top = draft.topk(min(TOP, draft.shape[-1]), dim=-1).values
        entropy = -torch.special.xlogy(draft, draft).sum(-1, keepdim=True)
        texts.append(
            DraftText(
                torch.cat((top, entropy), -1).double().numpy(),
                (draft.argmax(-1) == full).numpy(),
            )
        )
    report = judge_lengths(
        texts, exit_layer, model.n_layers, thresholds=thresholds, most=most, test=test, seed=seed
    )
    made = provenance.record(model=vars(model.card), seed=seed, store=store)
    return replace(report, provenance=made)


def judge_lengths(
    texts: Sequence[DraftText],
    exit_layer: int,
    n_layers: int,
    *,
    thresholds: Sequence[float] = (0.3, 0.5, 0.7, 0.9),
    most: int = 8,
    test: float = 0.5,
    seed: int = 0,
) -> DraftLengthReport:
    """The same on drafts that are known already, such as those of another draft model.

    Raises:
        ConfigError: a threshold outside (0, 1), or ``most`` below 1.
        NotEnoughDataError: fewer than two texts.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> kept = [rng.random(60) < 0.7 for _ in range(6)]
        >>> texts = [acceleration.DraftText(np.stack([k, ~k], -1).astype(float), k) for k in kept]
        >>> found = acceleration.judge_lengths(texts, exit_layer=2, n_layers=6)
    """
    most = whole_number("most", most, least=1)
    if not thresholds or not all(0 < t < 1 for t in thresholds):
        raise ConfigError(f"thresholds are chances between 0 and 1, got {list(thresholds)}")
    fit, held = split(list(texts), test, seed)
    x, y = _rows([texts[i] for i in fit], most)
    moved = np.random.default_rng(seed).permutation(y)
    found, control = fit_logistic(x, y), fit_logistic(x, moved)
    policies: dict[str, GoOn | int | None] = {f"fixed {k}": k for k in range(1, most + 1)}
    for t in thresholds:
        policies[f"p >= {t:g}"] = _above(found, t)
        policies[f"moved labels, p >= {t:g}"] = _above(control, t)
    policies["oracle"] = None
    tested = [texts[i] for i in held]
    sums = np.array([np.sum([rounds_of(t, p, most) for t in tested], 0) for p in policies.values()])
    x, y = _rows(tested, most)
    return DraftLengthReport(
        policies=tuple(policies), rounds=sums[:, 0], accepted=sums[:, 1],
        drafted_least=sums[:, 2], drafted_most=sums[:, 3],
        exit_layer=exit_layer, n_layers=n_layers, n_docs=len(held),
        auroc=auroc(found(x), y > 0.5),
        controls=Controls({"moved_labels_auroc": auroc(control(x), y > 0.5)}),
        config={"most": most, "thresholds": [float(t) for t in thresholds], "seed": seed},
        provenance=provenance.record(seed=seed),
    )  # fmt: skip


def rounds_of(text: DraftText, policy: GoOn | int | None, most: int) -> tuple[int, int, int, int]:
    """Rounds, accepted tokens, and tokens drafted at least and at most, over one text.

    ``policy``: a rule, a fixed length, or None to stop just before the first wrong token.
    """
    rounds = accepted = least = highest = at = 0
    n = len(text.kept)
    while at < n:
        limit = min(most, n - at - 1)
        drafted, right, known = _draft(text, policy, at, limit)
        rounds, accepted, least = rounds + 1, accepted + right, least + drafted
        highest += drafted if known else limit
        at += right + 1
    return rounds, accepted, least, highest


def _draft(
    text: DraftText, policy: GoOn | int | None, at: int, limit: int
) -> tuple[int, int, bool]:
    """Drafted at least, accepted, and whether the number drafted is known."""
    if policy is None or isinstance(policy, int):
        limit = limit if policy is None else min(policy, limit)
        right = 0
        while right < limit and text.kept[at + right]:
            right += 1
        return (right if policy is None else limit), right, True
    for j in range(limit):
        go_on = policy(_feature(text, at + j, j))
        if not text.kept[at + j]:
            return j + 1, j, not go_on or j + 1 == limit
        if not go_on:
            return j + 1, j + 1, True
    return limit, limit, True


def _rows(texts: Sequence[DraftText], most: int) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of all drafts up to the first wrong one of rounds of ``most``."""
    x, y = list[np.ndarray](), list[float]()
    for text in texts:
        at, n = 0, len(text.kept)
        while at < n:
            right = 0
            for j in range(min(most, n - at)):
                x.append(_feature(text, at + j, j))
                y.append(float(text.kept[at + j]))
                if not text.kept[at + j]:
                    break
                right += 1
            at += right + 1
    return np.array(x), np.array(y)


def _feature(text: DraftText, at: int, place: int) -> np.ndarray:
    return np.append(text.features[at], place)


def _above(classifier: Logistic, threshold: float) -> GoOn:
    return lambda x: bool(classifier(x[None])[0] >= threshold)
