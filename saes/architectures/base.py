"""What every architecture has: width, learning rate, seed, site, losses of dead latents."""

import math
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from lensbench.config import Config

REFERENCE_WIDTH = 2**14
_ONE = "must be reconstruction"


class DictionaryConfig(Config):
    """What every architecture has."""

    roles: ClassVar[tuple[str, ...]] = ("sae", "transcoder", "crosscoder")
    """What it can be trained as."""
    end_to_end: ClassVar[bool] = True
    """Whether ``objective`` may be another than the reconstruction."""

    d_sae: int = Field(ge=1)
    """Number of latents."""
    lr: float | None = Field(None, gt=0)
    """Peak learning rate; left out: 2e-4 / sqrt(d_sae / 2^14) (Gao et al. 2024, section 2.2)."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Decides the initial decoder; runs of one seed do not depend on their neighbours."""
    site: str | None = None
    """Site to read; may be left out where the source has one."""
    target: str | None = Field(None, min_length=1)
    """Site to reconstruct from ``site``, which makes a transcoder; left out: ``site`` itself."""
    skip_connection: bool = False
    """Whether a transcoder may also write a linear map of what it reads."""
    sites: tuple[str, ...] | None = None
    """Sites that are read and reconstructed together, two or more, which makes a crosscoder."""
    unequal_widths: bool = False
    """Whether the sites of a crosscoder may differ in width; the loss then weighs each by its
    own."""
    name: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._=+-]*$")
    """Folder name; left out: made of what tells the dictionary apart."""
    objective: Literal["reconstruction", "kl", "ce"] = "reconstruction"
    """What is minimised: the error of the activations, or end to end what the model loses when they
    are replaced, as KL of its predictions or as cross-entropy (see ``training.downstream``)."""
    downstream_coefficient: float = Field(0.0, ge=0, allow_inf_nan=False)
    """End to end: weight of the error at the end of later blocks."""
    clip: float | None = Field(1.0, gt=0)
    """Largest gradient norm of this dictionary (not of the sweep); null: no clipping."""
    dead_after: int | None = Field(None, ge=1)
    """Tokens without firing after which a latent counts as dead; left out: a tenth of the run,
    at most 10 million."""
    resample_at: tuple[float, ...] | None = Field(None, min_length=1)
    """Shares of the run at which dead latents are put where the loss is largest (Bricken et al.
    2023); none by default. For latents that fire above zero: among the k largest new ones seldom
    are, which is what the auxiliary loss is for."""
    aux_coefficient: float = Field(1 / 32, ge=0)
    """Weight of the auxiliary loss that revives dead latents (Gao et al. 2024, appendix A.2)."""
    aux_k: int | None = Field(None, ge=1)
    """Dead latents used by the auxiliary loss per token; left out: d_model / 2."""

    @model_validator(mode="after")
    def _ends_fit(self) -> "DictionaryConfig":
        if self.sites is not None and len(self.sites) < 2 and "*" not in "".join(self.sites):
            raise ValueError("sites needs two or more; for one alone write site")
        if self.sites is not None and (self.site or self.target):
            raise ValueError("give sites (a crosscoder) or site and target, not both")
        if self.sites is not None and len(set(self.sites)) < len(self.sites):
            raise ValueError(f"sites lists one twice: {list(self.sites)}")
        if self.target is not None and self.target == self.site:
            raise ValueError(f"target is the site itself ({self.site}); leave it out for an SAE")
        if self.skip_connection and self.target is None:
            raise ValueError("skip_connection needs a target: it belongs to transcoders")
        if any(not 0 < share < 1 for share in self.resample_at or ()):
            raise ValueError(
                f"resample_at must be shares of the run, above 0 and below 1; got "
                f"{list(self.resample_at or ())}"
            )
        if self.downstream_coefficient and self.objective == "reconstruction":
            raise ValueError("downstream_coefficient belongs to objective: kl or ce")
        if self.objective != "reconstruction":
            if not self.end_to_end:
                raise ValueError(f"{self.kind()} has several reconstructions; objective {_ONE}")
            if self.sites is not None:
                raise ValueError(f"a crosscoder writes several sites; objective {_ONE}")
        if self.role not in self.roles:
            allowed = f"it can be: {', '.join(self.roles)}"
            raise ValueError(f"{self.kind()} cannot be a {self.role}; {allowed}")
        return self

    @property
    def role(self) -> str:
        """``sae``, ``transcoder`` or ``crosscoder``."""
        if self.sites is not None:
            return "crosscoder"
        return "sae" if self.target is None else "transcoder"

    @property
    def learning_rate(self) -> float:
        """Peak learning rate in use."""
        return self.lr if self.lr is not None else 2e-4 / math.sqrt(self.d_sae / REFERENCE_WIDTH)

    def label(self) -> str:
        """Readable name, not yet unique."""
        lr = f"{self.learning_rate:.2g}".replace("e-0", "e-")
        role = "" if self.role == "sae" else f"{'skip-' * self.skip_connection}{self.role}-"
        off = f"+{self.downstream_coefficient:g}" if self.downstream_coefficient else ""
        e2e = "" if self.objective == "reconstruction" else f"{self.objective}{off}-"
        return f"{role}{e2e}{self.kind()}-{self.d_sae}-{self.sparsity()}-lr{lr}-s{self.seed}"

    def kind(self) -> str:
        """Name of the architecture."""
        return str(getattr(self, "architecture", "dictionary"))

    def sparsity(self) -> str:
        """The sparsity setting in a few characters."""
        return ""

    def form(self) -> tuple[Any, ...]:
        """What dictionaries that are stepped together must share, beside sites and width."""
        return (self.kind(),)
