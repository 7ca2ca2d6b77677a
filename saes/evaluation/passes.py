"""The passes over stored rows: every dictionary of a site on the same blocks of activations.

A transcoder reads one site and is scored on another: both are read from the store, row by row.
"""

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
from lensbench.saes.ends import Ends
from lensbench.saes.evaluation.data import EvaluationRows
from lensbench.saes.evaluation.labels import Latents
from lensbench.saes.evaluation.sums import Moments, ReconstructionSums
from lensbench.saes.evaluation.written import written
from lensbench.saes.sae import SAE
from lensbench.saes.transcoder import Transcoder
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
    target: str = ""
    """Site that it writes, where that is not the one it reads (of a transcoder its own)."""

    @property
    def writes(self) -> str:
        """Site that it writes."""
        return self.target or self.site

    @property
    def ends(self) -> tuple[str, str]:
        """Site that it reads, site that it writes."""
        return self.site, self.writes

    @property
    def told_site(self) -> str:
        """``a``, or ``a>b`` where it writes another site."""
        return Ends((self.site,), (self.writes,)).key


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
    transcoder will do: its latents are those of the site that it reads. See :func:`to_score`.

    Raises:
        ConfigError: no dictionary, or one that does not say which site it belongs to.
        MismatchError: a transcoder or a crosscoder where it cannot be one.
    """
    if isinstance(run, Dictionary):
        target = run.target or getattr(run.codec, "target", None)
        _refuse_crosscoder(run.name, run.codec)
        if not encoded:
            _refuse(run.name, run.codec, target)
        return _with_target(replace(run, site=canonical_name(run.site)), target)
    sae = getattr(run, "coder", None) or getattr(run, "sae", run)
    if not hasattr(sae, "config") or not hasattr(sae, "metadata"):
        is_path = isinstance(run, (str, PathLike))
        what = f"the path {str(run)!r}" if is_path else f"what was given (got a {_kind(run)})"
        raise ConfigError(_NO_DICTIONARY.format(what=what, path=str(run) if is_path else "RUN"))
    own = sae.config.get("name") or sae.metadata.get("name")
    name = getattr(run, "name", None) or own or "sae"
    target = getattr(sae, "target", None)
    _refuse_crosscoder(str(name), sae)
    if not encoded:
        _refuse(str(name), sae, target)
    whole = getattr(sae, "role", SAE.role) == SAE.role  # else a run names both sites as one
    site = (getattr(run, "site", None) if whole else None) or sae.site
    if not site:
        raise ConfigError(
            f"{name!r} does not say which site it reads; wrap it as Dictionary(name, site, sae)"
        )
    architecture = sae.config.get("architecture") or sae.activation
    if isinstance(sae, Transcoder):  # on a front it is no SAE
        architecture += " transcoder" if sae.W_skip is None else " skip transcoder"
    trained_on = (sae.metadata.get("model") or {}).get("fingerprint", "")
    told = (architecture, str(trained_on or ""), sae.metadata)
    return _with_target(Dictionary(str(name), canonical_name(str(site)), sae, *told), target)


def to_score(run: Any) -> Dictionary:
    """The same, to compare with what it should write: an SAE, or a transcoder with its target.

    Raises:
        ConfigError: no dictionary, or one that does not say which sites it belongs to.
        MismatchError: a crosscoder.
    """
    found = as_dictionary(run, encoded=True)
    told = found.target or getattr(found.codec, "target", None)
    if getattr(found.codec, "role", SAE.role) == Transcoder.role and not told:
        raise ConfigError(
            f"{found.name!r} is a transcoder that does not say which site it writes; wrap it as "
            "Dictionary(name, site, coder, target=site_written)"
        )
    return found


def _with_target(dictionary: Dictionary, target: Any) -> Dictionary:
    """Its target in our spelling; none where it is the site that it reads."""
    named = canonical_name(str(target)) if target else ""
    return replace(dictionary, target="" if named == dictionary.site else named)


def _refuse_crosscoder(name: str, codec: Any) -> None:
    if getattr(codec, "role", SAE.role) == Crosscoder.role:
        raise MismatchError(
            f"{name} is a crosscoder, which has no one site; saes.compare_sites says what its "
            "sites share, and run.coder.join, .encode and .split take activations by site"
        )


def _refuse(name: str, codec: Any, target: str | None) -> None:
    """Refuse what does not write the one site that it reads."""
    role = getattr(codec, "role", SAE.role)
    if role != SAE.role or target:
        raise MismatchError(
            f"{name} is a {role if role != SAE.role else Transcoder.role}, which does not "
            "reconstruct what it reads; saes.evaluate compares what it writes with "
            f"{target or 'its target'}"
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
    """What the passes over the rows of one site (or of two, read and written) leave."""

    reads: Moments
    writes: Moments
    """Of the site that is reconstructed; the same object where that is the one that is read."""
    sums: dict[str, ReconstructionSums]
    acts: dict[str, Latents]

    @property
    def mean(self) -> Float[Tensor, " d_out"]:
        """Mean of the site that is reconstructed, in float64."""
        return self.writes.mean


def encode_all(
    store: "ActivationStore",
    ends: tuple[str, str],
    rows: EvaluationRows,
    dictionaries: Sequence[Dictionary],
    batch_size: int,
    keep: bool,
    seen: Pass | None = None,
) -> Pass:
    """Moments, reconstruction sums and (with ``keep``) latents of the dictionaries of these ends.

    ``ends`` are the site that is read and the site that is written. The rows are read twice, in
    blocks: once for the moments (unless they were ``seen``), once for every dictionary together.
    Each row is encoded once by each.
    """
    reads, writes = (seen.reads, seen.writes) if seen else moments(store, ends, rows, batch_size)
    here = [d for d in dictionaries if d.ends == ends]
    sums = {d.name: ReconstructionSums(writes.mean, rows.n_docs, d.codec.d_sae) for d in here}
    acts: dict[str, list[Latents]] = {d.name: [] for d in here}
    for x, y, docs in _both(store, ends, rows, batch_size):
        for d in here:
            latents = encode(d.codec, x)
            sums[d.name].update(y, _written(d.codec, latents, x), latents, docs)
            if keep:
                acts[d.name].append(to_csr(latents))
    stacked = {n: sparse.csr_array(sparse.vstack(a)) for n, a in acts.items() if a}
    return Pass(reads, writes, sums, stacked)


def moments(
    store: "ActivationStore", ends: tuple[str, str], rows: EvaluationRows, batch_size: int
) -> tuple[Moments, Moments]:
    """Of both sites, over the rows; one object where they are one site."""
    found = {site: Moments(store.width(site)) for site in dict.fromkeys(ends)}
    for site, into in found.items():
        for x, _ in blocks(store, site, rows, batch_size):
            into.update(x)
    return found[ends[0]], found[ends[1]]


def blocks(
    store: "ActivationStore", site: str, rows: EvaluationRows, size: int
) -> "Iterator[tuple[Tensor, Int[np.ndarray, ' tokens']]]":
    """Activations of the rows and their document numbers, ``size`` rows at a time."""
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        yield torch.from_numpy(store.rows(site, rows.rows[part])), rows.docs[part]


def _both(
    store: "ActivationStore", ends: tuple[str, str], rows: EvaluationRows, size: int
) -> "Iterator[tuple[Tensor, Tensor, Int[np.ndarray, ' tokens']]]":
    """The same of two sites at once: what is read, what should be written."""
    read, write = ends
    if read == write:
        yield from ((x, x, docs) for x, docs in blocks(store, read, rows, size))
        return
    pairs = zip(blocks(store, read, rows, size), blocks(store, write, rows, size), strict=True)
    yield from ((x, y, docs) for (x, docs), (y, _) in pairs)


def encode(codec: Codec, x: Float[Tensor, "tokens d_model"]) -> Float[Tensor, "tokens d_sae"]:
    """Latents, computed where the codec's weights are."""
    weights = getattr(codec, "W_dec", None)
    return codec.encode(x if weights is None else x.to(weights.device))


def _written(
    codec: Codec, acts: Float[Tensor, "tokens d_sae"], x: Float[Tensor, "tokens d_in"]
) -> Float[Tensor, "tokens d_out"]:
    """Reconstructions on the CPU."""
    return written(codec, acts, x.to(acts.device)).cpu()


def to_csr(acts: Float[Tensor, "tokens d_sae"]) -> Latents:
    """The non-zero latents as a scipy matrix."""
    acts = acts.cpu()
    row, column = acts.nonzero(as_tuple=True)
    where = (row.numpy(), column.numpy())
    return sparse.csr_array((acts[row, column].numpy(), where), shape=tuple(acts.shape))
