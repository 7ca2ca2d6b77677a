"""Decoding by a contrastive rule, with a table of what the rule did at every token."""

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench import provenance
from lensbench.errors import ConfigError, UnknownNameError
from lensbench.models.steps import DecodingStep
from lensbench.probes.lenses.contrastive.rules import ContrastiveRule, site_at
from lensbench.probes.lenses.marked import marked
from lensbench.probes.lenses.prompts import Prompts, prompt_rows
from lensbench.results import Controls, Result
from lensbench.tokens import token_texts

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    import plotly.graph_objects as go

    from lensbench.models import Model

VIEWS = ("steps", "layers")


@dataclass(frozen=True, kw_only=True, eq=False)
class ContrastiveText(Result):
    """One entry per new token: what the rule chose, and what the model alone would have there.

    ``plain`` is the model's most probable token after the *same* text; ``plain_texts`` what the
    model writes by itself. ``measured`` is what the layer was chosen by.
    """

    rule: str
    measures: str
    depths: tuple[int, ...]
    """Candidate layers by blocks passed: 0 the embeddings, j the output of block j - 1."""
    row: Int[np.ndarray, " steps"]
    step: Int[np.ndarray, " steps"]
    token_id: Int[np.ndarray, " steps"]
    plain_id: Int[np.ndarray, " steps"]
    token: tuple[str, ...]
    plain: tuple[str, ...]
    prob: Float[np.ndarray, " steps"]
    """Probability of the chosen token under the model alone."""
    kept: Int[np.ndarray, " steps"]
    """Tokens that the rule allowed."""
    depth: Int[np.ndarray, " steps"]
    """The chosen layer; -1 for rules that use none."""
    measured: Float[np.ndarray, "steps depths"]
    texts: tuple[str, ...]
    plain_texts: tuple[str, ...]

    def to_frame(self) -> "pd.DataFrame":
        """One row per new token (``␣``: a space); ``at <depth>``: what was measured there."""
        import pandas as pd

        frame = pd.DataFrame(
            {
                "row": self.row, "step": self.step, "token": marked(self.token),
                "plain": marked(self.plain),
                "changed": self.token_id != self.plain_id, "prob": self.prob, "kept": self.kept,
                "depth": self.depth, "site": [self._site(int(d)) for d in self.depth],
            }
        )  # fmt: skip
        for i, depth in enumerate(self.depths):
            frame[f"at {depth}"] = self.measured[:, i]
        frame.attrs["units"] = {"prob": "probability", "kept": "tokens", "depth": "blocks passed",
                                **{f"at {d}": self.measures for d in self.depths}}  # fmt: skip
        return frame

    @staticmethod
    def _site(depth: int) -> str:
        return "" if depth < 0 else str(site_at(depth))

    def layers(self) -> "pd.DataFrame":
        """How often each layer was chosen."""
        import pandas as pd

        counts = [int((self.depth == d).sum()) for d in self.depths]
        frame = pd.DataFrame({"depth": list(self.depths), "tokens": counts, "n": len(self.depth)})
        frame.attrs["units"] = {"tokens": "tokens", "depth": "blocks passed"}
        return frame

    def summary(self) -> dict[str, float]:
        """Tokens, the share that the rule changed, tokens allowed on average."""
        found = {
            "tokens": float(len(self.step)),
            "changed": float((self.token_id != self.plain_id).mean()),
            "kept_mean": float(self.kept.mean()),
        }
        if self.depths:
            found["most_chosen_depth"] = float(np.bincount(self.depth).argmax())
        return found

    def plot(self, view: str = "steps", row: int = 0) -> "go.Figure":
        """``steps``: what was measured by layer and token of one row; ``layers``: choices.

        Rules that use no layers show the model's probability of each chosen token.

        Raises:
            UnknownNameError: another view.
            ConfigError: no such row.
        """
        from lensbench.plots import bars, heatmap, lines, visible

        if view not in VIEWS:
            raise UnknownNameError("view", view, known=VIEWS)
        frame = self.to_frame()
        part = frame.loc[frame["row"] == row]
        if part.empty:
            raise ConfigError(f"no row {row}; this text has rows 0..{int(self.row.max())}")
        title, told = f"{self.rule}: what was chosen", f"n = {len(part)} new tokens of row {row}"
        if not self.depths:
            part.attrs["units"] = frame.attrs["units"]
            return lines(part, x="step", y="prob", title=title, subtitle=told,
                         hover_columns=("token", "plain"))  # fmt: skip
        if view == "layers":
            return bars(self.layers(), x="depth", y="tokens", title=f"{self.rule}: layers chosen",
                        subtitle=f"n = {len(frame):,} new tokens")  # fmt: skip
        cells = part.melt(
            ["step", "token", "plain", "depth"], [f"at {d}" for d in self.depths],
            "candidate", "measured",
        )  # fmt: skip
        cells["candidate"] = cells["candidate"].str.removeprefix("at ").astype(int)
        cells["mark"] = np.where(cells["candidate"] == cells["depth"], "●", "")
        cells.attrs["units"] = {"measured": self.measures}
        words = dict(zip(part["step"], map(visible, part["token"]), strict=True))
        return heatmap(
            cells, x="step", y="candidate", value="measured", text="mark", x_labels=words,
            hover_columns=("token", "plain"), title=title, subtitle=f"{told} · ●: the layer used",
            labels={"step": "new token", "candidate": "blocks passed"}, height=460,
        )  # fmt: skip


