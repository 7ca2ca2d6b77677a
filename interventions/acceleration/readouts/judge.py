"""Keeping drafts that are right though the model would have said it otherwise (Judge Decoding).

Bachmann et al. 2025: a linear classifier on the full model's last state at a drafted token tells
right tokens from wrong ones; a draft is kept if the strict rule keeps it or the judge does. This
changes the text: it is **lossy**, and only as good as the labels it was trained on.

Read from a store of drafted texts (prompt and draft as they stand, one pass of the full model,
which is what a check costs anyway). Strict acceptance is the greedy rule: the drafted token is the
full model's largest logit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from lensbench import provenance
from lensbench.arguments import whole_number
from lensbench.errors import ConfigError
from lensbench.interventions.acceleration.readouts.logistic import Logistic, fit_logistic
from lensbench.interventions.acceleration.readouts.rows import (
    Document,
    documents,
    require_exits,
    split,
    states,
)
from lensbench.models.base import Model
from lensbench.results import Controls, Result
from lensbench.stats import auroc

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lensbench.store import ActivationStore

RULES = ("strict", "judge", "moved labels", "keep all")


@dataclass(frozen=True, kw_only=True, eq=False)
class JudgeReport(Result):
    """Drafts kept by each rule on held-out texts; every rule but ``strict`` is lossy."""

    accepted: Int[np.ndarray, "rules docs"]
    """Drafted tokens kept before the first one that is not."""
    wrong: Int[np.ndarray, "rules docs"]
    """Among them, tokens labelled wrong."""
    drafted: Int[np.ndarray, " docs"]
    right: Int[np.ndarray, " docs"]
    """Drafted tokens before the first wrong one: what a perfect judge keeps."""
    auroc: float
    threshold: float
    lossless: tuple[bool, ...] = (True, False, False, False)

    def to_frame(self) -> "pd.DataFrame":
        """One row per rule; intervals are bootstraps over texts."""
        import pandas as pd

        n = len(self.drafted)
        drawn = np.random.default_rng(0).integers(0, n, (1000, n))
        low, high = np.quantile(self.accepted[:, drawn].mean(-1), (0.025, 0.975), axis=1)
        frame = pd.DataFrame(
            {
                "rule": RULES,
                "lossless": self.lossless,
                "accepted": self.accepted.mean(1),
                "low": low,
                "high": high,
                "acceptance": self.accepted.sum(1) / self.drafted.sum(),
                "wrong_kept": self.wrong.sum(1) / np.maximum(self.accepted.sum(1), 1),
                "right_drafts": self.right.mean(),
                "n_texts": n,
            }
        )
        frame.attrs["units"] = {"accepted": "tokens per draft", "wrong_kept": "share of kept"}
        return frame

    def plot(self) -> "go.Figure":
        """Kept tokens per draft, by rule."""
        from lensbench.plots import bars

        return bars(
            self.to_frame(), x="rule", y="accepted", low="low", high="high",
            title="Drafted tokens kept per round",
            subtitle="judge and what follows are lossy: the text is no longer the model's own; "
            f"n = {len(self.drafted)} documents",
        )  # fmt: skip

    def summary(self) -> dict[str, float]:
        """Kept tokens per draft, strict and judged; wrong ones let in; area under the curve."""
        kept, wrong = self.accepted.sum(1), self.wrong.sum(1)
        return {
            "strict": float(self.accepted[0].mean()),
            "judge": float(self.accepted[1].mean()),
            "wrong_kept": float(wrong[1] / max(kept[1], 1)),
            "auroc": self.auroc,
            "lossless": 0.0,
        }


def judge_decoding(
    store: "ActivationStore",
    model: Model,
    prompt_tokens: Sequence[int],
    right: Sequence[Bool[np.ndarray, " drafted"]],
    *,
    threshold: float = 0.5,
    penalty: float = 1e-2,
    test: float = 0.5,
    seed: int = 0,
) -> tuple[Logistic, JudgeReport]:
    """Train the judge on the drafts of some texts and count what it keeps on the others.

    Args:
        store: one document per draft, prompt and drafted tokens, with the stream after all layers.
        model: only its final norm and head are used.
        prompt_tokens: length of each document's prompt, at least 1.
        right: for each document, whether each drafted token is right, by whatever truth there is.
        threshold: chance of being right from which the judge keeps a token.
        penalty: of the classifier, see :func:`fit_logistic`; both classes get the same mass.
        test: share of texts held out.
        seed: of the split and of the moved labels.

    Raises:
        ConfigError: lengths that are not those of the stored texts.
        NotEnoughDataError: fewer than two texts.
        MissingDataError: the store lacks the stream after the last layer.

    Example:
        >>> right = [np.array([True, False] * 6) for _ in range(4)]  # whatever truth there is
        >>> lengths = [own.index().doc_ids.tolist().count(i) - 12 for i in range(4)]
        >>> judge, found = acceleration.judge_decoding(own, early, lengths, right)
    """
    if not 0 < threshold < 1:
        raise ConfigError(f"threshold is a chance between 0 and 1, got {threshold!r}")
    model.require_next_token("checking drafts")
    store.check_model(model.card)
    require_exits(store, [model.n_layers])
    docs = documents(store)
    if len(prompt_tokens) != len(docs) or len(right) != len(docs):
        raise ConfigError(
            f"the store has {len(docs)} texts, but there are {len(prompt_tokens)} prompt lengths "
            f"and {len(right)} lists of labels"
        )
    cases = [
        _Case.of(store, model, *given) for given in zip(docs, prompt_tokens, right, strict=True)
    ]
    fit, held = split(cases, test, seed)
    x = np.concatenate([cases[i].x for i in fit])
    y = np.concatenate([cases[i].right for i in fit]).astype(float)
    moved = np.random.default_rng(seed).permutation(y)
    judge = fit_logistic(x, y, balanced=True, penalty=penalty)
    control = fit_logistic(x, moved, balanced=True, penalty=penalty)
    tested = [cases[i] for i in held]
    every = lambda x: np.ones(len(x))  # noqa: E731 - beside its siblings
    rules = [lambda x: np.zeros(len(x)), judge, control, every]
    kept = np.array([[_kept(c, rule(c.x) >= threshold) for c in tested] for rule in rules])
    x, y = np.concatenate([c.x for c in tested]), np.concatenate([c.right for c in tested])
    report = JudgeReport(
        accepted=kept,
        wrong=np.array([
            [int((~c.right[:n]).sum()) for c, n in zip(tested, row, strict=True)] for row in kept
        ]),
        drafted=np.array([len(c.right) for c in tested]),
        right=np.array([int(np.append(c.right, False).argmin()) for c in tested]),
        auroc=auroc(judge(x), y), threshold=threshold,
        controls=Controls({"moved_labels_auroc": auroc(control(x), y)}),
        config={"store": store.url, "penalty": penalty, "seed": seed},
        provenance=provenance.record(model=vars(model.card), seed=seed, store=store),
    )  # fmt: skip
    return judge, report


@dataclass(frozen=True, eq=False)
class _Case:
    """One draft: the full model's state at each token, strict acceptance, truth."""

    x: Float[np.ndarray, "drafted d_model"]
    strict: Bool[np.ndarray, " drafted"]
    right: Bool[np.ndarray, " drafted"]

    @classmethod
    def of(
        cls, store: "ActivationStore", model: Model, doc: Document, n_prompt: int, right: np.ndarray
    ) -> "_Case":
        n = whole_number("each of prompt_tokens", n_prompt, least=1)
        labels = np.asarray(right)
        if labels.dtype != bool or len(labels) != len(doc.ids) - n or not len(labels):
            raise ConfigError(
                f"a text of {len(doc.ids)} tokens after a prompt of {n} needs {len(doc.ids) - n} "
                f"booleans as labels, got {len(labels)} of {labels.dtype}"
            )
        h = states(store, model.n_layers, doc.rows[n - 1 :])
        said = model.unembed(h[:-1]).argmax(-1).cpu()
        strict = (said == torch.from_numpy(doc.ids[n:])).numpy()
        return cls(h[1:].double().numpy(), strict, labels)


def _kept(case: _Case, judged: np.ndarray) -> int:
    """Tokens before the first that neither rule keeps."""
    return int(np.append(case.strict | judged, False).argmin())
