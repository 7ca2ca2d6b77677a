"""Shorthand for writing families: a pattern, its slots, the held-out key and a weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from lensbench.worlds.atlas.grammar import Bindings, Step, Template, parse

END = "[EOS]"


class Family:
    """Collects the templates of one family; weights are relative within the family."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.templates: list[Template] = []
        self._orders: dict[tuple[str, str], int] = {}

    def add(
        self,
        surface: str,
        pattern: str,
        slots: Mapping[str, Step],
        *,
        key: Sequence[str],
        weight: float = 1.0,
        variant: str = "",
        group: str = "",
        foil: Callable[[Bindings, str], tuple[str, ...]] | None = None,
        facts: Mapping[str, str] | None = None,
    ) -> None:
        """Add one template; surfaces of one ``group`` hold out different cells of the keys."""
        order = self._order(group, surface)
        name = "/".join(part for part in (self.name, group, surface, variant) if part)
        self.templates.append(
            Template(
                name=name,
                family=self.name,
                surface="/".join(part for part in (self.name, group, surface) if part),
                steps=(*parse(pattern, slots), Step(literal=END)),
                key=tuple(key),
                order=order,
                prior=weight,
                foil=foil,
                facts=dict(facts or {}),
            )
        )

    def _order(self, group: str, surface: str) -> int:
        known = [s for g, s in self._orders if g == group]
        return self._orders.setdefault((group, surface), len(known))


def others(words: Sequence[str]) -> Callable[[Bindings, str], tuple[str, ...]]:
    """Foils: every word of ``words`` but the answer."""

    def foil(_: Bindings, answer: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(w for w in words if w != answer))

    return foil


def bound(*names: str) -> Callable[[Bindings, str], tuple[str, ...]]:
    """Foils: the words in the slots ``names`` that differ from the answer."""

    def foil(b: Bindings, answer: str) -> tuple[str, ...]:
        return tuple(b[n] for n in names if b[n] != answer)

    return foil
