"""Weight circuits of single heads, as products that are kept factored.

Read off a twin whose norms' gains are folded into the weights behind them. What a norm divides by,
biases, rotary angles and norms of queries and keys are no part of a circuit: with rotary positions
``qk_circuit`` is that of a token with itself (distance 0).
Source: Elhage et al. 2021, "A mathematical framework for transformer circuits".
"""

from typing import TYPE_CHECKING, Any

from torch import Tensor

from lensbench.errors import ConfigError
from lensbench.models.transformer_lens.convert import lens_twin
from lensbench.models.transformer_lens.tool import load
from lensbench.tokens import Tokens

if TYPE_CHECKING:
    from transformer_lens import FactoredMatrix

    from lensbench.models import Model
    from lensbench.models.transformer_lens import TransformerLensModel

_CLOSE = 1e-3


def ov_circuit(model: "Model", layer: int, head: int, *, fold: bool = True) -> "FactoredMatrix":
    """What a head writes for what it attends to: ``W_V W_O``, ``[d_model, d_model]``.

    A row vector of the (normed) residual stream at the attended token, times this, is what the head
    adds where it attends with weight 1. Value biases are left out.
    Source: Elhage et al. 2021.

    Raises:
        ConfigError: no such layer or head, or attention without these matrices.

    Example:
        >>> matrix = probes.ov_circuit(model, layer=2, head=1)
    """
    weights = _weights(lens_twin(model, fold=fold), layer, head)
    return _factored(weights["W_V"], weights["W_O"])


def qk_circuit(model: "Model", layer: int, head: int, *, fold: bool = True) -> "FactoredMatrix":
    """What a head looks for: ``W_Q W_K^T``, ``[d_model, d_model]``, query side first.

    The score of query x for key y is ``x W_Q W_K^T y^T`` (times the model's own scaling), query and
    key biases and rotary angles left out.
    Source: Elhage et al. 2021.

    Raises:
        ConfigError: no such layer or head, or attention without these matrices.

    Example:
        >>> matrix = probes.qk_circuit(model, layer=2, head=1)
    """
    weights = _weights(lens_twin(model, fold=fold), layer, head)
    return _factored(weights["W_Q"], weights["W_K"].mT)


def full_ov_circuit(model: "Model", layer: int, head: int) -> "FactoredMatrix":
    """From attended token to logits: ``W_E W_V W_O W_U``, ``[d_vocab, d_vocab]``.

    Entry (source, out): how attending to ``source`` alone moves the logit of ``out``, with both
    norms' denominators at 1. A diagonal that is large and positive marks a copying head.
    Source: Elhage et al. 2021.

    Raises:
        ConfigError: no such layer or head, or an embedding that is not a table.

    Example:
        >>> matrix = probes.full_ov_circuit(model, layer=2, head=1)
    """
    lens = lens_twin(model)
    weights = _weights(lens, layer, head)
    return _factored(token_embedding(lens) @ weights["W_V"], weights["W_O"] @ _unembedding(lens))


def full_qk_circuit(model: "Model", layer: int, head: int) -> "FactoredMatrix":
    """From query token and key token to score: ``W_E W_Q W_K^T W_E^T``, ``[d_vocab, d_vocab]``.

    Entry (query, key), with the norm's denominator at 1, positions left out.
    Source: Elhage et al. 2021.

    Raises:
        ConfigError: no such layer or head, or an embedding that is not a table.

    Example:
        >>> matrix = probes.full_qk_circuit(model, layer=2, head=1)
    """
    lens = lens_twin(model)
    weights = _weights(lens, layer, head)
    table = token_embedding(lens)
    return _factored(table @ weights["W_Q"], (table @ weights["W_K"]).mT)


def token_embedding(lens: "TransformerLensModel") -> Tensor:
    """``W_E [d_vocab, d_model]`` as the model uses it: Gemma scales what it looks up.

    Raises:
        ConfigError: what enters the stream is not a multiple of the table's rows.
    """
    import torch

    table: Tensor = lens.root.W_E.detach()
    ids = torch.arange(min(8, table.shape[0]), device=table.device)[None]
    meant = Tokens(ids, torch.ones_like(ids, dtype=torch.bool))  # the padding token among them
    used = lens.run(meant, capture="embed", logits="none").acts["embed"][0]
    rows = table[: ids.shape[1]]
    factor = (used * rows).sum() / (rows * rows).sum()
    if float((used - factor * rows).abs().max()) > _CLOSE * float(used.abs().max()):
        raise ConfigError(
            f"the embedding of {lens.card.family} is more than a table of tokens, so it has no "
            "full circuit; ov_circuit and qk_circuit do without it"
        )
    return table * factor


def _unembedding(lens: "TransformerLensModel") -> Tensor:
    return lens.root.W_U.detach()


def _weights(lens: "TransformerLensModel", layer: int, head: int) -> dict[str, Tensor]:
    if not 0 <= head < lens.card.n_heads:
        raise ConfigError(f"this model has heads 0..{lens.card.n_heads - 1}, got {head}")
    return {name: w[head] for name, w in lens.head_weights(layer).items()}


def _factored(left: Tensor, right: Tensor) -> Any:
    return load("FactoredMatrix").FactoredMatrix(left, right)
