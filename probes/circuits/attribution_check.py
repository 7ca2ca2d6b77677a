"""Direct logit attribution beside removals: a component taken out of the model as it runs.

1. The components with the largest mean share and others drawn at random are set to zero where they
   are written, at the position that was attributed. Biases are not taken out; a head is left with
   what its value bias and the bias of its norm write wherever it attends, which counts as bias.
2. Held: what every later layer writes (and the layer's MLP, where a head is taken out) and the
   final norm's denominator stay as they were. The logits are linear then, and the change is minus
   the share; only of heads behind a norm of their own (Gemma 2 and 3, OLMo 2), whose denominator
   is not held, need it not be.
3. Free: nothing is held. What differs from the share is what went through later layers and norms.
4. Control: shares towards a random pair of tokens.
"""

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench import provenance
from lensbench.arguments import positive_number, refuse_no_model
from lensbench.errors import ConfigError, MismatchError
from lensbench.models.transformer_lens.convert import lens_twin
from lensbench.ops import Set, Zero
from lensbench.plan import Edit, Plan
from lensbench.probes.circuits.attribution import LogitAttribution, columns_of, difference, place_of
from lensbench.results import Controls, Result
from lensbench.sites import Site
from lensbench.stats import mean_there, missed_among, most_missed, pearson, pick, spearman
from lensbench.tokens import Tokens, TokensLike, as_tokens

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lensbench.models import Model

SAME = 1e-2  # nats, or share of the difference: other prompts are further off


@dataclass(frozen=True, kw_only=True, eq=False)
class LogitAttributionCheck(Result):
    """Shares, and what the logit difference loses without the component, held and free; nats."""

    names: tuple[str, ...]
    chosen: tuple[str, ...]
    """``top`` or ``random``."""
    number: Int[np.ndarray, " tried"]
    share: Float[np.ndarray, "rows tried"]
    held: Float[np.ndarray, "rows tried"]
    """Lost with later writes and the final norm's denominator held."""
    free: Float[np.ndarray, "rows tried"]
    """Lost in the model as it is."""
    other: Float[np.ndarray, "rows tried"]
    """The control: shares towards a random pair of tokens."""
    logit_diff: Float[np.ndarray, " rows"]
    large: float
    """From which share of the mean logit difference on a change counts as large."""
    n_small: int
    """Components outside the top that were called small, tried or not."""

    def correlation(self, measured: str = "free", kind: str = "spearman") -> float:
        """Of mean shares with the mean loss, ``held`` or ``free``; NaN below two components.

        Raises:
            ConfigError: another name.
        """
        if measured not in ("held", "free") or kind not in ("spearman", "pearson"):
            raise ConfigError(
                "measured is 'held' or 'free' and kind 'spearman' or 'pearson'; got "
                f"{measured!r} and {kind!r}"
            )
        rank = spearman if kind == "spearman" else pearson
        return rank(self.share.mean(0), getattr(self, measured).mean(0))

    @property
    def error(self) -> float:
        """Largest ``|share - held|``, nats: rounding."""
        return float(np.abs(self.share - self.held).max())

    @property
    def gap(self) -> float:
        """``sum |free - share| / sum |share|`` over means: what direct shares leave out."""
        share, free = self.share.mean(0), self.free.mean(0)
        size = float(np.abs(share).sum())
        return float(np.abs(free - share).sum()) / size if size > 0 else float("nan")

    @property
    def missed(self) -> tuple[int, int]:
        """Random components called small whose free removal does much; how many were so called."""
        size = abs(float(self.logit_diff.mean()))
        said, done = (x.mean(0) for x in (self.share, self.free))
        return missed_among(said, done, self.chosen, self.large * size)

    @property
    def missed_bound(self) -> float:
        """Upper 95 % bound on the share of large changes among all components called small."""
        return most_missed(*self.missed, self.n_small)

    def to_frame(self) -> "pd.DataFrame":
        """One row per component that was taken out: means over prompts."""
        import pandas as pd

        frame = pd.DataFrame({
            "component": self.names, "chosen": self.chosen, "share": self.share.mean(0),
            "held": self.held.mean(0), "free": self.free.mean(0), "n": len(self.share),
        })  # fmt: skip
        frame.attrs["units"] = {**dict.fromkeys(("share", "held", "free"), "nats"), "n": "prompts"}
        return frame

    def summary(self) -> dict[str, float]:
        """Rank correlations and control; error when held; gap and what was missed when free."""
        missed, small = self.missed
        return {
            "spearman_held": self.correlation("held"), "spearman_free": self.correlation(),
            "spearman_control": self.controls.values["random_pair"], "error_held": self.error,
            "mean_error_free": float(mean_there(np.abs(self.free.mean(0) - self.share.mean(0)))),
            "gap_free": self.gap, "missed": float(missed), "called_small": float(small),
            "missed_bound": self.missed_bound, "components": float(len(self.names)),
            "prompts": float(len(self.share)),
        }  # fmt: skip

    def plot(self) -> "go.Figure":
        """Shares against what was lost in the model as it is."""
        from lensbench.plots import scatter

        return scatter(
            self.to_frame(), x="free", y="share", color="chosen",
            hover_columns=("component", "held"),
            title="Direct shares beside what the logit difference loses without the component",
            subtitle=f"free: rank correlation {self.correlation():.2f}, missed at most "
            f"{self.missed_bound:.0%}; held: off by {self.error:.1g}; control: {self.controls}",
        )  # fmt: skip


