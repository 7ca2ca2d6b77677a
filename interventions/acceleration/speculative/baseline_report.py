"""How many drafted tokens of a second model are kept, by the length of its drafts.

Counts only: which of two models pays depends on what a block of each costs on a machine, so blocks
of both are told apart and never added.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from lensbench import provenance
from lensbench.arguments import whole_number
from lensbench.errors import ConfigError
from lensbench.interventions.acceleration.decoding import greedy, native
from lensbench.interventions.acceleration.speculative.baseline import speculative_baseline
from lensbench.interventions.acceleration.study.own import prompt_ids
from lensbench.models.base import Model
from lensbench.results import Controls, Result
from lensbench.stats import bootstrap_mean
from lensbench.tokens import meant

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, kw_only=True, eq=False)
class BaselineReport(Result):
    """Drafts of a second model over prompts, for every length of draft."""

    lengths: tuple[int, ...]
    drafted: Int[np.ndarray, "lengths prompts"]
    accepted: Int[np.ndarray, "lengths prompts"]
    rounds: Int[np.ndarray, "lengths prompts"]
    blocks: Int[np.ndarray, "lengths prompts"]
    """Blocks of the model called one after another."""
    draft_blocks: Int[np.ndarray, "lengths prompts"]
    """The same of the draft model, whose blocks are of another size."""
    plain_blocks: Int[np.ndarray, " prompts"]
    """Blocks of the model in plain greedy decoding of the same tokens."""
    same: Bool[np.ndarray, "lengths prompts"]
    """Is the text that of plain greedy decoding?"""
    new: Int[np.ndarray, " prompts"]
    draft_model: str

    @property
    def tokens_per_round(self) -> Float[np.ndarray, " lengths"]:
        """New tokens over runs of the model, of all prompts together; 1 is plain decoding."""
        return self.new.sum() / self.rounds.sum(1)

    def to_frame(self) -> "pd.DataFrame":
        """One row per length of draft; intervals are bootstraps over prompts."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for i, length in enumerate(self.lengths):
            per_round = bootstrap_mean(self.new / self.rounds[i])
            rows.append({
                "draft": length, "tokens_per_round": self.tokens_per_round[i],
                "low": per_round.low, "high": per_round.high,
                "acceptance": self.accepted[i].sum() / max(int(self.drafted[i].sum()), 1),
                "blocks": self.blocks[i].sum() / self.new.sum(),
                "draft_blocks": self.draft_blocks[i].sum() / self.new.sum(),
                "plain_blocks": self.plain_blocks.sum() / self.new.sum(),
                "same": float(self.same[i].mean()), "n": len(self.new),
            })  # fmt: skip
        frame = pd.DataFrame(rows)
        each = dict.fromkeys(("blocks", "draft_blocks", "plain_blocks"), "called per new token")
        frame.attrs["units"] = {"tokens_per_round": "new tokens per run of the model",
                                "acceptance": "share of drafted tokens", **each,
                                "same": "share of texts", "n": "prompts"}  # fmt: skip
        return frame

    def summary(self) -> dict[str, float]:
        """The most tokens per round, its length of draft, and the share of unchanged texts."""
        best = int(np.argmax(self.tokens_per_round))
        return {
            "tokens_per_round": float(self.tokens_per_round[best]),
            "draft": float(self.lengths[best]),
            "same": float(self.same.mean()),
            "prompts": float(len(self.new)),
        }

    def plot(self) -> "go.Figure":
        """New tokens per run of the model against the length of a draft."""
        from lensbench.plots import lines

        return lines(
            self.to_frame(), x="draft", y="tokens_per_round", low="low", high="high",
            title=f"Drafts of {self.draft_model}", labels={"draft": "tokens drafted per round"},
            subtitle=f"1 is plain decoding; n = {len(self.new)} prompts",
        )  # fmt: skip


def baseline_report(
    model: Model,
    draft_model: Model,
    prompts: Any,
    lengths: Sequence[int] = (1, 2, 4, 8),
    *,
    max_new_tokens: int = 32,
) -> BaselineReport:
    """Draft greedily with a second model at every length, and count what the first one keeps.

    Args:
        model: the one that checks; decoder-only, its layers can be run one by one.
        draft_model: another with the same vocabulary.
        prompts: strings, or ids in any usual form.
        lengths: tokens drafted per round.
        max_new_tokens: length of every continuation.

    Raises:
        ConfigError: other vocabularies, no prompt or length, no room in a context.
    """
    sizes = tuple(whole_number("lengths", n, least=1) for n in lengths)
    if not sizes:
        raise ConfigError("lengths is empty; give tokens drafted per round, such as 1, 2, 4")
    rows = [meant(ids) for ids in prompt_ids(model, prompts)]
    plain = [greedy(native(model), row, max_new_tokens) for row in rows]
    found = [[speculative_baseline(model, row, draft_model, n, max_new_tokens) for row in rows]
             for n in sizes]  # fmt: skip

    def each(read: Any) -> Any:
        return np.array([[read(one) for one in at] for at in found])

    return BaselineReport(
        lengths=sizes, drafted=each(lambda d: d.drafted), accepted=each(lambda d: d.accepted),
        rounds=each(lambda d: len(d.rounds)), blocks=each(lambda d: d.counts.calls),
        draft_blocks=each(lambda d: d.draft_counts.calls),
        plain_blocks=np.array([p.counts.calls for p in plain]),
        same=np.array([[d.new == p.new for d, p in zip(at, plain, strict=True)] for at in found]),
        new=np.array([len(p.new) for p in plain]), draft_model=draft_model.card.name,
        config={"draft_model": vars(draft_model.card), "max_new_tokens": max_new_tokens},
        controls=Controls({"plain_tokens_per_round": 1.0}, "plain greedy decoding of the text"),
        provenance=provenance.record(model=vars(model.card)),
    )  # fmt: skip
