"""The page Latent language: which language each layer speaks while a model translates words.

What takes a moment is measured while the reader waits and kept. Anything larger is a job
(``lensbench lens language --out``) whose result lies in ``languages/`` below the root.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from lensbench import io
from lensbench.app.workflows.finding import once
from lensbench.app.workflows.live import Shelf, hold_model
from lensbench.app.workflows.prompting import ATLAS, read_language, words_given
from lensbench.errors import ConfigError

if TYPE_CHECKING:
    from lensbench.probes.lenses.language.result import LatentLanguage

FOLDER, FILE, WORDS_FILE = "languages", "result.json", "words.json"
AT_ONCE = 2e11
"""Multiplications for which a reader waits instead of starting a job: seconds on two cores."""
MOST_TEXT = 20_000
"""Letters of typed words."""
EXAMPLE = "en, fr, de\ndog, chien, Hund\nfish, poisson, Fisch\nbread, pain, Brot"
SHOTS = 4


@dataclass(frozen=True)
class LanguageAsk:
    """A model, the words of several languages, and which of them stands where."""

    model: str
    source: str
    target: str
    pivot: str
    words: str = ""
    """Typed: languages in the first line, then a line per word; empty: those of the atlas."""
    shots: int = 0
    """Translations that are shown before the question."""
    template: str = ""
    """A line of the prompt of words of one's own; empty: one whose marks the model knows."""


_read: "Shelf[LatentLanguage]" = Shelf(8)


def typed_words(text: str) -> dict[str, list[str]]:
    """Words by language, from lines whose parts are set off by commas.

    Raises:
        ConfigError: fewer than two languages, a language twice, a line with a word too few or many.
    """
    lines = [[part.strip() for part in line.split(",")] for line in text.splitlines()
             if line.strip()]  # fmt: skip
    if not lines or len(lines[0]) < 2:
        raise ConfigError("the first line names the languages, such as: en, fr, de")
    names, rows = lines[0], lines[1:]
    if len(set(names)) < len(names) or not all(names):
        raise ConfigError(f"the first line must name each language once, got {', '.join(names)}")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(names) or not all(row):
            raise ConfigError(f"line {number} needs a word for each of {', '.join(names)}; got "
                              f"{', '.join(row) or 'nothing'}")  # fmt: skip
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}


def words_of(words: str) -> dict[str, list[str]]:
    """The words of a request by language.

    Raises:
        ConfigError: see :func:`typed_words`.
    """
    return typed_words(words) if words else words_given(ATLAS)[0]


def found_for(root: Path, ask: LanguageAsk) -> "LatentLanguage | None":
    """What was measured for a request; None where that takes a job that is not finished.

    Raises:
        LensbenchError: see :func:`lensbench.probes.latent_language`.
    """
    if at_once(ask):
        return language_of(ask)
    from lensbench.results import load

    file = folder_for(root, ask) / FILE
    found: Any = once(file, "language", lambda p: load(p.parent)) if file.is_file() else None
    return found


def language_of(ask: LanguageAsk) -> "LatentLanguage":
    """Probability of every language by layer, beside its controls; run once and kept.

    Raises:
        ConfigError: words that do not fit, a language that is both target and pivot.
        LensbenchError: see :func:`lensbench.probes.latent_language`.
    """

    def run() -> "LatentLanguage":
        from lensbench import probes

        held = hold_model(ask.model)
        with held.lock:
            return probes.latent_language(held.model, prompts_of(ask), words_of(ask.words),
                                          target=ask.target, pivot=ask.pivot)  # fmt: skip

    return _read.get((ask, hold_model(ask.model).model.card.fingerprint), run)


def prompts_of(ask: LanguageAsk) -> list[str]:
    """One question per word.

    Raises:
        ConfigError: see :func:`lensbench.probes.translation_prompts`.
    """
    from lensbench.probes import translation_prompts

    table, how = words_given(ATLAS)
    if ask.words:
        table = words_of(ask.words)
        how: dict[str, Any] = {"template": template_of(ask)}
    how["shots"] = ask.shots
    return translation_prompts(table, ask.source, ask.target, **how)


