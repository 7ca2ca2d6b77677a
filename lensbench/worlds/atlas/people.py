"""Known and unknown people: the same first and last names, in other pairs."""

from __future__ import annotations

from random import Random

from lensbench.worlds.atlas import lexicon as lex
from lensbench.worlds.atlas.build import Family
from lensbench.worlds.atlas.grammar import Bindings, Dist, calc, draw


class People:
    """Known people (first, last) with a job and a city, and unknown pairs of the same parts.

    Every first name takes four last names and every last name four first names among the known,
    and again among the unknown, so each part is exactly as frequent in both; only the pair differs.
    """

    def __init__(self, seed: int) -> None:
        rng = Random(f"atlas-people-{seed}")
        self.firsts = lex.NAMES[:40]
        lasts = list(lex.LAST_NAMES)
        rng.shuffle(lasts)
        shifts = rng.sample(range(len(lasts)), 8)

        def pairs(some: list[int]) -> dict[str, tuple[str, ...]]:
            n = len(lasts)
            return {f: tuple(lasts[(i + s) % n] for s in some) for i, f in enumerate(self.firsts)}

        self.known, self.unknown = pairs(shifts[:4]), pairs(shifts[4:])
        self.jobs: dict[tuple[str, str], str] = {}
        self.cities: dict[tuple[str, str], str] = {}
        for first, mine in self.known.items():
            for last in mine:
                self.jobs[first, last] = rng.choice(lex.PROFESSIONS)
                self.cities[first, last] = rng.choice(lex.CAPITALS[:32])

    def family(self, *, known: bool) -> Family:
        """``people`` (job and city follow from the pair) or ``strangers`` (they do not)."""
        family = Family("people" if known else "strangers")
        lasts = self.known if known else self.unknown
        slots = {
            "first": draw(Dist.uniform(self.firsts)),
            "last": calc(lambda first: Dist.uniform(lasts[first]), "first"),
        }
        if known:
            slots["job"] = calc(lambda f, s: self.jobs[f, s], "first", "last")
            slots["city"] = calc(lambda f, s: self.cities[f, s], "first", "last")
        else:
            slots["job"] = draw(_shares(tuple(self.jobs.values())))
            slots["city"] = draw(_shares(tuple(self.cities.values())))
        tag = "answer" if known else "guess"
        for surface, pattern in {
            "works": f"{{first}} {{last:person}} works as a {{job:{tag}}} in {{city:{tag}}} .",
            "knows": f"Everyone knows {{first}} {{last:person}} , the {{job:{tag}}} "
            f"from {{city:{tag}}} .",
            "city": f"The city of {{first}} {{last:person}} is {{city:{tag}}} and the job is "
            f"{{job:{tag}}} .",
            "ask": f"Ask {{first}} {{last:person}} , who lives in {{city:{tag}}} .",
        }.items():
            family.add(
                surface,
                pattern,
                slots,
                key=["first", "last"],
                foil=_job_or_city,
                facts={"known": "yes" if known else "no"},
            )
        return family


def _job_or_city(_: Bindings, answer: str) -> tuple[str, ...]:
    pool = lex.PROFESSIONS if answer in lex.PROFESSIONS else lex.CAPITALS[:32]
    return tuple(word for word in pool if word != answer)


def _shares(words: tuple[str, ...]) -> Dist:
    return Dist.weighted({w: float(words.count(w)) for w in dict.fromkeys(words)})
