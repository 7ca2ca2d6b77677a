"""Residual streams of one text for a lens: from the rows of a store, or from one run of a model."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench.errors import ConfigError
from lensbench.plan import Plan
from lensbench.probes.lenses.tokens import TokenLens, token_lens
from lensbench.protocols import Readout
from lensbench.sites import Site
from lensbench.tokens import as_tokens, token_texts

if TYPE_CHECKING:
    from lensbench.models import Model
    from lensbench.store import ActivationStore
    from lensbench.tokens import TokensLike

NO_EDIT = Plan()


@dataclass(frozen=True, eq=False)
class LensStates:
    """What a lens reads: residual streams of one text, and what its tokens are."""

    states: Float[Tensor, "layers tokens d_model"]
    layers: tuple[int, ...]
    ids: Int[np.ndarray, " tokens"]
    targets: Int[np.ndarray, " tokens"]
    """-1 where nothing follows."""
    positions: Int[np.ndarray, " tokens"]
    left_out: int = 0

    def lens(
        self, model: "Model", *, k: int = 5, source: str = "", readout: Readout | None = None
    ) -> TokenLens:
        """The logit lens on them, or ``readout``, such as a tuned lens."""
        return token_lens(
            self.states, self.layers, model,
            token_texts(model.tokenizer, self.ids.tolist()), self.targets.tolist(),
            positions=self.positions.tolist(), readout=readout, k=k, source=source,
            left_out=self.left_out,
        )  # fmt: skip


def states_of_text(
    model: "Model", tokens: "TokensLike", *, max_tokens: int | None = None, plan: Plan = NO_EDIT
) -> LensStates:
    """Run the model once, under ``plan``, and keep the residual stream after every block.

    Raises:
        ConfigError: more than one text, or a model that predicts no next token.

    Example:
        >>> lens = probes.states_of_text(model, model.tokens(text)).lens(model, k=3)
        >>> frame = lens.to_frame()
    """
    batch = as_tokens(tokens)
    sites = [Site("resid_post", layer) for layer in range(model.n_layers)]
    if batch.n_rows != 1:
        raise ConfigError(f"a token lens reads one text at a time, got {batch.n_rows}")
    if sites[-1] not in model.sites():
        raise ConfigError(f"{model.card.name} has an encoder and a decoder; the lens on a typed "
                          "text reads models with one stack")  # fmt: skip
    model.require_next_token("the logit lens")
    acts = model.run(batch, plan, capture=sites, logits="none").acts  # 1
    ids = batch.ids[0].cpu().numpy()
    shown = len(ids) if max_tokens is None else min(max_tokens, len(ids))
    return LensStates(
        torch.stack([acts[s][0, :shown].float().cpu() for s in sites]),
        tuple(range(model.n_layers)),
        ids[:shown],
        np.append(ids[1:], -1)[:shown],
        np.arange(shown),
        len(ids) - shown,
    )


def states_of_store(
    store: "ActivationStore", row: int, *, max_tokens: int | None = None
) -> LensStates:
    """Residual streams of the stored sequence that holds ``row``; the model is not asked.

    Of a longer sequence, the ``max_tokens`` around the row. Tokens that were not stored have no
    column.

    Raises:
        MissingDataError: the store lacks the last block's ``resid_post``; says how to add it.
        ConfigError: no such row.

    Example:
        >>> lens = probes.states_of_store(store, row=0).lens(model)
    """
    layers = lens_layers(store)
    found = store.sequence_of(row)
    ids, rows = found.tokens.ids[0].numpy(), found.rows[0]
    columns = np.flatnonzero(rows >= 0)
    here = int(np.flatnonzero(rows[columns] == row)[0])
    size = len(columns) if max_tokens is None else min(max_tokens, len(columns))
    first = min(max(0, here - size // 2), len(columns) - size)
    shown = columns[first : first + size]
    states = [torch.from_numpy(store.rows(Site("resid_post", n), rows[shown])) for n in layers]
    return LensStates(
        torch.stack(states), layers, ids[shown], np.append(ids[1:], -1)[shown], shown,
        len(columns) - size,
    )  # fmt: skip


def lens_layers(store: "ActivationStore") -> tuple[int, ...]:
    """Layers a lens can read from ``store``, ending with the model's last.

    Raises:
        MissingDataError: the last one is missing; says how to add it.
    """
    last = store.model.get("n_layers")
    if last is not None:
        store.require(str(Site("resid_post", int(last) - 1)))
    sites = [Site.parse(name) for name in store.sites]
    return tuple(
        sorted(s.layer for s in sites if s.name == "resid_post" and s.layer is not None
               and not s.stack)
    )  # fmt: skip
