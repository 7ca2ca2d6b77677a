"""A direction at a site: a value that saves, loads, and knows how it was made."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError, MismatchError, NonFiniteError, NotEnoughDataError
from lensbench.models.base import Model
from lensbench.ops import Add
from lensbench.plan import Edit, Plan
from lensbench.results import Result
from lensbench.sites import Site

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

Redraw: TypeAlias = Callable[[int, int], "tuple[Direction, ...]"]
"""Makes ``n`` directions, drawn with a seed, by the same procedure under shuffled labels."""
UNFITTED = ("activation_addition", "latent", "clamped_latent", "random")
"""Methods that use no labels."""
_ONE_VECTOR = 3
"""Axes of a site with one vector per token: batch, position, width."""
_LARGEST = 8
"""Numbers that a notebook shows."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Direction(Result):
    """A vector at a site, or one for each of the first tokens of a prompt (ActAdd).

    Saved as JSON and safetensors with :meth:`save`, read by :func:`lensbench.results.load`.
    ``config`` says by which method it was made, of what.

    Example:
        >>> towards = interventions.Direction(site="blocks.3.resid_post", vector=np.ones(128))
        >>> plan = interventions.steer(towards.with_norm(4.0), 2.0)
    """

    site: str
    vector: Float[np.ndarray, " d"] | Float[np.ndarray, "tokens d"]
    """In the site's own units, not normalised."""
    label: str = "direction"

    def __post_init__(self) -> None:
        """Refuse what is no direction of a site.

        Raises:
            UnknownSiteError: no such site.
            ConfigError: a site of heads or patterns, or what is no vector.
            NonFiniteError: NaN or infinity.
        """
        object.__setattr__(self, "site", str(one_vector(self.site)))
        given: Any = self.vector
        array = given.detach().cpu().float().numpy() if isinstance(given, Tensor) else given
        vector = np.asarray(array)
        if vector.dtype.kind not in "fiu" or vector.ndim not in (1, 2) or not vector.size:
            raise ConfigError(
                "vector must be numbers [d], or [tokens, d] for the first tokens of a prompt; got "
                f"{vector.dtype} of shape {list(vector.shape)}"
            )
        vector = vector.astype(np.float32)
        if not np.isfinite(vector).all():
            raise NonFiniteError(
                f"{int((~np.isfinite(vector)).sum())} of {vector.size} numbers of direction "
                f"{self.label!r} at {self.site} are not finite"
            )
        object.__setattr__(self, "vector", vector)

    @property
    def width(self) -> int:
        """Numbers per token."""
        return self.vector.shape[-1]

    @property
    def norm(self) -> float:
        """Length; of several tokens the root mean square of theirs."""
        lengths = np.linalg.norm(np.atleast_2d(self.vector).astype(np.float64), axis=-1)
        return float(np.sqrt((lengths**2).mean()))

    def with_norm(self, norm: float) -> "Direction":
        """The same direction with this length (in units of the site).

        Raises:
            NotEnoughDataError: a vector of zeros, which points nowhere.
        """
        if self.norm < 1e-12:
            raise NotEnoughDataError(
                f"direction {self.label!r} at {self.site} is zero: the two sides do not differ "
                "there, so it points nowhere"
            )
        longer = replace(self, vector=self.vector * np.float32(norm / self.norm))
        return longer if self.redraw is None else longer.redrawn_by(self.redraw)

    def __repr__(self) -> str:
        """One line: what it is of, where, how long."""
        return f"Direction({self.label!r} at {self.site}: norm {self.norm:.4g}, width {self.width})"

    @property
    def redraw(self) -> Redraw | None:
        """How it is made again under shuffled labels; None where there are no labels at hand."""
        return self.__dict__.get("redraw_")

    def redrawn_by(self, redraw: Redraw) -> "Direction":
        """This direction, knowing how it is made again under shuffled labels.

        Kept in memory, with the states of both classes behind it, and no part of what is saved or
        compared: the states are as many vectors as there were prompts.
        """
        found = replace(self)
        found.__dict__["redraw_"] = redraw  # no field, so not compared or saved
        return found

    def shuffled(self, n: int = 20, seed: int = 0) -> "tuple[Direction, ...]":
        """``n`` directions made under shuffled labels, each as long as this one.

        Of mean differences, components and in-context vectors: :meth:`Contrast.shuffled`; of
        probes: ``refit`` of :func:`probe_direction`.

        Raises:
            NotEnoughDataError: a direction without labels, or with too few; it says which.
            ConfigError: n or seed is no whole number of at least 0.
        """
        n, seed = whole_number("n", n, least=0), whole_number("seed", seed, least=0)
        if self.redraw is None:
            method = str(self.config.get("method", "of your own"))
            raise NotEnoughDataError(
                "no labels: shuffled-label control not defined" if method in UNFITTED else
                f"no labels kept with this direction ({method}): shuffled-label control not drawn. "
                "Make it from its states again (they are not saved), give probe_direction(refit=), "
                "or pass shuffled=[...]"
            )  # fmt: skip
        return tuple(d.with_norm(self.norm) for d in self.redraw(n, seed))

    def cosine(self, other: "Direction | Float[np.ndarray, '...']") -> float:
        """Cosine with another direction or vector, -1 to 1."""
        b = np.asarray(other.vector if isinstance(other, Direction) else other)
        if b.shape != self.vector.shape:
            raise ConfigError(f"shapes {list(self.vector.shape)} and {list(b.shape)} differ")
        a, b = self.vector.astype(np.float64).ravel(), b.astype(np.float64).ravel()
        return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))

    def step(self, coefficient: float, positions: Sequence[int] | None = None) -> Plan:
        """The plan that goes ``coefficient`` times this vector: here, adds it."""
        value = torch.from_numpy(coefficient * self.vector.astype(np.float64)).float()
        return Plan((Edit(Site.parse(self.site), Add(value), positions=positions),))

    def check(self, model: Model) -> Site:
        """The site, if this model has it with this width.

        Raises:
            UnknownSiteError: the model has no such site.
            MismatchError: another width.
        """
        site, width = Site.parse(self.site), model.width(self.site)
        if width != self.width:
            raise MismatchError(
                f"direction {self.label!r} has {self.width} numbers, but {site} of "
                f"{model.card.name!r} has {width}; make it from this model's own activations"
            )
        return site

    def _html_body(self) -> str:
        """The largest numbers; the rest of a vector is not for reading."""
        from lensbench.plots.tables import html_table

        frame = self.to_frame()
        squares = np.square(self.vector.ravel().astype(np.float64))
        order = np.argsort(-squares, kind="stable")[:_LARGEST]
        some = frame.iloc[order].assign(of_square=squares[order] / max(squares.sum(), 1e-30))
        some.attrs["units"] = {**frame.attrs["units"], "of_square": "share of the squared length"}
        if len(np.atleast_2d(self.vector)) == 1:
            some = some.drop(columns="token")
        told = f"The {len(some)} largest of {len(frame):,} numbers; to_frame() has all"
        return html_table(some, caption=told)

    def to_frame(self) -> "pd.DataFrame":
        """One row per token and dimension."""
        import pandas as pd

        grid = np.atleast_2d(self.vector)
        token, dim = np.indices(grid.shape)
        frame = pd.DataFrame({"token": token.ravel(), "dim": dim.ravel(), "value": grid.ravel()})
        frame.attrs["units"] = {"value": f"units of {self.site}"}
        return frame

    def summary(self) -> dict[str, float]:
        """Length and width."""
        return {"norm": self.norm, "width": float(self.width)}

    def plot(self) -> "go.Figure":
        """How large its numbers are."""
        from lensbench.plots import histogram

        return histogram(self.to_frame(), value="value", title=self.label, subtitle=self.site)


