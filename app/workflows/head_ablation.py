"""What a head does for the predictions on one text: the model with and without its output.

1. The head's output z is set to zero at every token (``Zero`` at ``attn.z``).
2. KL(p || p without the head) of the next token, at every token, in nats.
3. Control: other heads drawn at random, each taken out alone, on the same tokens.
"""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lensbench.app.workflows.attention import AttentionAsk, tokens_of
from lensbench.app.workflows.live import Shelf, hold_store, running
from lensbench.app.workflows.sequences import model_name
from lensbench.errors import ConfigError
from lensbench.ops import Zero
from lensbench.plan import Edit, Plan
from lensbench.sites import Site
from lensbench.tokens import token_texts

if TYPE_CHECKING:
    import plotly.graph_objects as go

OTHERS = 8
"""Heads of the control."""


@dataclass(frozen=True, eq=False)
class Ablated:
    """The effect of one head on one text, beside heads drawn at random."""

    head: str
    frame: pd.DataFrame
    """A row per token and run: KL in nats."""
    last: pd.DataFrame
    """The most probable next tokens after the last token, with and without the head."""
    others: tuple[str, ...]
    left_out: int

    def plot(self) -> "go.Figure":
        """KL by token: the head, and the mean and largest of the control."""
        from lensbench.plots import lines, visible
        from lensbench.plots.columns import escape_all

        words = self.frame.drop_duplicates("pos")
        left = f" · {self.left_out} more tokens not shown" if self.left_out else ""
        figure = lines(
            self.frame, x="pos", y="kl", color="without", hover_columns=("token",), height=340,
            title=f"Change of the prediction without head {self.head}",
            subtitle=f"n = 1 text, {len(words)} tokens{left}",
            labels={"pos": "token at which the prediction is made"},
        )  # fmt: skip
        if len(words) <= 40:
            shown = escape_all([visible(w) for w in words["token"]])
            figure.update_xaxes(tickvals=words["pos"].tolist(), ticktext=shown, tickangle=-45)
        return figure.update_yaxes(rangemode="tozero")


_kept: "Shelf[Ablated]" = Shelf(16)


def ablate_head(ask: AttentionAsk, layer: int, head: int, *, seed: int = 0, k: int = 5) -> Ablated:
    """Take one head out of the text's run, and others drawn at random.

    Raises:
        ConfigError: no such head, a model of one head, or one that predicts no next token.
    """
    return _kept.get((ask, layer, head, seed, k), lambda: _ablate(ask, layer, head, seed, k))


def _ablate(ask: AttentionAsk, layer: int, head: int, seed: int, k: int) -> Ablated:
    from lensbench.plots import visible

    name, revision = model_name(hold_store(ask.store)) if ask.store else (ask.model, None)
    with running(name, revision) as model:
        model.require_next_token("taking a head out")
        ids = tokens_of(ask, model)
        every = [(n, h) for n in range(model.n_layers) if Site("attn.z", n) in model.sites()
                 for h in range(model.card.n_heads)]  # fmt: skip
        if (layer, head) not in every:
            raise ConfigError(f"there is no head {layer}.{head} that could be taken out here")
        rest = [one for one in every if one != (layer, head)]
        if not rest:
            raise ConfigError("this model has one head, so that there is none to compare with")
        picked = np.random.default_rng(seed).permutation(len(rest))[:OTHERS]
        drawn = [rest[i] for i in picked]
        plans = [Plan(), *(_without(n, h) for n, h in ((layer, head), *drawn))]
        logps = [model.run(ids, plan).logits for plan in plans]
        found = [x[0].float().log_softmax(-1).cpu() for x in logps if x is not None]
        plain, rows = found[0], found[1:]
        kl = np.stack([((plain.exp() * (plain - x)).sum(-1)).clamp_min(0).numpy() for x in rows])
        words = token_texts(model.tokenizer, ids[0].tolist())
        best = plain[-1].topk(k).indices.tolist()
        best += [i for i in rows[0][-1].topk(k).indices.tolist() if i not in best]
        others = np.stack([x[-1, best].exp().numpy() for x in rows[1:]])
        last = pd.DataFrame({
            "token": [visible(w) for w in token_texts(model.tokenizer, best)],
            "model": plain[-1, best].exp().numpy(),
            f"without {layer}.{head}": rows[0][-1, best].exp().numpy(),
            "random head": others.mean(0),
        })  # fmt: skip
    keep = min(ask.max_tokens, len(words))
    lines = {f"head {layer}.{head}": kl[0], "random heads, mean": kl[1:].mean(0),
             "random heads, largest": kl[1:].max(0)}  # fmt: skip
    parts = [pd.DataFrame({"pos": range(keep), "token": words[:keep], "without": name,
                           "kl": values[:keep]}) for name, values in lines.items()]  # fmt: skip
    frame = pd.concat(parts, ignore_index=True)
    frame.attrs["units"] = {"kl": "KL(clean ‖ without the head) [nats]"}
    names = tuple(f"{n}.{h}" for n, h in drawn)
    return Ablated(f"{layer}.{head}", frame, last, names, len(words) - keep)


def _without(layer: int, head: int) -> Plan:
    return Plan((Edit(Site("attn.z", layer), Zero(), heads=(head,)),))


def python_of(ask: AttentionAsk, layer: int, head: int) -> str:
    """Code that draws the same figure in a notebook."""
    shown = {k: v for k, v in vars(ask).items() if v != getattr(AttentionAsk, k)}
    given = ", ".join(f"{k}={json.dumps(v)}" for k, v in shown.items())
    return "\n".join([
        "from lensbench.app.workflows.attention import AttentionAsk",
        "from lensbench.app.workflows.head_ablation import ablate_head",
        f"ablate_head(AttentionAsk({given}), {layer}, {head}).plot()",
    ])  # fmt: skip
