"""JumpReLU: latents fire above a threshold of their own, learnt through a rectangle.

With ``H`` the step function, ``K`` a rectangle of width ``bandwidth`` and height 1 around 0, the
derivatives by the threshold are taken to be (Rajamanoharan et al. 2024b, arXiv:2407.14435)::

    d (pre * H(pre - threshold)) / d threshold = -threshold / bandwidth * K(pre - threshold)
    d H(pre - threshold) / d threshold         = -1 / bandwidth * K(pre - threshold)

Entries are therefore listed from half a bandwidth below the threshold on. The parameter is the
threshold in units of ``sqrt(d_model)``: Adam moves all parameters at one speed, and in these units
thresholds are as large as the entries of the encoder, as in the paper, whose activations have unit
mean square norm.
"""

# ruff: noqa: ARG002 - a rule is given whatever any rule may need

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lensbench.saes.architectures import DictionaryConfig, JumpReLUConfig, Penalised
from lensbench.saes.step.layouts import Listed
from lensbench.saes.step.rules.base import MAIN, Batch, Done, Flow, Step, plain
from lensbench.saes.step.rules.penalised import START, WithPenalty, cut_for, positive_entries


class JumpReLU(WithPenalty):
    """A threshold per latent, and a price per latent that fires."""

    parameters = (*MAIN, "threshold")
    gain, push = 0.05, 3.0  # thresholds answer more slowly than activations

    def start(self, config: DictionaryConfig, d_model: int) -> dict[str, Tensor]:
        """Also the thresholds, and the aim of the quadratic penalty."""
        assert isinstance(config, JumpReLUConfig)
        more = {
            "threshold": torch.zeros(config.d_sae),  # see calibrate
            "aim": torch.tensor(float(config.aim)),
        }
        return super().start(config, d_model) | more

    def first_weight(self, config: Penalised, d_model: int) -> float:
        """A tenth of the energy of one of ``aim`` equal latents; d_model / 64 where quadratic."""
        assert isinstance(config, JumpReLUConfig)
        if config.penalty == "quadratic":
            return d_model / 64 if config.l0_coefficient is None else config.l0_coefficient
        return 0.1 * d_model / config.aim

    def first_acts(self, config: DictionaryConfig, pre: Tensor) -> Tensor:
        """What is above the first threshold."""
        assert isinstance(config, JumpReLUConfig)
        return pre.relu() * (pre > first_threshold(config, pre))

    def calibrate(self, config: DictionaryConfig, own: Mapping[str, Tensor], pre: Tensor) -> None:
        """Thresholds that let the aim through: they move slowly, and zero is far below most."""
        assert isinstance(config, JumpReLUConfig)
        own["threshold"].fill_(first_threshold(config, pre) / _unit(own))

    def export(self, config: DictionaryConfig, own: Mapping[str, Tensor]) -> dict[str, Any]:
        """The thresholds."""
        return {"activation": "threshold", "threshold": own["threshold"] * _unit(own)}

    def listed(self, b: Batch) -> Listed | None:
        """Entries that fire, and those within half a bandwidth of it."""
        assert isinstance(b.config, JumpReLUConfig)
        lift = b.config.bandwidth / 2 - b.own["threshold"] * _unit(b.own)
        found = positive_entries(b, b.own["b_enc"] + lift)
        if found is not None:
            found.codes.values.sub_(lift[found.codes.columns])
        return found

    def flow(self, s: Step) -> Flow:
        """One reconstruction, and what is paid for firing."""
        config, layout = s.config, s.layout
        assert isinstance(config, JumpReLUConfig)
        threshold, pre = layout.each(s.own["threshold"] * _unit(s.own)), layout.pre
        fires = (pre > threshold).to(pre.dtype)
        acts = pre * fires
        near = ((pre - threshold).abs() < config.bandwidth / 2).to(pre.dtype) / config.bandwidth
        paid = s.own["paid"] / layout.n_tokens
        by_act, by_firing, cost = self._penalty(config, s, acts, fires)

        def inner(into: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            into = into + layout.scalar(paid) * by_act
            jump = threshold * near * into
            lower = jump + layout.scalar(paid) * by_firing * near
            gradient = fires * into
            return gradient + jump if config.penalty == "tanh" else gradient, {
                "threshold": lower * -_unit(s.own)
            }

        return plain(s, acts, inner, paid * cost)

    def _penalty(
        self, config: JumpReLUConfig, s: Step, acts: Tensor, fires: Tensor
    ) -> tuple[Tensor | float, Tensor | float, Tensor]:
        """Derivatives by an activation and by a firing, and the sum ``[..]``."""
        layout = s.layout
        if config.penalty == "tanh":
            bent = (acts * config.tanh_scale).tanh()
            return config.tanh_scale * (1 - bent * bent), 0.0, layout.total(bent)
        if config.penalty == "step":
            return 0.0, 1.0, layout.total(fires)
        aim = s.own["aim"]
        off = layout.per_token(fires) / layout.scalar(aim) - 1
        each = layout.token_total(fires) / aim.unsqueeze(-1) - 1
        return 0.0, 2 * off / layout.scalar(aim), each.square().sum(-1)

    def after(self, d: Done) -> None:
        """Steer, and keep thresholds from falling below zero."""
        super().after(d)
        d.own["threshold"].clamp_(min=0.0)


def first_threshold(config: JumpReLUConfig, pre: Tensor) -> float:
    """The one given, or the one above which lie ``START * aim`` entries per token."""
    if config.initial_threshold is not None:
        return config.initial_threshold
    return cut_for(pre, START * config.aim)


def _unit(own: Mapping[str, Tensor]) -> float:
    return own["W_enc"].shape[-1] ** 0.5