@dataclass
class _Recorder:
    """The rule, which also writes down what it did."""

    rule: ContrastiveRule
    plain: list[Tensor] = field(default_factory=list[Tensor])
    logp: list[Tensor] = field(default_factory=list[Tensor])
    kept: list[Tensor] = field(default_factory=list[Tensor])
    chosen: list[Tensor] = field(default_factory=list[Tensor])
    measured: list[Tensor] = field(default_factory=list[Tensor])

    @property
    def sites(self) -> "Sequence[Any]":
        return self.rule.sites

    def __call__(self, step: DecodingStep) -> Tensor:
        found = self.rule.of_step(step)
        logp = step.logits.float().log_softmax(-1)
        scores = found.cut()
        self.plain.append(logp.argmax(-1).cpu())
        self.kept.append(found.kept.sum(-1).cpu())
        self.logp.append(logp.cpu())
        if found.chosen is not None and found.measured is not None:
            self.chosen.append(found.chosen.cpu())
            self.measured.append(found.measured.cpu())
        return scores


def contrastive_decode(
    rule: ContrastiveRule,
    prompts: Prompts,
    max_new_tokens: int = 16,
    *,
    temperature: float = 0.0,
    seed: int = 0,
    stop_ids: "Sequence[int] | None" = None,
) -> ContrastiveText:
    """Let a rule's model go on with the prompts under the rule, and by itself beside it.

    Greedy unless ``temperature`` is above 0. The tokens are those of
    ``rule.model.generate(prompts, choose=rule)``.

    Raises:
        ConfigError: prompts that do not fit the rule's own, or no room in the context.

    Example:
        >>> rule = probes.DoLa(model)
        >>> found = probes.contrastive_decode(rule, [text], 4)
    """
    start = time.time()
    model = rule.model
    rows = prompt_rows(model, prompts)
    note = _Recorder(rule)
    options: dict[str, Any] = {"temperature": temperature, "seed": seed, "stop_ids": stop_ids}
    new = model.generate(rows, max_new_tokens=max_new_tokens, choose=note, **options)
    alone = model.generate(rows, max_new_tokens=max_new_tokens, **options)
    places = [(r, s) for r, said in enumerate(new) for s in range(len(said))]
    ids = np.array([new[r][s] for r, s in places], np.int64)
    plain = np.array([int(note.plain[s][r]) for r, s in places], np.int64)
    depths = tuple(rule.depths)
    at = [int(note.chosen[s][r]) if note.chosen else -1 for r, s in places]
    measured = [note.measured[s][r] for r, s in places] if note.measured else []
    return ContrastiveText(
        rule=type(rule).__name__,
        measures=rule.measures,
        depths=depths,
        row=np.array([r for r, _ in places], np.int64),
        step=np.array([s for _, s in places], np.int64),
        token_id=ids,
        plain_id=plain,
        token=tuple(token_texts(model.tokenizer, ids.tolist())),
        plain=tuple(token_texts(model.tokenizer, plain.tolist())),
        prob=np.array([float(note.logp[s][r, new[r][s]].exp()) for r, s in places]),
        kept=np.array([int(note.kept[s][r]) for r, s in places], np.int64),
        depth=np.array([depths[i] if i >= 0 else -1 for i in at], np.int64),
        measured=torch.stack(measured).numpy() if measured else np.zeros((len(places), 0)),
        texts=_said(model, new),
        plain_texts=_said(model, alone),
        config={**settings_of(rule), "max_new_tokens": max_new_tokens, "temperature": temperature},
        controls=Controls(note="the model alone stands beside; score_answers says what is better"),
        provenance=provenance.record(
            model=vars(model.card), seed=seed, seconds=time.time() - start
        ),
    )


def settings_of(rule: ContrastiveRule) -> dict[str, Any]:
    """Name and plain settings of a rule, for the record."""
    found: dict[str, Any] = {"rule": type(rule).__name__}
    for name, value in vars(rule).items():
        if isinstance(value, str | int | float | bool):
            found[name] = value
        elif name == "depths":
            found[name] = list(value)
        elif name == "amateur":
            found[name] = value.card.fingerprint
    return found


def _said(model: "Model", rows: list[list[int]]) -> tuple[str, ...]:
    if model.tokenizer is None:
        return tuple(" ".join(token_texts(None, row)) for row in rows)
    return tuple(str(model.tokenizer.decode(row)) for row in rows)
