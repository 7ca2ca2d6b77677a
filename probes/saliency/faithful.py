"""Do the scores say what the model uses? Four metrics, beside scores at random.

1. Soft metrics: each number of a token's embedding is kept with a probability a_i, the token's
   importance (|score| over the largest). H is the Hellinger distance of the next-token
   distributions: H_kept with a_i, H_dropped with 1 - a_i, H_0 with every embedding zero.
   soft_sufficiency = 1 - H_kept / H_0, soft_comprehensiveness = H_dropped / H_0.
2. Hard metrics: the share q of tokens with the largest |score|, q = 10, 20, 30, 40, 50 %.
   comprehensiveness = mean over q of p(x) - p(x without them), sufficiency = mean over q of
   p(x) - p(x with only them), tokens taken out by replacement; p of the target. Low sufficiency is
   good, high comprehensiveness is good.
3. Control: the same with scores shuffled over the tokens.

Source: Zhao & Aletras 2023, arXiv:2305.10496 (soft metrics); DeYoung et al. 2020, arXiv:1911.03429
(hard ones). The released code of ReAGent uses sum(sqrt p - sqrt q)^2 / sqrt 2; H here is
sqrt(sum(sqrt p - sqrt q)^2 / 2), in 0..1.
"""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lensbench import provenance
from lensbench.arguments import whole_number
from lensbench.errors import ConfigError, MismatchError
from lensbench.plan import Replace, edit
from lensbench.probes.saliency.asked import ROWS, Question, Replacement, sampler_of
from lensbench.probes.saliency.gradients import EMBED, embedded
from lensbench.probes.saliency.result import TokenAttribution
from lensbench.results import Controls, Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lensbench.models import Model

METRICS = {
    "soft_sufficiency": "share of H_0, higher is better",
    "soft_comprehensiveness": "share of H_0, higher is better",
    "sufficiency": "probability lost, lower is better",
    "comprehensiveness": "probability lost, higher is better",
}
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)
RANDOM = "shuffled scores"


@dataclass(frozen=True, kw_only=True, eq=False)
class Faithfulness(Result):
    """The metrics of every method, means over targets, beside the same scores shuffled."""

    methods: tuple[str, ...]
    values: Float[np.ndarray, "methods metrics targets"]
    shuffled: Float[np.ndarray, "methods metrics targets"]
    """Mean over the shuffles."""
    above: Float[np.ndarray, "methods metrics targets"]
    """Share of shuffles that the method's own scores beat; ties count half."""
    n_shuffles: int

    def to_frame(self) -> "pd.DataFrame":
        """One row per method and metric: its mean over targets, the control's, shuffles beaten."""
        import pandas as pd

        frame = pd.DataFrame([
            {"method": name, "metric": metric, "value": float(self.values[i, j].mean()),
             "shuffled": float(self.shuffled[i, j].mean()),
             "beats_shuffles": float(self.above[i, j].mean()),
             "targets": self.values.shape[2], "unit": METRICS[metric]}
            for i, name in enumerate(self.methods) for j, metric in enumerate(METRICS)
        ])  # fmt: skip
        frame.attrs["units"] = {"value": "see unit", "beats_shuffles": "share of shuffles"}
        return frame

    def plot(self) -> "go.Figure":
        """Share of shuffled scores that each method beats, by metric; a half is chance."""
        from lensbench.plots import bars

        return bars(
            self.to_frame(), x="method", y="beats_shuffles", color="metric",
            title="Attribution against the same scores shuffled",
            subtitle=f"0.5 is chance · {self.n_shuffles} shuffles · n = {self.values.shape[2]} "
            "targets of 1 prompt",
            labels={"beats_shuffles": "share of shuffles beaten"},
            hover_columns=("value", "shuffled", "unit"),
        )  # fmt: skip

    def summary(self) -> dict[str, float]:
        """Share of shuffles beaten, over all metrics, by method."""
        return {name: float(self.above[i].mean()) for i, name in enumerate(self.methods)}


