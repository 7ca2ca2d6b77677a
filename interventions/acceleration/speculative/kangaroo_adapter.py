"""Kangaroo's adapter (Liu et al. 2024): one attention sublayer between an early exit and the head.

y = h + O(attention(norm(h))), logits = head(final norm(y)), without an MLP; the head is the model's
own and frozen, the final norm begins as a copy of the model's. O begins at 0, so that an untrained
adapter is the lens of its exit layer. Positions enter by rotary embedding (base 10000), whatever
the model itself uses. 4 d^2 + d weights and those of the norm.
"""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lensbench import io
from lensbench.errors import ConfigError, DamagedDataError, MismatchError
from lensbench.interventions.acceleration.decoding import check_exit, native
from lensbench.models.base import Model
from lensbench.models.huggingface import NativeModel
from lensbench.models.ranges.buffers import Buffers

CONFIG, WEIGHTS = "config.json", "adapter.safetensors"
KIND, SCHEMA = "lensbench kangaroo adapter", 1


class KangarooAdapter(nn.Module):
    """The adapter of one model and exit layer; made by :func:`train_kangaroo` or :meth:`new`."""

    def __init__(
        self, model: NativeModel, exit_layer: int, n_heads: int, settings: dict[str, Any]
    ) -> None:
        super().__init__()
        d = model.card.d_model
        if d % (2 * n_heads):
            raise ConfigError(
                f"n_heads must cut the width {d} into heads of an even width, got {n_heads}"
            )
        self.exit_layer, self.n_heads, self.settings = exit_layer, n_heads, settings
        self.fingerprint = model.card.fingerprint
        self.losses = np.zeros(0)
        """Cross-entropy of every step of training, in nats."""
        self.norm = nn.RMSNorm(d, eps=1e-6)
        self.qkv = nn.Linear(d, 3 * d, bias=False)
        self.out = nn.Linear(d, d, bias=False)
        self.final_norm = _final_norm(model)
        with torch.no_grad():
            rng = torch.Generator().manual_seed(int(settings.get("seed", 0)))
            self.qkv.weight.copy_(torch.randn(3 * d, d, generator=rng) * d**-0.5)
            self.out.weight.zero_()
        self._head = model.trunk.unembed
        self.to(model.device)

    @classmethod
    def new(
        cls, model: Model, exit_layer: int, *, n_heads: int | None = None, seed: int = 0
    ) -> "KangarooAdapter":
        """An untrained adapter, which reads as the lens of the exit layer does.

        Raises:
            ConfigError: an exit outside 1..L-1, or heads that do not cut the width.
        """
        known = native(model)
        check_exit(exit_layer, known.n_layers, full=False)
        return cls(known, exit_layer, n_heads or known.card.n_heads, {"seed": seed})

    def forward(
        self, h: Float[Tensor, "rows pos d_model"], at: int = 0, cache: Buffers | None = None
    ) -> Float[Tensor, "rows pos d_model"]:
        """Exit states to states that the head reads; ``cache`` holds keys of the ``at`` before."""
        x = h.float()
        rows, n, d = x.shape
        q, k, v = (
            y.view(rows, n, self.n_heads, d // self.n_heads).transpose(1, 2)
            for y in self.qkv(self.norm(x)).split(d, -1)
        )
        places = torch.arange(at, at + n, device=x.device)
        q, k = _rotate(q, places), _rotate(k, places)
        if cache is not None:
            k, v = cache.update(k, v, 0)
        # Queries stand at the end of the keys, which torch's is_causal would not know.
        seen = torch.ones(n, at + n, dtype=torch.bool, device=x.device).tril(at)
        z = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        return self.final_norm(x + self.out(z.transpose(1, 2).reshape(rows, n, d)))

    def logits(self, h: Float[Tensor, "rows pos d_model"]) -> Float[Tensor, "rows pos d_vocab"]:
        """What a draft says at every token of whole texts, from their exit states."""
        return self._head(self(h), norm=False)

    def unembed(self, y: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_vocab"]:
        """The model's frozen head on what :meth:`forward` gave."""
        return self._head(y, norm=False)

    def check_model(self, model: Model) -> None:
        """Refuse another model than the adapter's.

        Raises:
            MismatchError: other weights.
        """
        if model.card.fingerprint != self.fingerprint:
            raise MismatchError(
                f"the adapter is of another model ({self.fingerprint}) than {model.card.name} "
                f"({model.card.fingerprint}); train one for this model"
            )

    def save(self, folder: Path | str) -> Path:
        """Write ``config.json`` and ``adapter.safetensors``."""
        place = Path(folder)
        arrays = {k: v.detach().cpu().numpy() for k, v in self.state_dict().items()}
        io.write_arrays(place / WEIGHTS, {**arrays, "losses": self.losses})
        told: dict[str, Any] = {
            "kind": KIND,
            "schema": SCHEMA,
            "model": self.fingerprint,
            "exit_layer": self.exit_layer,
            "n_heads": self.n_heads,
            "settings": self.settings,
            "sha256": io.sha256_file(place / WEIGHTS),
        }
        io.write_json(place / CONFIG, told)
        return place

    @classmethod
    def load(cls, folder: Path | str, model: Model) -> "KangarooAdapter":
        """What :meth:`save` wrote, for the model it was trained on.

        Raises:
            MissingDataError: no adapter there.
            DamagedDataError: not readable, or other weights than were written.
            MismatchError: an adapter of another model.
        """
        place = Path(folder)
        told = io.read_json(place / CONFIG)
        if not isinstance(told, dict) or (told.get("kind"), told.get("schema")) != (KIND, SCHEMA):
            raise DamagedDataError(f"{place / CONFIG} is no adapter of schema {SCHEMA}")
        arrays = io.read_arrays(place / WEIGHTS)
        if io.sha256_file(place / WEIGHTS) != told["sha256"]:
            raise DamagedDataError(f"{place / WEIGHTS} was altered after it was written (sha256)")
        known = native(model)
        if told["model"] != known.card.fingerprint:
            raise MismatchError(
                f"the adapter in {place} is of another model ({told['model']}) than "
                f"{known.card.name} ({known.card.fingerprint})"
            )
        adapter = cls(known, told["exit_layer"], told["n_heads"], told["settings"])
        adapter.losses = arrays.pop("losses")
        adapter.load_state_dict({k: torch.from_numpy(v) for k, v in arrays.items()})
        return adapter


def _final_norm(model: NativeModel) -> nn.Module:
    """A copy of the model's final norm in float32, of its own and without hooks."""
    architecture = model.layout.architecture
    path = architecture.stacks[architecture.main].final_norm
    if path is None:
        return nn.Identity()
    norm: Any = copy.deepcopy(model.module.get_submodule(path)).float()
    norm._forward_hooks.clear()
    norm._forward_pre_hooks.clear()
    return norm.requires_grad_()


def _rotate(x: Tensor, places: Tensor) -> Tensor:
    """Rotary embedding of halves, base 10000."""
    half = x.shape[-1] // 2
    rates = 10000 ** (-torch.arange(half, device=x.device) / half)
    angle = places[:, None] * rates
    a, b = x[..., :half], x[..., half:]
    return torch.cat((a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()), -1)
