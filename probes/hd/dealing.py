"""Which facts are asked about on which side: by entity, by relation, or by both.

``entity``    no entity asked about in test is in a fact of training, whatever the relation
``relation``  no relation of test is in training; examples of a prompt show it, from its own side
``both``      neither is; examples are of entities of training

The random code of a word is given back only by a probe that was trained on it. In ``entity`` the
value asked for is still an answer in training, but the code of the key is new; in
``relation`` and ``both`` the values of the atlas are new too, as no two of its relations share any.
What a probe of random codes reads there is therefore a floor; the classifier beside it says whether
the states hold the answer.
"""

from collections.abc import Sequence
from random import Random

from lensbench.errors import NotEnoughDataError

Fact = tuple[str, str, str]
"""Relation, entity, value."""
Pools = list[tuple[list[Fact], list[Fact]]]
"""For training, validation and test: facts asked about, and facts that examples are taken from."""
SHARES = (0.2, 0.1)  # of entities or relations: for test, for validation
_SIDES = 3
_LEAST = 2  # facts of a relation that a prompt with an example needs


def deal_names(facts: Sequence[Fact], split: str, rng: Random) -> Pools:
    """The facts of each side, for ``entity``, ``relation`` or ``both``.

    Raises:
        NotEnoughDataError: too few relations or entities for three sides.
    """
    names = sorted({e for _, e, _ in facts})
    entity = _dealt(names, "entities", rng) if split != "relation" else {}
    relation = _dealt(_relations(facts), "relations", rng) if split != "entity" else {}
    pools: Pools = []
    for side in range(_SIDES):
        right = [f for f in facts if relation.get(f[0], side) == side]
        asked = [f for f in right if entity.get(f[1], side) == side]
        known = [f for f in right if not (entity.get(f[1]) or entity.get(f[2]))]
        asked = known if side == 0 else asked  # a held-out word may be a value too (cold)
        shown = {(r, e) for r, e, _ in known}
        asked = [f for f in asked if any(r == f[0] and e != f[1] for r, e in shown)]  # an example
        pools.append((asked, known))
    if split == "entity":  # a value that nobody else has was never trained
        said = {value for _, _, value in pools[0][0]}
        pools = [([f for f in asked if f[2] in said], known) for asked, known in pools]
    everyone = [len(asked) for asked, _ in pools]
    if min(everyone) == 0:
        raise NotEnoughDataError(
            f"split {split!r} leaves {everyone} facts for training, validation and test; use "
            "another seed, or split 'pair'"
        )
    return pools


def _relations(facts: Sequence[Fact]) -> list[str]:
    names = [r for r, _, _ in facts]
    return sorted({r for r in names if names.count(r) >= _LEAST})


def _dealt(names: Sequence[str], what: str, rng: Random) -> dict[str, int]:
    """2 for test, 1 for validation, 0 for training."""
    if len(names) < _SIDES:
        raise NotEnoughDataError(
            f"{len(names)} {what} ({', '.join(names)}) cannot be dealt to training, validation and "
            "test; use split 'pair', or 'entity' where there are many entities"
        )
    order = list(names)
    rng.shuffle(order)
    test, seen = (max(1, round(share * len(order))) for share in SHARES)
    return {n: 2 if i < test else 1 if i < test + seen else 0 for i, n in enumerate(order)}
