"""Over how many latents a label is spread: the feature-splitting test.

Read beside absorption, and only of labels that the activations hold linearly: where no probe on
them reads a label, latents that share it out say nothing about the dictionary.
"""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float, Int

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError
from lensbench.provenance import record
from lensbench.results import Controls, Result
from lensbench.saes.evaluation.inputs import decoder_of, fits, latents_of, shuffled
from lensbench.saes.evaluation.labels import LabelledRows, f1_score
from lensbench.saes.evaluation.linear import LEAST_F1, unreadable
from lensbench.saes.evaluation.main_latents import LabelLatents
from lensbench.saes.evaluation.shared import Shared, shared_of

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureSplitting(Result):
    """Over how many latents each label is spread; every source went through the same test."""

    sources: ClassVar[tuple[str, ...]] = ("latents", "random_dictionary", "shuffled_labels")
    labels: tuple[str, ...]
    n_latents: Float[np.ndarray, "sources labels"]
    """Latents accepted; 0 where none has a positive weight, NaN for a label that is left out."""
    f1: Float[np.ndarray, "sources labels 2"]
    """F1 on the scored rows of a probe of the first latent, and of all that were accepted."""
    main: tuple[tuple[int, ...], ...]
    """Latents of each label, the strongest first."""
    n_positive: Int[np.ndarray, " labels"]
    """Positive rows among those scored."""
    n_scored: int
    split: str = ""
    probe_f1: tuple[float, ...] = ()
    """F1 of a linear probe on the activations, on the scored rows; empty without activations."""
    left_out: tuple[str, ...] = ()
    """Why a label was not scored; empty for those that were."""

    @property
    def kept(self) -> tuple[str, ...]:
        """Labels that were scored."""
        why = self.left_out or ("",) * len(self.labels)
        return tuple(name for name, w in zip(self.labels, why, strict=True) if not w)

    def to_frame(self) -> "pd.DataFrame":
        """One row per source and label."""
        import pandas as pd

        table = [
            {"source": source, "label": label, "n_latents": self.n_latents[s, i],
             "f1_first": self.f1[s, i, 0], "f1_all": self.f1[s, i, 1],
             "latents": " ".join(map(str, self.main[i])) if s == 0 else "",
             "n": self.n_scored, "n_positive": int(self.n_positive[i]),
             "probe_f1": self.probe_f1[i] if self.probe_f1 else float("nan"),
             "left out": self.left_out[i] if self.left_out else ""}
            for s, source in enumerate(self.sources)
            for i, label in enumerate(self.labels)
        ]  # fmt: skip
        frame = pd.DataFrame(table)
        frame.attrs["units"] = {"n_latents": "latents", "f1_first": "F1", "f1_all": "F1"}
        frame.attrs["split"] = self.split
        return frame

    def summary(self) -> dict[str, float]:
        """Means over labels."""
        return {
            "latents per label": _known_mean(self.n_latents[0]),
            "F1 of the first": _known_mean(self.f1[0, :, 0]),
            "F1 of all": _known_mean(self.f1[0, :, 1]),
            "labels scored": float(len(self.kept)),
        }

    def plot(self) -> "go.Figure":
        """Latents per label, sources side by side."""
        from lensbench.plots import bars

        return bars(
            self.to_frame(), x="label", y="n_latents", color="source", title="Feature splitting",
            subtitle=f"{self.n_scored} rows scored; control: {self.controls}",
            hover_columns=["f1_first", "f1_all", "n_positive"],
        )  # fmt: skip


