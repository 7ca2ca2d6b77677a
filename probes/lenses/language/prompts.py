"""Translation prompts with demonstrations, as latent languages are asked for."""

from collections.abc import Mapping, Sequence

import numpy as np

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError, UnknownNameError

TEMPLATE = '{source_name}: "{source}" - {target_name}: "{target}"'


def translation_prompts(
    words: Mapping[str, Sequence[str]],
    source: str,
    target: str,
    *,
    shots: int = 4,
    template: str = TEMPLATE,
    names: Mapping[str, str] | None = None,
    separator: str = "\n",
    seed: int = 0,
) -> list[str]:
    """One prompt per word: ``shots`` translations of other words, then the word, left open.

    ``Deutsch: "Berg" - 中文: "山"``, ..., ``Deutsch: "Buch" - 中文: "`` (the last line ends where
    ``{target}`` would stand, without a space). ``source == target`` asks for repetition.
    Source: Wendler et al. 2024, arXiv:2402.10588.

    Args:
        words: the same words in every language, in one order.
        source: language of the given word, a key of ``words``.
        target: language to translate into.
        shots: demonstrations.
        template: a line; ``{source_name}`` and ``{target_name}`` are filled by ``names``.
        names: what each language is called (default: its key).
        separator: what stands between lines.
        seed: of the choice of demonstrations.

    Raises:
        UnknownNameError: a language that ``words`` has not.
        ConfigError: too few words for the demonstrations, lists of different length, a template
            without its places.

    Example:
        >>> words = {"en": ["fish", "dog", "cat"], "fr": ["poisson", "chien", "chat"]}
        >>> asked = probes.translation_prompts(words, "en", "fr", shots=2)
    """
    for language in (source, target):
        if language not in words:
            raise UnknownNameError("language", language, known=tuple(words))
    shots = whole_number("shots", shots, least=0)
    n = len(words[source])
    if len(words[target]) != n:
        raise ConfigError(f"{source!r} has {n} words and {target!r} {len(words[target])}")
    if n <= shots:
        raise ConfigError(f"{shots} demonstrations and a question need {shots + 1} words, got {n}")
    if "{source}" not in template or "{target}" not in template:
        raise ConfigError(f"template must hold {{source}} and {{target}}, got {template!r}")
    called = {language: language for language in words} | dict(names or {})
    fixed = {"source_name": called[source], "target_name": called[target]}
    line = lambda i, form: form.format(  # noqa: E731 - one line, used twice
        source=words[source][i], target=words[target][i], **fixed
    )
    query = template[: template.index("{target}")].rstrip(" ")
    rng = np.random.default_rng(seed)
    found: list[str] = []
    for i in range(n):
        shown = rng.choice([j for j in range(n) if j != i], shots, replace=False)
        found.append(separator.join([*(line(j, template) for j in shown), line(i, query)]))
    return found
