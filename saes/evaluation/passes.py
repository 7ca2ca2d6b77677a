"""The passes over stored rows: every dictionary of a site on the same blocks of activations."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse
from torch import Tensor

from lensbench import belonging
from lensbench.errors import ConfigError, MismatchError
from lensbench.protocols import Codec
from lensbench.saes.crosscoder import Crosscoder
from lensbench.saes.evaluation.data import EvaluationRows
from lensbench.saes.evaluation.labels import Latents
from lensbench.saes.evaluation.sums import Moments, ReconstructionSums
from lensbench.saes.sae import SAE
from lensbench.sites import canonical_name

if TYPE_CHECKING:
    from lensbench.store import ActivationStore


@dataclass(frozen=True)
class Dictionary:
    """A dictionary to evaluate: a codec, its site, and what to call it."""

    name: str
    site: str
    codec: Codec
    architecture: str = ""
    model: str = ""
    """Fingerprint of the model it was trained on, where that is known."""
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What it says of the captures it was trained on: model, ``prepend_bos``, ``context_size``."""


def as_list(runs: Any) -> list[Any]:
    """The dictionaries that were passed: a list of them, or a single one.

    Raises:
        ConfigError: a path; says how it is opened.
    """
    if isinstance(runs, (str, PathLike)):
        raise ConfigError(_NO_DICTIONARY.format(what=f"the path {str(runs)!r}", path=str(runs)))
    return list(runs) if isinstance(runs, Iterable) and not isinstance(runs, Mapping) else [runs]


_NO_DICTIONARY = (
    "cannot evaluate {what}; pass runs (SAERun), SAEs or Dictionary values. A run folder is opened "
    "with saes.open_runs({path!r}), a dictionary in any format that is read with saes.load"
)


def as_dictionary(run: Any, *, encoded: bool = False) -> Dictionary:
    """A training run, or an :class:`~lensbench.saes.sae.SAE` that knows its site, to evaluate.

    A site in TransformerLens' spelling is the same site as ours. Where it is only ``encoded``, a
    transcoder will do: its latents are those of the site that it reads.

    Raises:
        ConfigError: no dictionary, or one that does not say which site it belongs to.
        MismatchError: a transcoder or a crosscoder where it cannot be one.
    """
    if isinstance(run, Dictionary):
        _check_role(run.name, run.codec, encoded)
        return replace(run, site=canonical_name(run.site))
    sae = getattr(run, "coder", None) or getattr(run, "sae", run)
    if not hasattr(sae, "config") or not hasattr(sae, "metadata"):
        is_path = isinstance(run, (str, PathLike))
        what = f"the path {str(run)!r}" if is_path else f"what was given (got a {_kind(run)})"
        raise ConfigError(_NO_DICTIONARY.format(what=what, path=str(run) if is_path else "RUN"))
    own = sae.config.get("name") or sae.metadata.get("name")
    name = getattr(run, "name", None) or own or "sae"
    _check_role(str(name), sae, encoded)
    whole = getattr(sae, "role", SAE.role) == SAE.role  # else a run names both sites as one
    site = (getattr(run, "site", None) if whole else None) or sae.site
    if not site:
        raise ConfigError(
            f"{name!r} does not say which site it reads; wrap it as Dictionary(name, site, sae)"
        )
    architecture = sae.config.get("architecture") or sae.activation
    trained_on = (sae.metadata.get("model") or {}).get("fingerprint", "")
    told = (architecture, str(trained_on or ""), sae.metadata)
    return Dictionary(str(name), canonical_name(str(site)), sae, *told)


def _check_role(name: str, codec: Any, encoded: bool) -> None:
    """Refuse what does not write the one site that it reads."""
    role = getattr(codec, "role", SAE.role)
    if role == Crosscoder.role:
        raise MismatchError(
            f"{name} is a crosscoder, which has no one site; saes.compare_sites says what its "
            "sites share, and run.coder.join, .encode and .split take activations by site"
        )
    if role != SAE.role and not encoded:
        raise MismatchError(
            f"{name} is a {role} of {codec.site}, which does not reconstruct what it reads; "
            f"compare what it writes, run.coder(x), with activations of {codec.target}"
        )


def _kind(value: Any) -> str:
    return type(value).__name__


def check_trained_on(dictionary: Dictionary, store: "ActivationStore") -> None:
    """Refuse activations of another model, or captured otherwise, than it was trained on.

    Raises:
        MismatchError: names both; a transfer on purpose is ``Dictionary(name, site, sae)``.
    """
    known = belonging.trained_on(dictionary.metadata)
    if dictionary.model:
        known["fingerprint"] = dictionary.model
    belonging.check_model(dictionary.name, known, store.model, f"those in {store.url}")
    settings = store.settings
    belonging.check_settings(dictionary.name, dictionary.metadata, settings, store.url)


@dataclass
class Pass:
    """What the passes over the rows of one site leave."""

    mean: Float[Tensor, " d_model"]
    """In float64."""
    sums: dict[str, ReconstructionSums]
    acts: dict[str, Latents]


def encode_all(
    store: "ActivationStore",
    site: str,
    rows: EvaluationRows,
    dictionaries: Sequence[Dictionary],
    batch_size: int,
    keep: bool,
    mean: Float[Tensor, " d_model"] | None = None,
) -> Pass:
    """Mean, reconstruction sums and (with ``keep``) latents of every dictionary of ``site``.

    The rows are read twice, in blocks: once for the mean (unless it is given), once for every
    dictionary together. Each row is encoded once by each.
    """
    if mean is None:
        moments = Moments(store.width(site))
        for x, _ in blocks(store, site, rows, batch_size):
            moments.update(x)
        mean = moments.mean
    here = [d for d in dictionaries if d.site == site]
    sums = {d.name: ReconstructionSums(mean, rows.n_docs, d.codec.d_sae) for d in here}
    acts: dict[str, list[Latents]] = {d.name: [] for d in here}
    for x, docs in blocks(store, site, rows, batch_size):
        for d in here:
            latents = encode(d.codec, x)
            sums[d.name].update(x, decode(d.codec, latents), latents, docs)
            if keep:
                acts[d.name].append(to_csr(latents))
    stacked = {n: sparse.csr_array(sparse.vstack(a)) for n, a in acts.items() if a}
    return Pass(mean, sums, stacked)


def blocks(
    store: "ActivationStore", site: str, rows: EvaluationRows, size: int
) -> "Iterator[tuple[Tensor, Int[np.ndarray, ' tokens']]]":
    """Activations of the rows and their document numbers, ``size`` rows at a time."""
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        yield torch.from_numpy(store.rows(site, rows.rows[part])), rows.docs[part]


def encode(codec: Codec, x: Float[Tensor, "tokens d_model"]) -> Float[Tensor, "tokens d_sae"]:
    """Latents, computed where the codec's weights are."""
    weights = getattr(codec, "W_dec", None)
    return codec.encode(x if weights is None else x.to(weights.device))


def decode(codec: Codec, acts: Float[Tensor, "tokens d_sae"]) -> Float[Tensor, "tokens d_model"]:
    """Reconstructions on the CPU."""
    return codec.decode(acts).cpu()


def to_csr(acts: Float[Tensor, "tokens d_sae"]) -> Latents:
    """The non-zero latents as a scipy matrix."""
    acts = acts.cpu()
    row, column = acts.nonzero(as_tuple=True)
    where = (row.numpy(), column.numpy())
    return sparse.csr_array((acts[row, column].numpy(), where), shape=tuple(acts.shape))
