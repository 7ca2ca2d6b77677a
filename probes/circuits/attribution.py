"""Direct logit attribution: which layer and head writes the difference between two answers.

1. A folded twin: norms' gains lie in the weights, and logits are linear in the residual stream
   once the final norm's denominator is held at its value.
2. The stream is the sum of the embedding, every head, every layer's attention bias and MLP.
3. Each term's share: <term - mean, W_U[answer] - W_U[foil]> / denominator (mean 0 for RMS norms).
4. Control: the same towards a random pair of tokens.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lensbench import provenance
from lensbench.errors import ConfigError, ModelError
from lensbench.models.transformer_lens.convert import lens_twin
from lensbench.probes.circuits.terms import block_terms, norm_centres, norm_gain
from lensbench.results import Controls, Result
from lensbench.stats import bootstrap_mean
from lensbench.tokens import TokensLike, as_tokens

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lensbench.models import Model
    from lensbench.models.transformer_lens import TransformerLensModel
    from lensbench.probes.circuits.attribution_check import LogitAttributionCheck

_EXACT = 1e-3  # of the size of the terms (at least 0.1 nats); fp32 sums are good to about 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class LogitAttribution(Result):
    """Shares of ``logit(answer) - logit(foil)``, in nats; they sum to it.

    ``names`` are ``embed``, ``L<l>H<h>``, ``L<l> bias``, ``L<l> MLP`` and ``unembed bias``. Where a
    model caps its logits, the difference is that before the cap.
    """

    names: tuple[str, ...]
    shares: Float[np.ndarray, "rows components"]
    logit_diff: Float[np.ndarray, " rows"]
    """Measured on the model itself."""
    random_pair: Float[np.ndarray, "rows components"]
    """The control: shares towards two random tokens."""

    def to_frame(self) -> "pd.DataFrame":
        """One row per component: mean over prompts with a 95 % interval."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for i, name in enumerate(self.names):
            share = bootstrap_mean(self.shares[:, i])
            rows.append(
                {
                    "component": name,
                    **dict(zip(("layer", "part"), place_of(name), strict=True)),
                    "share": share.mean,
                    "low": share.low,
                    "high": share.high,
                    "random_pair": float(np.abs(self.random_pair[:, i]).mean()),
                    "n": share.n,
                }
            )
        frame = pd.DataFrame(rows)
        frame.attrs["units"] = {"share": "nats", "random_pair": "nats, mean size", "n": "prompts"}
        return frame

    def plot(self) -> "go.Figure":
        """Layers by heads and MLP."""
        from lensbench.plots import heatmap

        frame = self.to_frame()
        part = frame.loc[frame["layer"] >= 0]
        part.attrs["units"] = frame.attrs["units"]
        return heatmap(
            part, x="part", y="layer", value="share", unit="nats", diverging=True,
            title="Direct logit attribution", subtitle=f"{len(self.shares)} prompts",
        )  # fmt: skip

    def summary(self) -> dict[str, float]:
        """Logit difference, what the shares sum to, and the largest one beside its control."""
        mean = self.shares.mean(0)
        return {
            "logit_diff": float(self.logit_diff.mean()),
            "sum_of_shares": float(mean.sum()),
            "largest_share": float(mean[np.abs(mean).argmax()]),
            "largest_random_pair": float(np.abs(self.random_pair.mean(0)).max()),
        }

    def strongest(self) -> str:
        """The component with the largest positive share."""
        return self.names[int(self.shares.mean(0).argmax())]

    def verify(
        self, model: "Model", tokens: TokensLike, *, top: int = 10, random: int = 20,
        large: float = 0.1, seed: int = 0,
    ) -> "LogitAttributionCheck":  # fmt: skip
        """Take components out of the model, with all that follows held, and with nothing held.

        Held are what later layers write and the final norm's denominator: the change is then minus
        the share. Free, it is what the component does in all.

        Args:
            model: the one the shares are of.
            tokens: the same prompts.
            top: components of largest mean share; biases are not taken out.
            random: others, drawn without replacement.
            large: what counts as a large change, as a share of the mean logit difference.
            seed: of the draw.

        Raises:
            MismatchError: another model, or other prompts.
            ConfigError: numbers that do not fit.
        """
        from lensbench.probes.circuits.attribution_check import check_attribution

        return check_attribution(
            self, model, tokens, top=top, random=random, large=large, seed=seed
        )


