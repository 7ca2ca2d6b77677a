"""Stores of several models over one text, read row by row together: what a crosscoder compares.

Sites are named ``model:site``, such as ``base:blocks.3.resid_post``.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from lensbench.errors import ConfigError, MismatchError, UnknownSiteError
from lensbench.sites import canonical_name
from lensbench.store.reader import ActivationStore, StoreIndex
from lensbench.store.source import StoreSource

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class PairedStores:
    """Stores by the name of their model. Row ``i`` of each belongs to the same token.

    Raises:
        ConfigError: fewer than two stores, or a name that cannot stand before a colon.
        MismatchError: stores of other tokens, or of the same tokens at other places.
    """

    def __init__(self, stores: Mapping[str, ActivationStore]) -> None:
        if len(stores) < 2:
            raise ConfigError(f"pair_stores takes two stores or more by name, got {len(stores)}")
        for name in stores:
            if not _NAME.fullmatch(name):
                raise ConfigError(
                    f"{name!r} cannot name a store; use letters, digits, '-' and '_', such as base"
                )
        self.stores = dict(stores)
        (first, kept), *others = ((n, s.index()) for n, s in stores.items())
        for name, index in others:
            if (what := _difference(kept, index)) is not None:
                raise MismatchError(
                    f"the stores {first} ({self.stores[first].url}) and {name} "
                    f"({self.stores[name].url}) do not belong together: {what}. Capture both from "
                    "one text, with one tokenizer and the same settings"
                )

    @property
    def sites(self) -> tuple[str, ...]:
        """``model:site``, model by model."""
        return tuple(
            f"{name}:{site}" for name, store in self.stores.items() for site in store.sites
        )

    @property
    def n_tokens(self) -> int:
        """Rows of each store."""
        return next(iter(self.stores.values())).n_tokens

    @property
    def model(self) -> dict[str, Any]:
        """The models, by name, and a name and fingerprint for them together."""
        models = {name: store.model for name, store in self.stores.items()}
        prints = [str(m.get("fingerprint")) for m in models.values()]
        names = [f"{name}: {m.get('name')}" for name, m in models.items()]
        return {"name": ", ".join(names), "fingerprint": "+".join(prints), "models": models}

    def width(self, site: str) -> int:
        """Numbers per row of a site."""
        name, own = self._split(site)
        return self.stores[name].width(own)

    def source(self, sites: str | Sequence[str], **options: Any) -> "PairedSource":
        """An ``ActivationSource`` over these rows; options as in :class:`StoreSource`."""
        wanted: dict[str, list[str]] = {}
        for site in [sites] if isinstance(sites, str) else sites:
            name, own = self._split(site)
            wanted.setdefault(name, []).append(own)
        return PairedSource(
            {name: self.stores[name].source(own, **options) for name, own in wanted.items()},
            self.model,
        )

    def _split(self, site: str) -> tuple[str, str]:
        name, colon, own = site.partition(":")
        if (
            not colon
            or name not in self.stores
            or canonical_name(own) not in self.stores[name].sites
        ):
            raise UnknownSiteError(site, known=self.sites, hint="Sites are written model:site.")
        return name, canonical_name(own)


class PairedSource:
    """See :meth:`PairedStores.source`; every part is in the same place of the same order."""

    def __init__(self, parts: Mapping[str, StoreSource], model: dict[str, Any]) -> None:
        self._parts, self.model = dict(parts), model

    @property
    def sites(self) -> tuple[str, ...]:
        """Sites in every batch."""
        return tuple(f"{name}:{site}" for name, part in self._parts.items() for site in part.sites)

    @property
    def n_rows(self) -> int:
        """Rows per epoch."""
        return next(iter(self._parts.values())).n_rows

    def width(self, site: str) -> int:
        """Numbers per row of a site."""
        name, _, own = site.partition(":")
        return self._parts[name].width(own)

    def batches(self, batch_size: int) -> Iterator[dict[str, Tensor]]:
        """Batches from the current position on."""
        streams = {name: part.batches(batch_size) for name, part in self._parts.items()}
        for together in zip(*streams.values(), strict=True):
            yield {
                f"{name}:{site}": x
                for name, batch in zip(streams, together, strict=True)
                for site, x in batch.items()
            }

    def state_dict(self) -> dict[str, Any]:
        """The position of every part."""
        parts = {name: part.state_dict() for name, part in self._parts.items()}
        return {"kind": "paired", "parts": parts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position.

        Raises:
            MismatchError: a position in other stores.
        """
        known = state.get("parts") if state.get("kind") == "paired" else None
        if not isinstance(known, Mapping) or set(known) != set(self._parts):
            raise MismatchError(
                f"this position belongs to {sorted(known or {}) or state.get('kind')}, not to the "
                f"stores {sorted(self._parts)}"
            )
        for name, part in self._parts.items():
            part.load_state_dict(known[name])


def pair_stores(stores: Mapping[str, ActivationStore]) -> PairedStores:
    """Stores of several models over one text: see :class:`PairedStores`."""
    return PairedStores(stores)


def _difference(a: StoreIndex, b: StoreIndex) -> str | None:
    if len(a.token_ids) != len(b.token_ids):
        return f"they hold {len(a.token_ids):,} and {len(b.token_ids):,} rows"
    for what in ("token_ids", "positions", "doc_ids"):
        off = np.flatnonzero(getattr(a, what) != getattr(b, what))
        if off.size:
            return f"{what} differ, first in row {int(off[0]):,}"
    return None
