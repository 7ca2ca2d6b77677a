"""A dictionary through SAELens' own evaluation, beside ours: same weights, model and tokens.

1. The dictionary becomes a SAELens object (in memory), the model a TransformerLens bridge.
2. The first sequences of the store of one length, the most frequent, are the tokens of both sides.
3. ``sae_lens.evals.run_evals`` measures on its side, the functions of an evaluation on ours: a
   check of numbers on few tokens, no comparison of dictionaries.
"""

import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench.errors import BackendUnavailableError, ConfigError, NotEnoughDataError
from lensbench.provenance import record
from lensbench.results import Result
from lensbench.saes.evaluation.ce import LossSums, Sequences, live_losses
from lensbench.saes.evaluation.metrics import ce_recovered, kl_recovered
from lensbench.saes.evaluation.passes import Dictionary, as_dictionary
from lensbench.saes.evaluation.sums import Moments, ReconstructionSums
from lensbench.saes.formats.sae_lens import saelens_config
from lensbench.saes.sae import SAE
from lensbench.sites import Site
from lensbench.tokens import Tokens

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lensbench.models.base import Model
    from lensbench.store import ActivationStore

THEIRS = {
    "l0": "sparsity/l0",
    "explained_variance": "reconstruction_quality/explained_variance",
    "explained_variance_legacy": "reconstruction_quality/explained_variance_legacy",
    "mse": "reconstruction_quality/mse",
    "cosine": "reconstruction_quality/cossim",
    "l2_ratio": "shrinkage/l2_ratio",
    "relative_reconstruction_bias": "shrinkage/relative_reconstruction_bias",
    "ce_clean": "model_performance_preservation/ce_loss_without_sae",
    "ce_zero_ablated": "model_performance_preservation/ce_loss_with_ablation",
    "ce_reconstructed": "model_performance_preservation/ce_loss_with_sae",
    "ce_recovered_zero": "model_performance_preservation/ce_loss_score",
    "kl_zero_ablated": "model_behavior_preservation/kl_div_with_ablation",
    "kl_reconstructed": "model_behavior_preservation/kl_div_with_sae",
    "kl_recovered_zero": "model_behavior_preservation/kl_div_score",
}
"""Our name of each metric to theirs."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PeerComparison(Result):
    """One dictionary measured by us and by SAELens."""

    name: str
    metrics: tuple[str, ...]
    ours: Float[np.ndarray, " metrics"]
    theirs: Float[np.ndarray, " metrics"]
    n_tokens: int
    version: str
    """Of SAELens."""
    on: str
    """In words: which tokens."""

    @property
    def relative(self) -> Float[np.ndarray, " metrics"]:
        """|ours - theirs| / max(|ours|, |theirs|); 0 where both are 0."""
        size = np.maximum(np.abs(self.ours), np.abs(self.theirs))
        return np.abs(self.ours - self.theirs) / np.where(size > 0, size, 1.0)

    @property
    def largest(self) -> float:
        """Largest relative difference of what both define (not: CE recovered of no loss)."""
        known = self.relative[np.isfinite(self.relative)]
        return float(known.max()) if known.size else float("nan")

    def to_frame(self) -> "pd.DataFrame":
        """One row per metric: ours, theirs, difference, relative difference."""
        import pandas as pd

        return pd.DataFrame(
            {
                "metric": list(self.metrics),
                "ours": self.ours,
                "sae_lens": self.theirs,
                "difference": self.ours - self.theirs,
                "relative": self.relative,
                "n": self.n_tokens,
            }
        )

    def summary(self) -> dict[str, float]:
        """The largest relative difference."""
        return {"largest relative difference": self.largest, "tokens": float(self.n_tokens)}

    def plot(self) -> "go.Figure":
        """Relative difference by metric."""
        from lensbench.plots import bars

        frame = self.to_frame()
        frame.attrs["units"] = {"relative": "|ours - theirs| / larger"}
        return bars(frame, x="metric", y="relative", title="Ours beside SAELens", subtitle=self.on,
                    hover_columns=["ours", "sae_lens"])  # fmt: skip


def against_sae_lens(
    dictionary: Any, store: "ActivationStore", model: "Model", *, sequences: int = 64
) -> PeerComparison:
    """Measure one dictionary with SAELens' evaluation and with ours on the same tokens.

    Positions that the store left out keep the model's own state under the dictionary (zeros go
    everywhere, as in SAELens) and are not scored, on both sides. SAELens' KL also takes the last
    position of a sequence; ours does so here as well. Its legacy explained variance takes the mean
    of a batch: all tokens are one batch here.

    Args:
        dictionary: a run, an SAE or a Dictionary that holds an SAE.
        store: says which tokens, and which of them are left out.
        model: of the store; one that becomes a TransformerLens bridge.
        sequences: of one length, at most.

    Raises:
        BackendUnavailableError: SAELens is not installed.
        ConfigError: no SAE that its format holds, or positions left out by place, not by token.
        NotEnoughDataError: no sequence of two tokens or more.

    Example:
        >>> found = saes.against_sae_lens(run, store, model, sequences=4)
    """
    evals, version = _peer()
    began = time.perf_counter()
    d = as_dictionary(dictionary)
    if not isinstance(d.codec, SAE):
        raise ConfigError(f"{d.name} is a {type(d.codec).__name__}; only an SAE can be exported")
    store.check_model(model.card)
    ids, docs, kept = _sequences(store, sequences)  # 2
    ignored = sorted({int(i) for i in np.unique(ids[~kept])})
    if np.isin(ids[kept], ignored).any():
        raise ConfigError(
            "the store leaves out positions by their place; SAELens can leave out tokens only. "
            "Capture the text with all positions, or with exclude_special="
        )
    theirs = _theirs(evals, d.codec, d.site, model, ids, ignored)  # 1, 3
    ours = _ours(d, model, ids, docs, kept)
    metrics = tuple(m for m in THEIRS if m in ours and THEIRS[m] in theirs)
    return PeerComparison(
        name=d.name,
        metrics=metrics,
        ours=np.array([ours[m] for m in metrics]),
        theirs=np.array([theirs[THEIRS[m]] for m in metrics]),
        n_tokens=int(kept.sum()),
        version=version,
        on=f"on {int(kept.sum()):,} tokens of {len(ids)} sequences of {ids.shape[1]} tokens",
        config={"sequences": sequences, "ignored": ignored},
        provenance=record(model=store.model, seconds=time.perf_counter() - began, store=store),
    )


def _peer() -> tuple[Any, str]:
    try:
        from importlib.metadata import version

        from sae_lens import evals
    except ImportError as error:
        raise BackendUnavailableError(
            f"SAELens cannot be imported ({error}); install it: pip install 'sae-lens>=6.54,<7'"
        ) from error
    return evals, version("sae-lens")


def _sequences(
    store: "ActivationStore", most: int
) -> tuple[Int[np.ndarray, "n pos"], Int[np.ndarray, "n pos"], Any]:
    """Sequences of the most frequent length: ids, documents, and which positions are stored."""
    found: dict[int, list[tuple[Any, Any, Any]]] = {}
    for batch in store.sequences(16):
        ids, real = batch.tokens.ids.cpu().numpy(), batch.tokens.real.cpu().numpy()
        rows = np.asarray(batch.rows) >= 0
        for i in range(len(ids)):
            at = real[i]
            if at.sum() > 1 and rows[i].any():
                one = (ids[i, at], np.asarray(batch.doc_ids)[i, at], rows[i, at])
                found.setdefault(int(at.sum()), []).append(one)
    if not found:
        raise NotEnoughDataError("the store holds no sequence of two tokens or more")
    counts = Counter({length: len(each) for length, each in found.items()})
    chosen = found[counts.most_common(1)[0][0]][:most]
    ids, docs, kept = (np.stack(column) for column in zip(*chosen, strict=True))
    return ids, docs, kept


class _Tokens:
    """What ``run_evals`` asks of its activation store: the same batch of tokens each time."""

    def __init__(self, ids: Int[Tensor, "n pos"]) -> None:
        self._ids = ids
        self.store_batch_size_prompts, self.context_size = ids.shape

    def get_batch_tokens(self, n: int) -> Int[Tensor, "n pos"]:
        return self._ids[:n]

    def reset_input_dataset(self) -> None: ...


def _theirs(
    evals: Any, sae: SAE, site: str, model: "Model", ids: Any, ignored: list[int]
) -> dict[str, float]:
    from sae_lens.training.activation_scaler import ActivationScaler

    from lensbench.models.transformer_lens import to_transformer_lens

    root = to_transformer_lens(model).root
    peer = exported(replace(sae, metadata={**sae.metadata, "site": site}))
    config = evals.get_eval_everything_config(
        batch_size_prompts=len(ids), n_eval_reconstruction_batches=1
    )
    tokens: Any = _Tokens(torch.from_numpy(np.asarray(ids, np.int64)))
    found, _ = evals.run_evals(
        peer, tokens, root, ActivationScaler(), config, exclude_special_tokens=ignored or False
    )
    return {f"{group}/{k}": float(v) for group, of in found.items() for k, v in of.items()}


def exported(sae: SAE) -> Any:
    """The dictionary as an object of SAELens, without a file in between.

    Raises:
        BackendUnavailableError: SAELens is not installed.
    """
    _peer()
    from sae_lens import SAE as Peer

    config = dict(saelens_config(sae))
    kind: Any = Peer.get_sae_config_class_for_architecture(config["architecture"])
    parsed = kind.from_dict(config)
    made: Any = Peer.get_sae_class_for_architecture(parsed.architecture())
    peer = made(parsed)
    names = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
    state = {
        n: getattr(sae, n).detach().cpu().clone() for n in names if getattr(sae, n) is not None
    }
    peer.process_state_dict_for_loading(state)
    peer.load_state_dict(state)
    return peer.eval()


def _ours(d: Dictionary, model: "Model", ids: Any, docs: Any, kept: Any) -> dict[str, float]:
    tokens, where = _real(torch.from_numpy(np.asarray(ids, np.int64))), torch.from_numpy(kept)
    x = model.run(tokens, capture=[d.site], logits="none").acts[Site.parse(d.site)]
    x = x[where.to(x.device)].flatten(1).float().cpu()
    _, number = np.unique(docs[kept], return_inverse=True)
    moments = Moments(x.shape[1])
    moments.update(x)
    sums = ReconstructionSums(moments.mean, int(number.max()) + 1, d.codec.d_sae)
    acts = d.codec.encode(x)
    sums.update(x, d.codec.decode(acts), acts, number)
    out = {name: m.mean for name, m in sums.metrics().items()}
    mean = moments.mean.float()
    # SAELens scores the positions it does not ignore; the KL of the last one too. With one token
    # more behind each sequence that position has a successor: the model is causal, so nothing
    # before it changes.
    longer = _real(torch.cat([tokens.ids, tokens.ids[:, -1:]], 1))
    more = torch.cat([where, torch.zeros_like(where[:, :1])], 1)
    again = np.concatenate([docs, docs[:, -1:]], 1)
    mean, of = moments.mean.float(), (d.site, [d.codec])
    ce = [
        live_losses(model, *of, [Sequences(tokens, docs, k, where)], mean, names=["sae"],
                    score_first=True) for k in (where, torch.ones_like(where))
    ]  # fmt: skip
    kl = [
        live_losses(model, *of, [Sequences(longer, again, k, more)], mean, names=["sae"],
                    score_first=True) for k in (more, torch.ones_like(more))
    ]  # fmt: skip
    return out | _losses(ce, kl)


def _real(ids: Int[Tensor, "n pos"]) -> Tokens:
    """Tokens of which every one is meant, those that end a document too."""
    return Tokens(ids, torch.ones_like(ids, dtype=torch.bool))


def _losses(ce: list[LossSums], kl: list[LossSums]) -> dict[str, float]:
    """Zeros at every position, as SAELens puts them; reconstructions at the stored ones."""
    found = {
        "ce_clean": ce[0].per_token("ce/clean").mean,
        "ce_zero_ablated": ce[1].per_token("ce/zero").mean,
        "ce_reconstructed": ce[0].per_token("ce/sae").mean,
        "kl_zero_ablated": kl[1].per_token("kl/zero").mean,
        "kl_reconstructed": kl[0].per_token("kl/sae").mean,
    }
    clean, zero, sae = (found[f"ce_{x}"] for x in ("clean", "zero_ablated", "reconstructed"))
    found["ce_recovered_zero"] = ce_recovered(clean, sae, zero)
    found["kl_recovered_zero"] = kl_recovered(found["kl_reconstructed"], found["kl_zero_ablated"])
    return found