def faithfulness(
    model: "Model",
    attribution: TokenAttribution,
    *,
    replacement: Replacement = "uniform",
    draws: int = 16,
    shuffles: int = 20,
    batch_size: int = ROWS,
    seed: int = 0,
) -> Faithfulness:
    """Soft and hard faithfulness of every method of an attribution; see the module.

    Args:
        model: the model that was attributed.
        attribution: what :func:`attribute_tokens` gave.
        replacement: what takes a token's place in the hard metrics.
        draws: of embeddings' masks, and of replacements, per measurement.
        shuffles: of the control.
        batch_size: most contexts in one forward pass.
        seed: of all draws; a method and its shuffles see the same numbers.

    Raises:
        MismatchError: the attribution is another model's.
        ConfigError: counts below 1.

    Example:
        >>> found = probes.attribute_tokens(
        ...     model, "The capital of Peru is", methods=["leave_one_out"]
        ... )
        >>> checked = probes.faithfulness(model, found, draws=2, shuffles=2)
    """
    began = time.monotonic()
    if attribution.provenance.model.get("fingerprint") != model.card.fingerprint:
        raise MismatchError(
            f"the attribution is of {attribution.provenance.model.get('name')!r}, not of "
            f"{model.card.name!r}; attribute with the same model"
        )
    draws = whole_number("draws", draws, least=1)
    seed = whole_number("seed", seed, least=0)
    shuffles = whole_number("shuffles", shuffles, least=1)
    batch_size = whole_number("batch_size", batch_size, least=1)
    sampler = sampler_of(model, replacement)
    ids = torch.from_numpy(attribution.ids).long()
    shape = (len(attribution.methods), len(METRICS), len(attribution.targets))
    values, shuffled, above = (np.zeros(shape) for _ in range(3))
    for t, target in enumerate(attribution.targets.tolist()):
        context = ids[: attribution.start + t]
        if len(context) < 2:
            raise ConfigError("a context of one token has nothing to shuffle; give a longer prompt")
        measured = _Measured(Question(model, context, target, sampler, batch_size), draws,
                             [seed, t])  # fmt: skip
        order = np.random.default_rng([seed, t, 1])
        for i in range(shape[0]):
            scores = np.abs(attribution.scores[i, t, : len(context)]).astype(float)
            values[i, :, t] = measured.of(scores)
            control = np.stack([measured.of(order.permutation(scores)) for _ in range(shuffles)])
            shuffled[i, :, t] = control.mean(0)
            better = np.where(np.arange(4) == 2, -1.0, 1.0)  # low sufficiency is good
            wins = np.sign(better * (values[i, :, t] - control))
            above[i, :, t] = (wins + 1).mean(0) / 2
    return Faithfulness(
        methods=attribution.methods, values=values, shuffled=shuffled, above=above,
        n_shuffles=shuffles,
        config={"draws": draws, "shuffles": shuffles, "seed": seed, "shares": list(_SHARES)},
        controls=Controls({"beaten by chance": 0.5}, note="scores shuffled over the tokens"),
        provenance=provenance.record(model=vars(model.card), seed=seed,
                                     seconds=time.monotonic() - began),
    )  # fmt: skip


class _Measured:
    """The metrics of one target for any scores, on the same draws."""

    def __init__(self, question: Question, draws: int, seed: Any) -> None:
        self._question, self._draws, self._seed = question, draws, seed
        self._embedded = embedded(question)[0]
        self._whole = question.probs(question.ids[None])[0]
        self._floor = float(self._distance(torch.zeros_like(self._embedded)[None])[0])
        gen = np.random.default_rng(seed)
        size = (draws, *self._embedded.shape)
        self._noise = torch.from_numpy(gen.random(size, dtype=np.float32))

    def of(self, scores: Float[np.ndarray, " context"]) -> Float[np.ndarray, " metrics"]:
        """Soft sufficiency, soft comprehensiveness, sufficiency, comprehensiveness."""
        share = torch.from_numpy(scores / max(scores.max(), 1e-30)).float()
        kept, dropped = (self._soft(a) for a in (share, 1 - share))
        soft = (np.nan, np.nan) if self._floor == 0 else (1 - kept / self._floor,
                                                          dropped / self._floor)  # fmt: skip
        return np.array([*soft, *self._hard(scores)])

    def _soft(self, keep: Float[Tensor, " context"]) -> float:
        masked = (self._noise < keep[:, None]).to(self._embedded)
        return float(self._distance(masked * self._embedded).mean())

    def _distance(self, at: Float[Tensor, "rows context d_model"]) -> Tensor:
        found: list[Tensor] = []
        for part in at.split(self._question.batch_size):
            rows = self._question.ids[None].expand(len(part), -1)
            plan = edit(EMBED, Replace(part))
            logits = self._question.model.run(rows, plan, logits="last").logits
            assert logits is not None
            found.append(_hellinger(logits[:, -1].float().softmax(-1).cpu(), self._whole))
        return torch.cat(found)

    def _hard(self, scores: Float[np.ndarray, " context"]) -> tuple[float, float]:
        n, q = len(scores), self._question
        best = np.argsort(-scores, kind="stable")
        taken = np.zeros((len(_SHARES), n), dtype=bool)
        for row, share in zip(taken, _SHARES, strict=True):
            row[best[: max(1, round(share * n))]] = True
        lost: list[float] = []
        for where in (~taken, taken):  # sufficiency keeps the best, comprehensiveness takes them
            rng = np.random.default_rng(self._seed)
            p = q.probs(q.replaced(np.repeat(where, self._draws, axis=0), rng))[:, q.target]
            lost.append(float(self._whole[q.target] - p.double().mean()))
        return lost[0], lost[1]


def _hellinger(p: Float[Tensor, "rows d_vocab"], q: Float[Tensor, " d_vocab"]) -> Tensor:
    """``sqrt(sum (sqrt p - sqrt q)^2 / 2)``, in 0..1."""
    return ((p.double().sqrt() - q.double().sqrt()).pow(2).sum(-1) / 2).sqrt()