def one_vector(site: str | Site) -> Site:
    """The site, if it holds one vector of numbers per token.

    Raises:
        ConfigError: a site of heads, patterns or routing.
    """
    parsed = Site.parse(site)
    if len(parsed.spec.axes.split()) != _ONE_VECTOR or not parsed.spec.writable:
        raise ConfigError(
            f"{parsed} has axes {parsed.spec.axes!r}; a direction stands at a site of one vector "
            "per token that can be written, such as resid_post, attn_out or mlp_out of a block"
        )
    return parsed


def probe_direction(
    site: str | Site, vector: Float[np.ndarray, " d"] | Tensor | Sequence[float],
    label: str = "probe", *, refit: Callable[[int], Any] | None = None,
) -> Direction:  # fmt: skip
    """The direction of a probe: any vector with its site; adding it raises the probe's score.

    ``w . (x + c w) = w . x + c |w|^2``.

    Args:
        site: where the probe reads.
        vector: its weights.
        label: a name.
        refit: gives, for a seed, the weights of such a probe fitted to labels shuffled with that
            seed: the control of :meth:`Direction.shuffled` and of dose curves.

    Raises:
        ConfigError: a vector or a ``refit`` that is none.

    Example:
        >>> direction = interventions.probe_direction(
        ...     "blocks.3.resid_post", torch.ones(128), "my probe"
        ... )
    """
    if refit is not None and not callable(refit):
        raise ConfigError(f"refit must be a function of a seed, got {refit!r}")
    made = _of_probe(site, vector, label, "probe")
    if refit is None:
        return made

    def redraw(n: int, seed: int) -> tuple[Direction, ...]:
        seeds = np.random.SeedSequence(seed).generate_state(n).tolist()
        return tuple(_of_probe(site, refit(one), f"shuffled {i}", "shuffled_labels")
                     for i, one in enumerate(seeds))  # fmt: skip

    return made.redrawn_by(redraw)


def _of_probe(site: str | Site, vector: Any, label: str, method: str) -> Direction:
    array = vector if isinstance(vector, Tensor) else np.asarray(vector)
    return Direction(site=str(site), vector=array, label=label, config={"method": method})  # pyright: ignore[reportArgumentType] - tensors become arrays
