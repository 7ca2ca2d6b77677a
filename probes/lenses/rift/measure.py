"""Prior against context: below which layer does the training text's bigram lead?

Steps, numbered in the body:

1. Of each prompt's last token: its most frequent successor in a corpus (the prior), and what
   followed its last earlier copy in the prompt (the context). Prompts without one, or whose two
   are the same token, are left out and counted.
2. At the last token read every layer: log p_l and rank of both.
3. Controls: another prompt's prior; the last token alone (behind BOS, where there is one); the
   prompt with every earlier copy of its last token replaced by that of another prompt. The last
   two do not tell the context, though a place may tell which words can stand there.
4. Crossing: the first layer from which log p(context) stays above log p(prior), on average.

Source: Dutta et al. 2024, "How to think step-by-step", arXiv:2402.18312, section 5 (there about
half way up of Llama-2-7B, on fictional ontologies).
"""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lensbench import provenance
from lensbench.arguments import whole_number
from lensbench.errors import ConfigError, NotEnoughDataError
from lensbench.probes.lenses.logit import UnembedReadout, reader
from lensbench.probes.lenses.prompts import Prompts, prompt_rows
from lensbench.probes.lenses.rift.result import KINDS, PriorContext, crossing_with_interval
from lensbench.probes.lenses.rift.successors import BigramPrior, in_context_successor
from lensbench.protocols import Readout
from lensbench.results import Controls
from lensbench.sites import Site

if TYPE_CHECKING:
    from lensbench.models import Model


def prior_context(
    model: "Model",
    prompts: Prompts,
    prior: BigramPrior | Sequence[int],
    context: Sequence[int] | None = None,
    *,
    readout: Readout | None = None,
    batch_size: int = 32,
    seed: int = 0,
) -> PriorContext:
    """Log-probability and rank of the bigram successor and of the in-context one, by layer.

    Args:
        model: a decoder.
        prompts: texts or ids whose last token stood in the text before.
        prior: a counted corpus, or the token id of each prompt.
        context: the token id of each prompt (default: what followed the last earlier copy of its
            last token).
        readout: another lens than the logit lens.
        batch_size: prompts at a time.
        seed: of the bootstrap and of the exchange of priors.

    Raises:
        ConfigError: lists that do not fit, ids that the model has not.
        MismatchError: a readout that was made for another model.
        NotEnoughDataError: fewer than two prompts are left.

    Example:
        >>> ids = [model.tokenizer.encode(t) for t in documents.texts()]
        >>> prior = probes.BigramPrior.count(ids, at_least=2)
        >>> asked = ["Hugo , coat of Hugo", "Carl ; key of Carl", "the ; cup of the", "is , cup is"]
        >>> found = probes.prior_context(model, asked, prior)
    """
    start = time.time()
    model.require_next_token("prior against context")
    batch_size = whole_number("batch_size", batch_size, least=1)
    rows, priors, contexts, dropped = _items(model, prompts, prior, context)  # 1
    read = reader(model, readout)
    n = len(rows)
    order = np.random.default_rng(seed).permutation(n)
    others = np.empty(n, dtype=np.int64)
    others[order] = np.roll(order, 1)  # nobody keeps its own
    bos = getattr(model.tokenizer, "bos_token_id", None)
    alone = [[row[-1]] if bos is None else [int(bos), row[-1]] for row in rows]
    broken = [_without_copies(row, [rows[j] for j in np.roll(order, 1)]) for row in rows]
    whole = np.stack((priors, contexts, priors[others]))
    found = [
        _read(model, read, rows, whole, batch_size),  # 2
        _read(model, read, alone, whole[:2], batch_size),  # 3
        _read(model, read, broken, whole[:2], batch_size),
    ]
    logp, rank = (np.concatenate([part[i] for part in found]) for i in (0, 1))
    crossing, share = crossing_with_interval(logp[1] - logp[0], seed=seed)  # 4
    against, _ = crossing_with_interval(logp[1] - logp[2], seed=seed)
    unseen = (logp[4] - logp[3])[-1]
    return PriorContext(
        layers=tuple(range(model.n_layers)),
        logp=logp,
        rank=rank,
        crossing=crossing,
        crossing_share=share,
        n=n,
        dropped=dropped,
        config={
            "seed": seed,
            "readout": type(readout or UnembedReadout(model)).__name__,
            "kinds": list(KINDS),
        },
        controls=Controls(
            {
                "crossing_other_prior": float(against[0]),
                "difference_last_no_context": float(unseen.mean()),
                "difference_last_no_copy": float((logp[6] - logp[5])[-1].mean()),
            },
            note="crossing with another prompt's prior; context - prior at the last layer, nats, "
            "on the last token alone and on the prompt without its earlier copies",
        ),
        provenance=provenance.record(
            model=vars(model.card), seed=seed, seconds=time.time() - start
        ),
    )