def direct_logit_attribution(
    model: "Model",
    tokens: TokensLike,
    answer: int | Sequence[int],
    foil: int | Sequence[int],
    *,
    position: int = -1,
    seed: int = 0,
) -> LogitAttribution:
    """What each head, MLP and bias adds to ``logit(answer) - logit(foil)`` along the direct path.

    share(c) = <c - mean(c), W_U[answer] - W_U[foil]> / s with s the final norm's denominator, held
    fixed (no mean is taken off where the norm takes none). The shares sum to the model's own logit
    difference; where they do not, an error says so. What a head does *through* later layers is not
    seen. ``position`` counts real tokens, from the end where negative.
    Source: Elhage et al. 2021; Wang et al. 2022, arXiv:2211.00593 (direct effects).

    Raises:
        ConfigError: token ids or a position out of range; attention without matrices per head.
        ModelError: the stream is not the sum of its parts on this model.

    Example:
        >>> answer, foil = pairs.answers[0], pairs.foils[0]
        >>> found = probes.direct_logit_attribution(model, [list(pairs.clean_ids[0])], answer, foil)
    """
    start, lens = time.time(), lens_twin(model)
    batch = lens.layout.batch(as_tokens(tokens), lens.device)
    right, wrong = (_ids(x, batch.n_rows, lens.card.d_vocab) for x in (answer, foil))
    at, cap = columns_of(batch.real, position), _cap(lens)
    names, terms = _terms(lens, batch, at)
    shares = _project(lens, batch, at, terms, right, wrong)
    rng = torch.Generator().manual_seed(seed)
    pair = torch.randint(0, lens.card.d_vocab, (2, batch.n_rows), generator=rng).to(right.device)
    chance = _project(lens, batch, at, terms, pair[0], pair[1])
    logits = model.run(batch).logits
    assert logits is not None  # the run was asked for all
    measured = difference(logits.to(at.device), at, right, wrong, cap)
    gap = (shares.sum(1) - measured).abs().max() / shares.abs().sum(1).max().clamp_min(0.1)
    if not float(gap) <= _EXACT:
        raise ModelError(
            f"the shares do not sum to the logit difference on {lens.card.family} (off by "
            f"{float(gap):.2g} of their size): its stream is not the sum of its parts"
        )
    return LogitAttribution(
        names=(*names, "unembed bias"),
        shares=shares.double().cpu().numpy(),
        logit_diff=measured.double().cpu().numpy(),
        random_pair=chance.double().cpu().numpy(),
        config={"answer": right.tolist(), "foil": wrong.tolist(), "position": position, "cap": cap},
        provenance=provenance.record(
            model=vars(model.card), seed=seed, device=str(lens.device), seconds=time.time() - start
        ),
        controls=Controls(
            {"largest_random_pair": float(chance.mean(0).abs().max())},
            "largest mean share towards a random pair of tokens",
        ),
    )


def _ids(given: int | Sequence[int], rows: int, d_vocab: int) -> Tensor:
    ids = [int(given)] * rows if isinstance(given, int) else [int(i) for i in given]
    if len(ids) != rows or not all(0 <= i < d_vocab for i in ids):
        raise ConfigError(
            f"answer and foil are one id in 0..{d_vocab - 1}, or one per row ({rows}); got {given}"
        )
    return torch.tensor(ids)


def columns_of(real: Tensor, position: int) -> Tensor:
    """Column of the position in each row."""
    n = real.sum(1)
    place = n + position if position < 0 else torch.full_like(n, position)
    if not bool(((place >= 0) & (place < n)).all()):
        raise ConfigError(f"position {position} is outside a row; the shortest has {int(n.min())}")
    counted = real.long().cumsum(1) - 1
    return ((counted == place[:, None]) & real).int().argmax(1)


def _terms(
    lens: "TransformerLensModel", batch: Any, at: Tensor
) -> tuple[list[str], Float[Tensor, "rows components d_model"]]:
    """Everything that is added to the stream, at one column per row."""
    rows = torch.arange(batch.n_rows, device=at.device)
    names, terms = ["embed"], [_capture(lens, batch, "blocks.0.resid_pre")[rows, at]]
    for layer in range(lens.n_layers):
        z, out, mlp = (
            _capture(lens, batch, f"blocks.{layer}.{s}")[rows, at]
            for s in ("attn.z", "attn_out", "mlp_out")
        )
        of, added = block_terms(lens, layer, z, out, mlp)
        names += of
        terms += list(added.unbind(1))
    return names, torch.stack([t.float() for t in terms], 1)


def _capture(lens: "TransformerLensModel", batch: Any, site: str) -> Tensor:
    return lens.run(batch, capture=site, logits="none").acts[site]


def _project(
    lens: "TransformerLensModel", batch: Any, at: Tensor, terms: Tensor, a: Tensor, b: Tensor
) -> Float[Tensor, "rows components"]:
    rows = torch.arange(batch.n_rows, device=at.device)
    scale = _capture(lens, batch, "ln_final.scale")[rows, at].float()
    table = lens.root.W_U.detach().float()
    towards = table[:, a.to(at.device)].mT - table[:, b.to(at.device)].mT
    if norm_centres(lens):
        terms = terms - terms.mean(-1, keepdim=True)
    # Folded away on most families, and then 1 and 0.
    gain, shift = norm_gain(lens, lens.root.ln_final)
    shares = torch.einsum("bcd,bd->bc", terms * gain, towards) / scale
    bias, extra = getattr(lens.root, "b_U", None), towards @ shift
    if isinstance(bias, Tensor):
        extra = extra + (bias[a.to(at.device)] - bias[b.to(at.device)]).detach().float()
    return torch.cat((shares, extra[:, None]), 1)


def _cap(lens: "TransformerLensModel") -> float:
    """Where the logits are capped; 0 where they are not."""
    return float(getattr(lens.root.cfg, "output_logits_soft_cap", None) or 0.0)


def difference(logits: Tensor, at: Tensor, a: Tensor, b: Tensor, cap: float) -> Tensor:
    """``logit(a) - logit(b)`` at a column of each row, before the cap."""
    rows = torch.arange(len(logits), device=logits.device)
    here = logits[rows, at.to(logits.device)].double()
    here = torch.atanh(here / cap) * cap if cap > 0 else here
    return (here[rows, a.to(logits.device)] - here[rows, b.to(logits.device)]).float()


def place_of(name: str) -> tuple[int, str]:
    """Layer and part of a component; layer -1 outside the blocks."""
    if not name.startswith("L"):
        return -1, name
    layer, _, part = name[1:].replace("H", " H").partition(" ")
    return int(layer), part
