"""What an adapter's drafts will meet, from stored states alone.

Per token: agreement, whether the draft's largest logit is the full model's (greedy acceptance);
overlap, sum_v min(p, q), the chance that a draft drawn from q is kept; cross-entropy, the loss of
training. Beside each stands the bare lens of the exit layer, from which an adapter begins.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lensbench import provenance
from lensbench.interventions.acceleration.decoding import native
from lensbench.interventions.acceleration.speculative.kangaroo_adapter import KangarooAdapter
from lensbench.interventions.acceleration.speculative.kangaroo_text import StoredTexts
from lensbench.models.base import Model
from lensbench.results import Controls, Result
from lensbench.stats import bootstrap_mean

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lensbench.store import ActivationStore

MEASURES = {"agreement": "share", "overlap": "probability", "cross_entropy": "nats"}


@dataclass(frozen=True, kw_only=True, eq=False)
class KangarooReport(Result):
    """Adapter and bare lens at every token that counts."""

    adapter: np.ndarray
    """``[measures, tokens]`` in the order agreement, overlap, cross-entropy."""
    lens: np.ndarray
    sequences: np.ndarray
    """Sequence of each token, which resampling draws whole."""

    def to_frame(self) -> "pd.DataFrame":
        """One row per draft and measure, with a 95 % interval over sequences."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for draft, values in (("adapter", self.adapter), ("lens", self.lens)):
            for name, numbers in zip(MEASURES, values, strict=True):
                found = bootstrap_mean(numbers, self.sequences)
                rows.append(
                    {"draft": draft, "measure": name, "value": found.mean, "low": found.low,
                     "high": found.high, "n": len(numbers)}
                )  # fmt: skip
        frame = pd.DataFrame(rows)
        frame.attrs["units"] = {"value": "share, probability or nats, by measure"}
        return frame

    def plot(self) -> "go.Figure":
        """Agreement and overlap of both."""
        from lensbench.plots import bars

        frame = self.to_frame()
        shown = frame.query("measure != 'cross_entropy'")
        return bars(
            shown, x="measure", y="value", color="draft", low="low", high="high",
            title="What the full model would keep of one draft",
            subtitle=f"n = {len(np.unique(self.sequences))} sequences",
        )  # fmt: skip

    def summary(self) -> dict[str, float]:
        """Means of both."""
        means = {n: float(v.mean()) for n, v in zip(MEASURES, self.adapter, strict=True)}
        of_lens = {f"lens_{n}": float(v.mean()) for n, v in zip(MEASURES, self.lens, strict=True)}
        return {**means, **of_lens, "tokens": float(len(self.sequences))}


def kangaroo_report(
    adapter: KangarooAdapter, store: "ActivationStore", model: Model, *, batch_size: int = 8
) -> KangarooReport:
    """Measure an adapter on stored states; no block of the model runs.

    On the store it was trained from, only the sequences held out are read. Numbers of the first
    draft of a round: what follows a wrong one is not among them.

    Args:
        adapter: see :func:`train_kangaroo`.
        store: whole texts with ``resid_post`` of the exit layer and of the last one.
        model: the model whose states these are; only its head is used.
        batch_size: sequences at a time.

    Raises:
        MissingDataError: the store lacks a layer.
        MismatchError: a store or an adapter of another model.
        ConfigError: a store that keeps parts of its texts only.
        NotEnoughDataError: nothing was held out.

    Example:
        >>> adapter = acceleration.train_kangaroo(
        ...     own, early, exit_layer=2, config={"steps": 2, "holdout": 0.5}
        ... )
        >>> found = acceleration.kangaroo_report(adapter, own, early)
    """
    adapter.check_model(model)
    texts = StoredTexts(store, native(model), adapter.exit_layer)
    seen = adapter.settings.get("store") == store.text.get("fingerprint")
    share = float(adapter.settings.get("holdout", 0.0)) if seen else 0.0
    kept, held = texts.split(share)
    chosen = held if share else kept
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    with torch.inference_mode():
        for a in range(0, len(chosen), batch_size):
            some = chosen[a : a + batch_size]
            h, last, counted = texts.read(some)
            target = model.unembed(last[counted])
            owner = torch.from_numpy(some)[:, None].expand(counted.shape)[counted.cpu()]
            drafts = adapter.unembed(adapter(h)[counted]), model.unembed(h[counted])
            scores = [_measures(draft, target) for draft in drafts]
            parts.append((scores[0], scores[1], owner.numpy()))
    ours, bare, owners = (np.concatenate(x, -1) for x in zip(*parts, strict=True))
    return KangarooReport(
        adapter=ours,
        lens=bare,
        sequences=owners,
        config={"exit_layer": adapter.exit_layer, "held_out": bool(share), "store": store.url},
        controls=Controls(
            {f"bare lens, {n}": float(v.mean()) for n, v in zip(MEASURES, bare, strict=True)}
        ),
        provenance=provenance.record(model=vars(model.card)),
    )


def _measures(draft: Tensor, target: Tensor) -> np.ndarray:
    """``[measures, tokens]`` of logits ``[tokens, d_vocab]``."""
    q, p = draft.float().log_softmax(-1), target.float().softmax(-1)
    agrees = (draft.argmax(-1) == target.argmax(-1)).double()
    overlap = torch.minimum(p, q.exp()).sum(-1).double()
    return torch.stack((agrees, overlap, -(p * q).sum(-1).double())).cpu().numpy()
