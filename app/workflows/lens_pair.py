"""Two texts of one model through a lens, and the second with a state of the first put into it.

1. Both texts run as they are; their tokens are aligned, and one token is scored in every cell.
2. The state at a cell of the first text is put into a cell of the second (``patched``), all of it
   or, with a strength below 1, part of the way from the second text's own state.
3. Two checks: its own state put back must change no logit, bit for bit; a random state of the same
   length, at the same cell, is the control.

A patch at block L and token j can change the cell itself and what comes later in both: blocks above
L at tokens from j on (the causal cone). Everything else must stay as it was.
"""

from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lensbench.app.workflows.lens_special import special_places
from lensbench.app.workflows.lenses import MAX_TEXT
from lensbench.app.workflows.live import Shelf, hold_model, running
from lensbench.app.workflows.token_names import token_named
from lensbench.app.workflows.tuned import open_lens, version
from lensbench.errors import ConfigError
from lensbench.plan import Edit, Plan, Set
from lensbench.sites import Site
from lensbench.tokens import token_texts

if TYPE_CHECKING:
    import torch

    from lensbench.models import Model
    from lensbench.probes.lenses.states import LensStates
    from lensbench.probes.lenses.tokens import TokenLens

SITES = {
    "resid_post": "Residual stream, after a block",
    "attn_out": "What attention adds",
    "mlp_out": "What the MLP adds",
}
"""Where a state can be put, as a page names it."""
KINDS = ("patch", "own", "random")
MOST = 24
"""Tokens of each text that are shown."""


@dataclass(frozen=True)
class PairAsk:
    """Two texts, the lens that reads them, and the token that is scored."""

    model: str
    first: str
    second: str
    lens: str = ""
    """Folder of a tuned lens; empty for the logit lens."""
    token: str = ""
    """What is scored in every cell; empty: what the model says after the first text."""

    def __post_init__(self) -> None:
        """Two texts of a bearable size."""
        for name, text in (("first", self.first), ("second", self.second)):
            if not text.strip():
                raise ConfigError(f"the {name} text is empty; type a few words, or take an example")
            if len(text) > MAX_TEXT:
                raise ConfigError(
                    f"the {name} text has {len(text)} characters; a page takes {MAX_TEXT}"
                )


@dataclass(frozen=True)
class Put:
    """From a cell of the first text into a cell of the second."""

    source: int
    """Token of the first text."""
    source_layer: int
    position: int
    layer: int
    site: str = "resid_post"
    strength: float = 1.0
    """0 leaves the second text's own state, 1 puts the first one's."""
    seed: int = 0
    """Of the control."""


_states: "Shelf[LensStates]" = Shelf(24)
_scored: Shelf[tuple[int, str]] = Shelf(16)
_unchanged: Shelf[float] = Shelf(32)
_ends: Shelf[pd.DataFrame] = Shelf(32)


def alignment(ask: PairAsk) -> pd.DataFrame:
    """Tokens side by side: by place where the texts are equally long, else by what they share."""
    from lensbench.plots import visible

    with running(ask.model) as model:
        a, b = (model.tokens(text).ids[0].tolist() for text in (ask.first, ask.second))
        words = [[visible(w) for w in token_texts(model.tokenizer, ids)] for ids in (a, b)]
    rows = [
        {
            "first token": i, "first": "" if i is None else words[0][i],
            "second token": j, "second": "" if j is None else words[1][j],
            "same": i is not None and j is not None and a[i] == b[j],
        }
        for i, j in _matched(a, b)
    ]  # fmt: skip
    columns = {"first token": "Int64", "second token": "Int64"}
    return pd.DataFrame(rows).astype(columns)


def start(ask: PairAsk) -> tuple[int, int]:
    """Tokens of both texts to begin with: the last that differ, else the last of all."""
    table = alignment(ask)
    both = table.dropna(subset=["first token", "second token"])
    differ = both.loc[~both["same"]]
    last = (differ if len(differ) else both).iloc[-1]
    return int(last["first token"]), int(last["second token"])


def _matched(a: list[int], b: list[int]) -> list[tuple[int | None, int | None]]:
    if len(a) == len(b):
        return [(i, i) for i in range(len(a))]
    found: list[tuple[int | None, int | None]] = []
    for kind, i, i2, j, j2 in SequenceMatcher(a=a, b=b, autojunk=False).get_opcodes():
        if kind == "equal":
            found += zip(range(i, i2), range(j, j2), strict=True)
            continue
        left, right = list(range(i, i2)), list(range(j, j2))
        n = max(len(left), len(right))
        fill = lambda part, n=n: [*part, *[None] * (n - len(part))]  # noqa: E731 - used here
        found += zip(fill(left), fill(right), strict=True)
    return found


def scored(ask: PairAsk) -> tuple[int, str]:
    """Id and text of the token that is scored."""
    return _scored.get((ask, _print(ask)), lambda: _score(ask))


def _print(ask: PairAsk) -> str:
    """Other weights under the same name are another model."""
    return hold_model(ask.model).model.card.fingerprint


def _score(ask: PairAsk) -> tuple[int, str]:
    with running(ask.model) as model:
        if ask.token:
            token = token_named(model.tokenizer, ask.token)
        else:
            logits = model.run(model.tokens(ask.first), logits="last").logits
            assert logits is not None
            token = int(logits[0, -1].argmax())
        return token, token_texts(model.tokenizer, [token])[0]


