"""Edge probes: what a span, or a pair of spans, is called, from the pooled states of its words.

The linear head is a logistic probe of ``probe_sweep``; the other is a network of one hidden layer,
which can also combine two spans. Both stand beside shuffled labels and the commonest class.
Source: Tenney et al. 2019, arXiv:1905.06316 (they pool by learned attention; here by the mean of
the span's words, or by its first and last word).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int

from lensbench import provenance
from lensbench.arguments import whole_number
from lensbench.errors import ConfigError, MismatchError, UnknownNameError
from lensbench.probes.linear.controls import majority, shuffled
from lensbench.probes.linear.data import SHARES, ProbeData
from lensbench.probes.linear.fit import fit_probe
from lensbench.probes.linear.labels import Label
from lensbench.probes.linear.scores import score_probes
from lensbench.probes.linear.splits import Split
from lensbench.probes.structure.words import WordStates
from lensbench.results import Controls, Result
from lensbench.sites import Site

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

POOLINGS = ("mean", "ends")
HEADS = ("linear", "mlp")
_EPOCHS, _BATCH, _RATE, _PATIENCE = 100, 64, 3e-3, 10


@dataclass(frozen=True, kw_only=True, eq=False)
class EdgeProbes(Result):
    """Accuracy of edge probes on the spans of test sentences."""

    sites: tuple[str, ...]
    heads: tuple[str, ...]
    accuracy: Float[np.ndarray, "sites heads 3"]
    """With a 95 % interval over sentences."""
    shuffled: Float[np.ndarray, "sites heads"]
    """The same head on labels of other sentences."""
    majority: float
    classes: tuple[str, ...]
    pooling: str
    n_spans: int
    n_test: int
    """Test sentences."""
    model: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def to_frame(self) -> "pd.DataFrame":
        """One row per site and head."""
        import pandas as pd

        i, j = (a.ravel() for a in np.indices(self.shuffled.shape))
        frame = pd.DataFrame({
            "site": [self.sites[s] for s in i],
            "layer": [Site.parse(self.sites[s]).layer for s in i],
            "head": [self.heads[h] for h in j], "accuracy": self.accuracy[i, j, 0],
            "low": self.accuracy[i, j, 1], "high": self.accuracy[i, j, 2],
            "shuffled": self.shuffled[i, j], "majority": self.majority, "n": self.n_test,
        })  # fmt: skip
        shares = dict.fromkeys(("accuracy", "shuffled", "majority"), "0 to 1")
        frame.attrs["units"] = shares | {"n": "test sentences"}
        return frame

    def summary(self) -> dict[str, float]:
        """Best accuracy of each head, and the commonest class."""
        best = {head: float(self.accuracy[:, j, 0].max()) for j, head in enumerate(self.heads)}
        return {**best, "shuffled": float(self.shuffled.max()), "majority": self.majority,
                "n": float(self.n_test)}  # fmt: skip

    def plot(self) -> "go.Figure":
        """Accuracy by site, a line per head and control."""
        import pandas as pd

        from lensbench.plots import lines

        frame: Any = self.to_frame()
        frame = frame.assign(place=frame["site"].map(self.sites.index), line=frame["head"])
        control = frame.assign(line=frame["head"] + ", shuffled labels", accuracy=frame["shuffled"],
                               low=np.nan, high=np.nan)  # fmt: skip
        return lines(
            pd.concat([frame, control]), x="place", y="accuracy", color="line", low="low",
            high="high", hover_columns=("site", "majority"), title="Edge probes",
            subtitle=f"{self.n_spans} spans, {self.pooling} of words; commonest class "
            f"{self.majority:.3f}", labels={"place": "site, in execution order"},
        )  # fmt: skip


def edge_probe(
    words: "WordStates | Sequence[Any]",
    spans: Sequence[Sequence[Any]],
    labels: Sequence[Sequence[Any]],
    *,
    heads: Sequence[str] | str = HEADS,
    sites: Sequence[str] | str | None = None,
    pooling: str = "mean",
    hidden: int = 64,
    seed: int = 0,
    shares: tuple[float, float, float] = SHARES,
) -> EdgeProbes:
    """Name spans (or pairs of spans) from their words' states, by a line and by a network.

    Args:
        words: states of words, or one array ``[words, width]`` per sentence.
        spans: per sentence ``(start, end)`` (end not included), or pairs of such spans.
        labels: per sentence one label per span.
        heads: ``linear`` (logistic), ``mlp`` (one hidden layer of ReLU).
        sites: which; default: all.
        pooling: ``mean`` of the span's words, or ``ends``: first and last word side by side.
        hidden: units of the network.
        seed: of split, control and network.
        shares: of sentences: train, validation, test.

    Raises:
        ConfigError: a span outside its sentence or empty, or spans and pairs mixed.
        MismatchError: another number of labels than spans.
        UnknownNameError, UnknownSiteError: no such head, pooling or site.
        NotEnoughDataError: too few sentences, or spans of a class.

    Example:
        >>> sentences = [t.split()[:4] for t in documents.texts() if len(t.split()) >= 4]
        >>> words = probes.word_states(model, sentences, sites=["blocks.2.resid_post"])
        >>> spans = [[(0, 1), (1, 3)] for _ in sentences]
        >>> labels = [["first", "later"] for _ in sentences]
        >>> found = probes.edge_probe(words, spans, labels, heads="linear")
    """
    start = time.monotonic()
    ways = (heads,) if isinstance(heads, str) else tuple(heads)
    for way in ways:
        if way not in HEADS:
            raise UnknownNameError("head of an edge probe", way, known=HEADS)
    units = whole_number("hidden", hidden, least=1)
    data = edge_data(words, spans, labels, sites=sites, pooling=pooling)
    label, split = data.labels[0], data.split(seed, shares)
    mixed = data.with_labels(shuffled(data.labels, data.docs, seed))
    accuracy = np.zeros((len(data.sites), len(ways), 3))
    wrong = np.zeros(accuracy.shape[:2])
    for i, site in enumerate(data.sites):
        for j, way in enumerate(ways):
            accuracy[i, j] = _scored(data, site, way, units, split, seed)
            wrong[i, j] = _scored(mixed, site, way, units, split, seed)[0]
    guess = majority(label, split.train, len(data))[split.test]
    said = (guess > 0).astype(int) if guess.ndim == 1 else guess.argmax(1)
    common = float((said == label.values[split.test]).mean())
    return EdgeProbes(
        sites=data.sites, heads=ways, accuracy=accuracy, shuffled=wrong, majority=common,
        classes=label.classes, pooling=pooling, n_spans=len(data),
        n_test=len(np.unique(data.docs[split.test])), model=dict(data.model),
        config={"hidden": units, "seed": seed, "split": split.how},
        controls=Controls({"shuffled_labels": float(wrong.max()), "majority": common}, "accuracy"),
        provenance=provenance.record(
            model=dict(data.model), seed=seed, seconds=time.monotonic() - start
        ),
    )  # fmt: skip


def edge_data(
    words: "WordStates | Sequence[Any]",
    spans: Sequence[Sequence[Any]],
    labels: Sequence[Sequence[Any]],
    *,
    sites: Sequence[str] | str | None = None,
    pooling: str = "mean",
) -> ProbeData:
    """Pooled spans as rows, sentences as documents: for ``probe_sweep`` and ``codelength`` too.

    The label is called ``edge``. Arguments and errors as :func:`edge_probe`.

    Example:
        >>> sentences = [t.split()[:4] for t in documents.texts() if len(t.split()) >= 4]
        >>> words = probes.word_states(model, sentences, sites=["blocks.2.resid_post"])
        >>> spans = [
        ...     [(0, 1), (1, 3)] for _ in sentences
        ... ]  # from word to word, the last one left out
        >>> labels = [["first", "later"] for _ in sentences]
        >>> data = probes.edge_data(words, spans, labels)
    """
    if pooling not in POOLINGS:
        raise UnknownNameError("pooling", pooling, known=POOLINGS)
    given = words if isinstance(words, WordStates) else WordStates.from_arrays(words)
    if not len(spans) == len(labels) == len(given.lengths):
        raise MismatchError(
            f"{len(given.lengths)} sentences, {len(spans)} lists of spans and {len(labels)} lists "
            "of labels; give one list of each per sentence"
        )
    pairs = {np.ndim(span) for some in spans for span in some}
    if len(pairs) != 1 or not pairs <= {1, 2}:
        raise ConfigError("spans must all be (start, end), or all be pairs of them")
    rows = [(i, np.atleast_2d(np.asarray(s))) for i, some in enumerate(spans) for s in some]
    told = [label for some in labels for label in some]
    if [len(some) for some in spans] != [len(some) for some in labels]:
        raise MismatchError(f"{len(told)} labels for {len(rows)} spans; give one per span")
    for i, span in rows:
        n = given.lengths[i]
        if (
            span.shape[1] != 2
            or (span[:, 0] < 0).any()
            or (span[:, 1] > n).any()
            or (span[:, 1] <= span[:, 0]).any()
        ):
            raise ConfigError(
                f"span {span.tolist()} does not lie in sentence {i} of {n} words; spans are "
                "(start, end) with 0 <= start < end, the end not included"
            )
    names = [sites] if isinstance(sites, str) else list(given.sites if sites is None else sites)
    found = {name: np.stack([_pooled(given.at(name)[i], s, pooling) for i, s in rows])
             for name in names}  # fmt: skip
    docs = np.array([i for i, _ in rows])
    return ProbeData.from_arrays(found, {"edge": np.array(told)}, docs=docs,
                                 model=given.model)  # fmt: skip


def _pooled(
    states: Float[np.ndarray, "words width"], span: Int[np.ndarray, "spans 2"], pooling: str
) -> Float[np.ndarray, " pooled"]:
    parts = [states[a:b] for a, b in span]
    if pooling == "mean":
        return np.concatenate([part.mean(0) for part in parts])
    return np.concatenate([half for part in parts for half in (part[0], part[-1])])


def _scored(
    data: ProbeData, site: str, head: str, hidden: int, split: Split, seed: int
) -> tuple[float, float, float]:
    label = data.labels[0]
    if head == "linear":
        probe = fit_probe(replace(data, parts=split), label.name, site, seed=seed)
        out = probe.score(data.x(site)[split.test])
    else:
        out = _network(data.x(site), label, split, hidden, seed)[split.test]
    test = label.at(split.test)
    scores = score_probes([out], [test], data.docs[split.test])
    low, high = scores.bounds()[:, 0]
    return float(scores.score[0]), float(low), float(high)


def _network(
    x: Float[np.ndarray, "rows width"], label: Label, split: Split, hidden: int, seed: int
) -> Float[np.ndarray, "..."]:
    """Outputs of the network of least validation loss (of two classes their difference)."""
    train, held = (np.flatnonzero(m & label.known) for m in (split.train, split.validation))
    centred = (x - x[train].mean(0)) / max(float(x[train].std(0).mean()), 1e-12)
    inputs, y = torch.from_numpy(centred.astype(np.float32)), torch.from_numpy(label.values)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = torch.nn.Sequential(
            torch.nn.Linear(x.shape[1], hidden), torch.nn.ReLU(),
            torch.nn.Linear(hidden, len(label.classes)),
        )  # fmt: skip
    adam, draw = torch.optim.Adam(net.parameters(), lr=_RATE), torch.Generator().manual_seed(seed)
    best, least, waited = inputs.new_zeros(len(x), len(label.classes)), np.inf, 0
    rows, later = torch.from_numpy(train), torch.from_numpy(held if len(held) else train)
    for _ in range(_EPOCHS):
        for part in rows[torch.randperm(len(rows), generator=draw)].split(_BATCH):
            adam.zero_grad()
            torch.nn.functional.cross_entropy(net(inputs[part]), y[part]).backward()
            adam.step()
        with torch.no_grad():
            out = net(inputs)
            now = float(torch.nn.functional.cross_entropy(out[later], y[later]))
        waited = 0 if now < least else waited + 1
        if now < least:
            best, least = out, now
        if waited >= _PATIENCE:
            break
    found = best.double().numpy()
    return found[:, 1] - found[:, 0] if found.shape[1] == 2 else found
