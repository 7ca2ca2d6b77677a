"""What a dictionary reads and what it writes: one site, one and another, or several together."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.saes.architectures import DictionaryConfig


@dataclass(frozen=True)
class Ends:
    """Sites of a batch ``{site: [tokens, d]}`` that a dictionary reads, and those that it writes.

    Several sites are one vector: their numbers, in this order.
    """

    reads: tuple[str, ...]
    writes: tuple[str, ...]

    @classmethod
    def of(cls, config: DictionaryConfig, default: str = "") -> "Ends":
        """As a config names them; ``default`` is the site of one that names none."""
        if config.sites is not None:
            return cls(config.sites, config.sites)
        site = config.site or default
        return cls((site,), (config.target or site,))

    @property
    def sites(self) -> tuple[str, ...]:
        """All of them, each once."""
        return tuple(dict.fromkeys(self.reads + self.writes))

    @property
    def same(self) -> bool:
        """Whether what is read is what is written."""
        return self.reads == self.writes

    @property
    def key(self) -> str:
        """``a``, ``a>b`` or ``a+b``."""
        read = "+".join(self.reads)
        return read if self.same else f"{read}>{'+'.join(self.writes)}"

    def x(self, batch: Mapping[str, Tensor]) -> Float[Tensor, "tokens d_in"]:
        """What is read of a batch."""
        return _joined([batch[site] for site in self.reads])

    def y(self, batch: Mapping[str, Tensor]) -> Float[Tensor, "tokens d_out"] | None:
        """What is to be written; None where it is what is read."""
        return None if self.same else _joined([batch[site] for site in self.writes])

    def scale(
        self, scales: Mapping[str, float], widths: Mapping[str, int], *, out: bool = False
    ) -> float | Float[Tensor, " d"]:
        """Factor of what is read, or written: a number, or one per dimension of several sites."""
        sites = self.writes if out else self.reads
        if len(sites) == 1:
            return scales[sites[0]]
        return torch.cat([torch.full((widths[s],), scales[s]) for s in sites])


def all_sites(ends: list[Ends]) -> list[str]:
    """Every site that is read or written, once."""
    return list(dict.fromkeys(site for one in ends for site in one.sites))


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
