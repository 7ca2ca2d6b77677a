"""Activations as clouds of points: which rows of which sources are measured.

Steps, numbered in the body:

1. A source is a store, several stores by name (models, checkpoints), or arrays by name.
2. Of a store, rows are taken by position. A causal model gives equal states to equal prefixes, up
   to rounding, so a prefix that occurred before is left out and counted (not for anisotropy).
3. Rows are drawn at random; every source gives as many, because dimensions depend on their number.
4. What is exactly equal all the same is left out and counted by :func:`distinct`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int, UInt64

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError, NonFiniteError, NotEnoughDataError, UnknownNameError
from lensbench.sites import Site
from lensbench.store import ActivationStore, StoreIndex

if TYPE_CHECKING:
    from torch import Tensor

PositionName = Literal["all", "not_first", "last"]
POSITIONS = ("all", "not_first", "last")
_FACTOR = np.uint64(0x9E37_79B9_7F4A_7C15)


@dataclass(frozen=True, eq=False)
class Cloud:
    """Rows of one site of one source; read when they are asked for."""

    source: str
    site: str
    docs: Int[np.ndarray, " rows"]
    """What a row was drawn with: its document. Intervals are over these."""
    positions: Int[np.ndarray, " rows"]
    """Place in the sequence, BOS included; all 0 of arrays."""
    read: Callable[[], np.ndarray]
    tokens: Int[np.ndarray, " rows"] | None = None
    n_repeated: int = 0
    """Rows left out because their prefix had occurred before."""
    control: bool = False
    rows: Int[np.ndarray, " rows"] | None = None
    """Row numbers in the store."""
    n_stored: int = 0
    n_documents: int = 0
    """Rows and documents of the whole store."""

    @property
    def layer(self) -> int | None:
        """Layer of the site; None of arrays with other names."""
        try:
            return Site.parse(self.site).layer
        except ConfigError:
            return None

    @property
    def length(self) -> float:
        """Mean number of tokens that a row's state has seen; NaN of arrays."""
        return float(np.mean(self.positions) + 1) if self.tokens is not None else float("nan")

    def x(self) -> Float[np.ndarray, "rows width"]:
        """The activations, float64.

        Raises:
            NonFiniteError: NaN or infinity among them.
        """
        found = np.asarray(self.read(), dtype=np.float64)
        bad = ~np.isfinite(found).all(1)
        if bad.any():
            raise NonFiniteError(
                f"{int(bad.sum())} of {len(found)} rows of {self.site} ({self.source or 'array'}) "
                f"are not finite, the first is row {int(bad.argmax())}; capture in float32, or "
                "leave these rows out"
            )
        return found


def clouds_of(
    source: Any,
    *,
    sites: Sequence[str] | str | None = None,
    positions: PositionName = "all",
    max_rows: int | None = None,
    repeated: bool = False,
    seed: int = 0,
    controls: Mapping[str, Any] | None = None,
    least: int = 3,
    why: str = "",
    paired: bool = False,
) -> tuple[Cloud, ...]:
    """Clouds of every site of every source, those of ``controls`` last.

    ``paired`` keeps the rows that every store has: the same row numbers, or documents at ``last``.
    ``why`` says in an error what ``least`` is for.

    Raises:
        ConfigError: neither store nor arrays, an unknown position, or no site left.
        MissingDataError: a store lacks a site; says how to add it.
        NotEnoughDataError: fewer than ``least`` rows.
    """
    if positions not in POSITIONS:
        raise UnknownNameError("position", str(positions), known=POSITIONS)
    cap = None if max_rows is None else whole_number("max_rows", max_rows, least=least)
    seed = whole_number("seed", seed, least=0)
    given = [(name, one, control) for control, group in ((False, source), (True, controls or {}))
             for name, one in _named(group).items()]  # 1  # fmt: skip
    if not any(not control for _, _, control in given):
        raise ConfigError("no source given; pass a store, stores by name, or arrays by name")
    stores = [one for _, one, _ in given if isinstance(one, ActivationStore)]
    rows = _rows(stores, positions, repeated=repeated, paired=paired)
    found: list[Cloud] = []
    for name, one, control in given:
        if isinstance(one, ActivationStore):
            made = _of_store(name, one, sites, next(rows), seed)
        else:
            made = _of_arrays(name, one, seed)
        found += [replace(cloud, control=control) for cloud in made]
    n = min(len(cloud.docs) for cloud in found)
    n = n if cap is None else min(n, cap)
    if n < least:
        raise NotEnoughDataError(
            f"{n} rows are left, {least} are needed{why}; capture more text, or choose other "
            "positions"
        )
    return tuple(_first_rows(cloud, n) for cloud in found) if cap or not repeated else tuple(found)


def distinct(x: Float[np.ndarray, "rows width"]) -> Bool[np.ndarray, " rows"]:
    """True at the first of every set of equal rows (4)."""
    plain = np.ascontiguousarray(x) + 0.0  # -0 becomes 0
    keys = plain.view(np.dtype((np.void, plain.dtype.itemsize * plain.shape[1]))).reshape(-1)
    kept = np.zeros(len(x), bool)
    kept[np.unique(keys, return_index=True)[1]] = True
    return kept