def lens_of(ask: PairAsk, which: str, put: Put | None = None, kind: str = "patch") -> "TokenLens":
    """The lens on the ``first`` or ``second`` text; with ``put``, on the second one changed by it.

    Raises:
        ConfigError: a cell that is not there, or a model without one stack that predicts.
        MismatchError: a tuned lens of another model.
    """
    token, _ = scored(ask)
    model = hold_model(ask.model).model
    found = _states_of(ask, which, put, kind, model)
    aimed = replace(found, targets=np.full(len(found.ids), token))
    names = {"patch": "patched", "own": "own state put back", "random": "random state"}
    source = f"{which} text" + (f", {names[kind]}" if put else "")
    return aimed.lens(model, source=source, readout=open_lens(ask.lens, model))


def special_of(ask: PairAsk, which: str) -> list[int]:
    """Positions of the special tokens of the ``first`` or ``second`` text, such as BOS."""
    model = hold_model(ask.model).model
    return special_places(_states_of(ask, which, None, "patch", model), model.tokenizer)


def _states_of(
    ask: PairAsk, which: str, put: Put | None, kind: str, model: "Model"
) -> "LensStates":
    from lensbench.probes.lenses.states import states_of_text

    text = ask.first if which == "first" else ask.second
    texts = (ask.first, ask.second) if put else (text,)
    key = (ask.model, texts, put, kind if put else "", model.card.fingerprint, version(ask.lens))

    def read() -> "LensStates":
        with running(ask.model) as held:
            plan = Plan() if put is None else plan_of(held, ask, put, kind)
            return states_of_text(held, held.tokens(text), max_tokens=MOST, plan=plan)

    return _states.get(key, read)


def plan_of(model: "Model", ask: PairAsk, put: Put, kind: str = "patch") -> Plan:
    """The edit: the state that is put, at its token of the second text.

    Raises:
        ConfigError: a token or block that is not there.
    """
    import torch

    new, own = _state(model, ask.first, put.site, put.source_layer, put.source, "first"), _state(
        model, ask.second, put.site, put.layer, put.position, "second"
    )  # fmt: skip
    if kind == "own":
        new = own
    if kind == "random":
        drawn = torch.randn(new.shape, generator=torch.Generator().manual_seed(put.seed)).to(new)
        new = drawn * (new.norm() / drawn.norm())
    value = torch.lerp(own, new, put.strength)  # exact at both ends
    return Plan((Edit(Site(put.site, put.layer), Set(value), positions=(put.position,)),))


def _state(
    model: "Model", text: str, site: str, layer: int, position: int, which: str
) -> "torch.Tensor":
    tokens = model.tokens(text)
    if not 0 <= position < tokens.n_pos:
        raise ConfigError(f"the {which} text has tokens 0 to {tokens.n_pos - 1}, not {position}")
    if not 0 <= layer < model.n_layers:
        raise ConfigError(f"{model.card.name} has blocks 0 to {model.n_layers - 1}, not {layer}")
    where = Site(site, layer)
    return model.run(tokens, capture=where, logits="none").acts[where][0, position]


def unchanged(ask: PairAsk, put: Put) -> float:
    """Largest change of any logit when the second text's own state is put back; 0 is right."""
    return _unchanged.get((ask, put, _print(ask)), lambda: _unchanged_by(ask, put))


def _unchanged_by(ask: PairAsk, put: Put) -> float:
    with running(ask.model) as model:
        tokens = model.tokens(ask.second)
        plain = model.run(tokens).logits
        again = model.run(tokens, plan_of(model, ask, put, "own")).logits
        assert plain is not None
        assert again is not None
        return float((plain - again).abs().max())


def ends(ask: PairAsk, put: Put, k: int = 5) -> pd.DataFrame:
    """What the model says after the last token of each run: the k best, and the scored token."""
    return _ends.get((ask, put, k, _print(ask)), lambda: _ends_of(ask, put, k))


def _ends_of(ask: PairAsk, put: Put, k: int) -> pd.DataFrame:
    import torch

    token, word = scored(ask)
    rows: list[dict[str, object]] = []
    with running(ask.model) as model:
        second = model.tokens(ask.second)
        runs = {
            "first text": (model.tokens(ask.first), Plan()),
            "second text": (second, Plan()),
            "second text, patched": (second, plan_of(model, ask, put)),
            "control: random state": (second, plan_of(model, ask, put, "random")),
        }
        base: torch.Tensor | None = None
        for name, (tokens, plan) in runs.items():
            logits = model.run(tokens, plan, logits="last").logits
            assert logits is not None
            logp = logits[0, -1].float().log_softmax(-1)
            base = logp if name == "second text" else base
            best = logp.exp().topk(k)
            said = token_texts(model.tokenizer, best.indices.tolist())
            kl = float("nan") if base is None else float((base.exp() * (base - logp)).sum())
            rows.append({
                "run": name, "scored": word, "probability": float(logp[token].exp()),
                "rank": 1 + int((logp > logp[token]).sum()), "kl": kl,
                "says": said, "says_prob": best.values.tolist(),
            })  # fmt: skip
    return pd.DataFrame(rows)
