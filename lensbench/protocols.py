"""Four protocols that let method packages work together without importing one another.

SAE training needs an :class:`ActivationSource`, not a model; latent patching needs a
:class:`Codec`, not ``saes``; early exit needs a :class:`Readout`, and what reads an accelerated
model a :class:`Probe`, not ``probes``.
"""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class ActivationSource(Protocol):
    """Batches of activations of one or more sites, in a reproducible order.

    ``batches`` yields ``{site: [batch, d]}`` for ever or until the data end. ``state_dict`` names
    the position exactly; after ``load_state_dict`` the next batch is the one that would have come.
    """

    @property
    def sites(self) -> tuple[str, ...]:
        """Sites on offer."""
        ...

    def width(self, site: str) -> int:
        """Width of a site's vectors."""
        ...

    def batches(self, batch_size: int) -> Iterator[dict[str, Float[Tensor, "batch d"]]]:
        """Batches from the current position on."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """JSON-able position."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position returned by :meth:`state_dict`."""
        ...


@runtime_checkable
class Codec(Protocol):
    """A dictionary: activations to latents and back.

    Callers in this package pass ``[tokens, d_model]`` and ``[tokens, d_sae]``, so no more is asked
    of a dictionary; the package's own take any leading axes and give them back.
    """

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        ...

    def encode(self, x: Float[Tensor, "tokens d_model"]) -> Float[Tensor, "tokens d_sae"]:
        """Latents of activations."""
        ...

    def decode(self, acts: Float[Tensor, "tokens d_sae"]) -> Float[Tensor, "tokens d_model"]:
        """Activations from latents."""
        ...


@runtime_checkable
class Readout(Protocol):
    """Logits read from the residual stream after a layer."""

    def __call__(
        self, resid: Float[Tensor, "... d_model"], layer: int
    ) -> Float[Tensor, "... d_vocab"]:
        """Logits from the state that leaves block ``layer``."""
        ...


@runtime_checkable
class Probe(Protocol):
    """Scores of activations at one site, and so a decision about every token.

    One score: above 0 or not. Several: the largest. A ``numeric`` probe predicts the numbers.
    """

    @property
    def site(self) -> str:
        """Site whose activations it reads."""
        ...

    @property
    def numeric(self) -> bool:
        """Whether it predicts a number rather than a class."""
        ...

    def score(self, x: Float[np.ndarray, "rows width"]) -> np.ndarray:
        """``[rows]`` for one score, else ``[rows, outputs]``."""
        ...
