"""Which dictionaries step together, and how they start on a batch of all sites."""

from collections.abc import Iterator, Mapping

from torch import Tensor

from lensbench.errors import MismatchError
from lensbench.saes.architectures import DictionaryConfig
from lensbench.saes.ends import Ends
from lensbench.saes.step.group import Group, group_key
from lensbench.saes.step.start import new_group


def together(
    configs: list[DictionaryConfig], ends: list[Ends]
) -> Iterator[tuple[str, Ends, list[DictionaryConfig]]]:
    """Groups of a sweep: their key, what they read and write, their dictionaries."""
    found: dict[str, tuple[Ends, list[DictionaryConfig]]] = {}
    for config, own in zip(configs, ends, strict=True):
        found.setdefault(group_key(own, config), (own, []))[1].append(config)
    for key, (own, members) in found.items():
        yield key, own, members


def started(
    configs: list[DictionaryConfig],
    ends: Ends,
    batch: Mapping[str, Tensor],
    scales: Mapping[str, float],
) -> Group:
    """A group ready for its first step; ``batch`` in the units of the source.

    Raises:
        MismatchError: a crosscoder of sites of different widths that does not allow them.
    """
    widths = {site: batch[site].shape[1] for site in ends.sites}
    check_widths(configs, ends, widths)
    factors = [ends.scale(scales, widths, out=out) for out in (False, True)]
    device = batch[ends.reads[0]].device
    scale, out_scale = (f.to(device) if isinstance(f, Tensor) else f for f in factors)
    several = tuple(widths[site] for site in ends.writes) if len(ends.writes) > 1 else ()
    return new_group(configs, ends, ends.x(batch), scale, ends.y(batch), out_scale, several)


def check_widths(configs: list[DictionaryConfig], ends: Ends, widths: Mapping[str, int]) -> None:
    """Raise MismatchError for a crosscoder of different widths that does not allow them."""
    own = {site: widths[site] for site in ends.sites}
    if len(set(own.values())) > 1 and ends.same and not all(c.unequal_widths for c in configs):
        told = ", ".join(f"{site} ({width})" for site, width in own.items())
        raise MismatchError(
            f"the sites of the crosscoder {configs[0].name} differ in width: {told}. Each would "
            "weigh by its width in the loss; say unequal_widths: true if that is wanted"
        )
