"""Hypotheses for causal scrubbing as a user writes them: on the command line, or as a tree in YAML.

``blocks.5.resid_post@end=answer`` says: at its last token, all that block 5 hands on is which
answer is right. A feature is a property of the prompt that pairs tell: see :data:`FEATURES`.
"""

import re
from collections.abc import Hashable, Sequence
from pathlib import Path

from lensbench.config import Config
from lensbench.errors import ConfigError, UnknownNameError
from lensbench.interventions import Claim, Place
from lensbench.prompts.pairs import PromptPairs

FEATURES = {
    "answer": "the token that is right",
    "foil": "the token that is wrong",
    "wording": "which wording the prompt has",
    "length": "how many tokens it has",
    "prompt": "everything: the prompt itself",
    "nothing": "the same for all prompts, so that any may stand in",
}
"""Names of features beside the roles of a task, whose feature is the token that stands there."""
_CLAIM = re.compile(r"([^@=\s]+)(?:@([^@=\s]+?))?(?:#(\d{1,4}))?=(\w+)")
SHAPE = "SITE@POSITION=FEATURE, such as blocks.5.resid_post@end=answer (of one head: SITE@end#2=..)"


class Written(Config):
    """One claim of a YAML file."""

    site: str
    """Where, such as ``blocks.5.resid_post``."""
    position: int | str | None = None
    """Role or number of a token; left out, all."""
    head: int | None = None
    """Of a site with heads."""
    feature: str
    """What of the prompt matters there; see ``FEATURES``, or a role of the task."""
    children: tuple["Written", ...] = ()
    """What the place is computed from."""


class Hypothesis(Config):
    """A YAML file: ``claims:`` with one entry or more."""

    claims: tuple[Written, ...]
    """What the logits depend on."""


def claims_of(pairs: PromptPairs, typed: Sequence[str], file: Path | None) -> list[Claim]:
    """The claims of a command line, or of a file.

    Raises:
        ConfigError: neither or both, one that cannot be read, an unknown key.
        UnknownNameError: a feature that pairs do not tell, with the nearest that they do.
    """
    if bool(typed) == (file is not None):
        what = "both" if typed else "neither"
        raise ConfigError(f"give --claim {SHAPE}, or --claims FILE.yaml; got {what}")
    written = (
        [_typed(text) for text in typed] if file is None else Hypothesis.from_yaml(file).claims
    )
    if not written:
        raise ConfigError(f"{file}: claims is empty; a hypothesis needs one claim or more")
    return [_claim(one, pairs) for one in written]


def feature_of(pairs: PromptPairs, name: str) -> list[Hashable]:
    """The value of a feature for every clean prompt.

    Raises:
        UnknownNameError: no such feature or role.
    """
    if name in pairs.roles:
        at = pairs.position(name)
        return [row[i] if i >= 0 else -1 for row, i in zip(pairs.clean_ids, at, strict=True)]
    values: dict[str, Sequence[Hashable]] = {
        "answer": [tuple(ids) for ids in pairs.answers],
        "foil": [tuple(ids) for ids in pairs.foils],
        "wording": pairs.wordings,
        "length": [len(row) for row in pairs.clean_ids],
        "prompt": pairs.clean_ids,
        "nothing": [0] * len(pairs),
    }
    if name not in values:
        raise UnknownNameError("feature", name, known=(*FEATURES, *pairs.roles))
    return list(values[name])


def _typed(text: str) -> Written:
    found = _CLAIM.fullmatch(text.strip())
    if found is None:
        raise ConfigError(f"--claim {text!r} cannot be read; write {SHAPE}")
    site, position, head, feature = found.groups()
    return Written(site=site, position=position, head=None if head is None else int(head),
                   feature=feature)  # fmt: skip


def _claim(one: Written, pairs: PromptPairs) -> Claim:
    position = one.position
    if isinstance(position, str):
        if re.fullmatch(r"-?\d{1,9}", position):
            position = int(position)
        elif position not in pairs.roles:
            raise UnknownNameError("role", position, known=tuple(pairs.roles))
    children = tuple(_claim(child, pairs) for child in one.children)
    place = Place(one.site, position, one.head)  # pyright: ignore[reportArgumentType] - a name too
    return Claim(place, feature_of(pairs, one.feature), children, one.feature)
