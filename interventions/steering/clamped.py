"""A clamped latent as a direction, so that its doses stand beside those of adding its row."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lensbench.errors import ConfigError, MismatchError
from lensbench.interventions.steering.direction import Direction
from lensbench.interventions.steering.plans import clamp_latent
from lensbench.interventions.steering.rows import Asked
from lensbench.interventions.steering.sources import latent_direction
from lensbench.interventions.steering.where import At, Steered, asked, states_at
from lensbench.models.base import Model
from lensbench.plan import Plan
from lensbench.sites import Site


@dataclass(frozen=True, kw_only=True, eq=False)
class ClampedLatent(Direction):
    """A latent that is set to a value; a step of coefficient c sets it to ``rest + c |v| / |w|``.

    w is its decoder row and ``rest`` its mean activation, so that over the tokens of ``rest`` the
    state moves on average by ``c v``, exactly as adding ``c v`` moves it at each.
    """

    latent: int
    rest: float
    row_norm: float
    """Length of the decoder row."""
    dictionary: str = ""
    """Fingerprint of the dictionary."""

    def step(self, coefficient: float, positions: Sequence[int] | None = None) -> Plan:
        """The plan that clamps the latent; what the dictionary does not explain stays."""
        value = self.rest + coefficient * self.norm / self.row_norm
        return clamp_latent(self.site, self.latent, value, positions=positions)

    def check(self, model: Model) -> Site:
        """The site, if this dictionary is spliced in there.

        Raises:
            ConfigError: no dictionary is.
            MismatchError: another one is.
        """
        site = Site.parse(self.site)
        acts = Site(f"{site.name}.sae.acts", site.layer, site.stack)
        if acts not in model.sites():
            raise ConfigError(f"{self.label} needs model.with_saes([sae]) with its dictionary")
        if (found := model.source_of(acts)) != self.dictionary:
            raise MismatchError(
                f"{self.label} is of dictionary {self.dictionary}; at {site} is {found}"
            )
        return super().check(model)


def clamped_latent(
    model: Model,
    sae: Any,
    latent: int,
    prompts: Asked,
    *,
    at: At = "all",
    base: Literal["clean", "corrupted"] = "corrupted",
    label: str | None = None,
    batch_size: int = 64,
) -> ClampedLatent:
    """A latent to be clamped in a dose curve, at rest where it is on average on these prompts.

    ``dose_curve(model.with_saes([sae]), [latent_direction(model, sae, j), clamped_latent(model,
    sae, j, prompts, at=at)], prompts, at=at)`` compares adding and clamping at equal mean step.

    Raises:
        ConfigError, UnknownNameError: no such latent, token or side.
        MismatchError: a dictionary of another model, site or width.

    Example:
        >>> found = interventions.clamped_latent(model, run, 3, pairs)
    """
    row = latent_direction(model, sae, latent)
    spliced = model.with_saes(sae if isinstance(sae, dict) else [sae])
    rows, pairs = asked(model, prompts, base)
    site = Site.parse(row.site)
    acts = Site(f"{site.name}.sae.acts", site.layer, site.stack)
    found = states_at(spliced, Steered(rows, pairs, at), row, acts, batch_size)[:, latent]
    same = {name: getattr(row, name) for name in ("site", "vector", "provenance")}
    return ClampedLatent(
        **same, label=label or f"{row.label} clamped", latent=int(latent),
        rest=float(found.double().mean()), row_norm=row.norm,
        dictionary=str(row.config["dictionary"]), config={**row.config, "method": "clamped_latent"},
    )  # fmt: skip
