"""Gradients of one dictionary from a list of its entries: what runs one by one on a CPU.

The encoder forward is the only dense product; all others cost ``2 * entries * d_model``.
"""

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from lensbench.saes.step.aux_loss import AuxGradients, aux_gradients, pre_act_gradients
from lensbench.saes.step.encode import Workspace
from lensbench.saes.step.group import Group, uses_pre_act
from lensbench.saes.step.rules.base import Batch, Gradients, Now, Objective, Step, gradients


@dataclass
class Looped:
    """Steps through a group's dictionaries one after another."""

    screened: bool
    space: Workspace = field(default_factory=Workspace)

    def one(
        self,
        group: Group,
        i: int,
        x: Float[Tensor, "tokens d_in"],
        now: Now,
        y: Float[Tensor, "tokens d_out"] | None = None,
        objective: Objective | None = None,
    ) -> Gradients | None:
        """Gradients of dictionary ``i``; None where dense products would be cheaper."""
        config, own, rule = group.configs[i], group.own(i), group.rule
        x, target = group.problem(own, x, y, self.space.get("centred", tuple(x.shape), x))
        layout = rule.listed(Batch(config, x, own, self.space, self.screened))
        if layout is None:
            return None
        step = Step(config, layout, x, target, own, now, group.centred, group.widths, objective)
        found = gradients(rule, step)
        flow = found.flow
        one = Gradients(found.of, found.along, found.fired, flow.loss, flow.sse, flow.state)
        add_dead(group, i, x, flow.error, one)
        return one


def add_dead(group: Group, i: int, x: Tensor, error: Tensor, one: Gradients) -> None:
    """Add to the gradients of a dictionary the losses of its dead latents, if there are any."""
    dead, config = group.dead_lists[i], group.configs[i]
    if not len(dead):
        return
    if config.aux_coefficient > 0:
        _add(group, i, one, aux_gradients(group, i, x, error, dead))
    if uses_pre_act(config):
        more, threshold = pre_act_gradients(group, i, x, dead)
        _add(group, i, one, more)
        one.of["threshold"][dead] += threshold


def _add(group: Group, i: int, one: Gradients, more: AuxGradients) -> None:
    dead, of = group.dead_lists[i], one.of
    of["W_dec"][dead] += more.W_dec
    if group.rule.tied:
        of["W_dec"][dead] += more.W_enc
        one.along[dead] += (more.W_enc * group.W_dec[i][dead]).sum(1)
    else:
        of["W_enc"][dead] += more.W_enc
    of["b_enc"][dead] += more.b_enc
    if group.centred:
        of["b_dec"] -= more.b_enc @ group.W_enc[i][dead]
    one.along[dead] += more.along
    one.loss = one.loss + more.loss
