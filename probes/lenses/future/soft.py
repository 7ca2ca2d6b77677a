"""Learned prompts: ten embeddings after which a state from layer l tells its future.

Steps, numbered in the body:

1. Draw rows t of the training documents; p = softmax of what the model has at t + N.
2. The prompt: ``length`` trained embeddings (at ``embed``), the state at its last position after
   layer l, then the N true tokens x_{t+1} .. x_{t+N}; q = softmax at the last of them.
3. AdamW on the embeddings alone, loss KL(p || q); the model is frozen. One prompt per layer.

There is no BOS before the embeddings; the first of them may take its part. Deterministic: rows and
initial values follow from the seed. Source: Pal et al. 2023, arXiv:2311.04897, section 3.3 (10
embeddings, KL, AdamW 5e-4, weight decay 1e-5, batches of 8, one epoch of 10,000 contexts).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench import provenance
from lensbench.arguments import positive_number, whole_number
from lensbench.errors import ConfigError, UnknownNameError
from lensbench.probes.lenses.future.engine import blank, extended, soft_plan
from lensbench.probes.lenses.future.pairs import draw, fit_docs, states_of, stored_choice
from lensbench.probes.lenses.future.spots import require_same
from lensbench.results import Controls, Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lensbench.models import Model
    from lensbench.store import ActivationStore


@dataclass(frozen=True, kw_only=True, eq=False)
class SoftPrompts(Result):
    """Embeddings of a learned prompt per layer, trained for one distance."""

    layers: tuple[int, ...]
    ahead: int
    embeddings: Float[np.ndarray, "layers length d_model"]
    losses: Float[np.ndarray, "layers steps"]
    """KL(p || q) of every training batch, nats."""
    docs: tuple[int, int]
    fingerprint: str
    text: str = ""

    def check(self, model: "Model") -> None:
        """Refuse another model than the one they were trained on.

        Raises:
            MismatchError: the weight fingerprints differ.
        """
        require_same(model, self.fingerprint, "these prompts were trained on", "train them")

    def of(self, layer: int) -> Float[Tensor, "length d_model"]:
        """The prompt of a layer.

        Raises:
            UnknownNameError: none was trained for it.
        """
        if layer not in self.layers:
            known = [str(n) for n in self.layers]
            raise UnknownNameError("layer of these SoftPrompts", str(layer), known=known)
        return torch.from_numpy(self.embeddings[self.layers.index(layer)])

    def to_frame(self) -> "pd.DataFrame":
        """One row per layer and training step."""
        import pandas as pd

        layer, step = (a.ravel() for a in np.indices(self.losses.shape))
        frame = pd.DataFrame({"layer": np.array(self.layers)[layer], "step": step,
                              "kl": self.losses.ravel()})  # fmt: skip
        frame.attrs["units"] = {"kl": "KL(model ‖ learned prompt) [nats]"}
        return frame

    def plot(self) -> "go.Figure":
        """Training loss, a line per layer."""
        from lensbench.plots import lines

        return lines(
            self.to_frame(), x="step", y="kl", color="layer", markers=False,
            title=f"Learned prompts, {self.ahead} tokens ahead",
        )  # fmt: skip

    def summary(self) -> dict[str, float]:
        """First and last tenth of the training loss, over layers."""
        tenth = max(1, self.losses.shape[1] // 10)
        first, last = self.losses[:, :tenth].mean(), self.losses[:, -tenth:].mean()
        return {"ahead": float(self.ahead), "kl_first": float(first), "kl_last": float(last)}


def train_soft_prompts(
    store: "ActivationStore",
    model: "Model",
    *,
    layers: Sequence[int] | None = None,
    ahead: int = 1,
    length: int = 10,
    docs: tuple[int, int] | None = None,
    contexts: int = 10_000,
    batch_size: int = 8,
    epochs: int = 1,
    lr: float = 5e-4,
    weight_decay: float = 1e-5,
    init_std: float = 0.02,
    seed: int = 0,
) -> SoftPrompts:
    """Learn one prompt per layer that makes the model say what follows a state N tokens on.

    min_E mean_t KL(p_{t+N} || q(x_{t+1} .. x_{t+N} | E, resid^l_last <- h^l_t)), nats.

    Args:
        store: holds ``resid_post`` of the layers and of the last block.
        model: the model of the store; its weights stay as they are.
        layers: layers of the state (default: all stored ones).
        ahead: N.
        length: embeddings of a prompt.
        docs: documents a .. b - 1 (default: the first four fifths).
        contexts: training tokens, of whole documents.
        batch_size: tokens per step.
        epochs: passes over them.
        lr: AdamW's, with betas .9 and .999.
        weight_decay: AdamW's.
        init_std: of the embeddings' initial values, N(0, init_std).
        seed: of initial values and order.

    Raises:
        ConfigError: a setting that means nothing.
        MissingDataError, MismatchError, NotEnoughDataError: as :func:`fit_future_lens`.

    Example:
        >>> found = probes.train_soft_prompts(store, model, layers=[2], length=2, contexts=32)
    """
    start = time.monotonic()
    n, size = whole_number("ahead", ahead, least=0), whole_number("length", length, least=1)
    batch = whole_number("batch_size", batch_size, least=1)
    rate, spread = positive_number("lr", lr), positive_number("init_std", init_std)
    if not 0 <= weight_decay < 1:
        raise ConfigError(f"weight_decay must be in 0..1, got {weight_decay}")
    chosen = stored_choice(store, model, layers)
    within = fit_docs(store, docs)
    most = whole_number("contexts", contexts, least=1)
    data = draw(store, n, within, most, seed)
    order = np.random.default_rng(seed)
    passes = range(whole_number("epochs", epochs, least=1))
    turns = np.concatenate([order.permutation(len(data.rows)) for _ in passes])
    batches = [turns[a : a + batch] for a in range(0, len(turns), batch)]
    learner = Learner(model, store, n, size, rate, weight_decay, spread, seed)
    trained = [learner.train(layer, data.rows, data.phrase(n), batches) for layer in chosen]
    settings: dict[str, Any] = {"length": size, "contexts": len(data.rows), "batch_size": batch}
    settings |= {"epochs": epochs, "lr": rate, "weight_decay": weight_decay}
    return SoftPrompts(
        layers=chosen,
        ahead=n,
        embeddings=torch.stack([soft for soft, _ in trained]).numpy(),
        losses=np.array([losses for _, losses in trained], dtype=np.float32),
        docs=within,
        fingerprint=model.card.fingerprint,
        text=str(store.text.get("fingerprint")),
        config={**settings, "init_std": spread, "seed": seed, "docs": list(within)},
        controls=Controls(note="training loss; see future_scores for held-out documents"),
        provenance=provenance.record(
            model=vars(model.card), store=store, seed=seed, seconds=time.monotonic() - start
        ),
    )


@dataclass(frozen=True, eq=False)
class Learner:
    """What is the same for the prompts of all layers."""

    model: "Model"
    store: "ActivationStore"
    ahead: int
    length: int
    lr: float
    weight_decay: float
    init_std: float
    seed: int

    def train(
        self,
        layer: int,
        rows: Int[np.ndarray, " rows"],
        phrase: Int[Tensor, "rows n"],
        batches: Sequence[Int[np.ndarray, " batch"]],
    ) -> tuple[Float[Tensor, "length d_model"], list[float]]:
        """Embeddings for one layer, and the loss of every step."""
        states = states_of(self.store, layer, rows)
        finals = states_of(self.store, self.model.n_layers - 1, rows + self.ahead)
        rng = torch.Generator().manual_seed(self.seed)
        shape = (self.length, self.model.card.d_model)
        soft = (torch.randn(shape, generator=rng) * self.init_std).requires_grad_()
        adam = torch.optim.AdamW([soft], lr=self.lr, weight_decay=self.weight_decay)
        losses = list[float]()
        for chosen in batches:
            wanted = self.model.unembed(finals[chosen]).float()  # 1
            loss = self.loss(soft, layer, states[chosen], phrase[chosen], wanted)
            # Not backward(): the model's own weights are to gather no gradient.
            soft.grad = torch.autograd.grad(loss, soft)[0]
            adam.step()  # 3
            losses.append(float(loss.detach()))
        return soft.detach(), losses

    def loss(
        self,
        soft: Float[Tensor, "length d_model"],
        layer: int,
        states: Float[Tensor, "rows d_model"],
        phrase: Int[Tensor, "rows n"],
        wanted: Float[Tensor, "rows d_vocab"],
    ) -> Float[Tensor, ""]:
        """KL(p || q) of one batch, nats."""
        tokens = extended(blank(len(soft)), phrase)
        plan = soft_plan(soft, layer, states)
        out = self.model.run(tokens, plan, logits="last", grad=True)  # 2
        assert out.logits is not None
        p = wanted.log_softmax(-1)
        return (p.exp() * (p - out.logits[:, 0].float().log_softmax(-1))).sum(-1).mean()
