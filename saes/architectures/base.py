"""What every architecture has: width, learning rate, seed, site, losses of dead latents."""

import math
from typing import Any

from pydantic import Field

from lensbench.config import Config

REFERENCE_WIDTH = 2**14


class DictionaryConfig(Config):
    """What every architecture has."""

    d_sae: int = Field(ge=1)
    """Number of latents."""
    lr: float | None = Field(None, gt=0)
    """Peak learning rate; left out: 2e-4 / sqrt(d_sae / 2^14) (Gao et al. 2024, section 2.2)."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Decides the initial decoder; runs of one seed do not depend on their neighbours."""
    site: str | None = None
    """Site to train on; may be left out where the source has one."""
    name: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._=+-]*$")
    """Folder name; left out: made of what tells the dictionary apart."""
    clip: float | None = Field(1.0, gt=0)
    """Largest gradient norm of this dictionary (not of the sweep); null: no clipping."""
    dead_after: int | None = Field(None, ge=1)
    """Tokens without firing after which a latent counts as dead; left out: a tenth of the run,
    at most 10 million."""
    aux_coefficient: float = Field(1 / 32, ge=0)
    """Weight of the auxiliary loss that revives dead latents (Gao et al. 2024, appendix A.2)."""
    aux_k: int | None = Field(None, ge=1)
    """Dead latents used by the auxiliary loss per token; left out: d_model / 2."""

    @property
    def learning_rate(self) -> float:
        """Peak learning rate in use."""
        return self.lr if self.lr is not None else 2e-4 / math.sqrt(self.d_sae / REFERENCE_WIDTH)

    def label(self) -> str:
        """Readable name, not yet unique."""
        lr = f"{self.learning_rate:.2g}".replace("e-0", "e-")
        return f"{self.kind()}-{self.d_sae}-{self.sparsity()}-lr{lr}-s{self.seed}"

    def kind(self) -> str:
        """Name of the architecture."""
        return str(getattr(self, "architecture", "dictionary"))

    def sparsity(self) -> str:
        """The sparsity setting in a few characters."""
        return ""

    def form(self) -> tuple[Any, ...]:
        """What dictionaries that are stepped together must share, beside site and width."""
        return (self.kind(),)
