"""What the quality measures read, checked once: latents, activations, decoders and labels.

Latents may be a scipy matrix, an array or a tensor ``[rows, d_sae]``; a decoder may be ``W_dec``
itself, anything that has one, or a run; labels are yes/no per row, by name.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import sparse

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError, MismatchError, NonFiniteError
from lensbench.saes.evaluation.controls import own_seed
from lensbench.saes.evaluation.labels import LabelledRows, Latents
from lensbench.worlds import controls


def matrix(value: Any, what: str, shape: str = "[rows, d_model]") -> Float[np.ndarray, "a b"]:
    """``value`` (array or tensor) as a float64 matrix.

    Raises:
        ConfigError: not two axes of numbers, or an empty one.
        NonFiniteError: NaN or infinity in it.
    """
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().to(torch.float64).numpy()
    try:
        found = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        came = type(value).__name__
        raise ConfigError(f"{what} must be numbers {shape}, got a {came}") from None
    if found.ndim != 2 or 0 in found.shape:
        raise ConfigError(f"{what} must be {shape} and not empty, got shape {list(found.shape)}")
    _finite(found, what)
    return found


def latents_of(acts: Any, n_rows: int | None = None) -> Latents:
    """Latents as a float64 ``csr_array [rows, d_sae]`` without stored zeros.

    Raises:
        ConfigError: not two axes of numbers, or an empty one.
        MismatchError: not ``n_rows`` rows.
        NonFiniteError: NaN or infinity in them.
    """
    if sparse.issparse(acts):
        if 0 in acts.shape or len(acts.shape) != 2:
            raise ConfigError(f"latents must be [rows, d_sae] and not empty, got {acts.shape}")
        found: Latents = sparse.csr_array(acts, dtype=np.float64)
        _finite(found.data, "latents")
    else:
        found = sparse.csr_array(matrix(acts, "latents", "[rows, d_sae]"))
    found.eliminate_zeros()
    if n_rows is not None and found.shape[0] != n_rows:
        raise MismatchError(f"{found.shape[0]} rows of latents but {n_rows} of labels")
    return found


def rows_of(x: Any, n_rows: int, what: str = "activations") -> Float[np.ndarray, "rows d_model"]:
    """Activations ``[rows, d_model]`` of the same rows; see :func:`matrix` for the errors."""
    found = matrix(x, what)
    if len(found) != n_rows:
        raise MismatchError(f"{len(found)} rows of {what} but {n_rows} of labels")
    return found


def decoder_of(dictionary: Any, what: str = "the decoder") -> Float[np.ndarray, "d_sae d_model"]:
    """Decoder rows of a run or dictionary, or the matrix; see :func:`matrix` for the errors."""
    inner = getattr(dictionary, "coder", dictionary)  # of a run
    return matrix(getattr(inner, "W_dec", inner), what, "[d_sae, d_model]")


def fits(
    acts: Latents, W_dec: Float[np.ndarray, "d_sae d_model"], d_model: int | None = None
) -> None:
    """Refuse latents and decoder of different dictionaries.

    Raises:
        MismatchError: another number of latents, or activations of another width.
    """
    if acts.shape[1] != len(W_dec):
        raise MismatchError(f"{acts.shape[1]} latents but {len(W_dec)} decoder rows")
    if d_model is not None and W_dec.shape[1] != d_model:
        raise MismatchError(f"activations [{d_model}] wide but decoder rows [{W_dec.shape[1]}]")


def unit_rows(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Rows divided by their norms; a zero row has no direction and becomes NaN."""
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norm > 0, norm, np.nan)


