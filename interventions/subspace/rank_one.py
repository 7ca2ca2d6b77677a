"""Rank-1 edits of an MLP's output projection: one key is given another value.

1. ``read = C^-1 k / (k^T C^-1 k)`` reads 1 off the key k and least off the keys of ordinary text.
2. ``write = v - W k`` is what the value lacks; ``W' = W + write read^T``.
3. The same as an edit of the pass: neurons h become ``h + (h . read) step``, ``W step = write``. A
   step exists wherever the projection can write ``write`` at all.

That an edit brings an answer does not show that the layer held it: see
:mod:`~lensbench.interventions.subspace.edit_study`.
"""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lensbench import provenance
from lensbench.errors import ConfigError, MismatchError
from lensbench.interventions.subspace.keys import key_site, least_moving, moment_of
from lensbench.interventions.subspace.next_map import next_map
from lensbench.interventions.subspace.spans import RANK, matrix_of
from lensbench.models.base import Model
from lensbench.ops import RankOne, Set
from lensbench.plan import Edit, Plan
from lensbench.results import Result
from lensbench.sites import Site
from lensbench.tokens import Tokens

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

UNWRITTEN = 1e-4
"""Most of a value, as a share of its length, that the projection may be unable to write."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RankOneEdit(Result):
    """``W' = W + write read^T`` of one output projection; a plan, or a copy of the weights."""

    site: str
    """``blocks.<L>.mlp.post``, which the projection reads."""
    key: Float[np.ndarray, " d_mlp"]
    read: Float[np.ndarray, " d_mlp"]
    write: Float[np.ndarray, " d_model"]
    step: Float[np.ndarray, " d_mlp"]
    """The shortest step of the neurons that the projection turns into ``write``."""
    model: str
    """Fingerprint of the model that it was made for."""

    @property
    def direction(self) -> Float[np.ndarray, " d_mlp"]:
        """``step / |step|``: the line along which the edit moves the neurons."""
        return self.step / np.linalg.norm(self.step)

    def plan(self, *, positions: Sequence[int] | None = None) -> Plan:
        """The edit as one of the pass, at all tokens (as weights act) or some; weights stay."""
        op = RankOne(torch.from_numpy(self.read).float(), torch.from_numpy(self.step).float())
        return Plan((Edit(Site.parse(self.site), op, positions=positions),))

    def copied(self, model: Model) -> Model:
        """A copy of the model with the edit in its weights; the given model stays as it is.

        Equivalent to running ``plan()`` (tested to 1e-5 of the largest logit).

        Raises:
            ConfigError: a back end other than the native one, or weights that are no plain matrix.
            MismatchError: another model than the edit was made for.
        """
        from lensbench.models.families import blocks_of, part
        from lensbench.models.huggingface import NativeModel
        from lensbench.models.weights import fingerprint

        if not isinstance(model, NativeModel) or model.card.backend != "native":
            raise ConfigError(
                f"copied changes weights of a transformers model; {model.card.name!r} is reached "
                f"through {model.card.backend} ({type(model).__name__}): run it under plan()"
            )
        if model.card.fingerprint != self.model:
            raise MismatchError(
                f"the edit was made for the model {self.model}, {model.card.name!r} is "
                f"{model.card.fingerprint}; make it again"
            )
        site, made = Site.parse(self.site), copy.deepcopy(model)
        family: Any = model.layout.architecture.stacks[site.stack]
        assert site.layer is not None
        writer: Any = part(blocks_of(made.module, family)[site.layer], family.down)
        weight = getattr(writer, "weight", None)
        if weight is None or not weight.is_floating_point() or weight.ndim != 2:
            raise ConfigError(f"the weights behind {site} are no plain matrix; run under plan()")
        outer = torch.outer(torch.from_numpy(self.write), torch.from_numpy(self.read))
        # GPT-2's Conv1D is turned round.
        outer = outer if isinstance(writer, torch.nn.Linear) else outer.T
        with torch.no_grad():
            weight.copy_(weight.double() + outer.to(weight.device))
        name = f"{model.card.name} edited at layer {site.layer}"
        print_of = fingerprint(made.module)
        made.card = replace(model.card, name=name, source="", fingerprint=print_of)
        return made

    def to_frame(self) -> "pd.DataFrame":
        """One row per neuron: the key, what reads it, the step."""
        import pandas as pd

        frame = pd.DataFrame({"neuron": np.arange(len(self.key)), "key": self.key,
                              "read": self.read, "step": self.step})  # fmt: skip
        frame.attrs["units"] = {"key": "activation", "read": "1 / activation", "step": "activation"}
        return frame

    def summary(self) -> dict[str, float]:
        """Lengths, and the cosine of what reads with the key (1: no text was asked about)."""
        lengths = {f"{n}_norm": float(np.linalg.norm(getattr(self, n)))
                   for n in ("key", "read", "write", "step")}  # fmt: skip
        both = lengths["key_norm"] * lengths["read_norm"]
        return {**lengths, "cosine": float(self.key @ self.read) / both if both else float("nan")}

    def plot(self) -> "go.Figure":
        """Neurons by key and by what reads it."""
        from lensbench.plots import scatter

        return scatter(self.to_frame(), x="key", y="read", hover_columns=["neuron", "step"],
                       title=f"Rank-1 edit at {self.site}")  # fmt: skip