def prefix_hashes(store: ActivationStore) -> UInt64[np.ndarray, " rows"]:
    """A number per row that two rows share where the model saw the same tokens up to them."""
    found = np.zeros(store.n_tokens, np.uint64)
    for batch in store.sequences():
        ids, rows = batch.tokens.ids.numpy().astype(np.uint64), batch.rows
        state = np.zeros(len(ids), np.uint64)
        for place in range(ids.shape[1]):
            state = (state ^ (ids[:, place] + np.uint64(1))) * _FACTOR
            state ^= state >> np.uint64(29)
            kept = rows[:, place] >= 0
            found[rows[kept, place]] = state[kept]
    return found


def as_points(x: "np.ndarray | Tensor", name: str = "x") -> Float[np.ndarray, "rows width"]:
    """Rows of numbers as float64.

    Raises:
        ConfigError: no matrix of real numbers.
        NonFiniteError: NaN or infinity.
    """
    try:
        found = np.asarray(x, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{name} must be a matrix of numbers, got {type(x).__name__}") from error
    if found.ndim != 2 or 0 in found.shape:
        raise ConfigError(f"{name} must have shape [rows, width], got {list(found.shape)}")
    if not np.isfinite(found).all():
        bad = int((~np.isfinite(found)).any(1).sum())
        raise NonFiniteError(f"{bad} of {len(found)} rows of {name} are not finite")
    return found


def _named(source: Any) -> Mapping[str, Any]:
    """Sources by name; one alone has none."""
    if isinstance(source, Mapping) and any(isinstance(v, (ActivationStore, Mapping))
                                           for v in source.values()):  # fmt: skip
        return {str(k): v for k, v in source.items()}
    return {"": source} if not isinstance(source, Mapping) or source else {}


@dataclass(frozen=True, eq=False)
class _Rows:
    index: StoreIndex
    at: Int[np.ndarray, " rows"]
    dropped: int


def _rows(
    stores: Sequence[ActivationStore], positions: PositionName, *, repeated: bool, paired: bool
) -> Iterator[_Rows]:
    """Rows by position, those of a prefix that occurred before left out (2)."""
    found: list[_Rows] = []
    for store in stores:
        index = store.index()
        at = np.flatnonzero(_at(positions, index.positions, index.doc_ids))
        total = len(at)
        if not repeated:
            at = at[np.sort(np.unique(prefix_hashes(store)[at], return_index=True)[1])]
        found.append(_Rows(index, at, total - len(at)))
    if paired and len(found) > 1:
        names = [r.index.doc_ids[r.at] if positions == "last" else r.at for r in found]
        common = reduce(np.intersect1d, names)
        found = [
            _Rows(r.index, r.at[np.isin(name, common)], r.dropped + len(r.at) - len(common))
            for r, name in zip(found, names, strict=True)
        ]
    return iter(found)


def _of_store(
    name: str, store: ActivationStore, sites: Sequence[str] | str | None, rows: _Rows, seed: int
) -> list[Cloud]:
    at = np.random.default_rng(seed).permutation(rows.at)  # 3
    index = rows.index
    return [
        Cloud(
            name or str(store.model.get("name", "")), site, index.doc_ids[at],
            index.positions[at].astype(np.int64), partial(store.rows, site, at),
            index.token_ids[at].astype(np.int64), rows.dropped, rows=at,
            n_stored=len(index.doc_ids), n_documents=int(index.doc_ids.max()) + 1,
        )
        for site in _sites(store, sites)
    ]  # fmt: skip


def _sites(store: ActivationStore, sites: Sequence[str] | str | None) -> list[str]:
    if sites is None:
        found = [s for s in store.sites if Site.parse(s).name == "resid_post"]
        if not found:
            store.require("blocks.0.resid_post")
        return found
    wanted = [sites] if isinstance(sites, str) else list(sites)
    store.require(wanted)
    return [str(Site.parse(s)) for s in wanted]


def _at(
    name: PositionName, positions: Int[np.ndarray, " rows"], docs: Int[np.ndarray, " rows"]
) -> Bool[np.ndarray, " rows"]:
    if name == "all":
        return np.ones(len(docs), bool)
    if name == "not_first":
        return positions > 0
    return np.r_[docs[1:] != docs[:-1], True] if len(docs) else np.zeros(0, bool)


def _of_arrays(name: str, given: Any, seed: int) -> list[Cloud]:
    arrays = given if isinstance(given, Mapping) else {"x": given}
    points = {str(k): as_points(v, str(k)) for k, v in arrays.items()}
    sizes = {len(x) for x in points.values()}
    if len(sizes) != 1:
        raise ConfigError(f"arrays of one source need the same rows, got {sorted(sizes)}")
    n = sizes.pop()
    order = np.random.default_rng(seed).permutation(n)
    return [
        Cloud(
            name,
            site,
            order.astype(np.int64),
            np.zeros(n, np.int64),
            partial(_ordered, x, order),
            n_stored=n,
            n_documents=n,
        )
        for site, x in points.items()
    ]


def _ordered(x: np.ndarray, order: np.ndarray) -> np.ndarray:
    return x[order]


def _first_rows(cloud: Cloud, n: int) -> Cloud:
    read = cloud.read
    if isinstance(read, partial):  # read no more than is needed
        *first, rows = read.args
        read = partial(read.func, *first, rows[:n])
    cut = lambda values: None if values is None else values[:n]  # noqa: E731 - two uses
    return replace(cloud, docs=cloud.docs[:n], positions=cloud.positions[:n], read=read,
                   tokens=cut(cloud.tokens), rows=cut(cloud.rows))  # fmt: skip
