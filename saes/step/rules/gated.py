"""Gated: the encoder decides twice, whether a latent fires and how strongly.

After training the two are one: with ``z = exp(r_mag) * (x - b_dec) @ W_enc + b_mag`` a latent's
gate is open exactly where ``z > b_mag - exp(r_mag) * b_gate``, so it is kept as a threshold
(Rajamanoharan et al. 2024a, arXiv:2404.16014, section 3.2 and appendix on JumpReLU).
"""

# ruff: noqa: ARG002 - a rule is given whatever any rule may need

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lensbench.saes.architectures import DictionaryConfig
from lensbench.saes.step.layouts import Listed
from lensbench.saes.step.rules.base import MAIN, Batch, Flow, Step, squares
from lensbench.saes.step.rules.penalised import WithPenalty, positive_entries


class Gated(WithPenalty):
    """Entries are those whose gate is open; ``b_enc`` is the bias of the gate."""

    parameters = (*MAIN, "r_mag", "b_mag")

    def start(self, config: DictionaryConfig, d_model: int) -> dict[str, Tensor]:
        """Also the scale and bias of the magnitudes."""
        more = {name: torch.zeros(config.d_sae) for name in ("r_mag", "b_mag")}
        return super().start(config, d_model) | more

    def export(self, config: DictionaryConfig, own: Mapping[str, Tensor]) -> dict[str, Any]:
        """The magnitudes' encoder, and the gate as a threshold."""
        factor = own["r_mag"].exp()
        return {
            "activation": "threshold",
            "threshold": own["b_mag"] - factor * own["b_enc"],
            "W_enc": own["W_enc"] * factor[:, None],
            "b_enc": own["b_mag"],
        }

    def listed(self, b: Batch) -> Listed | None:
        """Entries whose gate is open."""
        return positive_entries(b, b.own["b_enc"])

    def flow(self, s: Step) -> Flow:
        """Two reconstructions: from the magnitudes, and from the gates with a fixed decoder."""
        layout, W_dec, n = s.layout, s.own["W_dec"], s.layout.n_tokens
        gate = layout.pre.relu()
        opened = gate > 0
        factor = layout.each(s.own["r_mag"].exp())
        u = layout.pre - layout.each(s.own["b_enc"])
        magnitude = factor * u + layout.each(s.own["b_mag"])
        fires = opened & (magnitude > 0)
        acts = torch.where(fires, magnitude, 0.0)
        error = layout.decode(acts, W_dec).sub_(s.target)
        gate_error = layout.decode(gate, W_dec, "gate").sub_(s.target)
        grad, paid = error * (2 / n), s.own["paid"] / n
        into = layout.against(grad, W_dec)
        by_magnitude = into * fires
        by_gate = (layout.against(gate_error * (2 / n), W_dec) + layout.scalar(paid)) * opened
        sse = squares(error)
        return Flow(
            acts=acts,
            error=error,
            sse=sse,
            loss=(sse + squares(gate_error)) / n + paid * layout.total(gate),
            out=grad,
            into=into,
            inner=by_magnitude * factor + by_gate,
            W_dec=layout.outer(acts, grad, "W_dec"),
            per_latent={
                "b_enc": by_gate,
                "b_mag": by_magnitude,
                "r_mag": by_magnitude * u * factor,
            },
        )
