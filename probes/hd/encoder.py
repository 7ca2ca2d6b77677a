"""From one residual vector to a hypervector: networks fitted by early stopping.

1. Standardise the inputs by the mean and standard deviation of the training rows.
2. ``mlp``: a ReLU network with dropout whose output is the whole hypervector bundle_i(bind(key_i,
   value_i)) at once, as published. It can only give back products that it was trained on.
   ``factored``: one output per key and value; the space binds and bundles what they give. It can
   put words together that never met, if each was seen in its role.
3. Loss: binary cross-entropy per dimension (MAP, BSC), or 1 - cosine (HRR, FHRR); AdamW.
4. After every pass, the mean cosine of the encoded validation rows with their targets; stop when it
   has not risen for ``patience`` passes and keep the weights of the best one.

Nothing is read but the rows given, once; equal seeds give equal weights.
Source: arXiv:2509.25045 for ``mlp``; the published sizes (four layers, 4,096 wide) are scaled to
the model, ``hidden`` x d_in. ``factored`` is ours.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from lensbench import io
from lensbench.config import Config
from lensbench.errors import ConfigError, DamagedDataError, MismatchError
from lensbench.probes.hd.memory import ItemMemory
from lensbench.probes.hd.spaces import Space, Ties, space_named


class EncoderConfig(Config):
    """How an encoder is built and fitted."""

    kind: Literal["mlp", "factored"] = "mlp"
    """``mlp`` as published, or ``factored``: an output per role, bound by the space."""
    hidden: tuple[float, ...] = (4.0, 8.0)
    """Widths of the hidden layers, in widths of the input."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    batch_size: int = Field(default=64, ge=1)
    max_epochs: int = Field(default=40, ge=1)
    patience: int = Field(default=4, ge=1)
    """Passes without a better validation cosine before the fit stops."""
    seed: int = 0


