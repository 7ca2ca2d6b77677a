"""Contexts to explain a latent from, and other ones to score the explanation on.

1. Each document's stored rows are cut into windows of equal length. Windows do not follow the
   firing token: a token that always stood in the middle would give the answer away.
2. Half of the documents are for explaining, the other half for scoring.
3. Windows in which the latent fires are sampled evenly over the quantiles of their largest
   activation; windows in which it is silent at random, half of them hard ones, which hold a token
   the latent fires on at its strongest in the sampled windows.

Source: the sampling of delphi (Paulo et al. 2024, arXiv:2410.13928).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, Protocol, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int
from pydantic import Field

from lensbench.config import Config
from lensbench.errors import NotEnoughDataError
from lensbench.saes.evaluation.controls import own_seed
from lensbench.store.reader import StoreIndex
from lensbench.worlds.controls import split_documents

Kind: TypeAlias = Literal["firing", "random", "hard"]
SHORTEST = 4
"""Windows of fewer tokens (the ends of documents) are not shown to anybody."""


class Firings(Protocol):
    """Where latents fire: a latent store, or anything that answers like one."""

    def index(self) -> StoreIndex:
        """Token, position and document of every row."""
        ...

    def column(self, latent: int) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Rows on which a latent is not zero, ascending, and its values there."""
        ...


class ContextConfig(Config):
    """How many contexts of what kind."""

    window: int = Field(default=32, ge=SHORTEST)
    """Tokens of a context at most."""
    n_explain: int = Field(default=200, ge=10)
    """Firing contexts to explain from, and as many silent ones."""
    n_score: int = Field(default=50, ge=10)
    """Firing contexts to score on, and as many silent ones."""
    quantiles: int = Field(default=10, ge=1)
    """Parts of the range of activation from which equally many contexts come."""
    threshold: float = Field(default=0.0, ge=0, lt=1)
    """A token fires above this share of the latent's largest activation; silent is 0 all along."""
    hard: float = Field(default=0.5, ge=0, le=1)
    """Share of the silent contexts that are hard, where there are so many."""
    least: int = Field(default=10, ge=1)
    """Contexts of each kind that a latent needs in each half of the documents."""
    seed: int = Field(default=0, ge=0)
    """Of the contexts drawn."""


@dataclass(frozen=True, eq=False)
class Context:
    """A few tokens in a row, and what the latent does there."""

    tokens: Int[np.ndarray, " window"]
    positions: Int[np.ndarray, " window"]
    acts: Float[np.ndarray, " window"]
    fires: Bool[np.ndarray, " window"]
    doc: int
    kind: Kind
    quantile: int = -1
    """0: the weakest part; -1: silent."""
    marked: Bool[np.ndarray, " window"] | None = None
    """Tokens pointed out to a judge, who is to say whether they are those that fire."""


@dataclass(frozen=True)
class Evidence:
    """What is known of one latent: contexts to explain from, and contexts to score on."""

    latent: int
    explain: tuple[Context, ...]
    score: tuple[Context, ...]


def hidden(context: Context) -> Context:
    """The context without what is to be guessed."""
    nothing = np.zeros_like(context.acts)
    return replace(
        context, acts=nothing, fires=np.zeros(len(nothing), bool), kind="random", quantile=-1
    )


@dataclass(frozen=True, eq=False)
class Windows:
    """The rows of a store in pieces of one document each."""

    index: StoreIndex
    of_row: Int[np.ndarray, " rows"]
    starts: Int[np.ndarray, " windows_and_end"]
    held: Bool[np.ndarray, " windows"]
    """True where the document is for scoring."""

    @classmethod
    def of(cls, index: StoreIndex, config: ContextConfig) -> "Windows":
        """Cut where the document changes, a row is missing, or the window is full."""
        docs, places = np.asarray(index.doc_ids), np.asarray(index.positions, np.int64)
        n = len(docs)
        if not n:
            raise NotEnoughDataError("the latent store holds no rows; encode a store first")
        fresh = np.ones(n, bool)
        fresh[1:] = (docs[1:] != docs[:-1]) | (places[1:] != places[:-1] + 1)
        firsts = np.flatnonzero(fresh)
        offset = np.arange(n) - firsts[np.cumsum(fresh) - 1]
        fresh |= offset % config.window == 0
        starts = np.append(np.flatnonzero(fresh), n)
        held = split_documents(docs, share=0.5, seed=own_seed(config.seed, "explanations"))
        return cls(index, np.cumsum(fresh) - 1, starts, held[starts[:-1]])

    @cached_property
    def long(self) -> Bool[np.ndarray, " windows"]:
        """Windows that are worth showing."""
        return np.diff(self.starts) >= SHORTEST

    def holding(self, tokens: Int[np.ndarray, " wanted"]) -> Bool[np.ndarray, " windows"]:
        """Windows with any of these tokens."""
        out = np.zeros(len(self.held), bool)
        out[self.of_row[np.isin(self.index.token_ids, tokens)]] = True
        return out


