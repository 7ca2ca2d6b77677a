"""What an evaluation measures and how much it looks at."""

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field, field_validator

from lensbench.config import Config
from lensbench.errors import ConfigError, UnknownNameError

MEASURES = {
    "core": "reconstruction, sparsity, density; CE and KL with the site replaced",
    "labels": "the best single latent of every label",
    "sparse_probing": "a probe on the k best latents of every label",
    "tpp": "targeted probe perturbation: a label's latents taken out",
    "scr": "spurious correlation removal: a biased probe freed of a label",
    "absorption": "labels that are carried by latents of something more special",
    "splitting": "how many latents a label is spread over",
    "coverage": "labels matched by single latents, and rebuilt by precise ones",
    "meta": "decoder rows as sums of a few meta-latents",
    "seeds": "agreement with other seeds of the same recipe, and with known atoms",
    "implants": "directions that were put there, found again",
}
"""Name of a measure to what it asks."""
DEFAULT = ("core", "labels")
ON_LABELS = ("sparse_probing", "tpp", "scr", "coverage")
"""Measures that read labels of rows, beside ``labels`` itself."""
ON_WORDS = ("absorption", "splitting")
"""Measures of first letters (or of the labels, where ``letters`` is off)."""
ON_DECODERS = ("tpp", "scr", "absorption")
"""Measures that hold decoder rows against probes of activations: those of the site written."""


class EvaluationConfig(Config):
    """How much to look at, and what to compare with."""

    suite: tuple[str, ...] = DEFAULT
    """Measures: core, labels, sparse_probing, tpp, scr, absorption, splitting, coverage, meta,
    seeds, implants; or all of them as ``all``. Without core the model is not run."""
    max_tokens: int = Field(default=200_000, gt=0)
    """Stored tokens for reconstruction and labels, drawn as whole documents."""
    documents: tuple[int, int] | None = None
    """Documents that are looked at, by number in the store: the first, and the one after the last
    (such as those a run was not trained on). CE and KL then read sequences of these alone."""
    suite_tokens: int = Field(default=10_000, gt=0)
    """Of these, how many the probes of the other measures read (whole documents)."""
    ce_sequences: int = Field(default=256, ge=0)
    """Sequences for CE and KL, exactly so many from the start of the store; 0 leaves the model out.

    A sequence is a row of the capture: a document or a part of it (``pad``), or several (``pack``).
    """
    batch_size: int = Field(default=4096, gt=0)
    """Tokens encoded at once."""
    sequence_batch: int = Field(default=16, gt=0)
    """Sequences run at once; the batch above the site is (3 + dictionaries) times as large,
    (3 + 2 dictionaries) with ``controls``."""
    score_first: bool = False
    """Also score the prediction made at each sequence's first token (BOS)."""
    label_kinds: tuple[Literal["contextual", "lexical"], ...] = ("contextual",)
    """Kinds of labels to match latents with, of those that come with the text."""
    ks: tuple[int, ...] = (1, 2, 5)
    """Numbers of latents of the sparse probes."""
    scr_labels: tuple[str, str] | None = None
    """The two labels of scr, properties of the same rows that do not depend on each other. Left
    out: yours, where labels= gives two; else there is no scr."""
    letters: bool = True
    """Absorption and splitting on first letters of words; off: on the labels."""
    implant_tokens: int = Field(default=100_000, gt=0)
    """Tokens that every dictionary of an implant curve is trained on."""
    controls: bool = True
    """Run the random dictionary and the shuffled labels of core and labels (as dear as those)."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Of the choice of documents, the controls and the bootstraps."""

    @field_validator("suite", mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        return chosen(value)

    @field_validator("documents")
    @classmethod
    def _a_range(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and not 0 <= value[0] < value[1]:
            raise ValueError(f"documents is (first, one after the last), got {value}")
        return value

    def asks(self, *measures: str) -> bool:
        """Whether any of these is measured."""
        return any(m in self.suite for m in measures)


def chosen(names: Any) -> tuple[str, ...]:
    """Measures in their own order, each once; ``all`` names them all.

    Raises:
        UnknownNameError: no such measure; offers the nearest name.
        ConfigError: none.
    """
    wanted = [names] if isinstance(names, str) or not isinstance(names, Iterable) else list(names)
    for name in wanted:
        if name != "all" and name not in MEASURES:
            raise UnknownNameError("measure", str(name), known=("all", *MEASURES))
    if not wanted:
        raise ConfigError(f"suite is empty; it holds any of {', '.join(MEASURES)}, or all")
    return tuple(m for m in MEASURES if "all" in wanted or m in wanted)
