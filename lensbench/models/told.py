"""One line that says what a model is, and what a forward pass gave; made for readers."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lensbench.models.base import Forward, ModelCard

_FEW = 4


def model_line(kind: str, card: "ModelCard") -> str:
    """Class, name, sizes, dtype and fingerprint."""
    experts = f", {card.n_experts} experts" if card.n_experts else ""
    return (
        f"{kind}({card.name!r}: {card.family}, {card.n_layers} layers, d_model {card.d_model}, "
        f"{card.n_heads} heads{experts}, d_vocab {card.d_vocab}, n_ctx {card.n_ctx}, "
        f"{card.dtype}, {card.fingerprint})"
    )


def forward_line(forward: "Forward") -> str:
    """Shapes of the logits and of a few captured sites, or how many there are."""
    shapes = [f"{name}: {list(x.shape)}" for name, x in forward.acts.items()]
    acts = (
        f"acts: {{{', '.join(shapes)}}}" if len(shapes) <= _FEW else f"acts at {len(shapes)} sites"
    )
    logits = None if forward.logits is None else list(forward.logits.shape)
    past = "" if forward.past is None else ", past"
    return f"Forward(logits: {logits}, {acts}{past}, layers_run: {forward.layers_run})"