def template_of(ask: LanguageAsk) -> str:
    """A line of the prompt: what was typed, or with quotes where the tokenizer has them."""
    from lensbench.probes.lenses.language.prompts import TEMPLATE

    tokenizer = hold_model(ask.model).model.tokenizer
    unknown = getattr(tokenizer, "unk_token_id", None)
    bare = unknown is not None and unknown in tokenizer('a : "b" -')["input_ids"][1:]
    return ask.template or (TEMPLATE.replace('"', "").replace(":", " :") if bare else TEMPLATE)


def layers_of(found: "LatentLanguage") -> pd.DataFrame:
    """One row per layer: the mean probability of each language, its control, entropy, energy."""
    columns: dict[str, Any] = {"layer": found.layers}
    for i, name in enumerate(found.languages):
        columns[name] = found.prob[i].mean(-1)
    at = found.languages.index(found.pivot)
    other = pd.DataFrame(found.others[at]).mean(axis=1)  # items without such tokens are left out
    columns |= {f"{found.pivot}, other words": other.to_numpy(),
                f"{found.pivot}, random tokens": found.random[at].mean(-1),
                "entropy (bits)": found.entropy.mean(-1),
                "energy": found.energy.mean(-1)}  # fmt: skip
    return pd.DataFrame(columns)


def table_for(ask: LanguageAsk) -> pd.DataFrame:
    """:func:`layers_of` of a request, for a notebook."""
    return layers_of(language_of(ask))


def at_once(ask: LanguageAsk) -> bool:
    """Whether it takes seconds."""
    model = hold_model(ask.model).model
    card, asked = model.card, prompts_of(ask)
    weights = card.n_layers * card.d_model * (4 * card.d_model + 3 * card.d_mlp)
    weights += card.n_layers * card.d_model * card.d_vocab
    length = len(model.tokens(asked[0]).ids[0]) if asked else 0
    return len(asked) * length * float(weights) <= AT_ONCE


def folder_for(root: Path, ask: LanguageAsk) -> Path:
    """Where the job of a page keeps it: another folder for every request and model."""
    card = hold_model(ask.model).model.card
    print_ = sha256(f"{card.fingerprint} {ask}".encode()).hexdigest()[:8]
    return root / FOLDER / f"{card.name}-{print_}"


def settings_of(ask: LanguageAsk, out: Path | None = None) -> dict[str, Any]:
    """The request as options of ``lensbench lens language``; words of one's own lie in a file."""
    words = ATLAS if not ask.words else str(words_file(out)) if out else WORDS_FILE
    return {
        "model": ask.model, "words": words, "source": ask.source, "target": ask.target,
        "pivot": ask.pivot, "shots": str(ask.shots),
        **({"template": template_of(ask)} if ask.words else {}),
        **({"out": str(out)} if out else {}),
    }  # fmt: skip


def words_file(out: Path) -> Path:
    """Beside the folder of a result: its words."""
    return out.with_name(f"{out.name}-{WORDS_FILE}")


def as_file(words: str) -> str:
    """Words of one's own as the file that the command line takes.

    Raises:
        ConfigError: see :func:`typed_words`.
    """
    return json.dumps(typed_words(words), ensure_ascii=False, indent=1)


def keep_words(root: Path, ask: LanguageAsk) -> None:
    """Write words of one's own where the job of this request looks for them."""
    if ask.words:
        io.write_json(words_file(folder_for(root, ask)), typed_words(ask.words))


def fit(settings: dict[str, Any], progress: Callable[..., Any]) -> dict[str, Any]:
    """What the job does: the command line's own measurement, saved below ``out``.

    Raises:
        LensbenchError: see :func:`lensbench.probes.latent_language`.
    """
    progress("running the questions")
    told = read_language(settings["model"], settings["words"], settings["source"],
                         settings["target"], settings["pivot"], shots=int(settings["shots"]),
                         template=settings.get("template"), out=Path(settings["out"]))  # fmt: skip
    return {"items": told["items"], **told["summary"]}