def _items(
    model: "Model",
    prompts: Prompts,
    prior: BigramPrior | Sequence[int],
    context: Sequence[int] | None,
) -> tuple[list[list[int]], np.ndarray, np.ndarray, dict[str, int]]:
    rows = prompt_rows(model, prompts)
    priors = (
        [prior.successor.get(row[-1]) for row in rows]
        if isinstance(prior, BigramPrior)
        else _given(model, "prior", prior, len(rows))
    )
    contexts = (
        [in_context_successor(row) for row in rows]
        if context is None
        else _given(model, "context", context, len(rows))
    )
    dropped = {"no prior": 0, "no earlier copy": 0, "same token": 0}
    kept: list[int] = []
    for i, (a, b) in enumerate(zip(priors, contexts, strict=True)):
        reason = "no prior" if a is None else "no earlier copy" if b is None else ""
        reason = reason or ("same token" if a == b else "")
        if reason:
            dropped[reason] += 1
        else:
            kept.append(i)
    left = {reason: n for reason, n in dropped.items() if n}
    if len(kept) < 2:
        raise NotEnoughDataError(
            f"{len(kept)} of {len(rows)} prompts have a prior and another in-context successor "
            f"({left}); need 2"
        )
    pick = lambda values: np.array([values[i] for i in kept], np.int64)  # noqa: E731 - used twice
    return [rows[i] for i in kept], pick(priors), pick(contexts), left


def _without_copies(row: list[int], others: Sequence[list[int]]) -> list[int]:
    """The prompt with another prompt's token in place of every earlier copy of its last one.

    Last tokens come first, then any token; one that the text has already only where none is left.
    """
    given = [o[-1] for o in others] + [token for o in others for token in o[1:]]
    new = next((token for token in given if token not in row), None)
    if new is None:
        new = next((token for token in given if token != row[-1]), row[0])
    return [new if token == row[-1] else token for token in row[:-1]] + row[-1:]


def _given(model: "Model", name: str, ids: Sequence[int], n: int) -> list[int | None]:
    found: list[int | None] = [whole_number(f"each id of {name}", i, least=0) for i in ids]
    if len(found) != n or any(i is not None and i >= model.card.d_vocab for i in found):
        raise ConfigError(
            f"{name} must be one id below {model.card.d_vocab} for each of {n} prompts, got "
            f"{len(found)}"
        )
    return found


def _read(
    model: "Model",
    read: Callable[[Tensor, int], Tensor],
    rows: Sequence[list[int]],
    wanted: np.ndarray,
    batch_size: int,
) -> tuple[Float[np.ndarray, "kinds layers prompts"], Float[np.ndarray, "kinds layers prompts"]]:
    """Log-probability and rank of the wanted tokens at each layer of each prompt's last token."""
    shape = (len(wanted), model.n_layers, len(rows))
    logp, rank = np.empty(shape), np.empty(shape)
    sites = [Site("resid_post", layer) for layer in range(model.n_layers)]
    for first in range(0, len(rows), batch_size):
        part = slice(first, first + batch_size)
        acts = model.run(rows[part], capture=sites, logits="none").acts
        ids = torch.from_numpy(wanted[:, part]).T
        for layer, site in enumerate(sites):
            here: Tensor = read(acts[site][:, -1], layer).double().cpu().log_softmax(-1)
            said = here.gather(1, ids)
            logp[:, layer, part] = said.T.numpy()
            ranks = 1.0 + (here[:, None] > said[:, :, None]).sum(-1).double()
            rank[:, layer, part] = ranks.T.numpy()
    return logp, rank
