"""Distributed alignment search: find the subspace whose exchange moves the answer most.

1. Free matrix A ``[d, k]``, random; the subspace is spanned by Q of its QR decomposition.
2. Each step exchanges the subspace of a batch of prompts between the runs and takes the
   cross-entropy of the answer that the source run gives, at the last token.
3. Adam, learning rate falling linearly to a tenth.

Source: Geiger et al. 2024, arXiv:2303.02536; settings of Makelov et al. 2023, arXiv:2311.17030.
What it finds moves the output by construction: test it (:func:`subspace_patch`) before believing.
"""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench import provenance
from lensbench.arguments import whole_number
from lensbench.errors import ConfigError, NonFiniteError, NotEnoughDataError, UnknownNameError
from lensbench.interventions.patching.engine import pick_rows
from lensbench.interventions.patching.sweep import DIRECTIONS
from lensbench.interventions.places import Place
from lensbench.interventions.subspace.patch import both_runs, one_place
from lensbench.interventions.values import FromRun
from lensbench.models.base import Model
from lensbench.ops import Set
from lensbench.plan import Edit, Plan
from lensbench.prompts.pairs import PromptPairs
from lensbench.prompts.score import check_pairs
from lensbench.results import Result
from lensbench.sites import Site

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, kw_only=True, eq=False)
class AlignedSubspace(Result):
    """The subspace that was found, its course, and the pairs it has not seen."""

    site: str
    position: str
    directions: Float[np.ndarray, "k d"]
    """Orthonormal rows."""
    loss: Float[np.ndarray, " steps"]
    """Cross-entropy of the source run's answer, nats, of each step's batch."""
    held_out: Int[np.ndarray, " some"]
    """Numbers of the pairs that were not trained on."""

    def to_frame(self) -> "pd.DataFrame":
        """One row per step."""
        import pandas as pd

        frame = pd.DataFrame({"step": np.arange(len(self.loss)), "loss": self.loss})
        frame.attrs["units"] = {"loss": "nats"}
        return frame

    def summary(self) -> dict[str, float]:
        """Loss at the beginning and at the end (mean of a tenth of the steps each)."""
        part = max(1, len(self.loss) // 10)
        first, last = float(self.loss[:part].mean()), float(self.loss[-part:].mean())
        return {"loss_first": first, "loss_last": last, "k": float(len(self.directions))}

    def plot(self) -> "go.Figure":
        """The loss over steps."""
        from lensbench.plots import lines

        return lines(self.to_frame(), x="step", y="loss", title=f"Alignment at {self.site}")


def align_subspace(
    model: Model,
    pairs: PromptPairs,
    site: str | Site,
    *,
    position: int | str = "end",
    head: int | None = None,
    k: int = 1,
    steps: int = 150,
    lr: float = 0.01,
    batch_size: int = 20,
    held_out: float = 0.25,
    direction: Literal["denoise", "noise"] = "denoise",
    seed: int = 0,
) -> AlignedSubspace:
    """Find k dimensions of a place whose exchange brings the source run's answer.

    Args:
        model: any back end that gives gradients.
        pairs: aligned pairs; the answer brought is ``answer`` when denoising, else ``foil``.
        site: one site with its layer.
        position: a role or a number.
        head: of sites with heads.
        k: dimensions.
        steps: updates.
        lr: learning rate of Adam at the start.
        batch_size: pairs per update.
        held_out: share of the pairs to leave out, for the test.
        direction: ``denoise`` or ``noise``.
        seed: of the split, the start and the batches.

    Raises:
        NotEnoughDataError: fewer than four pairs have the place.
        ConfigError: more dimensions than the place has, or several places.
        NonFiniteError: the loss became NaN.

    Example:
        >>> many = prompts.agreement(model, n=24, seed=0)
        >>> found = interventions.align_subspace(model, many, "blocks.3.resid_post", k=1, steps=5)
    """
    began = time.monotonic()
    if direction not in DIRECTIONS:
        raise UnknownNameError("direction", str(direction), known=DIRECTIONS)
    if isinstance(held_out, str) or not 0 <= held_out < 1:
        raise ConfigError(f"held_out must be a share of 0 to 1, got {held_out!r}")
    if isinstance(lr, str) or not 0 < lr < float("inf"):
        raise ConfigError(f"lr must be a number above 0, got {lr!r}")
    whole_number("batch_size", batch_size, least=1)
    check_pairs(model, pairs)
    pairs.require_next_token("subspace alignment")
    place = one_place(model, pairs, site, position, head)
    width = model.width(place.site)
    if not 1 <= whole_number("k", k) <= width:
        raise ConfigError(f"k must be 1..{width} at {place.site}, got {k}")
    rng = torch.Generator().manual_seed(seed)
    rows = _with_place(pairs, place)
    order = rows[torch.randperm(len(rows), generator=rng).numpy()]
    n_test = int(held_out * len(order))
    task = _Task(model, pairs.select(order[n_test:]), place, direction)
    free = torch.randn(width, k, generator=rng, dtype=torch.float64).requires_grad_()
    optimiser = torch.optim.Adam([free], lr=lr)
    losses: list[float] = []
    for step in range(whole_number("steps", steps, least=1)):
        for group in optimiser.param_groups:
            group["lr"] = lr * (1 - 0.9 * step / steps)
        chosen = torch.randperm(len(task.pairs), generator=rng)[:batch_size].tolist()
        loss = task.loss(torch.linalg.qr(free).Q, chosen)
        if not bool(loss.isfinite()):
            raise NonFiniteError(f"the loss became {float(loss)} at step {step}; lower lr={lr:g}")
        optimiser.zero_grad()
        loss.backward()  # pyright: ignore[reportUnknownMemberType]
        optimiser.step()  # pyright: ignore[reportUnknownMemberType]
        losses.append(float(loss.detach()))
    return AlignedSubspace(
        site=str(place.site), position=str(place.position),
        directions=torch.linalg.qr(free.detach()).Q.T.contiguous().numpy(),
        loss=np.array(losses), held_out=np.sort(order[:n_test]).astype(np.int64),
        config={"pairs": pairs.fingerprint(), "k": k, "steps": steps, "lr": lr,
                "batch_size": batch_size, "direction": direction},
        provenance=provenance.record(
            model=vars(model.card), seed=seed, seconds=time.monotonic() - began
        ),
    )  # fmt: skip


def _with_place(pairs: PromptPairs, place: Place) -> np.ndarray:
    role = isinstance(place.position, str)
    there = [r for r in range(len(pairs)) if not (role and place.at(pairs, r) == -1)]
    if len(there) < 4:
        raise NotEnoughDataError(
            f"{len(there)} pairs have a token at {place}; at least 4 are needed"
        )
    return np.array(there)


class _Task:
    """The loss of a subspace on some pairs; both runs are captured once."""

    def __init__(self, model: Model, pairs: PromptPairs, place: Place, direction: str) -> None:
        self.model, self.pairs, self.place = model, pairs, place
        denoise = direction == "denoise"
        self.tokens = pairs.corrupted if denoise else pairs.clean
        self.target = torch.tensor(pairs.answer if denoise else pairs.foil)
        base, source, _ = both_runs(model, pairs, place, direction)
        self.at, self.to = self._states(base), self._states(source)

    def _states(self, run: FromRun) -> Tensor:
        found = [run.at(self.place, row) for row in range(len(self.pairs))]
        return torch.stack([x for x in found if x is not None]).double().cpu()[:, 0]

    def loss(self, basis: Tensor, rows: list[int]) -> Tensor:
        """Cross-entropy of the source run's answers with the subspace exchanged."""
        at, to = self.at[rows], self.to[rows]
        new = at + ((to - at) @ basis) @ basis.T
        plan = Plan(
            tuple(self._edit(i, row, x) for i, (row, x) in enumerate(zip(rows, new, strict=True)))
        )
        out: Any = self.model.run(pick_rows(self.tokens, rows), plan, logits="last", grad=True)
        logits = out.logits[:, -1].float()
        return torch.nn.functional.cross_entropy(logits, self.target[rows].to(logits.device))

    def _edit(self, i: int, row: int, value: Tensor) -> Edit:
        position, head = self.place.at(self.pairs, row), self.place.head
        assert position is not None
        return Edit(self.place.site, Set(value.float()), (i,), (position,),
                    None if head is None else (head,))  # fmt: skip
