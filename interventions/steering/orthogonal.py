"""Weights that cannot write a direction: a copy of a model with it taken out of every writer.

1. Embeddings, attention outputs and MLP outputs (those of experts too) lose the direction.
2. A head that shares its weight with the embedding keeps the old one.
3. The copy is run, and refused unless nothing it writes has the direction in it.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lensbench.arguments import refuse_no_model
from lensbench.errors import ConfigError, MismatchError
from lensbench.interventions.steering.direction import Direction
from lensbench.interventions.steering.plans import every_write
from lensbench.models.base import Model
from lensbench.models.families import Family, blocks_of, part

LEFT = 1e-3
"""Most of a write that may lie along the direction, as a share of its length."""


def orthogonalised(model: Model, directions: Direction | Sequence[Direction]) -> Model:
    """A copy of a model whose weights write nothing along the directions.

    ``W <- (I - Q Q^T) W`` for every matrix and bias that writes to the residual stream, Q an
    orthonormal basis of the directions; the given model stays as it is. Equivalent to
    ``ablate(directions, every_write(model))`` at every token (tested to 1e-4). Source: Arditi et
    al. 2024, arXiv:2406.11717.

    Raises:
        ConfigError: a back end other than the native one; quantised weights; an architecture that
            normalises what its matrices wrote before adding it (Gemma 2, OLMo 2), where no change
            of the matrices does it.
        MismatchError: a direction of another width than the residual stream.

    Example:
        >>> direction = interventions.latent_direction(model, run, 3)
        >>> without = interventions.orthogonalised(model, direction)
    """
    refuse_no_model(model)
    from lensbench.models.huggingface import NativeModel
    from lensbench.models.weights import fingerprint

    if not isinstance(model, NativeModel) or model.card.backend != "native":
        raise ConfigError(
            f"orthogonalised changes the weights of a transformers model; {model.card.name!r} is "
            f"reached through {model.card.backend} ({type(model).__name__}). Open its module with "
            "load_model, or use ablate(direction, every_write(model))"
        )
    own = [directions] if isinstance(directions, Direction) else list(directions)
    basis = _basis(model, own)
    made: Any = copy.deepcopy(model)
    _untie(made.module)
    with torch.no_grad():
        for weight, axis in _writers(made):
            weight.copy_(_without(weight, axis, basis.to(weight.device)))
    named = ", ".join(d.label for d in own)
    made.card = replace(
        model.card, name=f"{model.card.name} without {named}", source="",
        fingerprint=fingerprint(made.module),
    )  # fmt: skip
    _check(made, basis)
    return made


def _basis(model: Model, directions: Sequence[Direction]) -> Tensor:
    """Orthonormal rows that span the directions."""
    if not directions or any(d.vector.ndim != 1 for d in directions):
        raise ConfigError("orthogonalised needs directions of one vector each, [d_model]")
    for direction in directions:
        if direction.width != model.card.d_model:
            raise MismatchError(
                f"direction {direction.label!r} has {direction.width} numbers, the residual stream "
                f"of {model.card.name!r} has {model.card.d_model}"
            )
    rows = torch.stack([torch.from_numpy(d.with_norm(1.0).vector).double() for d in directions])
    _, s, vh = torch.linalg.svd(rows, full_matrices=False)
    return vh[s > s.max() * 1e-9]


def _untie(module: Any) -> None:
    """Give the head a weight of its own."""
    head, embedding = module.get_output_embeddings(), module.get_input_embeddings()
    if head is not None and head.weight is embedding.weight:
        head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        module.config.tie_word_embeddings = False


def _writers(model: Any) -> Iterator[tuple[Tensor, int]]:
    """Every weight that writes to the residual stream, and its axis of ``d_model``."""
    module, d = model.module, model.card.d_model
    inside = {id(m) for family in model.layout.architecture.stacks.values()
              for block in blocks_of(module, family) for m in block.modules()}  # fmt: skip
    for one in module.modules():
        if isinstance(one, nn.Embedding) and id(one) not in inside and one.weight.shape[1] == d:
            yield one.weight, 1
    for family in model.layout.architecture.stacks.values():
        for block in blocks_of(module, family):
            for writer in _writing_modules(block, family):
                yield from _of_module(writer, d)


def _writing_modules(block: nn.Module, family: Family) -> Iterator[nn.Module]:
    paths = [family.o_proj, family.down]
    paths += [family.cross.o_proj] if family.cross is not None else []
    paths += [family.ssm.out_proj] if family.ssm is not None else []
    if family.moe is not None:
        paths.append(family.moe.experts)
        paths += [f"{family.moe.shared}.down_proj"] if family.moe.shared else []
    yield from (found for path in paths if (found := part(block, path)) is not None)


def _of_module(module: nn.Module, d: int) -> Iterator[tuple[Tensor, int]]:
    """Weight and bias of a linear layer; those of all experts at once where they are stacked."""
    stacked = dict(module.named_parameters(recurse=False))
    if "down_proj" in stacked:  # [experts, d_model, d_mlp], or the other way round
        weight = stacked["down_proj"]
        yield weight, 1 if weight.shape[1] == d else 2
        if (bias := stacked.get("down_proj_bias")) is not None:
            yield bias, 1
        return
    weight, bias = stacked.get("weight"), stacked.get("bias")
    if weight is None or not weight.is_floating_point() or weight.ndim != 2:
        raise ConfigError(
            f"the weights of a {type(module).__name__} are no plain matrix (quantised?), so no "
            "direction can be taken out of them; use ablate(direction, every_write(model))"
        )
    yield weight, 0 if isinstance(module, nn.Linear) else 1  # GPT-2's Conv1D is turned round
    if bias is not None:
        yield bias, 0


def _without(weight: Tensor, axis: int, basis: Tensor) -> Tensor:
    """``weight`` less what it writes along the rows of ``basis``, in float64."""
    turned = weight.double().movedim(axis, -1)
    return (turned - turned @ basis.mT @ basis).movedim(-1, axis).to(weight.dtype)


def _check(model: Model, basis: Tensor) -> None:
    """Refuse a copy that still writes along the directions.

    Raises:
        ConfigError: it does, somewhere.
    """
    ids = torch.arange(3, 11).remainder(model.card.d_vocab)[None]
    mask = torch.ones_like(ids, dtype=torch.bool)
    from lensbench.tokens import Tokens

    sites = every_write(model)
    acts = model.run(Tokens(ids, mask), capture=sites, logits="none").acts
    half = torch.finfo(getattr(torch, model.card.dtype)).eps > 1e-5
    for site in sites:
        x = acts[site].double().cpu()
        left = float(((x @ basis.mT).norm(dim=-1) / x.norm(dim=-1).clamp(min=1e-12)).max())
        if left > (0.05 if half else LEFT):
            raise ConfigError(
                f"{left:.2g} of what {site} writes is still along the direction: a "
                f"{model.card.family} model changes what its matrices wrote (by a norm or a scale "
                "of its own) before adding it. Use ablate(direction, every_write(model))"
            )
