"""The logit lens at any site as wide as the residual stream of one text, from one run of the model.

Steps, numbered in the body:

1. One run keeps the sites asked for and the stream after the last block.
2. A tile of tokens at a time, and in it a site at a time: z = unembed(state), p = softmax(z). What
   is *added* to the stream (``attn_out``, ``mlp_out``, ..) goes through the norm with its own
   statistics (``norm="own"``) or with the denominator of the full last state (``"held"``).
3. Of each tile only the k best tokens and the metrics are kept: memory O(sites x tokens x k).

Averages over a text of many documents are those of ``logit_lens``; what single heads write is read
by ``component_lens``. Source: nostalgebraist 2020, "interpreting GPT: the logit lens".
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lensbench import provenance
from lensbench.arguments import refuse_no_model, whole
from lensbench.errors import ConfigError, UnknownNameError
from lensbench.probes.lenses.held import HeldNorm, held_norm
from lensbench.probes.lenses.logit import STREAM, UnembedReadout, reader
from lensbench.probes.lenses.measures import METRICS, Final, measure_log, tiles, top_k
from lensbench.probes.lenses.readings import SiteLens, numbered
from lensbench.protocols import Readout
from lensbench.results import Controls
from lensbench.sites import Site
from lensbench.tokens import Tokens, TokensLike, as_tokens, token_texts

if TYPE_CHECKING:
    from lensbench.models import Model

WRITES = ("embed", "attn_out", "mlp_out", "ssm_out")
"""Sites that hold what is added to the stream."""
NORMS = ("own", "held")

Read = Callable[[slice], Tensor]
"""Logits of a place at a range of columns."""


@dataclass
class Kept:
    """What is kept of a text of ``n`` tokens at ``rows`` places: the k best and the metrics."""

    rows: int
    targets: Tensor
    """Id of the token that follows; -1 where none does."""
    k: int
    d_vocab: int
    metrics: bool = True
    ids: Tensor = field(init=False)
    prob: Tensor = field(init=False)
    values: Tensor = field(init=False)

    def __post_init__(self) -> None:
        """Make room."""
        k = whole(self.k)
        if k is None or not 1 <= k <= self.d_vocab:
            raise ConfigError(f"k must be in 1..{self.d_vocab}, got {self.k}")
        shape = (self.rows, len(self.targets))
        self.ids = torch.zeros((*shape, self.k), dtype=torch.long)
        self.prob = torch.zeros((*shape, self.k))
        self.values = torch.full((len(METRICS), *shape), torch.nan)

    def read(self, first: int, reads: Sequence[Read], final: Read) -> None:
        """Rows from ``first`` on; one that *is* ``final`` reuses the logits of the model itself."""
        for part in tiles(len(self.targets), self.d_vocab):  # 2
            end = final(part).float()
            known = Final.of(end) if self.metrics else None
            for row, read in enumerate(reads, first):
                self._keep(row, part, end if read is final else read(part).float(), known)

    def _keep(self, row: int, part: slice, logits: Tensor, final: Final | None) -> None:
        logq = logits.log_softmax(-1)
        largest, ids = top_k(logq, self.k)  # 3
        self.ids[row, part], self.prob[row, part] = ids.cpu(), largest.exp().cpu()
        if final is None:
            return
        wanted = self.targets[part]
        found = measure_log(logq, final, wanted.clamp_min(0).to(logq.device), ids[:, 0]).cpu()
        found[3:, wanted < 0] = torch.nan
        self.values[:, row, part] = found

    def fields(self, model: "Model", tokens: Sequence[int]) -> Any:
        """The arrays of a :class:`SiteLens`."""
        ids, texts, wanted = self.ids.numpy(), model.tokenizer, self.targets
        unique, top = numbered(ids, self.d_vocab)
        aims = token_texts(texts, wanted.clamp_min(0).tolist())
        return {
            "positions": np.arange(len(tokens)),
            "tokens": tuple(token_texts(texts, list(tokens))),
            "targets": tuple(
                a if t >= 0 else "" for a, t in zip(aims, wanted.tolist(), strict=True)
            ),
            "words": tuple(token_texts(texts, unique)),
            "top": top,
            "top_ids": ids,
            "top_prob": self.prob.numpy(),
            "values": self.values.numpy(),
        }


def site_lens(
    model: "Model",
    tokens: TokensLike,
    sites: str | Site | Sequence[str | Site] = "resid_post",
    *,
    readout: Readout | None = None,
    k: int = 5,
    metrics: bool = True,
    norm: Literal["own", "held"] = "own",
) -> SiteLens:
    """Read one text at ``sites``: p = softmax(unembed(state)).

    ``sites`` are names such as ``blocks.3.resid_mid`` or ``blocks.3.mlp_out``, or ``resid_post``,
    ``attn_out``, .. for that of every block, or ``stream`` for every state there is. The state
    after the last block is always read last: it is the model's own prediction, bit for bit.
    ``norm`` is about what is *added* (``embed``, ``attn_out``, ``mlp_out``, ``ssm_out``): ``own``
    norms it by itself, as if it were the whole state; ``held`` gives its share of the logits,
    W_U^T (gain * (c - mean(c)) / s), s the final norm's denominator for the full last state
    (native back end). ``metrics=False`` keeps the k best tokens alone, which is quicker.

    Raises:
        UnknownNameError: no site as wide as the stream, none that this model has, another norm.
        ConfigError: more than one text, a model that predicts no next token, k out of range, a
            readout of states where what is added is read.
        MismatchError: a readout of another model.

    Example:
        >>> found = probes.site_lens(model, model.tokens(text), "attn_out", k=3)
    """
    start = time.monotonic()
    refuse_no_model(model)
    model.require_next_token("the logit lens")
    if norm not in NORMS:
        raise UnknownNameError("norm of what is added", str(norm), known=NORMS)
    batch = one_text(model, tokens)
    last = Site("resid_post", model.n_layers - 1)
    chosen = [*(s for s in stream_sites(model, sites) if s != last), last]
    added = any(s.name in WRITES for s in chosen)
    if added and readout is not None and not isinstance(readout, UnembedReadout):
        raise ConfigError(
            f"a {type(readout).__name__} reads states, and attn_out or mlp_out is only what is "
            "added to one; leave the readout out, or read resid_mid and resid_post"
        )
    scale = Site("ln_final.scale")  # some models end without a norm
    holds = added and norm == "held"
    more = [scale] if holds and scale in model.sites() else []
    acts = model.run(batch, capture=[*chosen, *more], logits="none").acts  # 1
    end = acts[last][0]
    held = (
        held_norm(model, acts[scale][0] if more else end.new_ones(len(end), 1)) if holds else None
    )
    ids = batch.ids[0].tolist()
    kept = Kept(len(chosen), following(ids), k, model.card.d_vocab, metrics)
    final = _read(model, None, last, end)
    reads = [_read(model, readout, s, acts[s][0], held) for s in chosen]
    if readout is None:
        reads[-1] = final
    kept.read(0, reads, final)
    return SiteLens(
        reads="writes" if added else "stream",
        places=tuple(map(str, chosen)),
        layers=tuple(-1 if s.layer is None else s.layer for s in chosen),
        **kept.fields(model, ids),
        config={
            "k": k,
            "sites": [str(s) for s in chosen],
            "readout": type(readout or UnembedReadout(model)).__name__,
            "norm": norm,
        },
        controls=Controls(note="one text; see LensTrajectory for states shuffled over tokens"),
        provenance=provenance.record(model=vars(model.card), seconds=time.monotonic() - start),
    )


def stream_sites(model: "Model", named: str | Site | Sequence[str | Site]) -> list[Site]:
    """Sites of the stream, and of what is added to it, that this model has, in execution order."""
    known = [s for s in model.sites() if s.name in (*STREAM, *WRITES) and not s.stack]
    names = [named] if isinstance(named, str | Site) else list(named)
    found: set[Site] = set()
    for name in names:
        if name == "stream":  # what enters a later block has left the one before
            states = [s for s in known if s.name in STREAM]
            matching = [s for s in states if s.name != "resid_pre" or s.layer == 0]
        else:
            matching = [s for s in known if name == s.name or str(s) == _spelled(name)]
        if not matching:
            raise UnknownNameError(
                "site as wide as the residual stream", str(name),
                known=("stream", *STREAM, *WRITES, *map(str, known)),
                hint="What single heads add is read by probes.component_lens.",
            )  # fmt: skip
        found |= set(matching)
    return sorted(found)


def one_text(model: "Model", tokens: TokensLike) -> Tokens:
    """The tokens of one text without padding.

    Raises:
        ConfigError: several texts, or padding.
    """
    batch = as_tokens(model.tokens(tokens) if isinstance(tokens, str) else tokens)
    if batch.n_rows != 1 or not bool(batch.real.all()):
        raise ConfigError(
            f"this lens reads one text at a time, unpadded; got {batch.n_rows} rows. Call it for "
            "each text, or read many with logit_lens(store, model)"
        )
    return batch


def following(ids: Sequence[int]) -> Tensor:
    """The id that follows each; -1 at the end."""
    return torch.tensor([*ids[1:], -1])


def _read(
    model: "Model",
    readout: Readout | None,
    site: Site,
    states: Float[Tensor, "tokens d_model"],
    held: HeldNorm | None = None,
) -> Read:
    if site.name in WRITES:
        if held is None:
            return lambda part: model.unembed(states[part])
        return lambda part: held.logits(states, part)
    assert site.layer is not None  # every site of the stream has one
    read, layer = reader(model, readout, site.name), site.layer
    return lambda part: read(states[part], layer)


def _spelled(name: str | Site) -> str:
    try:
        return str(Site.parse(name))
    except ConfigError:  # ``resid_post`` alone stands for that of every block
        return str(name)