@dataclass(frozen=True, eq=False)
class HDEncoder:
    """A fitted encoder; ``encode`` gives hypervectors."""

    config: EncoderConfig
    space: Space
    dim: int
    pairs: int
    weights: dict[str, Tensor]
    curve: tuple[float, ...] = field(default=(), compare=False)
    """Validation cosine after every pass."""
    seconds: float = 0.0

    @property
    def n_parameters(self) -> int:
        """Fitted numbers."""
        return sum(w.numel() for name, w in self.weights.items() if "." in name)

    @property
    def val_cosine(self) -> float:
        """The best validation cosine."""
        return max(self.curve)

    def raw(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n roles width"]:
        """What the network gives before it is snapped onto the space; one role for ``mlp``."""
        mean, std = self.weights["mean"], self.weights["std"]
        if x.shape[-1] != len(mean):
            raise MismatchError(
                f"this encoder reads vectors of {len(mean)} numbers, got {x.shape[-1]}; ingest the "
                "same layers of the same model in the same way"
            )
        net = _network(len(mean), self._outputs(), self.config)
        net.load_state_dict({n: w for n, w in self.weights.items() if "." in n})
        with torch.no_grad():
            parts = [net.eval()((part - mean) / std) for part in x.split(1024)]
        return torch.cat(parts).unflatten(-1, (-1, self.space.width(self.dim)))

    def roles(self, x: Float[Tensor, "n d_in"]) -> Tensor:
        """Hypervectors of the outputs: ``[n, roles, dim]`` (key, value, key, value ...)."""
        return self.space.snap(self.raw(x))

    def encode(self, x: Float[Tensor, "n d_in"], *, seed: int = 0) -> Tensor:
        """Hypervectors ``[n, dim]``; ties are drawn under ``seed``."""
        return _join(self.space, self.config.kind, self.roles(x), seed)

    def _outputs(self) -> int:
        return _roles(self.config, self.pairs) * self.space.width(self.dim)

    def save(self, folder: Path | str) -> Path:
        """Write ``encoder.json`` and ``encoder.safetensors``; return the folder."""
        folder = Path(folder)
        io.write_arrays(
            folder / "encoder.safetensors", {n: w.numpy() for n, w in self.weights.items()}
        )
        io.write_json(folder / "encoder.json", {
            "config": self.config.model_dump(mode="json"), "space": self.space.name,
            "dim": self.dim, "pairs": self.pairs, "curve": list(self.curve),
            "sha256": io.sha256_file(folder / "encoder.safetensors"),
        })  # fmt: skip
        return folder

    @classmethod
    def load(cls, folder: Path | str) -> "HDEncoder":
        """Read what :meth:`save` wrote.

        Raises:
            MissingDataError: none there.
            DamagedDataError: not the weights that were written.
        """
        folder = Path(folder)
        about = io.read_json(folder / "encoder.json")
        weights = io.read_tensors(folder / "encoder.safetensors")
        if io.sha256_file(folder / "encoder.safetensors") != about["sha256"]:
            raise DamagedDataError(f"{folder / 'encoder.safetensors'} is not what was written")
        config = EncoderConfig(**about["config"])
        return cls(config, space_named(about["space"]), about["dim"], about["pairs"], weights,
                   tuple(about["curve"]))  # fmt: skip


def fit_encoder(
    x: Float[Tensor, "n d_in"],
    pairs: Int[Tensor, "n pairs two"],
    memory: ItemMemory,
    config: EncoderConfig | None = None,
    *,
    validation: tuple[Tensor, Tensor],
    ties: Ties = "random",
    single: tuple[Tensor, Tensor] | None = None,
) -> HDEncoder:
    """Fit an encoder of rows ``x`` to the bound pairs they stand for.

    ``pairs[i, j]`` are the concept numbers (rows of ``memory``) of key and value of pair j.
    ``validation`` are rows and pairs of which none is in ``x``. ``ties`` is how even votes in the
    targets are settled; it is there to show what ``"minus"`` costs. ``single`` are more training
    rows and the one concept that each stands for (``mlp`` only: see
    :mod:`~lensbench.probes.hd.augment`); inputs are standardised by the other rows.

    Raises:
        ConfigError: rows and pairs that do not fit each other, or no rows; single concepts for an
            encoder that gives roles, or of another width.

    Example:
        >>> states, pairs = torch.randn(64, 16), torch.randint(0, 5, (64, 1, 2))
        >>> encoder = probes.fit_encoder(states, pairs, memory, validation=(states[:8], pairs[:8]))
    """
    config = config or EncoderConfig()
    began, space = time.monotonic(), memory.space
    for name, a, b in (("training", x, pairs), ("validation", *validation)):
        if len(a) != len(b) or len(a) == 0 or b.ndim != 3 or b.shape[-1] != 2:
            raise ConfigError(
                f"{name} needs as many rows as pair lists [n, pairs, 2], got {list(a.shape)} and "
                f"{list(b.shape)}"
            )
    if len(x) < 2:
        raise ConfigError("training needs at least two rows: states are divided by their deviation")
    if single is not None and (config.kind != "mlp" or single[0].shape[1:] != x.shape[1:]):
        raise ConfigError(
            "rows of single concepts are for an encoder of kind 'mlp' and as wide as the others "
            f"({x.shape[1]}); got kind {config.kind!r} and rows {list(single[0].shape)}: read the "
            "layers by kmeans, mean or last"
        )
    mean, std = x.mean(0), x.std(0).clamp_min(1e-6)  # 1
    x, seen = (x - mean) / std, (validation[0] - mean) / std
    wanted = memory.encode(validation[1], seed=config.seed + 1, ties=ties)
    targets = _targets(memory, pairs, config, ties)
    if single is not None and len(single[0]):
        x, targets = _with_single(x, targets, (single[0] - mean) / std, single[1], memory)
    n_pairs = pairs.shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        outputs = _roles(config, n_pairs) * space.width(memory.dim)
        net = _network(x.shape[1], outputs, config)  # 2
        step = _stepper(net, x, targets, space, config)
        curve: list[float] = []
        kept: dict[str, Tensor] = {}
        for epoch in range(config.max_epochs):
            step()
            with torch.no_grad():
                out = net.eval()(seen).unflatten(-1, (-1, space.width(memory.dim)))
            found = _join(space, config.kind, space.snap(out), config.seed + 2)
            curve.append(float(space.similarity(found, wanted).mean()))
            best = max(range(epoch + 1), key=curve.__getitem__)
            if best == epoch:
                kept = {name: w.detach().clone() for name, w in net.state_dict().items()}
            if epoch - best >= config.patience:  # 4
                break
    return HDEncoder(config, space, memory.dim, n_pairs, {**kept, "mean": mean, "std": std},
                     tuple(curve), time.monotonic() - began)  # fmt: skip


def _stepper(
    net: nn.Module, x: Tensor, targets: Tensor, space: Space, config: EncoderConfig
) -> Callable[[], None]:
    optimiser = torch.optim.AdamW(net.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    rng = torch.Generator().manual_seed(config.seed)
    discrete = space.name in ("MAP", "BSC")

    def one_pass() -> None:
        net.train()
        for rows in torch.randperm(len(x), generator=rng).split(config.batch_size):
            raw = net(x[rows]).unflatten(-1, (-1, targets.shape[-1]))
            wanted = targets[rows].float()
            if discrete:  # 3
                loss = nn.functional.binary_cross_entropy_with_logits(raw, (wanted > 0).float())
            else:
                loss = 1 - torch.cosine_similarity(raw, wanted, dim=-1).mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()

    return one_pass


def _targets(memory: ItemMemory, pairs: Tensor, config: EncoderConfig, ties: Ties) -> Tensor:
    """Real views of what each output should be, ``[n, roles, width]``; int8 where that is exact."""
    space = memory.space
    if config.kind == "mlp":
        real = space.real(memory.encode(pairs, seed=config.seed, ties=ties))[:, None]
    else:
        real = space.real(memory.vectors)[pairs.flatten(1)]
    return real.to(torch.int8) if space.name in ("MAP", "BSC") else real


def _with_single(
    x: Tensor, targets: Tensor, more: Tensor, concepts: Tensor, memory: ItemMemory
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Rows with those of single concepts behind them, whose targets are the items themselves."""
    items = memory.space.real(memory.vectors[concepts])[:, None].to(targets.dtype)
    return torch.cat([x, more]), torch.cat([targets, items])


def _join(space: Space, kind: str, roles: Tensor, seed: int) -> Tensor:
    if kind == "mlp":
        return roles[:, 0]
    return space.bundle(space.bind(roles[:, 0::2], roles[:, 1::2]), seed=seed)


def _roles(config: EncoderConfig, pairs: int) -> int:
    return 1 if config.kind == "mlp" else 2 * pairs


def _network(d_in: int, outputs: int, config: EncoderConfig) -> nn.Sequential:
    widths = [d_in, *(max(1, round(f * d_in)) for f in config.hidden)]
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU(), nn.Dropout(config.dropout)]
    return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))


def matched_width(d_in: int, outputs: int, n_parameters: int) -> int:
    """Width of one hidden layer with about ``n_parameters`` in all."""
    return max(1, round((n_parameters - outputs) / (d_in + outputs + 1)))
