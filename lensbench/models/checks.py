"""The checks of the certificate: the forward pass as a whole (sites one by one: site_checks.py).

Each check compares values, and each would have caught a published
bug of some library (see docs/methods.md): a lost causal mask, a wrong head width, positions shifted
by padding, a site that never fires, an edit that changes nothing.

1. taps: logits with every site captured equal those without; the empty plan equals the model's
   own forward under the attention it came with.
2. causality: changing the last token leaves earlier logits unmoved; an encoder, declared
   non-causal, has to move them.
3. batch and padding: a row alone, in a batch and padded gives the same logits.
4. heads, sites: see site_checks.py.
5. cache: decoding token by token equals the full forward.
6. unembed: unembed(resid_post of the last block) equals the logits.
7. skipping: a skipped block is not run, and neither is anything after an early stop.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lensbench.models.base import Past
from lensbench.models.site_checks import heads, sites_fire, sites_write
from lensbench.models.weights import quantised
from lensbench.plan import Plan, skip_layers
from lensbench.sites import Site
from lensbench.tokens import Tokens

if TYPE_CHECKING:
    from lensbench.models.huggingface import NativeModel

_TOLERANCE = {"float64": 2e-4, "float32": 2e-4, "bfloat16": 0.2, "float16": 0.05}
"""Largest allowed |difference| / std of the logits. fp32 kernels differ by about 1e-6."""
_QUANTISED = {"": 0.0, "yes": 0.0, "int8": 0.3}
"""LLM.int8() takes the columns with outliers of the *batch* out of its int8 product, so each token
moves the rounding of all others: on tiny models 0.06-0.1 in every check that changes the batch."""
MOVES = 1e-5
"""Least change / std of the logits that counts as one."""


class Examiner:
    """Runs the checks on a small random batch."""

    def __init__(self, model: "NativeModel") -> None:
        self.model, self.architecture = model, model.layout.architecture
        two = self.architecture.two_stacks
        self._rng = torch.Generator().manual_seed(0)
        ids = self._draw_text(2, 7)
        self.tokens = Tokens(ids, None, self._draw(2, 6) if two else None)
        self.ids = ids if self.tokens.decoder_ids is None else self.tokens.decoder_ids
        """Ids of the stack that gives the logits."""
        self.logits = self.run(self.tokens)
        self.scale = float(self.logits.float().std()) or 1.0
        self.limit = max(_TOLERANCE.get(model.card.dtype, 0.2), _QUANTISED[quantised(self._config)])
        self.checks: list[dict[str, Any]] = []

    def _draw_text(self, rows: int, pos: int) -> Tensor:
        """Ids of the stack that reads the text, whose vocabulary may be another."""
        return self._draw(rows, pos, next(iter(self.model.layout.shapes.values())).d_vocab)

    def _draw(self, rows: int, pos: int, d_vocab: int | None = None) -> Tensor:
        """Ids that are no padding: neither the tokenizer's nor the config's."""
        d_vocab = d_vocab or self.model.card.d_vocab
        ids = torch.randint(0, d_vocab, (rows, pos), generator=self._rng)
        told = (getattr(x, "pad_token_id", None) for x in (self.model.tokenizer, self._config))
        pads = {int(p) for p in told if p is not None}
        fine = next(i for i in range(d_vocab) if i not in pads)
        return torch.where(torch.isin(ids, torch.tensor(sorted(pads), dtype=torch.long)), fine, ids)

    @property
    def _config(self) -> Any:
        return self.model.module.config

    def examine(self) -> list[dict[str, Any]]:
        """All checks, in the order of the module's docstring."""
        steps: list[Callable[[], None]] = [self._taps, self._causality, self._padding]
        for step in steps:
            step()
        for part in (heads, sites_fire, sites_write):
            part(self)
        if self.architecture.causal:
            self._cached()
        self._unembed()
        self._skipping()
        return self.checks

    def run(self, tokens: Tokens, plan: Plan = Plan(), **kwargs: Any) -> Tensor:  # noqa: B008
        """Logits of a run."""
        out = self.model.run(tokens, plan, **kwargs).logits
        assert out is not None
        return out

    def own(self) -> Tensor:
        """Logits of the module by itself."""
        device, tokens = self.model.device, self.tokens
        fed: dict[str, Any] = {"input_ids": tokens.ids.to(device)}
        if tokens.decoder_ids is not None:
            fed["decoder_input_ids"] = tokens.decoder_ids.to(device)
        if self.architecture.causal:
            fed["use_cache"] = False
        with torch.no_grad():
            return self.model.module(**fed).logits

    def same(self, name: str, a: Tensor, b: Tensor, note: str) -> None:
        """Note whether two sets of logits agree."""
        self.add_gap(name, self.gap(a, b), note)

    def gap(self, a: Tensor, b: Tensor) -> float:
        """Largest |difference| / std; below float32, mixtures are given their ties.

        Where two experts nearly tie, rounding sends a token to the other one and moves it by as
        much as an expert does. There the 0.8 quantile over tokens stands for the largest.
        """
        worst = (a.float() - b.float()).abs().amax(-1).flatten() / self.scale
        return float(worst.quantile(0.8) if self._ties else worst.max())

    @property
    def _ties(self) -> bool:
        half = self.model.card.dtype in ("float16", "bfloat16")
        return half and self.model.card.n_experts > 0

    def add_gap(self, name: str, gap: float, note: str) -> None:
        """Note a difference of logits."""
        over = "0.8 quantile of" if self._ties else "max"
        self.add(name, gap <= self.limit, gap, self.limit, f"{over} |diff| / std of logits", note)

    def add(
        self, name: str, passed: bool, value: float, limit: float, unit: str, note: str
    ) -> None:
        """Note the outcome of a check."""
        told = {"passed": bool(passed), "value": float(value), "limit": float(limit)}
        self.checks.append({"name": name, **told, "unit": unit, "note": note})

    def _taps(self) -> None:
        with self.model.own_attention():
            own = self.own()
        self.same("forward", self.logits, own, "empty plan against the model's own forward")
        tapped = self.run(self.tokens, capture=self.model.sites())
        self.same("taps", tapped, self.logits, "every site captured against none")

    def _causality(self) -> None:
        changed = self.ids.clone()
        others = self._draw(1, 16)[0].tolist()
        changed[:, -1] = next(i for i in others if i not in changed[:, -1].tolist())
        tokens = self._with_ids(changed)
        patterns = [s for s in self.model.sites() if s.name.endswith(".pattern")]
        moved, opened = self.run(tokens), self.run(tokens, capture=patterns)
        if not self.architecture.causal:
            least = float((moved - self.logits)[:, :-1].float().abs().max()) / self.scale
            note = "an encoder: the last token changed; earlier logits have to move"
            unit = "max|change| / std of logits"
            self.add("sees the whole text", least > MOVES, least, MOVES, unit, note)
            return
        note = "last token changed; earlier logits"
        self.same("causality", moved[:, :-1], self.logits[:, :-1], note)
        note = "the same with attention in the open"
        self.same("causality, tapped", opened[:, :-1], self.logits[:, :-1], note)

    def _with_ids(self, ids: Tensor) -> Tokens:
        if self.tokens.decoder_ids is None:
            return Tokens(ids)
        return replace(self.tokens, decoder_ids=ids)

    def _rows(self, rows: slice) -> Tokens:
        decoder = self.tokens.decoder_ids
        return Tokens(self.tokens.ids[rows], None, None if decoder is None else decoder[rows])

    def _padding(self) -> None:
        alone = self.run(self._rows(slice(0, 1)))
        self.same("batch", alone, self.logits[:1], "a row alone against in a batch")
        for side in ("right",) if self.architecture.right_padded else ("left", "right"):
            self._padded(side)

    def _padded(self, side: str, extra: int = 3) -> None:
        """A padded row alone, and beside a full one of the padded length."""
        row, full = self.tokens.ids[:1], self._draw_text(1, self.tokens.n_pos + extra)
        filler = torch.zeros(1, extra, dtype=torch.long)
        parts = (filler, row) if side == "left" else (row, filler)
        mask = torch.cat([torch.full_like(p, p is row, dtype=torch.bool) for p in parts], 1)
        ids = torch.cat((torch.cat(parts, 1), full))
        masks = torch.cat((mask, torch.ones_like(mask)))
        decoder = self.tokens.decoder_ids
        beside = self.run(Tokens(ids, masks, decoder))[0]
        alone = self.run(Tokens(ids[:1], mask, None if decoder is None else decoder[:1]))[0]
        if decoder is None:
            beside, alone = (x[mask[0].to(x.device)] for x in (beside, alone))
        note = f"padded on the {side}, in a batch and alone, against unpadded"
        found, expected = torch.stack((beside, alone)), self.logits[:1].expand(2, -1, -1)
        self.same(f"{side} padding", found, expected, note)

    def _cached(self) -> None:
        past: Past | None = Past()
        steps: list[Tensor] = []
        left = self.ids.shape[1] - 5
        later = [1] * left if self.architecture.recurrent else [left]
        for piece in self.ids.split([4, 1, *later], 1):
            out = self.model.run(self._with_ids(piece), past=past)
            assert out.logits is not None
            steps.append(out.logits)
            past = out.past
        note = "token by token against the full forward"
        self.same("cache", torch.cat(steps, 1), self.logits, note)

    def _unembed(self) -> None:
        site = Site("resid_post", self.model.n_layers - 1, self.architecture.main)
        resid = self.model.run(self.tokens, capture=[site], logits="none").acts[site]
        note = "unembed(last resid_post) against the logits"
        self.same("unembed", self.model.unembed(resid), self.logits, note)

    def _skipping(self) -> None:
        n, rows = self.model.n_layers, len(self.ids)
        others = sum(s.n_layers for s in self.model.layout.shapes.values()) - n
        skipped = self.model.run(self.tokens, skip_layers([0])).layers_run
        first = next(s for s in self.model.sites() if s.name == "resid_pre")
        stopped = self.model.run(self.tokens, capture=[first], logits="none").layers_run
        wrong = abs(skipped - rows * (n - 1 + others)) + stopped
        note = "a skipped block and all after a stop do not run"
        self.add("skipping", wrong == 0, wrong, 0, "layer-forwards too many", note)
