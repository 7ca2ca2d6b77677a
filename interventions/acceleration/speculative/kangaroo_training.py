"""Training Kangaroo's adapter from a store, and what it will accept.

1. Inputs are stored states of the exit layer, targets p_L = softmax(unembed(h_L)) of the stored
   last layer, which lies before the final norm; no block of the model runs.
2. loss = -sum_v p_L(v) log p_adapter(v), nats, mean over tokens; in a store of the model's own text
   over the positions that predict a new token.
3. AdamW (.9, .95); gradients are cut off per value; linear warm-up, then a linear fall.
4. Each sequence is read once per epoch, in a seeded order. Every few steps weights, optimiser and
   position go to disk in one file; a killed run goes on and ends with the same weights.

Source: Liu et al. 2024 and its released code; the length of training is ours.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from lensbench import io
from lensbench.config import Config
from lensbench.errors import MismatchError, NonFiniteError, StoppedError
from lensbench.interventions.acceleration.decoding import check_exit, native
from lensbench.interventions.acceleration.speculative.kangaroo_adapter import (
    CONFIG,
    KangarooAdapter,
)
from lensbench.interventions.acceleration.speculative.kangaroo_text import StoredTexts
from lensbench.models.base import Model
from lensbench.stopping import stop_requested

if TYPE_CHECKING:
    from lensbench.store import ActivationStore


class KangarooConfig(Config):
    """Settings of training; the paper trains 800 000 steps at 3e-5."""

    steps: int = Field(300, ge=1)
    batch_size: int = Field(8, ge=1)
    """Sequences per step."""
    learning_rate: float = Field(1e-3, gt=0)
    """After the warm-up; falls in a straight line to 0."""
    warmup: int = Field(10, ge=0)
    """Steps over which the learning rate rises."""
    clip_value: float = Field(0.5, gt=0)
    """Largest size of any one number of the gradient."""
    weight_decay: float = Field(0.01, ge=0)
    n_heads: int = Field(0, ge=0)
    """Heads of the adapter; 0: as many as the model has."""
    holdout: float = Field(0.1, ge=0, lt=1)
    """Share of the sequences, the last ones, that training never reads."""
    seed: int = Field(0, ge=0)
    """Of the first weights and of the order of the sequences."""
    checkpoint_every: int = Field(50, ge=1)
    """Steps between checkpoints."""

    def rate(self, step: int) -> float:
        """Learning rate at a step counted from 0."""
        rising = (step + 1) / self.warmup if step < self.warmup else 1.0
        return self.learning_rate * min(rising, 1 - step / self.steps)


def train_kangaroo(
    store: "ActivationStore",
    model: Model,
    exit_layer: int,
    config: KangarooConfig | dict[str, Any] | None = None,
    out: Path | str | None = None,
    *,
    progress: Callable[[int, float], None] | None = None,
) -> KangarooAdapter:
    """Train the adapter of an exit layer from stored states.

    With ``out`` the adapter is saved there, a run that was killed goes on, and one that is finished
    is read. ``progress`` is told the step and the loss (nats).

    Args:
        store: whole texts with ``resid_post`` of the exit layer and of the last one; best of the
            model's own continuations (``capture_own``).
        model: the model whose states these are; only its head is used.
        exit_layer: layers of the draft, 1 to L - 1.
        config: settings, see :class:`KangarooConfig`.
        out: a folder.
        progress: called after every step.

    Raises:
        MissingDataError: the store lacks a layer.
        MismatchError: the store, or what is in ``out``, is of another model or other settings.
        ConfigError: a setting out of range, or a store that keeps parts of its texts only.
        NotEnoughDataError: no sequence to train on.
        NonFiniteError: the loss is no number any more.
        StoppedError: interrupted; the last checkpoint is kept.

    Example:
        >>> adapter = acceleration.train_kangaroo(
        ...     own, early, exit_layer=2, config={"steps": 2, "holdout": 0.5}
        ... )
    """
    settings = config if isinstance(config, KangarooConfig) else KangarooConfig.parse(config or {})
    folder = None if out is None else Path(out)
    job = _Job(store, model, exit_layer, settings, folder)
    if folder is not None and (folder / CONFIG).exists():
        return job.finished(folder)
    job.resume()
    with stop_requested() as stop:
        for loss in job.steps():
            if progress is not None:
                progress(job.done, loss)
            if stop():
                job.checkpoint()
                raise StoppedError(
                    f"stopped after step {job.done} of {settings.steps}; the same call goes on "
                    "from there"
                )
    job.adapter.losses = np.array(job.losses)
    if folder is not None:
        job.adapter.save(folder)
        _checkpoint(folder).unlink(missing_ok=True)
    return job.adapter.eval()


@dataclass
class _Job:
    """One run: what is read, the adapter, the optimiser, how far it is."""

    store: "ActivationStore"
    model: Model
    exit_layer: int
    config: KangarooConfig
    folder: Path | None
    done: int = 0
    losses: list[float] = field(default_factory=list[float])

    def __post_init__(self) -> None:
        known = native(self.model)
        check_exit(self.exit_layer, known.n_layers, full=False)
        self.texts = StoredTexts(self.store, known, self.exit_layer)  # 1
        self.train = self.texts.split(self.config.holdout)[0]
        self.identity = {
            "exit_layer": self.exit_layer,
            "store": self.store.text.get("fingerprint"),
            **{k: v for k, v in self.config.to_dict().items() if k != "checkpoint_every"},
        }
        heads = self.config.n_heads or known.card.n_heads
        self.adapter = KangarooAdapter(known, self.exit_layer, heads, self.identity)
        self.optimizer = torch.optim.AdamW(  # 3
            self.adapter.parameters(), lr=self.config.learning_rate, betas=(0.9, 0.95),
            weight_decay=self.config.weight_decay,
        )  # fmt: skip

    def steps(self) -> Iterator[float]:
        """Go on to the last step; gives the loss of each."""
        for step in range(self.done, self.config.steps):
            self.optimizer.param_groups[0]["lr"] = self.config.rate(step)
            loss = self._step(self._batch(step))
            if not np.isfinite(loss):
                raise NonFiniteError(
                    f"the loss is no number at step {step}; lower learning_rate, or look for "
                    "activations that are not finite with store.verify()"
                )
            self.losses.append(loss)
            self.done = step + 1
            if self.done % self.config.checkpoint_every == 0 and self.done < self.config.steps:
                self.checkpoint()
            yield loss

    def _batch(self, step: int) -> np.ndarray:
        """Numbers of the sequences of a step: whole epochs one after another, each shuffled."""
        n, size = len(self.train), self.config.batch_size
        places = np.arange(step * size, (step + 1) * size)
        orders = {
            e: np.random.default_rng([self.config.seed, e]).permutation(n)
            for e in range(int(places[0] // n), int(places[-1] // n) + 1)
        }
        return self.train[[orders[int(p // n)][p % n] for p in places]]

    def _step(self, chosen: np.ndarray) -> float:
        h, last, counted = self.texts.read(chosen)
        target = self.model.unembed(last).float().softmax(-1)
        logits = self.adapter.logits(h)
        loss = -(target * logits.float().log_softmax(-1)).sum(-1)[counted].mean()  # 2
        parameters = list(self.adapter.parameters())
        # The head is frozen, and the model's own gradients are left as they are.
        for p, g in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            p.grad = g.clamp(-self.config.clip_value, self.config.clip_value)
        self.optimizer.step()
        return float(loss.detach())

    def checkpoint(self) -> None:
        """Write weights, optimiser and position, where there is a folder."""
        if self.folder is None:
            return
        tensors = {f"p/{k}": v for k, v in self.adapter.state_dict().items()}
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"o/{i}/{k}": v for k, v in state.items() if isinstance(v, Tensor)}
        arrays = {k: v.detach().cpu().numpy() for k, v in tensors.items()}
        note = json.dumps([self.identity, self.adapter.fingerprint]).encode()
        arrays |= {"losses": np.array(self.losses), "note": np.frombuffer(note, np.uint8)}
        io.write_arrays(_checkpoint(self.folder), arrays)

    def resume(self) -> None:
        """Go to the last checkpoint in the folder, if there is one."""
        if self.folder is None or not _checkpoint(self.folder).exists():
            return
        arrays = io.read_arrays(_checkpoint(self.folder))
        self._refuse_other(*json.loads(arrays.pop("note").tobytes()))
        self.losses = arrays.pop("losses").tolist()
        self.done = len(self.losses)
        states: dict[int, dict[str, Tensor]] = {}
        weights: dict[str, Tensor] = {}
        for name, value in arrays.items():
            kind, _, rest = name.partition("/")
            if kind == "p":
                weights[rest] = torch.from_numpy(value)
            else:
                number, _, key = rest.partition("/")
                states.setdefault(int(number), {})[key] = torch.from_numpy(value)
        self.adapter.load_state_dict(weights)
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": states})

    def finished(self, folder: Path) -> KangarooAdapter:
        """The adapter that this very run left in the folder."""
        found = KangarooAdapter.load(folder, self.model)
        self._refuse_other(found.settings, found.fingerprint)
        return found.eval()

    def _refuse_other(self, identity: Any, fingerprint: str) -> None:
        if identity != self.identity or fingerprint != self.adapter.fingerprint:
            raise MismatchError(
                f"{self.folder} holds an adapter of other settings, another model or other text; "
                "choose another folder, or delete it"
            )


def _checkpoint(folder: Path) -> Path:
    return folder / "checkpoint.safetensors"