def check_attribution(
    found: LogitAttribution, model: "Model", tokens: TokensLike, *, top: int, random: int,
    large: float, seed: int,
) -> LogitAttributionCheck:  # fmt: skip
    """See :meth:`LogitAttribution.verify`."""
    refuse_no_model(model)
    began, large = time.monotonic(), positive_number("large", large)
    known = found.provenance.model.get("fingerprint")
    if known != model.card.fingerprint:
        raise MismatchError(f"the shares are of a model with fingerprint {known}, this one has "
                            f"{model.card.fingerprint}; attribute again")  # fmt: skip
    runs = _Runs.of(found, model, as_tokens(tokens))
    size = np.abs(found.shares.mean(0))
    pool = np.array([i for i, n in enumerate(found.names) if not n.endswith("bias")])
    order = pool[np.argsort(-size[pool], kind="stable")]
    picked, chosen = pick(order, top, random, seed)
    names = tuple(found.names[i] for i in picked)
    small = size[order[top:]] < large * abs(float(found.logit_diff.mean()))
    done = LogitAttributionCheck(
        names=names, chosen=chosen, number=picked, share=found.shares[:, picked],
        held=np.stack([runs.lost(n, held=True) for n in names], 1),
        free=np.stack([runs.lost(n, held=False) for n in names], 1),
        other=found.random_pair[:, picked], logit_diff=found.logit_diff, large=large,
        n_small=int(small.sum()),
        config={**found.config, "top": top, "random": random, "verify_seed": seed},
        provenance=provenance.record(model=vars(model.card), seed=seed,
                                     seconds=time.monotonic() - began),
    )  # fmt: skip
    note = "rank correlation of what was lost (held) with shares towards a random pair"
    score = spearman(done.other.mean(0), done.held.mean(0))
    return replace(done, controls=Controls({"random_pair": score}, note))


@dataclass(frozen=True, eq=False)
class _Runs:
    """The prompts as they were attributed, and everything that is held."""

    model: "Model"
    tokens: Tokens
    at: Tensor
    config: dict[str, Any]
    acts: dict[Site, Tensor]
    constant: dict[Site, Tensor]
    """``attn.z`` of biases alone, at the position."""
    clean: Float[np.ndarray, " rows"]

    @classmethod
    def of(cls, found: LogitAttribution, model: "Model", tokens: Tokens) -> "_Runs":
        """Run the prompts once.

        Raises:
            MismatchError: other prompts than those that were attributed.
        """
        names = ("attn_out", "mlp_out", "ln_final.scale")
        sites = [s for s in model.sites() if s.name in names]
        at, config = columns_of(tokens.real, found.config["position"]), found.config
        out = model.run(tokens, capture=sites)
        clean = cls._difference(out.logits, at, config) if len(at) == len(found.shares) else None
        if clean is None or not np.allclose(clean, found.logit_diff, rtol=SAME, atol=SAME):
            raise MismatchError("these are not the prompts that were attributed; give the same")
        held = {s: out.acts[s] for s in sites}
        return cls(model, tokens, at, config, held, _of_biases(model, tokens, at), clean)

    @staticmethod
    def _difference(logits: Tensor | None, at: Tensor, config: dict[str, Any]) -> np.ndarray:
        assert logits is not None  # the run was asked for all
        right, wrong = torch.tensor(config["answer"]), torch.tensor(config["foil"])
        return difference(logits, at, right, wrong, config["cap"]).double().cpu().numpy()

    def lost(self, name: str, *, held: bool) -> Float[np.ndarray, " rows"]:
        """How much less the logit difference is without a component."""
        edits = [self._without(name), *(self._held(name) if held else ())]
        edits.sort(key=lambda e: e.site)
        logits = self.model.run(self.tokens, Plan(tuple(edits))).logits
        return self.clean - self._difference(logits, self.at, self.config)

    def _without(self, name: str) -> Edit:
        layer, part = place_of(name)
        where = (int(self.config["position"]),)
        if part.startswith("H"):
            site, head = Site("attn.z", layer), int(part[1:])
            rest = self.constant[site][:, None, head : head + 1]
            return Edit(site, Set(rest), positions=where, heads=(head,))
        first = part == "embed"
        site = Site("resid_pre", 0) if first else Site("mlp_out", layer)
        return Edit(site, Zero(), positions=where)

    def _held(self, name: str) -> list[Edit]:
        """Everything that is written later, and the final denominator."""
        layer, part = place_of(name)
        own = "mlp_out" if part == "MLP" else "attn_out"
        found: list[Edit] = []
        for site, x in self.acts.items():
            mine = site.layer == layer and (site.name == own or part == "MLP")
            if site.layer is None or (site.layer >= layer and not mine):
                found.append(Edit(site, Set(x)))
        return found


def _of_biases(model: "Model", tokens: Tokens, at: Tensor) -> dict[Site, Tensor]:
    """What the folded twin's heads lack: it counts as a bias of their layer."""
    sites, lens = [s for s in model.sites() if s.name == "attn.z"], lens_twin(model)
    ours, theirs = (m.run(tokens, capture=sites, logits="none").acts for m in (model, lens))
    rows = torch.arange(len(at))
    return {s: ours[s].cpu()[rows, at.cpu()] - theirs[s].cpu()[rows, at.cpu()] for s in sites}
