"""From sweep files, environment, flags and ``--set`` to one checked :class:`SweepConfig`.

Later ones win: files in the order given, then ``LENSBENCH_SET``, then flags, then ``--set``.
``sweep.key=value`` and the flags hold for every entry of the sweep; a list makes a grid.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lensbench.app.workflows.settings import assignments, from_environment, merged, read_value
from lensbench.config import load_mapping
from lensbench.errors import ConfigError, UnknownNameError
from lensbench.saes.architectures import ARCHITECTURES
from lensbench.saes.configs import SweepConfig

TOKENS, WIDTH, SPARSITY = 500_000, 512, 32


@dataclass(frozen=True)
class TrainRequest:
    """What the user typed after ``lensbench train sae``."""

    config: Path | tuple[Path, ...] | None = None
    store: Path | None = None
    model: str | None = None
    text: str | None = None
    sites: tuple[str, ...] = ()
    architecture: str | None = None
    d_sae: str | None = None
    k: str | None = None
    tokens: int | None = None
    assign: tuple[str, ...] = field(default=())
    out: Path | None = None
    resume: Path | None = None
    array: str | None = None
    dry_run: bool = False
    sinks: tuple[str, ...] = ()


def read_sweep(request: TrainRequest) -> SweepConfig:
    """The sweep that was asked for; its sites may still be missing.

    Raises:
        ConfigError: every fault with its key and the nearest known one.
    """
    base = _from_files(request.config)
    around, asked = from_environment(), assignments(request.assign)
    below, everywhere = around.pop("sweep", {}), asked.pop("sweep", {})
    for entries in (below, everywhere):
        if not isinstance(entries, Mapping):
            raise ConfigError("--set sweep.<key>=<value> sets a key of every entry of the sweep")
    source = {"model": request.model, "text": request.text}
    if request.store is not None:
        source["store"] = str(request.store.resolve())
    tree: dict[str, Any] = {
        "source": {k: v for k, v in source.items() if v is not None},
        "train": {} if request.tokens is None else {"tokens": request.tokens},
    }
    if request.sinks:
        tree["train"]["sinks"] = list(request.sinks)
    tree = merged(merged(merged(base, around), tree), asked)
    if not isinstance(tree["train"], Mapping):
        raise ConfigError("--set train.<key>=<value> sets a key of train; it is no single value")
    tree["train"] = {"tokens": TOKENS, **tree["train"]}
    tree["sweep"] = _entries(base.get("sweep"), request, below, everywhere)
    return SweepConfig.parse(tree)


def part_of(sweep: SweepConfig, array: str) -> SweepConfig:
    """The dictionaries of part ``i`` of ``n``: i, i + n, i + 2n, ... (from 1).

    Raises:
        ConfigError: not ``i/n`` with 1 <= i <= n, or a part without a dictionary.
    """
    i, n = read_part(array)
    chosen = sweep.expand()[i - 1 :: n]
    if not chosen:
        raise ConfigError(f"--array {array}: the sweep has {len(sweep.expand())} dictionaries only")
    return with_entries(sweep, [c.to_dict() for c in chosen])


def read_part(array: str) -> tuple[int, int]:
    """``i/n`` as two numbers.

    Raises:
        ConfigError: not that, or not 1 <= i <= n.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", array)
    i, n = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= i <= n:
        raise ConfigError(f"--array needs i/n with 1 <= i <= n, such as 2/4; got {array!r}")
    return i, n


def with_sites(sweep: SweepConfig, sites: Sequence[str]) -> SweepConfig:
    """The sweep with ``sites`` for the entries that name none (several sites make a grid)."""
    chosen: Any = list(sites) if len(sites) > 1 else sites[0]
    entries = [
        e if e.get("site") or e.get("sites") or sweep.source.site else {**e, "site": chosen}
        for e in sweep.sweep
    ]
    return with_entries(sweep, entries)


def with_entries(sweep: SweepConfig, entries: Sequence[Mapping[str, Any]]) -> SweepConfig:
    """The same source and settings for other dictionaries."""
    return SweepConfig.parse({**sweep.to_dict(), "sweep": [dict(e) for e in entries]})


def _from_files(paths: Path | tuple[Path, ...] | None) -> dict[str, Any]:
    """Files one over the other: their sections merge, a later ``sweep`` replaces an earlier."""
    found: dict[str, Any] = {}
    for path in (paths,) if isinstance(paths, Path) else paths or ():
        one = load_mapping(path)
        found = merged(
            found, one | {"source": _absolute(one["source"])} if "source" in one else one
        )
    return found


def _absolute(source: Any) -> Any:
    """A store named from the folder one stands in is found again from any other."""
    if not isinstance(source, Mapping):
        return source
    found = dict(source)
    if isinstance(store := source.get("store"), str):
        found["store"] = _resolved(store)
    if isinstance(stores := source.get("stores"), Mapping):
        found["stores"] = {name: _resolved(url) for name, url in stores.items()}
    return found


def _resolved(url: Any) -> Any:
    return url if not isinstance(url, str) or "://" in url else str(Path(url).resolve())


def _entries(
    given: Any, request: TrainRequest, below: Mapping[str, Any], everywhere: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Entries of the files, or one per named architecture: under flags, under ``--set``."""
    flags = {
        name: read_value(value)
        for name, value in (("d_sae", request.d_sae), ("k", request.k))
        if value is not None
    }
    if request.sites:
        flags["site"] = list(request.sites)
    if given is not None:
        if request.architecture is not None:
            flags["architecture"] = read_value(request.architecture)
        if not isinstance(given, list) or not all(isinstance(e, dict) for e in given):
            raise ConfigError("sweep must be a list of entries {architecture, d_sae, k, ...}")
        return [merged(merged(merged(entry, below), flags), everywhere) for entry in given]
    usual = {"d_sae": WIDTH, **below}
    wanted: Any = read_value(request.architecture or "topk")
    names = [str(name) for name in (wanted if isinstance(wanted, list) else [wanted])]
    return [
        merged(
            {"architecture": name, **_fitting(name, {**usual, **flags}, everywhere)},
            everywhere,
        )
        for name in names
    ]


def _fitting(
    architecture: str, flags: Mapping[str, Any], everywhere: Mapping[str, Any]
) -> dict[str, Any]:
    """Flags of one architecture: ``--k`` is the k of those that have one, the L0 of the others.

    Where ``--set`` gives a coefficient, that one decides and ``--k`` is the k of the rest.
    """
    if architecture not in ARCHITECTURES:
        raise UnknownNameError("architecture", architecture, known=tuple(ARCHITECTURES))
    if "k" in ARCHITECTURES[architecture].model_fields:
        return {"k": SPARSITY, **flags}
    rest = {name: value for name, value in flags.items() if name != "k"}
    fixed = {"target_l0", "l1_coefficient", "l0_coefficient"} & (rest.keys() | everywhere.keys())
    return rest if fixed or "k" not in flags else {"target_l0": flags["k"], **rest}
