"""Key-value recall: pairs are told, one key is asked again.

``The box is red , the cup is blue and the lamp is green . The cup is`` -> `` blue``, not `` red``.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lensbench.prompts import words
from lensbench.prompts.build import Proposal, collect, need, usable
from lensbench.prompts.checks import whole_number
from lensbench.prompts.encoder import Encoder
from lensbench.prompts.pairs import PromptPairs
from lensbench.prompts.wording import Wording


@dataclass(frozen=True)
class _Form:
    """How pairs are told and one of them is asked."""

    name: str
    opening: str
    pair: str
    between: str
    ask: str
    keys: str
    values: str

    def wording(self, order: Sequence[str]) -> Wording:
        """With the pairs called ``order``; the one called ``""`` is asked."""
        told = self.between.join(
            self.pair.replace("K", f"{{{_key(o)}}}").replace("V", f"{{{_value(o)}}}") for o in order
        )
        return Wording(self.name, f"{self.opening}{told}{self.ask}")


def _key(which: str) -> str:
    return f"{which}key" if which in ("", "foil_") else f"_{which}key"


def _value(which: str) -> str:
    return f"{which}value" if which in ("", "foil_") else f"_{which}value"


FORMS = (
    _Form("is", "", "The K is V", " . ", " . The {query} is", "things", "qualities"),
    _Form("has", "Today ", "K has the V", " , ", " . {query} has the", "names", "things"),
)
ATLAS_FORMS = (
    _Form("list", "List ", "K V", " , ", " ; recall {query}", "things", "qualities"),
    _Form("owners", "List ", "K V", " , ", " ; recall {query}", "names", "things"),
    _Form("article", "A ", "K V", " , a ", " ; recall the {query}", "qualities", "things"),
)
_POOLS = {"things": words.THINGS, "qualities": words.COLOURS, "names": words.NAMES}
_ATLAS_POOLS = {"things": words.lex.OBJECTS, "qualities": words.lex.QUALITIES,
                "names": words.lex.NAMES}  # fmt: skip


def recall(
    model_or_tokenizer: Any, n: int = 100, seed: int = 0, *, n_pairs: int = 3
) -> PromptPairs:
    """Recall the value that was told with a key, out of ``n_pairs`` pairs (2 to 5).

    The corrupted prompt exchanges the values of the asked key and of one other key, so answer and
    foil change places while nothing near the question does.
    Where too few words are one token, longer ones are used; then values are exchanged only with
    equally long ones, and the answer is the first token of the value (``scored("sum")``: all).
    Roles: ``key``, ``value``, ``foil_key``, ``foil_value``, ``query`` (the key asked), ``end``.
    Source: the task of associative recall, Arora et al. 2023, arXiv:2312.04927.

    Raises:
        ConfigError: a number of pairs outside 2 to 5.
        NotEnoughDataError: too few words are known to the tokenizer.

    Example:
        >>> pairs = prompts.recall(model, n=16, seed=0, n_pairs=3)
    """
    n_pairs = whole_number(n_pairs, "n_pairs", 2, 5)
    encoder, rng = Encoder(model_or_tokenizer), random.Random(f"recall|{seed}|{n_pairs}")
    forms, source = (ATLAS_FORMS, _ATLAS_POOLS) if encoder.is_atlas else (FORMS, _POOLS)
    known = {k: _known(encoder, pool, n_pairs) for k, pool in source.items()}
    pools = {k: (len(known[k]), len(source[k])) for k in known}
    order = ["", "foil_", *(f"{i}_" for i in range(n_pairs - 2))]
    able = [
        form
        for form in forms
        if min(len(known[form.keys]), len(known[form.values])) >= n_pairs
        and usable(encoder, [form.wording(order)])
    ]
    pools["wordings"] = (len(able), len(forms))
    need("recall", "wordings", pools, 1, why="too few words that it knows")
    proposals = _proposals(encoder, rng, able, known, order)
    return collect(encoder, proposals, n, task="recall", seed=seed, pools=pools, several="first")


def _known(encoder: Encoder, pool: Sequence[str], least: int) -> Sequence[str]:
    single = encoder.single(pool)
    return single if len(single) > least else [w for w in pool if encoder.length(w)]


def _proposals(
    encoder: Encoder,
    rng: random.Random,
    forms: Sequence[_Form],
    pools: Mapping[str, Sequence[str]],
    order: Sequence[str],
) -> Iterator[Proposal]:
    while True:
        form = rng.choice(forms)
        wording = form.wording(rng.sample(order, len(order)))
        keys = rng.sample(pools[form.keys], len(order))
        values = rng.sample([v for v in pools[form.values] if v not in keys], len(order))
        slots = {_key(o): k for o, k in zip(order, keys, strict=True)}
        slots |= {_value(o): v for o, v in zip(order, values, strict=True)}
        slots["query"] = slots["key"]
        swapped = {**slots, "value": slots["foil_value"], "foil_value": slots["value"]}
        clean, corrupted = (wording.fill(s, spaced=encoder.spaced) for s in (slots, swapped))
        yield Proposal(form.name, clean, corrupted, f" {slots['value']}", f" {slots['foil_value']}")
