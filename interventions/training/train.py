"""Train small models with chosen activations clamped in every forward pass, beside one without.

1. Every run starts from the same weights and sees the same batches, by seed.
2. Each step: the plan of the clamp for this batch, one pass through ``Model.run`` under it with
   gradients, cross-entropy of what is asked, one step of Adam.
3. At checkpoints the measures of :mod:`~lensbench.interventions.training.measures`, under the clamp
   and without it.

For models that train in minutes. Source: Singh et al. 2024, arXiv:2404.07129.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn

from lensbench import provenance
from lensbench.arguments import positive_number, whole_number
from lensbench.errors import ConfigError, NonFiniteError, StoppedError
from lensbench.interventions.training.clamps import ClampLike
from lensbench.interventions.training.measures import UNITS, Measures, loss_of
from lensbench.interventions.training.result import UNCLAMPED, ClampedTraining, names_of
from lensbench.interventions.training.sequences import Sequences
from lensbench.models.loading import load_model
from lensbench.plan import Plan
from lensbench.results import Controls
from lensbench.stopping import stop_requested

Data: TypeAlias = Callable[[int, int], Sequences]
"""Number of rows and seed to a batch."""
Watch: TypeAlias = Callable[[str, int, int, Any], None]
"""Told run, seed, updates made, and the model, at every checkpoint."""
_HELD_OUT, _BATCH = 0, 1


def train_clamped(
    make_model: Callable[[int], nn.Module],
    data: Data,
    clamps: Mapping[str, ClampLike],
    *,
    controls: Mapping[str, ClampLike] | None = None,
    steps: int = 2000,
    batch_size: int = 64,
    lr: float = 1e-3,
    evaluate_every: int = 50,
    held_out: int = 256,
    heads_alone: bool = True,
    seeds: Sequence[int] = (0,),
    watch: Watch | None = None,
) -> ClampedTraining:
    """Train one model without a clamp and one with each, and follow loss, accuracy and heads.

    Models are transformers modules and learn in eval mode (no dropout). All runs of a seed start
    from the same weights and see the same batches. The native back end only.

    Args:
        make_model: a fresh module for a seed, such as ``attention_only``.
        data: a batch for a number of rows and a seed, such as ``Exemplars()``.
        clamps: runs by name: a plan, or a function of the batch that returns one.
        controls: clamps that should not help; they are trained and kept like the others.
        steps: updates of every run.
        batch_size: sequences per update.
        lr: learning rate of Adam, constant.
        evaluate_every: updates between checkpoints; the last step is one too.
        held_out: sequences measured at a checkpoint.
        heads_alone: measure accuracy with each head alone and without it (two passes per head).
        seeds: of weights and batches; all runs are trained for each.
        watch: told run, seed, updates made and the model at every checkpoint, to save it say.

    Raises:
        ConfigError: numbers out of range, what is no clamp, two runs of one name, weights or data
            that differ between runs of one seed.
        NonFiniteError: a loss that is not finite.
        StoppedError: interrupted; nothing is kept.

    Source: Singh et al. 2024, arXiv:2404.07129.

    Example:
        >>> data = interventions.Exemplars()
        >>> found = interventions.train_clamped(
        ...     lambda seed: interventions.attention_only(data.d_vocab, seed=seed),
        ...     data,
        ...     {"match": interventions.ClampMatch(1, 0)},
        ...     steps=20,
        ...     evaluate_every=10,
        ...     held_out=32,
        ... )
    """
    began = time.monotonic()
    controls = {} if controls is None else controls
    names = names_of(clamps, controls)
    for name, value in (("steps", steps), ("batch_size", batch_size), ("held_out", held_out),
                        ("evaluate_every", evaluate_every)):  # fmt: skip
        whole_number(name, value, least=1)
    lr = positive_number("lr", lr)
    if isinstance(seeds, str) or not hasattr(seeds, "__iter__"):
        raise ConfigError(f"seeds must be a list of whole numbers, such as [0], got {seeds!r}")
    if not seeds:
        raise ConfigError("seeds must be a list of at least one whole number, got none")
    given: list[ClampLike] = [Plan(), *clamps.values(), *controls.values()]
    at = sorted({*range(0, steps, evaluate_every), steps})
    measured: list[list[np.ndarray]] = []
    loop: Any = None
    starts: dict[int, _Loop] = {}
    with stop_requested() as stop:
        for name, clamp in zip(names, given, strict=True):
            measured.append([])
            for seed in seeds:
                loop = _Loop(make_model, data, seed, held_out, heads_alone, lr, batch_size, stop)
                _refuse_another_start(starts.setdefault(seed, loop), loop, name)
                measured[-1].append(loop.run(name, clamp, at, watch))
    measure, layer, head = loop.measures.columns()
    result = ClampedTraining(
        runs=names, seeds=tuple(seeds), steps=np.array(at),
        measure=measure, unit=tuple(UNITS[m] for m in measure),
        layer=np.array(layer), head=np.array(head),
        values=np.array(measured), n=held_out,
        config={
            "clamps": {n: str(c) for n, c in zip(names, given, strict=True)}, "data": str(data),
            "steps": steps, "batch_size": batch_size, "lr": lr, "seeds": list(seeds),
        },
        provenance=provenance.record(
            model=vars(loop.model.card), seconds=time.monotonic() - began,
            note="the card is of the untrained model of the last seed",
        ),
    )  # fmt: skip
    return _with_controls(result, tuple(controls))


def _with_controls(result: ClampedTraining, names: Sequence[str]) -> ClampedTraining:
    if not names:
        return result
    from dataclasses import replace

    loss = result.series("loss").mean((1, 2))
    relative = loss / loss[result.run(UNCLAMPED)]
    values = {f"{n}/relative_loss": float(relative[result.run(n)]) for n in names}
    note = "mean loss over training, 1 = unclamped, under clamps that should not help"
    return replace(result, controls=Controls(values, note))


def _refuse_another_start(first: "_Loop", loop: "_Loop", name: str) -> None:
    """Refuse runs of one seed that differ in more than their clamp.

    Raises:
        ConfigError: other weights, or other batches.
    """
    if loop.model.card.fingerprint != first.model.card.fingerprint:
        raise ConfigError(
            f"make_model({loop.seed}) gave other weights for run {name!r} than for the first; make "
            "a fresh module at each call, and seed it"
        )
    if not torch.equal(loop.measures.held_out.tokens, first.measures.held_out.tokens):
        raise ConfigError(
            f"data gave other sequences for run {name!r} than for the first, from the same seed"
        )


class _Loop:
    """One model from its first step to its last."""

    def __init__(
        self, make_model: Callable[[int], nn.Module], data: Data, seed: int, held_out: int,
        heads_alone: bool, lr: float, batch_size: int, stop: Callable[[], bool],
    ) -> None:  # fmt: skip
        self.seed = whole_number("seeds", seed, least=0)
        self.data, self.batch_size, self.stop = data, batch_size, stop
        self.model: Any = load_model(make_model(seed), certify=False)
        self.weights = [p for p in self.model.module.parameters() if p.requires_grad]
        self.adam = torch.optim.Adam(self.weights, lr=lr)
        card = self.model.card
        self.measures = Measures(
            self.draw(held_out, _HELD_OUT, 0), card.n_layers, card.n_heads, heads_alone
        )

    def draw(self, n: int, kind: int, step: int) -> Sequences:
        """The batch of a step, or the held-out one: a function of the seed, not of the run."""
        drawn = np.random.SeedSequence([self.seed, kind, step]).generate_state(1)[0]
        batch = self.data(n, int(drawn))
        if not isinstance(batch, Sequences):  # pyright: ignore[reportUnnecessaryIsInstance] - users
            raise ConfigError(f"data must give Sequences for a number and a seed, got {batch!r}")
        return batch

    def run(
        self, name: str, clamp: ClampLike, at: Sequence[int], watch: Watch | None
    ) -> np.ndarray:
        """Series ``[series, checkpoints]``."""
        found: list[list[float]] = []
        for step in range(at[-1] + 1):
            if step in set(at):
                found.append(self.measures(self.model, clamp))
                if watch is not None:
                    watch(name, self.seed, step, self.model)
            if self.stop():
                raise StoppedError(f"stopped after {step} of {at[-1]} steps of run {name!r}")
            if step < at[-1]:
                self.update(name, clamp, step)
        return np.array(found).T

    def update(self, name: str, clamp: ClampLike, step: int) -> None:
        """One step of Adam on the batch of this step."""
        loss = loss_of(self.model, self.draw(self.batch_size, _BATCH, step), clamp)
        if not bool(loss.isfinite()):
            raise NonFiniteError(
                f"the loss of run {name!r} is {loss.item()} after {step} updates; lower lr"
            )
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
