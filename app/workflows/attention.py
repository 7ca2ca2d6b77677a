"""The Attention page: patterns of every head on one text, and what each head looks like it does.

Scores are plain averages over the queries of this one text; each stands beside what a head that
attends evenly to every key it may see would score on the same queries. A head of a trained model is
named by its score on repeated random tokens, where nothing but the repeat can be predicted.
"""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from lensbench.app.workflows.lenses import MAX_TEXT
from lensbench.app.workflows.live import Shelf, hold_store, running, store_version
from lensbench.app.workflows.sequences import model_name, model_of, tokenizer_of
from lensbench.errors import ConfigError, MissingDataError
from lensbench.sites import Site
from lensbench.tokens import token_texts

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from lensbench.models import Model
    from lensbench.store import ActivationStore

KINDS = {
    "previous": "mean over queries i >= 1 of A[i, i-1]",
    "duplicate": "mean over repeated tokens i of the sum of A[i, j] over earlier j with the same "
    "token",
    "induction": "mean over repeated tokens i of the sum of A[i, j+1] over earlier j with the same "
    "token, j+1 < i",
    "first": "mean over queries i >= 1 of A[i, 0]",
}
"""Scores of a head on one text, A its pattern (rows: queries, summing to 1). Induction heads:
Olsson et al. 2022, arXiv:2209.11895."""


@dataclass(frozen=True)
class AttentionAsk:
    """Which text: a stored sequence, a typed text, or random tokens repeated twice."""

    store: str = ""
    row: int = 0
    model: str = ""
    text: str = ""
    repeats: int = 0
    """Length of the random part; 0 for a text."""
    seed: int = 0
    max_tokens: int = 64

    def __post_init__(self) -> None:
        """One kind of text, of a bearable size."""
        if not self.store and not self.model:
            raise ConfigError("patterns are read from a store, or of a text by a model; name one")
        if self.model and not self.store and not self.repeats and not self.text.strip():
            raise ConfigError("the text is empty; type a few words")
        if len(self.text) > MAX_TEXT:
            raise ConfigError(f"the text has {len(self.text)} characters; a page takes {MAX_TEXT}")


