"""Training a tuned lens from a store: all layers in one loop, the store read once per epoch.

Steps, numbered in the body:

1. Documents are split; the last ones are never read. Rows come in the store's shuffled order.
2. Per chunk of rows and tile of logits: p = softmax(unembed(h_L)) of the last layer, once.
3. Per layer: q = softmax(unembed(h + A h + b)); loss KL(p || q), nats, mean over tokens. Its slope
   at the logits is q - p, so only the unembedding is differentiated, and A's slope is g h^T.
4. Gradients of all layers are clipped together; SGD with Nesterov momentum or Adam; a linear fall
   of the learning rate.
5. Every few steps weights, optimiser and position go to disk in one file. A killed run goes on from
   there and ends with the same weights to the bit.

Source: Belrose et al. 2023, arXiv:2303.08112, and its released code (settings).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.devices import as_device
from lensbench.errors import ConfigError, NonFiniteError, NotEnoughDataError, StoppedError
from lensbench.probes.lenses.logit import stored_layers
from lensbench.probes.lenses.measures import tiles
from lensbench.probes.lenses.tuned import files
from lensbench.probes.lenses.tuned.config import TunedLensConfig
from lensbench.probes.lenses.tuned.lens import TunedLens
from lensbench.progress import told
from lensbench.sites import Site
from lensbench.stopping import stop_requested

if TYPE_CHECKING:
    from lensbench.models import Model
    from lensbench.store import ActivationStore, StoreSource


def train_tuned_lens(
    store: "ActivationStore",
    model: "Model",
    config: TunedLensConfig | dict[str, Any] | None = None,
    out: Path | str | None = None,
    *,
    device: str | None = "cpu",
    progress: Callable[[int, float], None] | bool | None = None,
) -> TunedLens:
    """Train a map for every stored layer but the last: min KL(p_L || softmax(unembed(h + Ah + b))).

    Layers are those whose ``resid_post`` the store has, and the embeddings where it has
    ``blocks.0.resid_pre``. With ``out`` the lens is saved there, and a run that was killed goes on;
    ``progress`` is told the step and the mean loss (nats); without it a bar is shown on a terminal
    and in notebooks, with False nothing.

    Raises:
        MissingDataError: the store lacks the last block's ``resid_post``.
        MismatchError: the store, or the lens in ``out``, is of another model or other settings.
        NotEnoughDataError: no layer before the last, or no document left to train on.
        NonFiniteError: the loss is no number any more.
        StoppedError: interrupted; the last checkpoint is kept.

    Example:
        >>> lens = probes.train_tuned_lens(store, model, {"steps": 5, "tokens_per_step": 256})
    """
    settings = (
        config if isinstance(config, TunedLensConfig) else TunedLensConfig.parse(config or {})
    )
    folder = None if out is None else Path(out)
    job = _Job(store, model, settings, folder, as_device(device))
    if folder is not None and (done := files.finished(folder, model, job.identity)):
        return done
    job.resume()
    with (
        stop_requested() as stop,
        told("tuned lens", progress, settings.steps, "step") as so_far,
    ):
        for loss in job.steps():
            so_far(job.done, float(loss.mean()))
            if stop():
                job.checkpoint()
                raise StoppedError(f"stopped after step {job.done} of {settings.steps}; the same "
                                   "call goes on from there")  # fmt: skip
    lens = job.lens()
    if folder is not None:
        files.save_tuned_lens(lens, folder)
        files.checkpoint_path(folder).unlink(missing_ok=True)
    return lens


def held_out(store: "ActivationStore", share: float) -> tuple[int, int]:
    """Documents ``a .. b - 1`` that a lens with ``holdout=share`` was not trained on.

    Raises:
        NotEnoughDataError: none are left to train on, or none to hold out.
    """
    n = store.n_docs
    kept = n - round(n * share)
    if kept < 1 or (share > 0 and kept == n):
        raise NotEnoughDataError(
            f"{n} documents cannot be split with {share:g} of them held out; store more text"
        )
    return kept, n


@dataclass
class _Job:
    """One training run: what is read, the maps, the optimiser, how far it is."""

    store: "ActivationStore"
    model: "Model"
    config: TunedLensConfig
    folder: Path | None
    device: torch.device
    done: int = 0
    losses: list[np.ndarray] = field(default_factory=list[np.ndarray])

    def __post_init__(self) -> None:
        """Say what is read, and make the maps."""
        *before, last = stored_layers(self.store, self.model)
        first = str(Site("resid_pre", 0))
        self.sites = {n: str(Site("resid_post", n)) for n in before}
        if first in self.store.sites:
            self.sites = {-1: first, **self.sites}
        if not self.sites:
            raise NotEnoughDataError("the store has the last layer alone; capture more layers with "
                                     "--profile resid")  # fmt: skip
        self.last = str(Site("resid_post", last))
        self.source = self._source()  # 1
        d = self.model.card.d_model
        zeros = [torch.zeros(d, d) for _ in self.sites], [torch.zeros(d) for _ in self.sites]
        self.weights, self.biases = ([x.to(self.device) for x in group] for group in zeros)
        self.optimizer = _optimizer(self.config, [*self.weights, *self.biases])

    def _source(self) -> "StoreSource":
        end = held_out(self.store, self.config.holdout)[0]
        return self.store.source(
            [*self.sites.values(), self.last], seed=self.config.seed, device=str(self.device),
            doc_range=(0, end),
        )  # fmt: skip

    @property
    def identity(self) -> dict[str, Any]:
        """What a run must share with its checkpoint."""
        return {
            "model": self.model.card.fingerprint,
            "config": self.config.to_dict() | {"checkpoint_every": 0},
            "layers": list(self.sites),
            "store": {k: self.source.state_dict()[k] for k in ("store", "start", "stop")},
        }

    def steps(self) -> Iterator[Float[np.ndarray, " layers"]]:
        """Go on to the last step; gives the loss of each layer."""
        batches = self.source.batches(self.config.chunk)
        for step in range(self.done, self.config.steps):
            for group in self.optimizer.param_groups:
                group["lr"] = self.config.learning_rate(step)
            loss = self._step(batches)
            if not np.isfinite(loss).all():
                bad = [n for n, x in zip(self.sites, loss, strict=True) if not np.isfinite(x)]
                raise NonFiniteError(
                    f"the loss of layers {bad} is no number at step {step}; lower lr_scale, or "
                    "look for activations that are not finite with store.verify()"
                )
            self.losses.append(loss)
            self.done = step + 1
            if self.done % self.config.checkpoint_every == 0 and self.done < self.config.steps:
                self.checkpoint()
            yield loss
        self.source.close()

    def _step(self, batches: Iterator[dict[str, Tensor]]) -> Float[np.ndarray, " layers"]:
        chunks = self.config.tokens_per_step // self.config.chunk
        n = chunks * self.config.chunk
        for x in (*self.weights, *self.biases):
            x.grad = torch.zeros_like(x)
        total = torch.zeros(len(self.sites), dtype=torch.float64)
        for _ in range(chunks):
            batch = next(batches)
            for part in tiles(self.config.chunk, self.model.card.d_vocab):
                total += self._tile({site: x[part] for site, x in batch.items()}, n)
        norms = torch.stack([_grad(x).norm() for x in (*self.weights, *self.biases)])
        factor = float((self.config.clip / (norms.norm() + 1e-6)).clamp_max(1.0))  # 4
        for x in (*self.weights, *self.biases):
            _grad(x).mul_(factor)
        self.optimizer.step()
        return (total / n).numpy()

    def _tile(self, rows: dict[str, Tensor], n: int) -> Float[Tensor, " layers"]:
        """Loss of one tile per layer; its gradients are added up."""
        logp = self.model.unembed(rows[self.last]).float().log_softmax(-1)  # 2
        p, found = logp.exp(), torch.zeros(len(self.sites), dtype=torch.float64)
        for i, site in enumerate(self.sites.values()):
            h = rows[site]
            x = h + torch.nn.functional.linear(h, self.weights[i], self.biases[i])
            x.requires_grad_()
            logits = self.model.unembed(x, grad=True)  # 3
            logq = logits.detach().float().log_softmax(-1)
            found[i] = float(torch.einsum("tv,tv->", p, logp.to(logq) - logq))
            slope = ((logq.exp() - p) / n).to(logits)
            (g,) = torch.autograd.grad(logits, x, slope)
            _grad(self.weights[i]).add_(g.float().mT @ h)
            _grad(self.biases[i]).add_(g.float().sum(0))
        return found

    def lens(self) -> TunedLens:
        """The maps as they are now."""
        told = {
            **self.identity,
            "config": self.config.to_dict(),
            "model_name": self.model.card.name,
            "store_fingerprint": self.store.fingerprint,
        }
        return TunedLens(
            self.model, tuple(self.sites), torch.stack(self.weights).detach().cpu(),
            torch.stack(self.biases).detach().cpu(), told, np.array(self.losses),
        )  # fmt: skip

    def checkpoint(self) -> None:
        """Write weights, optimiser and position, where there is a folder."""
        if self.folder is None:
            return
        tensors = {f"p/{i}": x for i, x in enumerate((*self.weights, *self.biases))}
        for i, state in self.optimizer.state_dict()["state"].items():  # 5
            tensors |= {f"o/{i}/{k}": v for k, v in state.items() if isinstance(v, Tensor)}
        position = {"source": self.source.state_dict(), "done": self.done}
        files.write_checkpoint(self.folder, tensors, np.array(self.losses), self.identity, position)

    def resume(self) -> None:
        """Go to the last checkpoint in the folder, if there is one."""
        found = None if self.folder is None else files.read_checkpoint(self.folder, self.identity)
        if found is None:
            return
        tensors, losses, position = found
        states: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            kind, number, *rest = name.split("/")
            if kind == "p":
                (*self.weights, *self.biases)[int(number)].copy_(value)
            else:
                states.setdefault(int(number), {})[rest[0]] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": states})
        self.source.load_state_dict(position["source"])
        self.done, self.losses = int(position["done"]), list(losses)


def _grad(x: Tensor) -> Tensor:
    if x.grad is None:
        raise ConfigError("a map without a gradient")  # pragma: no cover - set at every step
    return x.grad


def _optimizer(config: TunedLensConfig, parameters: list[Tensor]) -> torch.optim.Optimizer:
    lr = config.learning_rate(0)
    if config.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=lr, amsgrad=True, weight_decay=config.weight_decay)
    return torch.optim.SGD(
        parameters, lr=lr, momentum=config.momentum, nesterov=config.momentum > 0,
        weight_decay=config.weight_decay,
    )  # fmt: skip