def rank_one_edit(
    model: Model,
    layer: int,
    key: Any,
    value: Any,
    *,
    moment: Tensor | np.ndarray | None = None,
    ridge: float = 1e-4,
) -> RankOneEdit:
    """The rank-1 edit of an MLP's output projection after which ``key`` gives ``value``.

    ``W' = W + (v - W k) (C^-1 k)^T / (k^T C^-1 k)``: of all W' with ``W' k = v`` the one with the
    least ``E |(W' - W) h|^2`` over the text whose second moment is C.
    Source: Meng et al. 2022, arXiv:2202.05262, eq. 2; the ridge is ours.

    Args:
        model: any back end.
        layer: whose MLP is edited.
        key: ``[d_mlp]``, in the units of ``mlp.post``.
        value: ``[d_model]``, in the units of ``mlp_out`` (biases included).
        moment: C, from :func:`second_moment`; None for the identity.
        ridge: added to C's diagonal, as a share of its mean.

    Raises:
        ConfigError: a key that is 0, shapes that do not fit, a moment without inverse, or a value
            that the projection cannot write.
        NonFiniteError: NaN or infinity.

    Example:
        >>> key, value = torch.randn(384), torch.randn(128)
        >>> edit = interventions.rank_one_edit(model, 2, key, value)
    """
    began = time.monotonic()
    site = key_site(model, layer)
    k = vector("key", key, model.width(site))
    if not bool(k.any()):
        raise ConfigError("key is 0 everywhere, and a linear map gives nothing for nothing")
    v = vector("value", value, model.card.d_model)
    read = least_moving(k[None], torch.ones(1).double(), moment_of(moment, len(k), ridge))
    config = {"moment": moment is not None, "ridge": ridge}
    return made_edit(model, site, k, read, v - written(model, site, k), config, began)


def made_edit(
    model: Model, site: Site, key: Tensor, read: Tensor, write: Tensor,
    config: dict[str, Any], began: float,
) -> RankOneEdit:  # fmt: skip
    """An edit from its two vectors; finds the step of the neurons.

    Raises:
        ConfigError: the projection cannot write ``write``.
    """
    reads = next_map(model, site).double()
    step = write @ torch.linalg.pinv(reads, rtol=RANK)
    left = float((step @ reads - write).norm())
    if left > UNWRITTEN * float(write.norm()):
        raise ConfigError(
            f"the projection behind {site} cannot write {left / float(write.norm()):.2g} of this "
            f"value: its rank is {int(torch.linalg.matrix_rank(reads, rtol=RANK))} of {len(write)}"
        )
    return RankOneEdit(
        site=str(site), key=key.numpy(), read=read.numpy(), write=write.numpy(),
        step=step.numpy(), model=model.card.fingerprint, config=config,
        provenance=provenance.record(model=vars(model.card), seconds=time.monotonic() - began),
    )  # fmt: skip


def written(model: Model, site: Site, key: Tensor) -> Float[Tensor, " d_model"]:
    """What the MLP adds to the stream where its neurons are ``key``, biases included."""
    out = Site("mlp_out", site.layer, site.stack)
    plan = Plan((Edit(site, Set(key.float()), positions=(0,)),))
    one = Tokens(torch.tensor([[0]]), torch.tensor([[True]]))  # any token: the map is the same
    found = model.run(one, plan, out, logits="none").acts[out]
    return found[0, 0].double().cpu()


def vector(name: str, values: Any, width: int) -> Tensor:
    """``values`` as one vector of that width, float64.

    Raises:
        ConfigError: another shape, or no numbers.
        NonFiniteError: NaN or infinity.
    """
    found = matrix_of(name, values)
    if found.shape != (width,):
        raise ConfigError(f"{name} must be [{width}] here, got {list(found.shape)}")
    return found
