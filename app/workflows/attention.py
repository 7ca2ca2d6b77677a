"""The Attention page: which text, and where its patterns come from (a store, or one run)."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lensbench.app.workflows.lenses import MAX_TEXT
from lensbench.app.workflows.live import Shelf, hold_store, running, store_version
from lensbench.app.workflows.patterns import Patterns
from lensbench.app.workflows.sequences import model_name, model_of, tokenizer_of
from lensbench.errors import ConfigError, MissingDataError
from lensbench.sites import Site
from lensbench.tokens import token_texts

if TYPE_CHECKING:
    from lensbench.models import Model
    from lensbench.store import ActivationStore


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
    from lensbench.store.advice import how_to_add

    store = hold_store(url)
    absent = [site for site in _pattern_sites(store) if site not in store.sites]
    if absent:
        add = how_to_add(absent, store.model, store.text, store.settings, url)
        n, of = len(absent), len(_pattern_sites(store))
        held = "no attention patterns" if n == of else (
            f"the attention patterns of {of - n} of {of} layers")  # fmt: skip
        what = (
            f"This store holds {held}. The rest " if n < of else f"This store holds {held}. They "
        )
        how = "can be captured, or the model can be run once on this sequence."
        return f"{what}{how} Add with: {add}"
    if weighted:
        return ("Value vectors are not stored with the patterns; the model has to run once to "
                "weight by their length.")  # fmt: skip
    return ""


def python_of(ask: AttentionAsk, draw: str, *, run: bool) -> str:
    """Code that draws the same figure in a notebook; ``draw`` is a call on the patterns."""
    shown = {k: v for k, v in vars(ask).items() if v != getattr(AttentionAsk, k)}
    given = ", ".join(f"{k}={json.dumps(v)}" for k, v in shown.items())
    return "\n".join([
        "from lensbench.app.workflows.attention import AttentionAsk, patterns_for",
        f"patterns = patterns_for(AttentionAsk({given}){', run=True' if run else ''})",
        f"patterns.{draw}",
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
        ids = tokens_of(ask, model)
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


def tokens_of(ask: AttentionAsk, model: "Model") -> Any:
    """Ids of the text ``[1, tokens]``, BOS included."""
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
