"""The checks of the certificate.

Each check compares values, and each would have caught a published
bug of some library (see docs/methods.md): a lost causal mask, a wrong head width, positions shifted
by padding, a site that never fires, an edit that changes nothing.

1. taps: logits with every site captured equal those without; the empty plan equals the model's
   own forward under the attention it came with.
2. causality: changing the last token leaves earlier logits unmoved.
3. batch and left padding: a row alone, in a batch and left-padded gives the same logits.
4. heads: zeroing a head of z equals zeroing its columns before the output projection, by a plain
   hook.
5. sites: every site fires; every writable site moves the logits.
6. cache: decoding token by token equals the full forward.
7. unembed: unembed(resid_post of the last block) equals the logits.
8. skipping: a skipped block is not run, and neither is anything after an early stop.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lensbench.models.base import Past
from lensbench.models.families import submodule
from lensbench.plan import Add, Plan, Zero, edit, skip_layers
from lensbench.sites import Site
from lensbench.tokens import Tokens

if TYPE_CHECKING:
    from lensbench.models.huggingface import NativeModel

_TOLERANCE = {"float64": 2e-4, "float32": 2e-4, "bfloat16": 0.2, "float16": 0.05}
"""Largest allowed |difference| / std of the logits. fp32 kernels differ by about 1e-6."""
_MOVES = 1e-5


class Examiner:
    """Runs the checks on a small random batch."""

    def __init__(self, model: "NativeModel") -> None:
        self.model = model
        rng = torch.Generator().manual_seed(0)
        d_vocab, pad = model.card.d_vocab, getattr(model.tokenizer, "pad_token_id", None)
        ids = torch.randint(0, d_vocab, (2, 7), generator=rng)
        self.ids = torch.where(ids == pad, (ids + 1) % d_vocab, ids) if pad is not None else ids
        self.logits = self._logits(self.ids)
        self.scale = float(self.logits.float().std()) or 1.0
        self.limit = _TOLERANCE[model.card.dtype]
        self.checks: list[dict[str, Any]] = []

    def run(self) -> list[dict[str, Any]]:
        """All checks, in the order of the module's docstring."""
        steps: list[Callable[[], None]] = [
            self._taps,
            self._causality,
            self._padding,
            self._heads,
            self._sites,
            self._cached,
            self._unembed,
            self._skipping,
        ]
        for step in steps:
            step()
        return self.checks

    def _logits(self, ids: Any, plan: Plan = Plan(), **kwargs: Any) -> Tensor:  # noqa: B008
        out = self.model.run(Tokens(ids) if isinstance(ids, Tensor) else ids, plan, **kwargs).logits
        assert out is not None
        return out

    def _same(self, name: str, a: Tensor, b: Tensor, note: str) -> None:
        worst = float((a.float() - b.float()).abs().max()) / self.scale
        self._add(name, worst <= self.limit, worst, self.limit, "max |diff| / std of logits", note)

    def _add(
        self, name: str, passed: bool, value: float, limit: float, unit: str, note: str
    ) -> None:
        self.checks.append(
            {
                "name": name,
                "passed": bool(passed),
                "value": float(value),
                "limit": float(limit),
                "unit": unit,
                "note": note,
            }
        )

    def _taps(self) -> None:
        with torch.no_grad(), self.model.own_attention():
            own = self.model.module(
                input_ids=self.ids.to(self.model.device), use_cache=False
            ).logits
        self._same("forward", self.logits, own, "empty plan against the model's own forward")
        tapped = self._logits(self.ids, capture=self.model.sites())
        self._same("taps", tapped, self.logits, "every site captured against none")

    def _causality(self) -> None:
        changed = self.ids.clone()
        changed[:, -1] = (changed[:, -1] + 1) % self.model.card.d_vocab
        self._same(
            "causality",
            self._logits(changed)[:, :-1],
            self.logits[:, :-1],
            "last token changed; earlier logits",
        )
        tapped = self._logits(
            changed, capture=[s for s in self.model.sites() if s.name == "attn.pattern"]
        )
        self._same(
            "causality, tapped",
            tapped[:, :-1],
            self.logits[:, :-1],
            "the same with attention in the open",
        )

    def _padding(self) -> None:
        self._same(
            "batch", self._logits(self.ids[:1]), self.logits[:1], "a row alone against in a batch"
        )
        row, extra = self.ids[:1], 3
        filler = torch.zeros(1, extra, dtype=torch.long)
        for side in ("left", "right"):
            parts = (filler, row) if side == "left" else (row, filler)
            mask = torch.cat([torch.full_like(p, p is row, dtype=torch.bool) for p in parts], 1)
            out = self._logits(Tokens(torch.cat(parts, 1), mask))[mask.to(self.model.device)]
            self._same(
                f"{side} padding", out, self.logits[0], f"padded on the {side} against unpadded"
            )

    def _heads(self) -> None:
        """Zeroing a head of z against a plain hook that zeroes its columns before ``o_proj``."""
        n, worst, seen = self.model.card.n_heads, 0.0, 0
        for layer in sorted({0, self.model.n_layers - 1}):
            z = Site("attn.z", layer)
            if z not in self.model.sites():
                continue
            for head in sorted({0, n - 1}):
                ours = self._logits(self.ids, edit(z, Zero(), heads=[head]))
                gap = (ours - self._without_head(layer, head)).abs().max()
                worst, seen = max(worst, float(gap) / self.scale), seen + 1
        self._add(
            "heads",
            worst <= self.limit,
            worst,
            self.limit,
            "max |diff| / std of logits",
            f"{seen} heads zeroed in z against before the output projection",
        )

    def _without_head(self, layer: int, head: int) -> Tensor:
        family, module = self.model.layout.family, self.model.module
        block = list(submodule(module, family.blocks).children())[layer]

        def cut(_: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            x = args[0].clone()
            width = x.shape[-1] // self.model.card.n_heads
            x[..., head * width : (head + 1) * width] = 0
            return (x, *args[1:])

        handle = submodule(block, family.o_proj).register_forward_pre_hook(cut)
        try:
            with torch.no_grad():
                return module(input_ids=self.ids.to(self.model.device), use_cache=False).logits
        finally:
            handle.remove()

    def _sites(self) -> None:
        sites = self.model.sites()
        acts = self.model.run(Tokens(self.ids), capture=sites).acts
        bad = [n for n, x in acts.items() if not bool(torch.isfinite(x).all())]
        self._add(
            "sites fire",
            len(acts) == len(sites) and not bad,
            len(sites) - len(acts) + len(bad),
            0,
            "sites",
            f"{len(sites)} sites fire, finite",
        )
        writable = [s for s in sites if s.spec.writable and s.name != "logits"]
        plans = [edit(s, Add(self._nudge(acts[s]))) for s in writable]
        edited = self.model.run_many(Tokens(self.ids[:1]), plans, batch_size=128).logits
        assert edited is not None
        moves = (edited - self.logits[:1]).abs().flatten(1).amax(1).float() / self.scale
        dead = [str(s) for s, m in zip(writable, moves.tolist(), strict=True) if not m > _MOVES]
        self._add(
            "sites write",
            not dead,
            float(moves.min()),
            _MOVES,
            "min max|change| / std of logits",
            f"dead: {', '.join(dead[:4])}"
            if dead
            else f"{len(writable)} writable sites move the logits",
        )

    def _nudge(self, x: Tensor) -> Tensor:
        """A change of about the site's own size, uneven over positions and over the last axis.

        Softmax ignores what is common to all keys, and norms ignore what is common to all dims.
        """
        size = x.abs().clamp_max(1e3).mean().clamp_min(1e-3)
        wave = torch.where(torch.arange(x.shape[-1], device=x.device) % 2 == 0, 1.0, -0.5)
        if x.shape[1] == self.ids.shape[1]:  # axis 1 is pos
            steps = 1.0 + torch.arange(x.shape[1], device=x.device) % 3
            wave = steps.view(-1, *[1] * (x.ndim - 2)) * wave
        return (3 * size * wave).to(x.dtype)

    def _cached(self) -> None:
        past: Past | None = Past()
        steps: list[Tensor] = []
        for piece in (self.ids[:, :4], self.ids[:, 4:5], self.ids[:, 5:]):
            out = self.model.run(Tokens(piece), past=past)
            assert out.logits is not None
            steps.append(out.logits)
            past = out.past
        self._same(
            "cache", torch.cat(steps, 1), self.logits, "token by token against the full forward"
        )

    def _unembed(self) -> None:
        site = Site("resid_post", self.model.n_layers - 1)
        resid = self.model.run(Tokens(self.ids), capture=[site], logits="none").acts[site]
        with torch.no_grad():
            self._same(
                "unembed",
                self.model.unembed(resid),
                self.logits,
                "unembed(last resid_post) against the logits",
            )

    def _skipping(self) -> None:
        n, rows = self.model.n_layers, len(self.ids)
        skipped = self.model.run(Tokens(self.ids), skip_layers([0])).layers_run
        stopped = self.model.run(
            Tokens(self.ids), capture=[Site("resid_pre", 0)], logits="none"
        ).layers_run
        wrong = abs(skipped - rows * (n - 1)) + stopped
        self._add(
            "skipping",
            wrong == 0,
            wrong,
            0,
            "layer-forwards too many",
            "a skipped block and all after a stop do not run",
        )