@dataclass(frozen=True, eq=False)
class Patterns:
    """Attention probabilities of one text; rows of tokens that were not stored are NaN."""

    weights: Float[np.ndarray, "layers heads query key"]
    value_norms: Float[np.ndarray, "layers heads key"] | None
    """Length of each key's value vector (before the output projection); None where not at hand."""
    ids: Int[np.ndarray, " tokens"]
    words: tuple[str, ...]
    ran_model: bool
    left_out: int = 0

    @property
    def n_layers(self) -> int:
        """Blocks."""
        return self.weights.shape[0]

    @property
    def n_heads(self) -> int:
        """Query heads per block."""
        return self.weights.shape[1]

    def head(self, layer: int, head: int, *, weighted: bool = False) -> pd.DataFrame:
        """One row per query and key that the query may see.

        With ``weighted``: ``A[i, j] |v_j| / sum_j' A[i, j'] |v_j'|``, the share of each key in the
        summed lengths of what the head moves (after Kobayashi et al. 2020, arXiv:2004.10102, who
        take the lengths behind the output projection).

        Raises:
            ConfigError: no such head; or no value vectors for ``weighted``.
        """
        if not (0 <= layer < self.n_layers and 0 <= head < self.n_heads):
            raise ConfigError(f"there is no head {layer}.{head}; the model has {self.n_layers} "
                              f"layers of {self.n_heads} heads, counted from 0")  # fmt: skip
        a = self.weights[layer, head]
        if weighted:
            a = self._by_value(layer, head)
        query, key = (i.ravel() for i in np.indices(a.shape))
        seen = np.isfinite(a).ravel() & ((key <= query) | (not self.causal()))
        column = "value_weighted" if weighted else "attention"
        frame = pd.DataFrame({
            "query": query, "key": key, column: a.ravel(),
            "query_token": [self.words[i] for i in query],
            "key_token": [self.words[i] for i in key],
        }).loc[seen].reset_index(drop=True)  # fmt: skip
        unit = "share of |v|" if weighted else "probability"
        frame.attrs["units"] = {column: unit, "query": "position", "key": "position"}
        return frame

    def plot(self, layer: int, head: int, *, weighted: bool = False) -> "go.Figure":
        """The pattern of one head: queries downwards, keys to the right, range 0 to 1."""
        from lensbench.plots import heatmap, visible

        frame = self.head(layer, head, weighted=weighted)
        value = "value_weighted" if weighted else "attention"
        formula = "A[i,j] |v_j| / sum_j A[i,j] |v_j|" if weighted else "A[i,j], each row sums to 1"
        left = f" · {self.left_out} more tokens not shown" if self.left_out else ""
        names = {i: visible(word) for i, word in enumerate(self.words)}
        figure = heatmap(
            frame, x="key", y="query", value=value, span=(0.0, 1.0), x_labels=names,
            hover_columns=("query_token", "key_token"), title=f"Head {layer}.{head}",
            subtitle=f"{formula} · n = 1 text, {len(self.words)} tokens{left}",
            labels={"key": "key (looked at)", "query": "query (looks)"}, height=520,
        )  # fmt: skip
        figure.update_yaxes(autorange="reversed")
        return figure

    def mosaic(self, *, chosen: tuple[int, int] | None = None, kind: str = "previous",
               weighted: bool = False) -> "go.Figure":  # fmt: skip
        """Every head as a thumbnail of its first tokens; hover says its scores."""
        from lensbench.plots import mosaic

        n = max(2, min(len(self.words), 24, 512 // max(self.n_layers, self.n_heads)))
        parts = [
            self.head(layer, head, weighted=weighted).assign(layer=layer, head=head)
            for layer in range(self.n_layers) for head in range(self.n_heads)
        ]  # fmt: skip
        frame = pd.concat(parts, ignore_index=True)
        frame = frame.loc[(frame["query"] < n) & (frame["key"] < n)]
        value = "value_weighted" if weighted else "attention"
        return mosaic(
            frame, row="layer", column="head", x="key", y="query", value=value, chosen=chosen,
            hovers=self._hovers(kind), title="All heads",
            subtitle=f"first {n} of {len(self.words)} tokens; query downwards, key to the right",
        )  # fmt: skip

    def _hovers(self, kind: str) -> dict[tuple[int, int], str]:
        table = self.scores()
        hovers: dict[tuple[int, int], str] = {}
        for (layer, head), part in table.groupby(["layer", "head"]):
            first = part.sort_values("kind", key=lambda k: k != kind)
            said = [
                f"{r.kind}: {r.score:.2f} (even head {r.even:.2f}, n = {r.n})"
                for r in first.itertuples()
            ]
            hovers[int(layer), int(head)] = "<br>".join([f"<b>head {layer}.{head}</b>", *said])
        return hovers

    def scores(self) -> pd.DataFrame:
        """One row per head and kind of score, with its number of queries and the even head's."""
        parts: list[pd.DataFrame] = []
        for kind in KINDS:
            mask, queries = self._targets(kind)
            n = int(queries.sum())
            attended = np.nansum(self.weights[:, :, queries] * mask[queries], -1)
            value = attended.mean(-1) if n else np.full(self.weights.shape[:2], np.nan)
            width = np.arange(1, len(mask) + 1) if self.causal() else np.full(len(mask), len(mask))
            even = float((mask.sum(1) / width)[queries].mean()) if n else float("nan")
            layer, head = (i.ravel() for i in np.indices(value.shape))
            parts.append(pd.DataFrame({"kind": kind, "layer": layer, "head": head,
                                       "score": value.ravel(), "even": even, "n": n}))  # fmt: skip
        frame = pd.concat(parts, ignore_index=True)
        frame.attrs["units"] = {"score": "share of attention", "even": "score of an even head",
                                "n": "queries"}  # fmt: skip
        return frame

    def best_head(self, kind: str) -> str:
        """The head of the largest score, as ``layer.head`` (0.0 where nothing is asked)."""
        scores = self.scores()
        part = scores.loc[(scores["kind"] == kind) & (scores["n"] > 0)]
        if part.empty:
            return "0.0"
        best = part.loc[part["score"].idxmax()]
        return f"{int(best['layer'])}.{int(best['head'])}"

    def causal(self) -> bool:
        """Whether no query looks ahead."""
        ahead = np.triu(np.ones(self.weights.shape[-2:], bool), 1)
        return not bool((np.nan_to_num(self.weights) * ahead > 1e-6).any())

    def _by_value(self, layer: int, head: int) -> np.ndarray:
        if self.value_norms is None:
            raise ConfigError("this store has no value vectors; tick 'run the model' to have them")
        moved = self.weights[layer, head] * self.value_norms[layer, head]
        return moved / np.maximum(moved.sum(-1, keepdims=True), 1e-12)

    def _targets(self, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """Keys that count ``[query, key]``, and which queries are asked."""
        n = len(self.ids)
        stored = np.isfinite(self.weights).all((0, 1, 3))
        earlier = np.tril(np.ones((n, n), bool), -1)
        if kind == "previous":
            mask = np.eye(n, k=-1, dtype=bool)
        elif kind == "first":
            mask = np.zeros((n, n), bool)
            mask[1:, 0] = True
        else:
            mask = (self.ids[:, None] == self.ids[None, :]) & earlier
            if kind == "induction":
                mask = np.pad(mask, ((0, 0), (1, 0)))[:, :n] & earlier
        return mask, mask.any(1) & stored


_patterns: "Shelf[Patterns]" = Shelf(6)


def patterns_for(ask: AttentionAsk, *, run: bool = False) -> Patterns:
    """Patterns of the text; from the store where it has them, else by one run of the model.

    ``run`` asks the model even where the store has patterns (for value vectors).

    Raises:
        MissingDataError: no such store; or the store lacks the patterns and ``run`` is not given.
        ConfigError: a model without attention.
    """
    version = store_version(ask.store) if ask.store else ()
    if ask.store and not run:
        return _patterns.get((ask, version), lambda: _stored(hold_store(ask.store), ask))
    if ask.store:
        model_of(hold_store(ask.store))
    return _patterns.get((ask, version, "run"), lambda: _run(ask))


def stored_or_why(url: str, *, weighted: bool = False) -> str:
    """Empty if the store can answer alone; else what it lacks and the command that adds it."""
    store = hold_store(url)
    try:
        store.require(_pattern_sites(store))
    except MissingDataError as error:
        return str(error)
    if weighted:
        return ("Value vectors are not stored with the patterns; the model has to run once to "
                "weight by their length.")  # fmt: skip
    return ""


def python_of(ask: AttentionAsk, layer: int, head: int, *, weighted: bool, run: bool) -> str:
    """Code that draws the same figure in a notebook."""
    shown = {k: v for k, v in vars(ask).items() if v != getattr(AttentionAsk, k)}
    given = ", ".join(f"{k}={json.dumps(v)}" for k, v in shown.items())
    which = f"{layer}, {head}" + (", weighted=True" if weighted else "")
    return "\n".join([
        "from lensbench.app.workflows.attention import AttentionAsk, patterns_for",
        f"patterns = patterns_for(AttentionAsk({given}){', run=True' if run else ''})",
        f"patterns.plot({which})",
    ])  # fmt: skip


def _pattern_sites(store: "ActivationStore") -> list[str]:
    n_layers = int(store.model.get("n_layers", 1))
    return [str(Site("attn.pattern", layer)) for layer in range(n_layers)]


def _stored(store: "ActivationStore", ask: AttentionAsk) -> Patterns:
    sites = _pattern_sites(store)
    store.require(sites)
    found = store.sequence_of(ask.row)
    ids = found.tokens.ids[0].numpy()[: ask.max_tokens]
    rows = found.rows[0][: len(ids)]
    there = rows >= 0
    if not there.any():
        raise MissingDataError(f"none of the first {ask.max_tokens} tokens of this sequence was "
                               "stored; choose another row")  # fmt: skip
    heads, _ = store.shape(sites[0])
    weights = np.full((len(sites), heads, len(ids), len(ids)), np.nan, np.float32)
    for layer, site in enumerate(sites):
        flat = store.rows(site, rows[there]).reshape(int(there.sum()), *store.shape(site))
        weights[layer][:, there] = flat[:, :, : len(ids)].transpose(1, 0, 2)
    words = token_texts(tokenizer_of(store), ids.tolist())
    left = found.tokens.n_pos - len(ids)
    return Patterns(weights, None, ids, tuple(words), ran_model=False, left_out=left)


def _run(ask: AttentionAsk) -> Patterns:
    name, revision = model_name(hold_store(ask.store)) if ask.store else (ask.model, None)
    with running(name, revision) as model:
        ids = _ids(ask, model)
        keep = min(ask.max_tokens, ids.shape[1])
        sites = [s for s in model.sites() if s.name == "attn.pattern" and not s.stack]
        if not sites:
            raise ConfigError(f"{model.card.name} ({model.card.family}) has no attention patterns "
                              "of one stack to show")  # fmt: skip
        values = [s for s in (Site("attn.v", p.layer) for p in sites) if s in model.sites()]
        acts = model.run(ids, capture=[*sites, *values], logits="none").acts
    weights = np.stack([acts[s][0, :, :keep, :keep].float().cpu().numpy() for s in sites])
    norms = None
    if len(values) == len(sites):
        lengths = [acts[s][0, :keep].float().norm(dim=-1).T.cpu().numpy() for s in values]
        norms = np.stack([np.repeat(v, weights.shape[1] // len(v), 0) for v in lengths])
    kept = ids[0, :keep].cpu().numpy()
    words = token_texts(model.tokenizer, kept.tolist())
    return Patterns(weights, norms, kept, tuple(words), ran_model=True,
                    left_out=ids.shape[1] - keep)  # fmt: skip


def _ids(ask: AttentionAsk, model: "Model") -> Any:
    import torch

    if ask.store:
        return hold_store(ask.store).sequence_of(ask.row).tokens.ids
    if not ask.repeats:
        return model.tokens(ask.text).ids
    special: list[int] = list(getattr(model.tokenizer, "all_special_ids", []))
    usable = np.setdiff1d(np.arange(model.card.d_vocab), special)
    size = min(ask.repeats, (model.card.n_ctx - 1) // 2, len(usable))
    part = np.random.default_rng(ask.seed).choice(usable, size, replace=False)
    bos = getattr(model.tokenizer, "bos_token_id", None)
    return torch.tensor([[*([] if bos is None else [bos]), *part, *part]])
