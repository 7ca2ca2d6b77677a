"""End-to-end objectives: what a dictionary costs is what the model loses by it.

The reconstruction is put in the place of the activations and the model runs on (Braun et al. 2024,
arXiv:2405.12241). With ``d`` the width of what is written, the loss of a dictionary is::

    d * (lost / lost_ablated + downstream_coefficient * mean_l FVU_l)

``lost`` is the mean over tokens of KL(clean || with reconstruction) for ``kl``, for ``ce`` what is
added to the cross-entropy; ``lost_ablated`` the same with the mean of the first batch in their
place, so that weights of penalties mean what they mean for reconstruction. ``FVU_l`` is the share
of variance that is off at the end of each block above the site (the paper's "downstream" loss sums
squared errors instead).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.errors import ConfigError
from lensbench.harvest.sequences import TOKENS, SequenceSource
from lensbench.models.base import Model
from lensbench.plan import Replace, edit
from lensbench.saes.architectures import DictionaryConfig
from lensbench.saes.ends import Ends
from lensbench.saes.step.group import Group
from lensbench.saes.step.rules.base import Objective
from lensbench.sites import Site
from lensbench.tokens import Tokens

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class _Clean:
    """The model's own run on one batch."""

    tokens: Tokens
    shape: tuple[int, ...]
    dtype: torch.dtype
    logp: Float[Tensor, "sequences pos d_vocab"]
    ce: float
    above: dict[str, Tensor]


class Downstream:
    """Gives every dictionary its :data:`Objective` on the current batch."""

    def __init__(self, source: SequenceSource) -> None:
        self._model, self._context = source.network, source.context
        self._ids = torch.empty(0)
        self._clean: dict[str, _Clean] = {}

    def take(self, batch: Batch) -> Batch:
        """Keep the tokens of a batch; what is left are activations."""
        self._ids, self._clean = batch[TOKENS], {}
        return {site: x for site, x in batch.items() if site != TOKENS}

    def objective(self, group: Group, i: int, batch: Mapping[str, Tensor]) -> Objective:
        """Loss of the error of dictionary ``i``, and its gradient."""
        config, site = group.configs[i], group.ends.writes[0]
        real, clean, unit = batch[site], self._seen(site), group.state["unit"][i]
        if not bool(unit > 0):
            unit.fill_(self._ablated(config, site, clean, real))

        def objective(error: Tensor) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                off = (error.detach() / group.out_scale).requires_grad_()
                lost, above = self._lost(config, site, clean, real + off)
                share = lost / unit + config.downstream_coefficient * above
                loss = share * real.shape[1]
                (grad,) = torch.autograd.grad(loss, off)
            return loss.detach(), grad / group.out_scale

        return objective

    def _seen(self, site: str) -> _Clean:
        if site in self._clean:
            return self._clean[site]
        tokens = Tokens(self._ids.long().view(-1, self._context))
        place, above = Site.parse(site), states_above(self._model, site)
        with torch.no_grad():
            out = self._model.run(tokens, capture=[place, *above])
        assert out.logits is not None
        logp = out.logits.float().log_softmax(-1)
        kept = {str(s): out.acts[s] for s in above}
        acts, ce = out.acts[place], float(_cross_entropy(logp, tokens))
        self._clean[site] = _Clean(tokens, tuple(acts.shape), acts.dtype, logp, ce, kept)
        return self._clean[site]

    def _lost(
        self, config: DictionaryConfig, site: str, clean: _Clean, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """KL or added cross-entropy, and the mean share of variance that is off above."""
        above = list(clean.above) if config.downstream_coefficient else []
        wanted = values.to(clean.logp.device, clean.dtype).view(clean.shape)
        out = self._model.run(
            clean.tokens, edit(site, Replace(wanted)), capture=above, grad=values.requires_grad
        )
        assert out.logits is not None
        logp = out.logits.float().log_softmax(-1)
        if config.objective == "kl":
            lost = (clean.logp.exp() * (clean.logp - logp)).sum(-1).mean()
        else:
            lost = _cross_entropy(logp, clean.tokens) - clean.ce
        shares = [_share_off(out.acts[name], clean.above[name]) for name in above]
        off = torch.stack(shares).mean() if shares else lost.new_zeros(())
        return lost.to(values.device), off.to(values.device)

    def _ablated(self, config: DictionaryConfig, site: str, clean: _Clean, real: Tensor) -> float:
        with torch.no_grad():
            lost, _ = self._lost(config, site, clean, real.mean(0).expand_as(real))
        if not float(lost) > 0:
            raise ConfigError(
                f"with {site} at its mean the model loses {float(lost):.3g} nats, so there is "
                f"nothing to train {config.name} on end to end; use objective: reconstruction"
            )
        return float(lost)


def taken(downstream: Downstream | None, batch: Batch) -> Batch:
    """The activations of a batch; its tokens, if it has any, are kept for the objectives."""
    return batch if downstream is None else downstream.take(batch)


def objectives(
    downstream: Downstream | None, group: Group, batch: Mapping[str, Tensor]
) -> Callable[[int], Objective] | None:
    """Objective of each dictionary of a group on this batch; None where it is the mean square."""
    if downstream is None or group.configs[0].objective == "reconstruction":
        return None
    return lambda i: downstream.objective(group, i, batch)


def downstream_of(
    source: Any, configs: list[DictionaryConfig], ends: list[Ends]
) -> Downstream | None:
    """What end-to-end dictionaries need; None where there are none.

    Raises:
        ConfigError: a source without a model to run on, or a weight of later blocks at a site that
            none follows.
    """
    wanted = [c for c in configs if c.objective != "reconstruction"]
    if not wanted:
        return None
    if not isinstance(source, SequenceSource):
        raise ConfigError(
            f"{wanted[0].name} is trained end to end (objective: {wanted[0].objective}), which "
            f"runs the model in every step; a {type(source).__name__} has none. Give "
            "lensbench.harvest.sequence_source(model, text, sites) (on the command line: --model "
            "and --text in place of --store)"
        )
    for config, one in zip(configs, ends, strict=True):
        if config.downstream_coefficient and not states_above(source.network, one.writes[0]):
            raise ConfigError(
                f"{config.name}: no block ends above {one.writes[0]}, so there is nothing for "
                "downstream_coefficient to weigh; leave it out"
            )
    return Downstream(source)


def states_above(model: Model, site: str) -> list[Site]:
    """The ends of the blocks that a change at ``site`` reaches."""
    return [s for s in model.sites() if s.name == "resid_post" and s > Site.parse(site)]


def _cross_entropy(logp: Float[Tensor, "sequences pos d_vocab"], tokens: Tokens) -> Tensor:
    return -logp[:, :-1].gather(-1, tokens.ids[:, 1:, None].to(logp.device)).mean()


def _share_off(got: Tensor, real: Tensor) -> Tensor:
    got, real = got.float(), real.float()
    variance = (real - real.mean((0, 1))).square().sum()
    return (got - real).square().sum() / variance