def gather(source: Firings, windows: Windows, latent: int, config: ContextConfig) -> Evidence | str:
    """The contexts of one latent, or in words why there are too few."""
    rows, values = source.column(latent)
    values = np.where(values > 0, values, 0.0).astype(np.float32)
    largest = values.max(initial=0.0)
    if largest == 0:
        return "it never fires"
    n = len(windows.held)
    strength = np.zeros(n, np.float32)
    np.maximum.at(strength, windows.of_row[rows], values)
    cut = config.threshold * float(largest)
    cutter = _Cutter(windows, rows, values, cut)
    rng = np.random.default_rng([own_seed(config.seed, "contexts"), latent])
    found: list[tuple[Context, ...]] = []
    for half, many in ((False, config.n_explain), (True, config.n_score)):
        mine = windows.long & (windows.held == half)
        firing, silent = np.flatnonzero(mine & (strength > cut)), mine & (strength == 0)
        where = "scoring" if half else "explaining"
        for what, left in (("firing", len(firing)), ("silent", int(silent.sum()))):
            if left < config.least:
                return f"{left} {what} contexts for {where}, {config.least} are needed"
        found.append(_half(cutter, firing, strength, silent, many, config, rng))
    return Evidence(latent, *found)


def _half(
    cutter: "_Cutter",
    firing: Int[np.ndarray, " firing"],
    strength: Float[np.ndarray, " windows"],
    silent: Bool[np.ndarray, " windows"],
    many: int,
    config: ContextConfig,
    rng: np.random.Generator,
) -> tuple[Context, ...]:
    order = firing[np.argsort(strength[firing], kind="stable")]
    many = min(many, len(order), int(silent.sum()))
    yes = [
        cutter.cut(int(w), "firing", quantile)
        for quantile, w in by_quantile(order, config.quantiles, many, rng)
    ]
    tops = np.unique([c.tokens[int(c.acts.argmax())] for c in yes])
    hard = np.flatnonzero(silent & cutter.windows.holding(tops))
    hard = rng.choice(hard, min(len(hard), round(config.hard * many)), replace=False)
    rest = np.setdiff1d(np.flatnonzero(silent), hard)
    # Where nearly every silent window is hard, the others are not enough: then more are hard.
    easy = rng.choice(rest, min(len(rest), many - len(hard)), replace=False)
    no = [cutter.cut(int(w), "hard") for w in hard] + [cutter.cut(int(w), "random") for w in easy]
    return (*yes, *no)


def by_quantile(
    order: Int[np.ndarray, " n"], parts: int, many: int, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """``many`` entries of an ascending order with their quantiles, as even as the parts allow.

    What does not divide evenly, or what a small part lacks, comes from the strongest parts first.
    """
    pools = [rng.permutation(p).tolist() for p in np.array_split(order, min(parts, len(order)))]
    out: list[tuple[int, int]] = []
    while len(out) < many and any(pools):
        for quantile in reversed(range(len(pools))):
            if pools[quantile] and len(out) < many:
                out.append((quantile, int(pools[quantile].pop())))
    return sorted(out)


@dataclass(frozen=True, eq=False)
class _Cutter:
    windows: Windows
    rows: Int[np.ndarray, " n"]
    values: Float[np.ndarray, " n"]
    cut_at: float

    def cut(self, window: int, kind: Kind, quantile: int = -1) -> Context:
        start, stop = (int(i) for i in self.windows.starts[window : window + 2])
        acts = np.zeros(stop - start, np.float32)
        a, b = np.searchsorted(self.rows, (start, stop))
        acts[self.rows[a:b] - start] = self.values[a:b]
        index, span = self.windows.index, slice(start, stop)
        return Context(
            tokens=np.asarray(index.token_ids[span], np.int64),
            positions=np.asarray(index.positions[span], np.int64),
            acts=acts,
            fires=acts > self.cut_at,
            doc=int(index.doc_ids[start]),
            kind=kind,
            quantile=quantile,
        )


def with_marks(contexts: Sequence[Context], seed: int) -> tuple[list[Context], list[bool]]:
    """Every firing context twice: once with the firing tokens marked, once with as many silent.

    In a context with more firing than silent tokens the number of marks would tell, so those are
    left out.
    """
    rng = np.random.default_rng(own_seed(seed, "marks"))
    out: list[Context] = []
    truth: list[bool] = []
    for context in contexts:
        silent, n = np.flatnonzero(context.acts == 0), int(context.fires.sum())
        if context.kind != "firing" or n > len(silent):
            continue
        wrong = np.zeros(len(context.fires), bool)
        wrong[rng.choice(silent, n, replace=False)] = True
        out += [replace(context, marked=context.fires), replace(context, marked=wrong)]
        truth += [True, False]
    return out, truth
