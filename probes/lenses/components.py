"""The logit lens of single components: what each head, MLP and the embedding writes by itself.

A component has no scale of its own, so it is read as part of the whole: the final norm's
denominator is *held* at that of the full last state (and a mean is taken off where the norm does).
Logits are then a sum over components, before a cap. Steps, numbered in the body:

1. A folded twin (as for direct logit attribution); one run of it keeps z, attn_out and mlp_out.
2. Block by block: heads z W_O, attention bias, MLP. Their logits: ((c - mean(c)) / s * gain) W_U.
3. Per component and token the k best tokens of softmax(logits), and the metrics against the model.
4. The check: embedding, all components and the unembedding's bias sum to the model's own logits.

What a component does *through* later layers is not seen. Value biases are folded into the
attention's bias, as everywhere on folded twins, so a head here is its pattern times values alone.
Source: nostalgebraist 2020 (the lens); Elhage et al. 2021 (direct paths); Wang et al. 2022,
arXiv:2211.00593 (the held denominator).
"""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench import provenance
from lensbench.errors import ModelError
from lensbench.models.transformer_lens.convert import lens_twin
from lensbench.probes.circuits.terms import block_terms, norm_centres, norm_gain
from lensbench.probes.lenses.held import HeldNorm
from lensbench.probes.lenses.measures import tiles
from lensbench.probes.lenses.readings import SiteLens
from lensbench.probes.lenses.sites import Kept, Read, following, one_text
from lensbench.results import Controls
from lensbench.sites import Site
from lensbench.tokens import TokensLike

if TYPE_CHECKING:
    from lensbench.models import Model
    from lensbench.models.transformer_lens import TransformerLensModel

_EXACT = 1e-3  # nats; fp32 sums are good to about 1e-6
_PARTS = ("attn.z", "attn_out", "mlp_out")


def component_lens(model: "Model", tokens: TokensLike, *, k: int = 5) -> SiteLens:
    """What every head, MLP, attention bias and the embedding of one text says by itself.

    logits_c = W_U^T (gain * (c - mean(c)) / s), s the final norm's denominator for the *full* last
    state, held fixed; p_c = softmax(logits_c). Over all components (and the biases of norm and
    unembedding) the logits sum to the model's own, before a cap. Places are ``embed``,
    ``L<l>H<h>``, ``L<l> bias``, ``L<l> MLP``; metrics are against the model's own prediction.

    Raises:
        ConfigError: more than one text, no next-token model, attention without matrices per head.
        ModelError: the stream is not the sum of its parts on this model.

    Example:
        >>> found = probes.component_lens(model, model.tokens(text), k=1)
    """
    start = time.monotonic()
    model.require_next_token("the logit lens")
    batch = one_text(model, tokens)
    lens = lens_twin(model)  # 1
    ids, d_vocab = batch.ids[0].tolist(), model.card.d_vocab
    wanted = [Site(s, n) for n in range(lens.n_layers) for s in _PARTS]
    acts = lens.run(
        batch, capture=[Site("resid_pre", 0), *wanted, Site("ln_final.scale")], logits="none"
    ).acts
    end = Site("resid_post", model.n_layers - 1)
    last = model.run(batch, capture=end, logits="none").acts[end][0]
    final: Read = lambda part: model.unembed(last[part]).to(lens.device)  # noqa: E731
    held, names, layers = _held(lens, acts), list[str](), list[int]()
    kept = Kept(1 + _count(lens, acts), following(ids), k, d_vocab)
    total = torch.zeros_like(held.scale)
    for layer, of, terms in _terms(lens, acts):  # 2
        kept.read(len(names), [_share(held, term) for term in terms.unbind(1)], final)  # 3
        names, layers, total = [*names, *of], [*layers, *[layer] * len(of)], total + terms.sum(1)
    gap = _gap(lens, held, total, final, d_vocab)  # 4
    return SiteLens(
        reads="components",
        places=tuple(names),
        layers=tuple(layers),
        gap=gap,
        **kept.fields(model, ids),
        config={"k": k, "norm": "denominator held at the full state's"},
        controls=Controls(note="the sum of all components is the model; see gap"),
        provenance=provenance.record(model=vars(model.card), seconds=time.monotonic() - start),
    )


def _held(lens: "TransformerLensModel", acts: Any) -> HeldNorm:
    gain, shift = norm_gain(lens, lens.root.ln_final)
    W_U: Tensor = lens.root.W_U.detach().float()
    bias = getattr(lens.root, "b_U", None)
    b_U = bias.detach().float() if isinstance(bias, Tensor) else W_U.new_zeros(W_U.shape[1])
    scale = acts[Site("ln_final.scale")][0].float()
    return HeldNorm(scale, gain, shift, norm_centres(lens), W_U, b_U)


def _terms(
    lens: "TransformerLensModel", acts: Any
) -> Iterator[tuple[int, list[str], Float[Tensor, "tokens terms d_model"]]]:
    """Layer, names and values of what enters the stream: the embedding, then block by block."""
    yield -1, ["embed"], acts[Site("resid_pre", 0)][0].float()[:, None]
    for layer in range(lens.n_layers):
        z, out, mlp = (acts[Site(part, layer)][0] for part in _PARTS)
        yield layer, *block_terms(lens, layer, z, out, mlp)


def _count(lens: "TransformerLensModel", acts: Any) -> int:
    """Components of all blocks: heads, a bias and an MLP each."""
    return sum(acts[Site("attn.z", n)].shape[2] + 2 for n in range(lens.n_layers))


def _share(held: HeldNorm, term: Float[Tensor, "tokens d_model"]) -> Read:
    return lambda part: held.logits(term, part)


def _gap(
    lens: "TransformerLensModel", held: HeldNorm, total: Tensor, final: Read, d_vocab: int
) -> float:
    """Largest KL of the model's prediction from that of the sum of all components, nats.

    Raises:
        ModelError: they are not the same prediction.
    """
    cap = float(getattr(lens.root.cfg, "output_logits_soft_cap", None) or 0.0)
    worst = 0.0
    for part in tiles(len(total), d_vocab):
        found = held.logits(total, part) + held.constant()
        found = torch.tanh(found / cap) * cap if cap > 0 else found
        logq, logp = found.log_softmax(-1), final(part).float().log_softmax(-1)
        worst = max(worst, float((logp.exp() * (logp - logq)).sum(-1).max()))
    if not worst <= _EXACT:
        raise ModelError(
            f"the components do not sum to the logits of {lens.card.family} (KL {worst:.2g} nats): "
            "its stream is not the sum of its parts"
        )
    return worst
