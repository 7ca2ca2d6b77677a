"""The local replacement model of one prompt: attention patterns and norm scales held as they were.

Everything that writes (the first residual state, every MLP, every dictionary's site) is given as a
value, so the pass is an affine function of these values: no MLP is between a write and a read.
Source: Ameisen et al. 2025, "Circuit Tracing" (transformer-circuits.pub).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.errors import ConfigError
from lensbench.models.base import Model
from lensbench.ops import Call, Set
from lensbench.plan import Edit, Plan
from lensbench.sites import Site
from lensbench.tokens import Tokens

HELD = ("ln1.scale", "attn.pattern", "ln2.scale")
START = Site("resid_pre", 0)
Values = Mapping[Site, Float[Tensor, "rows pos d_model"]]


@dataclass(frozen=True, eq=False)
class Pass:
    """One pass: at every site of interest what came in and what went on, and the last logits."""

    before: dict[Site, Tensor] = field(default_factory=dict[Site, Tensor])
    after: dict[Site, Tensor] = field(default_factory=dict[Site, Tensor])
    logits: list[Float[Tensor, "rows d_vocab"]] = field(default_factory=list[Tensor])

    def read(self, site: Site, *, same: bool) -> Float[Tensor, "rows pos d_model"]:
        """What a dictionary reads: where it writes too, what came in."""
        return (self.before if same else self.after)[site]


@dataclass(frozen=True, eq=False)
class Local:
    """A prompt, its clean run, and how to run it with everything held but what is written."""

    model: Model
    tokens: Tokens
    writes: tuple[Site, ...]
    reads: tuple[Site, ...]
    held: tuple[Edit, ...]
    clean: Mapping[Site, Float[Tensor, "pos d_model"]]
    logits: Float[Tensor, " d_vocab"]
    skips: Mapping[Site, tuple[Site, Tensor]] = field(
        default_factory=dict[Site, tuple[Site, Tensor]]
    )
    """Linear paths past a transcoder: where it writes, where it reads, and the map."""

    @classmethod
    def of(
        cls, model: Model, tokens: Tokens, writes: Sequence[Site], reads: Sequence[Site],
        skips: Mapping[Site, tuple[Site, Tensor]] | None = None,
    ) -> "Local":  # fmt: skip
        """Run the prompt and keep what is to be held."""
        known = set(model.sites())
        layers = range(model.n_layers)
        mlps = [s for i in layers if (s := Site("mlp_out", i)) in known]
        every = tuple(sorted({START, *mlps, *writes}))
        hold = [s for i in layers for n in HELD if (s := Site(n, i)) in known]
        hold += [s for s in (Site("ln_final.scale"),) if s in known]
        wanted = sorted({*every, *reads, *hold})
        out = model.run(tokens, capture=wanted, logits="last")
        assert out.logits is not None
        _check_numbers(model, out.logits)
        acts = {s: out.acts[s] for s in wanted}
        held = tuple(Edit(s, Set(acts[s])) for s in hold)
        clean = {s: acts[s][0] for s in (*every, *reads)}
        return cls(model, tokens, every, tuple(reads), held, clean, out.logits[0, -1], skips or {})

    def values(self, rows: int) -> dict[Site, Tensor]:
        """What was written in the clean run, for ``rows`` copies of the prompt; skips taken off."""
        found: dict[Site, Tensor] = {}
        for site in self.writes:
            value = self.clean[site]
            if site in self.skips:
                read, matrix = self.skips[site]
                value = value - self.clean[read] @ matrix.to(value)
            found[site] = value.expand(rows, *value.shape).clone()
        return found

    def run(self, values: Values, *, grad: bool = False) -> Pass:
        """The pass in which these values are written."""
        rows = next(iter(values.values())).shape[0]
        found = Pass()
        sites = sorted({*self.writes, *self.reads})
        through = tuple(Edit(s, Call(self._through(s, values, found), "write")) for s in sites)
        many = Tokens(self.tokens.ids.expand(rows, -1))
        out = self.model.run(many, Plan((*self.held, *through)), logits="last", grad=grad)
        assert out.logits is not None
        found.logits.append(out.logits[:, -1])
        return found

    def _through(self, site: Site, values: Values, found: Pass) -> Callable[[Tensor], Tensor]:
        def write(x: Tensor) -> Tensor:
            found.before[site] = x
            out = x
            if site in values:
                out = values[site]
                if site in self.skips:
                    read, matrix = self.skips[site]
                    out = out + found.after[read] @ matrix.to(out)
            found.after[site] = out
            return out

        return write


def _check_numbers(model: Model, logits: Tensor) -> None:
    if logits.dtype.itemsize < torch.float32.itemsize:
        raise ConfigError(f"{model.card.name} runs in {logits.dtype}, too coarse for sums of many "
                          "effects; load it with dtype='float32'")  # fmt: skip
