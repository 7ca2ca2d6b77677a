"""The certificate of a TransformerLens model, by itself and against the model it was made from.

By itself: the checks of ``models/checks.py`` without the cache, which there is none of. Against the
native model: logits, and every shared site. A residual stream that differs refuses the model;
another site that differs is withheld, and whoever asks for it reads why.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lensbench.models.certificate import Certificate
from lensbench.models.checks import Examiner
from lensbench.models.site_checks import _MOVES, _nudge, sites_fire
from lensbench.plan import Zero, edit
from lensbench.provenance import record
from lensbench.results import Controls
from lensbench.sites import Site

if TYPE_CHECKING:
    from lensbench.models.huggingface import NativeModel
    from lensbench.models.transformer_lens.model import TransformerLensModel

_CORE = ("resid_pre", "resid_mid", "resid_post", "logits")
_MASKED = -1e4  # scores below are masked, whichever large number stands for it


class LensExaminer(Examiner):
    """The checks that apply to a TransformerLens model."""

    model: Any

    @property
    def _config(self) -> Any:
        return self.model.root.cfg

    def own(self) -> Tensor:
        """Logits of the object by itself."""
        with torch.no_grad():
            return self.model.root(self.tokens.ids.to(self.model.device), return_type="logits")

    def examine(self) -> list[dict[str, Any]]:
        """All checks."""
        self._taps()
        self._causality()
        self._padding()
        if self.model.layout.is_bridge:
            self._heads()
        sites_fire(self)
        self._write()
        self._unembed()
        self._skipping()
        return self.checks

    def compare(self, native: "NativeModel", *, folded: bool) -> list[dict[str, Any]]:
        """Logits and every shared site against the native model's; what differs is withheld."""
        shared = [s for s in self.model.sites() if s in set(native.sites()) and s.name != "logits"]
        theirs = native.run(self.tokens, capture=shared)
        ours = self.model.run(self.tokens, capture=shared)
        # Folding takes a number per position out of the logits, so probabilities are compared.
        a, b = (_compared(x.logits, folded=folded) for x in (ours, theirs))
        what = "log probabilities" if folded else "logits"
        self.same("native", a, b, f"{what} against the native back end")
        if folded:
            return self.checks
        for site in shared:
            gap = _gap(ours.acts[site], theirs.acts[site])
            fits = gap <= self.limit
            if not fits and site.name not in _CORE:
                why = (
                    f"TransformerLens gives other numbers there than the model (by {gap:.2g} std)."
                )
                self.model.layout.withhold(site, why)
            note = f"{site} against the native back end" + ("" if fits else "; withheld")
            passed = fits or site.name not in _CORE
            self.add("native site", passed, gap, self.limit, "max |diff| / std of the site", note)
        return self.checks

    def _heads(self) -> None:
        """Zeroing a head of z against zeroing its columns before the output projection."""
        model, worst, seen = self.model, 0.0, 0
        for layer in sorted({0, model.n_layers - 1}):
            site = Site("attn.z", layer)
            output = getattr(getattr(model.root.blocks[layer], "attn", None), "o", None)
            if site not in model.layout.points or output is None:
                continue
            for head in sorted({0, model.card.n_heads - 1}):
                ours = self.run(self.tokens, edit(site, Zero(), heads=[head]))
                gap = (ours - self._without(output.original_component, head)).abs().max()
                worst, seen = max(worst, float(gap) / self.scale), seen + 1
        if seen:
            note = f"{seen} heads zeroed in z against before the output projection"
            unit = "max |diff| / std of logits"
            self.add("heads", worst <= self.limit, worst, self.limit, unit, note)

    def _write(self) -> None:
        """Every site that may be written moves the logits."""
        model, layout = self.model, self.model.layout
        sites = [s for s in model.sites() if s.spec.writable and s not in layout.read_only]
        sites = [s for s in sites if s.name != "logits"]
        acts = model.run(self.tokens, capture=sites).acts
        plans = [edit(s, _nudge(s, acts[s], 0)) for s in sites]
        edited = model.run_many(self.tokens.ids[:1], plans, batch_size=128).logits
        change = (edited - self.logits[:1]).abs().flatten(1).amax(1).float() / self.scale
        dead = [str(s) for s, c in zip(sites, change.tolist(), strict=True) if not c > _MOVES]
        note = f"{len(sites)} writable sites move the logits"
        note = f"dead: {', '.join(dead[:4])}" if dead else note
        unit = "min max|change| / std of logits"
        self.add("sites write", not dead, float(change.min()), _MOVES, unit, note)

    def _without(self, projection: Any, head: int) -> Tensor:
        n_heads = self.model.card.n_heads

        def cut(_: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            x = args[0].clone()
            x.unflatten(-1, (n_heads, -1))[..., head, :] = 0
            return (x, *args[1:])

        handle = projection.register_forward_pre_hook(cut)
        try:
            return self.own()
        finally:
            handle.remove()


def certify(model: Any) -> Certificate:
    """The certificate of a TransformerLens model by itself."""
    return certificate(model, LensExaminer(model).examine())


def certificate(model: "TransformerLensModel", checks: list[dict[str, Any]]) -> Certificate:
    """The outcome of these checks."""
    return Certificate(
        model=model.card.name,
        fingerprint=model.card.fingerprint,
        checks=checks,
        provenance=record(model=vars(model.card), seed=0, device=str(model.device)),
        controls=Controls(note="each check has a broken model that fails it, in the tests"),
    )


def _compared(logits: Tensor | None, *, folded: bool) -> Tensor:
    assert logits is not None  # the run was asked for all
    return logits.float().log_softmax(-1) if folded else logits


def _gap(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference in units of the site's spread; masked scores are alike."""
    if ours.shape != theirs.shape:
        return float("inf")
    ours, theirs = ours.float(), theirs.float()
    seen = ~((ours < _MASKED) & (theirs < _MASKED))
    spread = float(theirs[seen].std()) or 1.0
    gap = (ours - theirs)[seen].abs().max() / spread
    return float(gap.nan_to_num(float("inf")))
