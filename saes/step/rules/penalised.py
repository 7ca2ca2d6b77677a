"""ReLU dictionaries that pay for the size of their activations, and how any payment is steered."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from lensbench.saes.architectures import DictionaryConfig, PAnnealConfig, Penalised
from lensbench.saes.step.encode import pre_activations
from lensbench.saes.step.kernels import Codes
from lensbench.saes.step.layouts import Listed
from lensbench.saes.step.rules.base import SPARSE_BELOW, Batch, Done, Flow, Now, Rule, Step, plain
from lensbench.saes.step.selection import GROUP, above, group_maxima

START = 4
"""Thresholds begin where this many times the aim fire: those that begin higher leave more dead."""
REACH = 1e4
"""Largest factor by which a steered weight leaves the one it began with, up or down: where L0
answers slowly, it would grow until the gradients overflow."""
LEAD = 4.0
"""Largest factor by which it leads."""
SMOOTH = 0.1
"""Weight of the newest batch in the mean L0 that steering follows."""
LP_WINDOW = 10
"""Batches over which a change of exponent is balanced."""
LP_EPS = 1e-8


class WithPenalty(Rule):
    """A penalty whose weight is fixed, with a warm-up, or follows L0."""

    gain: ClassVar[float] = 0.02
    """Largest relative change of a steered weight per step."""
    push: ClassVar[float] = 1.5
    """Power of L0 / aim by which what is paid leads the weight; without it L0 swings about."""

    def start(self, config: DictionaryConfig, d_model: int) -> dict[str, Tensor]:
        """``weight``, what is ``paid`` at this step, the L0 that is steered by."""
        assert isinstance(config, Penalised)
        first = self.first_weight(config, d_model)
        return {
            "weight": torch.tensor(first if config.fixed_weight is None else config.fixed_weight),
            "paid": torch.tensor(0.0),
            "l0_mean": torch.tensor(float("nan")),
            "l0_first": torch.tensor(float("nan")),
        }

    def first_weight(self, config: Penalised, d_model: int) -> float:
        """Where steering begins: a tenth of the activation of one of ``aim`` equal latents."""
        return 0.1 * (d_model / config.aim) ** 0.5

    def before(self, config: DictionaryConfig, own: Mapping[str, Tensor], now: Now) -> None:
        """What is paid now."""
        assert isinstance(config, Penalised)
        factor: Tensor | float = 1.0
        if config.steered:
            lead = (own["l0_mean"] / aim_now(config, own, now)).nan_to_num(1.0) ** self.push
            factor = lead.clamp(1 / LEAD, LEAD)
        elif config.fixed_weight is not None:
            factor = now.ramp(config.penalty_warmup)
        own["paid"].copy_(own["weight"] * factor)

    def after(self, d: Done) -> None:
        """Steer."""
        config, own = d.config, d.own
        assert isinstance(config, Penalised)
        if config.steered:
            first = own["l0_first"]
            first.copy_(torch.where(first.isnan(), d.l0, first))
            aim = aim_now(config, own, d.now)
            steer(own["weight"], own["l0_mean"], d.l0, aim, d.updated, self.gain)
            begun = self.first_weight(config, own["b_dec"].shape[-1])
            own["weight"].clamp_(begun / REACH, begun * REACH)


def aim_now(config: Penalised, own: Mapping[str, Tensor], now: Now) -> Tensor:
    """L0 to steer to now: ``target * max(1, first / target)^(share of steer_over left)``."""
    left = max(0.0, 1 - now.step / (config.steer_over * now.steps)) if config.steer_over else 0.0
    return config.aim * (own["l0_first"] / config.aim).nan_to_num(1.0).clamp(min=1.0) ** left


def steer(
    weight: Tensor, mean: Tensor, l0: Tensor, aim: Tensor, updated: Tensor, gain: float
) -> None:
    """``weight *= exp(gain * log(mean L0 / aim))``, the logarithm limited to +-1; in place.

    The mean L0 moves a tenth of the way to that of each batch. What is paid is the weight times
    ``(mean L0 / aim)^push``, at most a factor of four: together a proportional and an integral
    controller of log L0 by log weight.
    """
    new = torch.where(mean.isnan(), l0, mean + SMOOTH * (l0 - mean))
    mean.copy_(torch.where(updated, new, mean))
    off = ((mean + 1e-3) / aim).log().clamp(-1.0, 1.0)
    weight.mul_(torch.where(updated, (gain * off).exp(), 1.0))


def cut_for(pre: Tensor, per_token: float) -> float:
    """Value above which ``per_token`` of the entries of a token lie on average; not below 0."""
    wanted = min(pre.numel(), max(1, round(per_token * len(pre))))
    return max(0.0, float(torch.topk(pre.flatten(), wanted, sorted=False)[0].min()))


def positive_entries(b: Batch, bias: Tensor) -> Listed | None:
    """Entries above zero; None where they are so many that dense products are cheaper."""
    pre = pre_activations(b.x, b.own["W_enc"], bias, b.space)
    maxima = group_maxima(pre) if pre.shape[1] % GROUP == 0 else None
    if maxima is not None:
        # As many groups would pass if entries above zero were spread evenly at the limit.
        passing = float((maxima > 0).sum()) / maxima.numel()
        if passing > 1 - (1 - SPARSE_BELOW) ** GROUP:
            return None
    rows, columns = above(pre, pre.new_full((len(pre), 1), 1e-30), maxima)
    if len(rows) > SPARSE_BELOW * pre.numel():
        return None
    return Listed(Codes.listed(pre[rows, columns], rows, columns, *pre.shape), b.space)


class ReLU(WithPenalty):
    """Every latent above zero fires and pays ``weight * act``."""

    def listed(self, b: Batch) -> Listed | None:
        """Entries above zero."""
        return positive_entries(b, b.own["b_enc"])

    def flow(self, s: Step) -> Flow:
        """One reconstruction, and the penalty."""
        acts = s.layout.pre.relu()
        active = acts > 0
        paid = s.own["paid"] / s.layout.n_tokens
        if s.widths:
            return _paid_by_site(s, acts, paid)
        slope, cost = self.penalty(s, acts)
        at = s.layout.scalar(paid)
        return plain(s, acts, lambda into: ((into + at * slope) * active, {}), paid * cost)

    def penalty(self, s: Step, acts: Tensor) -> tuple[Tensor | float, Tensor]:
        """Derivative of the penalty of an entry, and its sum ``[..]``."""
        return 1.0, s.layout.total(acts)


def _paid_by_site(s: Step, acts: Tensor, paid: Tensor) -> Flow:
    """ReLU's step for several sites: ``paid * sum(acts * c)``, ``c = sum_m |W_dec^m|``.

    Rows have unit length over all sites, so c is 1 for a latent of one site and ``sqrt(sites)`` for
    one that writes the same to each: the penalty draws latents to sites of their own.
    """
    parts = s.own["W_dec"].split(s.widths, dim=-1)
    norms = [part.norm(dim=-1, keepdim=True) for part in parts]
    price = torch.cat(norms, dim=-1).sum(-1)
    (summed,) = s.layout.sums(acts)
    slope = s.layout.scalar(paid) * s.layout.each(price)
    flow = plain(s, acts, lambda into: ((into + slope) * (acts > 0), {}))
    flow.loss = flow.loss + paid * (summed * price).sum(-1)
    weight = paid.unsqueeze(-1) * summed
    units = [part / norm.clamp(min=1e-12) for part, norm in zip(parts, norms, strict=True)]
    flow.W_dec = flow.W_dec + weight.unsqueeze(-1) * torch.cat(units, dim=-1)
    flow.along = weight * price
    return flow


class Tied(ReLU):
    """ReLU with the encoder equal to the decoder: its gradient is the sum of both."""

    parameters = ("b_enc", "W_dec", "b_dec")
    tied = True

    def calibrate(self, config: DictionaryConfig, own: Mapping[str, Tensor], pre: Tensor) -> None:
        """A first bias, the one of a few that reconstructs best.

        No factor can shrink a tied encoder, and half of a wide dictionary together overshoots many
        times over. With ``y`` the reconstruction, ``|y - x|^2 - |x|^2 = |y|^2 - 2 acts . pre``.
        """
        assert isinstance(config, Penalised)
        cuts = [cut_for(pre, share * config.aim) for share in (START, START / 2, 1, 1 / 2, 1 / 4)]
        acts = [(pre - cut).relu() for cut in cuts]
        costs = [float((a @ own["W_dec"]).square().sum() - 2 * (a * pre).sum()) for a in acts]
        own["b_enc"].fill_(-cuts[costs.index(min(costs))])


class PAnneal(ReLU):
    """ReLU with a penalty ``weight * act^p`` whose exponent falls."""

    def start(self, config: DictionaryConfig, d_model: int) -> dict[str, Tensor]:
        """Also the ``exponent``, and sums of the penalty under it and under the next one."""
        more = {"exponent": torch.tensor(1.0), "lp_sums": torch.zeros(2)}
        return super().start(config, d_model) | more

    def before(self, config: DictionaryConfig, own: Mapping[str, Tensor], now: Now) -> None:
        """At an update, go on to the next exponent and keep the penalty."""
        assert isinstance(config, PAnnealConfig)
        if now.step in update_steps(config, now.steps):
            old, new = own["lp_sums"]
            own["weight"].mul_(torch.where(new > 0, old / new, 1.0))
            own["exponent"].fill_(exponent(config, now.step, now.steps))
            own["lp_sums"].zero_()
        super().before(config, own, now)

    def penalty(self, s: Step, acts: Tensor) -> tuple[Tensor | float, Tensor]:
        """``p act^(p-1)`` and the sum of ``act^p``, with 1e-8 added to an act that fires."""
        config = s.config
        assert isinstance(config, PAnnealConfig)
        p = s.own["exponent"]
        shifted = acts + LP_EPS
        power = torch.where(acts > 0, shifted ** s.layout.scalar(p), 0.0)
        return s.layout.scalar(p) * power / shifted, s.layout.total(power)

    def flow(self, s: Step) -> Flow:
        """As ReLU; shortly before an update, the penalty under the next exponent too."""
        assert isinstance(s.config, PAnnealConfig)
        flow = super().flow(s)
        ahead = [u for u in update_steps(s.config, s.now.steps) if u > s.now.step]
        if ahead and ahead[0] - s.now.step <= LP_WINDOW:
            following = exponent(s.config, ahead[0], s.now.steps)
            now = s.own["exponent"]
            sums = [
                s.layout.total(torch.where(flow.acts > 0, (flow.acts + LP_EPS) ** p, 0.0))
                for p in (s.layout.scalar(now), torch.full_like(s.layout.scalar(now), following))
            ]
            flow.state["lp"] = torch.stack(sums, -1)
        return flow

    def after(self, d: Done) -> None:
        """Gather the sums that the next update divides."""
        super().after(d)
        if "lp" in d.found.state:
            d.own["lp_sums"].add_(torch.where(d.updated, d.found.state["lp"], 0.0))


def update_steps(config: PAnnealConfig, steps: int) -> list[int]:
    """Steps before which the exponent falls."""
    first, last = config.anneal_start * steps, config.anneal_end * steps
    n = config.updates
    return [round(first + (last - first) * (j + 1) / n) for j in range(n)]


def exponent(config: PAnnealConfig, step: int, steps: int) -> float:
    """Exponent from ``step`` on."""
    done = sum(step >= u for u in update_steps(config, steps))
    return 1.0 + (config.p_end - 1.0) * done / config.updates