def label_rows(
    labels: Any,
    *,
    docs: Int[np.ndarray, " rows"] | None = None,
    held: Bool[np.ndarray, " rows"] | None = None,
    share: float = 0.25,
    seed: int = 0,
) -> LabelledRows:
    """Your own yes/no labels of activation rows, with a half to choose on and one to score on.

    Args:
        labels: a mapping: by name, one truth value per row.
        docs: document of every row; without it every row is a document of its own.
        held: rows of the scoring half; without it a random ``share`` of the documents.
        share: part of the documents that is scored, between 0 and 1.
        seed: of that choice.

    Raises:
        ConfigError: no labels, not truth values, another length, or an empty half.
        MismatchError: a document in both halves.

    Example:
        >>> labels = {"first is positive": (x[:, 0] > 0).numpy()}
        >>> rows = saes.label_rows(labels, seed=0)
    """
    if not isinstance(labels, Mapping) or not labels:
        raise ConfigError("labels must map at least one name to a truth value per row")
    columns = {str(name): _truth(str(name), value) for name, value in labels.items()}
    lengths = {name: len(c) for name, c in columns.items()}
    n = next(iter(lengths.values()))
    if not n or set(lengths.values()) != {n}:
        raise ConfigError(f"labels must be of one length, above 0; got {lengths}")
    documents = np.arange(n) if docs is None else np.asarray(docs)
    if held is None:
        if not 0 < share < 1:
            raise ConfigError(f"share must lie between 0 and 1, got {share}")
        chosen = own_seed(whole_number("seed", seed, least=0), "label rows")
        held = controls.split_documents(documents, share=share, seed=chosen)
    scored = _truth("held", held)
    if documents.shape != (n,) or len(scored) != n:
        raise ConfigError(
            f"docs and held must have one entry per label row ({n}), got {list(documents.shape)} "
            f"and {len(scored)}"
        )
    values = np.stack(list(columns.values()), 1)
    kinds = ("user",) * len(columns)
    split = "documents dealt at random" if docs is not None else "rows dealt at random"
    return LabelledRows(
        tuple(columns), kinds, values, documents, np.zeros(n, np.int64), scored, split
    )


def shuffled(rows: LabelledRows, seed: int) -> LabelledRows:
    """The same rows under labels of other documents of the same half (a control)."""
    values = rows.values.copy()
    for half in (rows.held, ~rows.held):
        columns = {str(i): values[half, i] for i in range(values.shape[1])}
        chosen = own_seed(seed, "shuffled labels")
        dealt = controls.shuffled_labels(columns, rows.docs[half], seed=chosen)
        values[half] = np.stack(list(dealt.values()), 1)
    return rows.replacing(values)


def random_latents(
    x: Float[np.ndarray, "rows d_model"], acts: Latents, seed: int
) -> tuple[Latents, Float[np.ndarray, "d_sae d_model"]]:
    """Latents and decoder of a random dictionary of the same width and L0, on centred rows."""
    chosen = own_seed(seed, "random dictionary")
    codec = controls.random_dictionary(x.shape[1], acts.shape[1], l0_of(acts), seed=chosen)
    centred = torch.from_numpy(x - x.mean(0)).float()
    parts = [
        sparse.csr_array(codec.encode(block).clamp(min=0).double().numpy())
        for block in centred.split(max(1, 16_000_000 // acts.shape[1]))
    ]
    return sparse.csr_array(sparse.vstack(parts)), codec.W_dec.double().numpy()


def l0_of(acts: Latents) -> int:
    """Latents per row, as a whole number from 1 to the width."""
    return min(max(1, round(acts.nnz / acts.shape[0])), acts.shape[1])


def _truth(name: str, value: Any) -> Bool[np.ndarray, " rows"]:
    array = np.asarray(value.cpu() if isinstance(value, torch.Tensor) else value)
    if array.ndim != 1 or not (array.dtype == bool or np.isin(array, (0, 1)).all()):
        raise ConfigError(
            f"{name!r} must be one truth value per row, got {array.dtype} {list(array.shape)}"
        )
    return array.astype(bool)


def _finite(array: Float[np.ndarray, "..."], what: str) -> None:
    bad = int((~np.isfinite(array)).sum())
    if bad:
        raise NonFiniteError(f"{bad} of {array.size} numbers in {what} are NaN or infinite")
