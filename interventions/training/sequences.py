"""Sequences whose last token asks for something shown before: what induction heads are learned on.

``exemplar, label, exemplar, label, query``: the query is of the class of one of the two exemplars,
and the answer is the label shown with it. Which class has which label is drawn anew for every
sequence, so that nothing but the context can tell. A model that only knows that the answer is one
of the two labels shown has a loss of ln 2: the plateau.

Not for text; :mod:`lensbench.worlds` has that.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError
from lensbench.worlds.batches import IGNORE


@dataclass(frozen=True, kw_only=True, eq=False)
class Sequences:
    """A batch to learn from; all rows are of one length."""

    tokens: Int[Tensor, "n pos"]
    targets: Int[Tensor, "n pos"]
    """What each token should predict, ``IGNORE`` (-100) where nothing is asked."""
    right: Int[Tensor, " n"] | None = None
    """Position that the last token should attend to; None: no strengths are measured."""
    wrong: Int[Tensor, " n"] | None = None
    """Position it might confuse with it."""
    noise: Float[Tensor, "n pos d_vocab"] | None = None
    """Added to the one-hot code of each token before it is embedded."""


@dataclass(frozen=True)
class Exemplars:
    """``exemplar label exemplar label query`` with classes and labels drawn at random.

    An exemplar is the one-hot code of its class plus ``noise`` times N(0, I) over the classes; the
    query is another one of its class. Tokens 0 .. n_classes-1 are classes, the next n_labels
    labels. Called with a number of rows and a seed, it gives a batch: the same for the same seed.
    Source: after Singh et al. 2024, arXiv:2404.07129, whose exemplars are embedded pictures.
    """

    n_classes: int = 50
    n_labels: int = 5
    noise: float = 0.1

    def __post_init__(self) -> None:
        """Refuse sizes that give no sequence."""
        whole_number("n_classes", self.n_classes, least=2)
        whole_number("n_labels", self.n_labels, least=2)
        if not self.noise >= 0:
            raise ConfigError(f"noise must be 0 or more, got {self.noise!r}")

    @property
    def d_vocab(self) -> int:
        """Tokens a model of it needs."""
        return self.n_classes + self.n_labels

    def __call__(self, n: int, seed: int) -> Sequences:
        """``n`` sequences."""
        rng = np.random.default_rng(seed)
        classes = _two_of(rng, self.n_classes, n)
        labels = self.n_classes + _two_of(rng, self.n_labels, n)
        asked, rows = rng.integers(0, 2, n), np.arange(n)
        tokens = np.stack(
            [classes[:, 0], labels[:, 0], classes[:, 1], labels[:, 1], classes[rows, asked]], axis=1
        )
        targets = np.full((n, 5), IGNORE)
        targets[:, -1] = labels[rows, asked]
        noise = None
        if self.noise:
            drawn = np.zeros((n, 5, self.d_vocab), dtype=np.float32)
            drawn[:, ::2, : self.n_classes] = self.noise * rng.standard_normal(
                (n, 3, self.n_classes), dtype=np.float32
            )
            noise = torch.from_numpy(drawn)
        return Sequences(
            tokens=torch.from_numpy(tokens), targets=torch.from_numpy(targets),
            right=torch.from_numpy(1 + 2 * asked), wrong=torch.from_numpy(3 - 2 * asked),
            noise=noise,
        )  # fmt: skip


def _two_of(rng: np.random.Generator, among: int, n: int) -> np.ndarray:
    """Two different numbers below ``among`` per row."""
    first, other = rng.integers(0, among, n), rng.integers(0, among - 1, n)
    return np.stack([first, other + (other >= first)], axis=1)


def attention_only(
    d_vocab: int,
    *,
    n_layers: int = 2,
    d_model: int = 64,
    n_heads: int = 8,
    n_ctx: int = 32,
    seed: int = 0,
) -> nn.Module:
    """A small untrained transformer that is attention only: a Llama whose MLPs are zero and frozen.

    Rotary positions, a norm before each layer, embeddings N(0, 0.02^2).

    Raises:
        ConfigError: heads that do not divide the width.

    Example:
        >>> module = interventions.attention_only(d_vocab=20, n_layers=2)
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    if whole_number("d_model", d_model, least=1) % whole_number("n_heads", n_heads, least=1):
        raise ConfigError(f"d_model {d_model} is not a multiple of n_heads {n_heads}")
    config = LlamaConfig(
        vocab_size=d_vocab, hidden_size=d_model, num_hidden_layers=n_layers,
        num_attention_heads=n_heads, num_key_value_heads=n_heads, intermediate_size=1,
        max_position_embeddings=n_ctx, tie_word_embeddings=False, initializer_range=0.02,
        pad_token_id=None, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = LlamaForCausalLM(config)
    layers: Any = module.model.layers
    for layer in layers:
        nn.init.zeros_(layer.mlp.down_proj.weight)
        layer.mlp.requires_grad_(False)
    return module
