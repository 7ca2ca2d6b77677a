"""Steering as data: steps along a direction, clamped latents and neurons, a direction taken out.

A step of strength 0 is the empty plan, so that every back end then runs exactly what it runs clean.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch

from lensbench.arguments import refuse_no_model, whole, whole_number
from lensbench.errors import ConfigError, MismatchError, NonFiniteError, UnknownNameError
from lensbench.interventions.steering.aligned import Align, aligned, check_align
from lensbench.interventions.steering.direction import Direction
from lensbench.models.base import Model
from lensbench.ops import Project, Set
from lensbench.plan import Edit, Plan
from lensbench.sites import Site

Gate = Literal["up", "gate", "post"]
GATES: tuple[Gate, ...] = ("up", "gate", "post")
"""Where a neuron can be clamped: before the gate, at it, behind it."""


def steer(
    direction: Direction, coefficient: float, *, positions: Sequence[int] | None = None,
    align: Align = "front", length: int | None = None,
) -> Plan:  # fmt: skip
    """Add ``coefficient * direction`` to the activations at its site.

    ``x_t <- x_t + c v``. A direction of one vector is added at ``positions``, or without them at
    every token, those that are generated included (CAA). A direction of several vectors (ActAdd)
    goes to the prompt, vector t to its t-th token, and to no generated one; with ``align`` to the
    ``middle`` or ``back`` of a prompt of ``length`` tokens (BOS included) instead, see
    :func:`.aligned.aligned`. 0 gives the empty plan: nothing is touched, bit for bit.

    Raises:
        ConfigError: a coefficient that is no finite number, positions for an ActAdd direction, an
            alignment without the prompt's length or for a single vector, a prompt too short.
        UnknownNameError: another alignment.

    Example:
        >>> direction = interventions.latent_direction(model, run, 3)
        >>> plan = interventions.steer(direction, 4.0)
        >>> said = model.generate(model.tokens(text), plan, max_new_tokens=4)
    """
    c = _finite("coefficient", coefficient)
    if direction.vector.ndim == 2:
        positions = _of_vectors(direction, positions, align, length)
    elif align != "front" or length is not None:
        check_align(align)
        raise ConfigError(
            f"direction {direction.label!r} is one vector, the same for every token: nothing to "
            "align; give positions=[...] instead"
        )
    return direction.step(c, positions) if c else Plan()


def _of_vectors(
    direction: Direction, positions: Sequence[int] | None, align: Align, length: int | None
) -> tuple[int, ...]:
    """Tokens of a direction with a vector for each."""
    n = len(direction.vector)
    if positions is not None:
        raise ConfigError(
            f"direction {direction.label!r} has {n} vectors for {n} tokens in a row, so it takes "
            "no positions; align='front', 'middle' or 'back' of a prompt places them"
        )
    check_align(align)
    if length is None:
        if align != "front":
            raise ConfigError(
                f"align={align!r} needs length=, the number of tokens of the prompt (BOS included)"
            )
        return tuple(range(n))
    return aligned(n, length, align)


def ablate(
    directions: Direction | Sequence[Direction],
    sites: str | Site | Sequence[str | Site] | None = None,
    *,
    positions: Sequence[int] | None = None,
) -> Plan:
    """Take directions out of the state: ``x <- x - (x . v) v / |v|^2``, of several their span.

    ``sites`` are those of the directions unless given; ``every_write(model)`` takes them out of all
    that is added to the residual stream, ``[f"blocks.{l}.resid_pre" for l in ...]`` out of the
    stream itself. Source: Arditi et al. 2024, arXiv:2406.11717.

    Raises:
        ConfigError: no direction, or one with a vector per token.
        MismatchError: directions of unequal width.

    Example:
        >>> direction = interventions.latent_direction(model, run, 3)
        >>> plan = interventions.ablate(direction, interventions.every_write(model))
        >>> out = model.run(model.tokens(text), plan)
    """
    span = _span([directions] if isinstance(directions, Direction) else list(directions))
    own = [directions] if isinstance(directions, Direction) else list(directions)
    if sites is None:
        sites = list(dict.fromkeys(d.site for d in own))
    chosen = [sites] if isinstance(sites, str | Site) else list(sites)
    op = Project(torch.from_numpy(span))
    return Plan(tuple(Edit(Site.parse(site), op, positions=positions) for site in chosen))


def _span(directions: Sequence[Direction]) -> np.ndarray:
    if not directions:
        raise ConfigError("ablate needs a direction, got none")
    if any(d.vector.ndim != 1 for d in directions):
        raise ConfigError("a direction with a vector per token (ActAdd) cannot be taken out")
    if len({d.width for d in directions}) > 1:
        raise MismatchError(f"directions of widths {[d.width for d in directions]}: not one site's")
    return np.stack([d.with_norm(1.0).vector for d in directions])


def every_write(model: Model) -> tuple[Site, ...]:
    """All that is written to the residual stream: what enters block 0, then every block's writes.

    ``blocks.0.resid_pre`` holds token and position embeddings; a block writes ``attn_out`` and
    ``mlp_out`` (``ssm_out``, ``xattn_out`` where it has them).

    Example:
        >>> len(interventions.every_write(model))
        13
    """
    refuse_no_model(model)
    sites = model.sites()
    written = ("attn_out", "mlp_out", "ssm_out", "xattn_out")
    return (Site("resid_pre", 0), *(s for s in sites if s.name in written))


def clamp_latent(
    site: str | Site, latent: int, value: float, *, positions: Sequence[int] | None = None
) -> Plan:
    """Set a latent of the dictionary at ``site``; what the dictionary does not explain stays.

    ``x <- x + (c - f_j) W_dec[j]``, with f_j the latent as encoded. For ``model.with_saes([sae])``.
    Doing it twice is doing it once where the latent fires and reads back what its decoder writes.

    Raises:
        ConfigError: a value that is no finite number, or no latent.

    Example:
        >>> plan = interventions.clamp_latent("blocks.3.resid_post", latent=3, value=10.0)
        >>> out = model.with_saes({"blocks.3.resid_post": run}).run(model.tokens(text), plan)
    """
    number = whole_number("latent", latent, least=0)
    parsed = Site.parse(site)
    acts = parsed if parsed.part else Site(f"{parsed.name}.sae.acts", parsed.layer, parsed.stack)
    op = Set(_finite("value", value))
    return Plan((Edit(acts, op, positions=positions, dims=(number,)),))


def clamp_neuron(
    layer: int, neuron: int, value: float, at: Gate = "post",
    *, positions: Sequence[int] | None = None,
) -> Plan:  # fmt: skip
    """Set a neuron of an MLP: its ``up`` before the gate, its ``gate``, or their product ``post``.

    Of a gated MLP ``down(act(gate) * up)``: what a clamped ``up`` writes is ``c act(gate_j)`` times
    the neuron's output weights, so it may vanish, or turn round where ``act(gate_j) < 0``. ``post``
    writes ``c`` whatever the gate does. :func:`neuron_clamps` sweeps all three with both signs.

    Raises:
        UnknownNameError: another place.
        ConfigError: numbers that are none.

    Example:
        >>> plan = interventions.clamp_neuron(layer=2, neuron=17, value=0.0)
        >>> out = model.run(model.tokens(text), plan)
    """
    if at not in GATES:
        raise UnknownNameError("place of a neuron", str(at), known=GATES)
    dims = (whole_number("neuron", neuron, least=0),)
    site = Site(f"mlp.{at}", whole_number("layer", layer, least=0))
    return Plan((Edit(site, Set(_finite("value", value)), positions=positions, dims=dims),))


def _finite(name: str, value: Any) -> float:
    """``value`` as a finite number.

    Raises:
        ConfigError: no number.
        NonFiniteError: NaN or infinity.
    """
    if isinstance(value, (str, bool)) or (whole(value) is None and not hasattr(value, "__float__")):
        raise ConfigError(f"{name} must be a number, got {value!r}")
    number = float(value)
    if not np.isfinite(number):
        raise NonFiniteError(f"{name} must be finite, got {number}")
    return number