def feature_splitting(
    acts: Any,
    rows: LabelledRows,
    *,
    x: Any = None,
    dictionary: Any = None,
    max_k: int = 10,
    least_f1: float = LEAST_F1,
    seed: int = 0,
    shared: Shared | None = None,
    main: LabelLatents | None = None,
    controls: bool = True,
) -> FeatureSplitting:
    """Over how many latents is each label spread?

    Decoder norms are folded into the latents first, as by
    :func:`~lensbench.saes.absorption`. The latents of a label are those of
    :func:`~lensbench.saes.evaluation.main_latents.main_latents` on the fitting rows, 1 to
    ``max_k``; F1 (0 to 1) of logistic probes of the first and of all of them is on the scored rows.
    More than one is a split. Labels whose linear probe on the activations does not reach
    ``least_f1`` on the scored rows are left out. Read the count with F1: a dictionary without a
    good latent for the label may need many as well. Source: Chanin et al. 2024 (arXiv:2409.14507),
    section on feature splitting; the limit for probes is that of Karvonen et al. 2025
    (arXiv:2503.09532).

    Controls: a random dictionary of the same width and L0 (needs ``x``), labels of other documents.

    Args:
        acts: latents ``[rows, d_sae]``.
        rows: labels (such as first letters), see :func:`~lensbench.saes.label_rows`.
        x: the activations ``[rows, d_model]`` that were encoded; without them no label is left out
            because of its probe.
        dictionary: something with ``W_dec``, or decoder rows ``[d_sae, d_model]``; without one the
            latents are taken as they are.
        max_k: most latents of one label.
        least_f1: F1 below which a probe does not count as the truth; 0 keeps every label it reads.
        seed: of the controls.
        shared: what other dictionaries on these rows share, instead of ``x``.
        main: the main latents of this dictionary, where another measure found them.
        controls: False leaves them out.

    Raises:
        ConfigError: settings that are no such numbers, or latents that are no matrix of numbers.
        MismatchError: parts of different rows or dictionaries.
        NonFiniteError: NaN or infinity in latents or activations.

    Example:
        >>> found = saes.feature_splitting(acts, rows, x=x, dictionary=run, max_k=3)
    """
    began = time.perf_counter()
    whole_number("max_k", max_k, least=1)
    if not 0 <= least_f1 <= 1:
        raise ConfigError(f"least_f1 must lie between 0 and 1, got {least_f1!r}")
    latents = latents_of(acts, len(rows.docs))
    W_dec = None if dictionary is None else decoder_of(dictionary)
    if W_dec is not None:
        fits(latents, W_dec)
    known = None if x is None and shared is None else shared_of(shared, x, rows, seed)
    why = _left_out(rows, known, least_f1)
    kept = [i for i, w in enumerate(why) if not w]
    own = main or LabelLatents(latents, rows, W_dec, max_k)
    found = {"latents": _split_up(own.check(rows, latents.shape[1], max_k), kept)}
    if controls:
        moved = shuffled(rows, seed) if known is None else known.moved
        found["shuffled_labels"] = _split_up(LabelLatents(latents, moved, W_dec, max_k), kept)
    if controls and known is not None:
        noise = known.noise(latents)
        found["random_dictionary"] = known.once(
            ("splitting", *noise.shape, max_k, float(least_f1)),
            lambda: _split_up(known.noise_main(noise, max_k), kept),
        )
    n = len(rows.names)
    empty = (np.full(n, np.nan), np.full((n, 2), np.nan), ())
    parts = [found.get(s, empty) for s in FeatureSplitting.sources]
    beside = {f"{s}, latents per label": _known_mean(p[0]) for s, p in found.items() if p[2]}
    beside |= {f"{s}, F1 of all": _known_mean(p[1][:, 1]) for s, p in found.items()}
    return FeatureSplitting(
        labels=rows.names,
        n_latents=np.stack([p[0] for p in parts]),
        f1=np.stack([p[1] for p in parts]),
        main=found["latents"][2],
        n_positive=rows.values[rows.held].sum(0),
        n_scored=int(rows.held.sum()),
        split=rows.split,
        probe_f1=() if known is None else tuple(known.probe_f1.tolist()),
        left_out=why,
        config={"max_k": max_k, "least_f1": least_f1, "seed": seed},
        controls=Controls({k: v for k, v in beside.items() if not k.startswith("latents")}),
        provenance=record(seed=seed, seconds=time.perf_counter() - began),
    )


def _left_out(rows: LabelledRows, known: Shared | None, least_f1: float) -> tuple[str, ...]:
    """Why each label is left out: one class on the fitting rows, or a probe that misses it."""
    share = rows.values[~rows.held].mean(0)
    alone = ["" if 0 < s < 1 else "one class only on the fitting rows" for s in share]
    if known is None:
        return tuple(alone)
    reads = [unreadable(float(f1), least_f1) for f1 in known.probe_f1]
    return tuple(a or r for a, r in zip(alone, reads, strict=True))


def _split_up(own: LabelLatents, kept: list[int]) -> tuple[Any, Any, Any]:
    """Latents of each of these labels, and F1 on the scored rows of the first and of all."""
    rows = own.rows
    n, truth = len(rows.names), rows.values[rows.held]
    count, f1 = np.full(n, np.nan), np.full((n, 2), np.nan)
    main: list[tuple[int, ...]] = [()] * n
    fitting = rows.values[~rows.held].mean(0)
    both = [i for i in kept if 0 < fitting[i] < 1]  # labels of other documents may lack a class
    own.find(both)
    for i in both:
        mine = own.of(i)
        count[i], main[i] = len(mine.latents), tuple(mine.latents.tolist())
        columns = own.held[:, mine.latents].toarray()
        for at, k in enumerate((1, len(mine.latents))):
            if len(mine.latents):
                says = mine.probes[k - 1].decision_function(columns[:, :k]) > 0
                hits = float((says & truth[:, i]).sum())
                f1[i, at] = f1_score(hits, float(says.sum()), float(truth[:, i].sum()))
    return count, f1, tuple(main)


def _known_mean(values: Float[np.ndarray, " n"]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")
