"""The table of codelengths, with the probes behind them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float

from lensbench.errors import ConfigError, UnknownNameError
from lensbench.probes.linear.probe import LinearProbe
from lensbench.results import Controls, Result
from lensbench.sites import Site
from lensbench.stats import told

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, kw_only=True, eq=False)
class Codelengths(Result):
    """Bits of labels given activations; a row is one label at one site by one code and seed.

    ``bits`` is the whole codelength; ``model_bits`` and ``data_bits`` its parts (variational).
    ``uniform_bits`` = N log2 C; ``entropy_bits`` is what a code that knows the shares of the
    classes takes. ``falling`` is the share by which the last epochs (5) still shortened the code
    against those before: above .05 it is not settled. ``compression``, ``control_task`` and
    ``shuffled_labels`` are uniform bits over bits. ``accuracy`` is that of the posterior means on
    test documents.
    """

    columns_shown = ("site", "label", "code", "seed", "bits", "compression",
                     "control_task", "shuffled_labels", "uniform_bits", "accuracy",
                     "n")  # fmt: skip

    COLUMNS: ClassVar[tuple[str, ...]] = (
        "bits", "compression", "control_task", "shuffled_labels", "model_bits", "data_bits",
        "uniform_bits", "entropy_bits", "falling", "accuracy", "n", "n_rows", "n_test",
    )  # fmt: skip
    at: tuple[tuple[str, str, str, int], ...]
    """Site, label, code and seed of each row."""
    columns: Mapping[str, Float[np.ndarray, " rows"]]
    weights: Mapping[str, Float[np.ndarray, "C width"]] = field(default_factory=dict[str, Any])
    """By number of the row, of the variational code: gate times weight at the posterior means."""
    bias: Mapping[str, Float[np.ndarray, " C"]] = field(default_factory=dict[str, Any])
    curves: Mapping[str, Float[np.ndarray, "2 blocks"]] = field(default_factory=dict[str, Any])
    """By number of the row, of the online code: rows sent, and bits per row of that block."""
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, Any])
    model: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __len__(self) -> int:
        """Number of codes."""
        return len(self.at)

    def to_frame(self) -> "pd.DataFrame":
        """One row per code: where, bits and their parts, compression beside controls, counts."""
        import pandas as pd

        site, label, code, seed = (list(column) for column in zip(*self.at, strict=True))
        head = {"site": site, "layer": [Site.parse(s).layer for s in site], "label": label,
                "code": code, "seed": seed}  # fmt: skip
        frame = pd.DataFrame(head | dict(self.columns))
        bits = dict.fromkeys((c for c in self.COLUMNS if c.endswith("bits")), "bits")
        ratio = dict.fromkeys(("compression", "control_task", "shuffled_labels"), "uniform / bits")
        frame.attrs["units"] = bits | ratio | {"accuracy": "0 to 1", "n": "training documents"}
        return frame

    def curve(self, row: int = 0) -> "pd.DataFrame":
        """The online code's bits per row, block by block.

        Raises:
            ConfigError: a row of the variational code.
        """
        import pandas as pd

        if str(row) not in self.curves:
            raise ConfigError(f"row {row} is no online code; those are {list(self.curves)}")
        sent, bits = self.curves[str(row)]
        frame = pd.DataFrame({"rows_sent": sent.astype(int), "bits_per_row": bits})
        frame.attrs["units"] = {"bits_per_row": "bits"}
        return frame

    def probe(self, label: str, site: str | Site, *, seed: int | None = None) -> LinearProbe:
        """The variational probe at its posterior means (of two classes: their difference).

        Raises:
            UnknownNameError: no variational code of that label, site and seed.
        """
        where = str(Site.parse(str(site)))
        asked = (where, label, "variational")
        rows = [i for i, key in enumerate(self.at) if key[:3] == asked and seed in (None, key[3])]
        if not rows:
            known = [f"{s} {name} seed {k}" for s, name, code, k in self.at if code == asked[2]]
            wanted = f"{where} {label}" + ("" if seed is None else f" seed {seed}")
            raise UnknownNameError("variational probe", wanted, known=known)
        row = rows[0]
        w, b = self.weights[str(row)], self.bias[str(row)]
        names = self.classes[label]
        if len(names) == 2:
            w, b = w[1:] - w[:1], b[1:] - b[:1]
        numbers = {k: float(self.columns[k][row]) for k in ("bits", "compression")}
        return LinearProbe(
            method="variational", site=where, label=label,
            label_kind="binary" if len(names) == 2 else "multiclass", classes=names,
            weights=w, bias=b, scale=float("nan"), settings=numbers, model=self.model,
            config={**self.config, "seed": self.at[row][3]}, provenance=self.provenance,
            controls=Controls({k: float(self.columns[k][row]) for k in self.controls.values},
                              "compression"),
        )  # fmt: skip

    def summary(self) -> dict[str, float]:
        """Codes, and mean compression with that of its controls.

        A mean is NaN where a code has no such figure (the online code no accuracy); then
        ``_undefined`` counts those and ``_defined`` is the mean of the others.
        """
        found = {"codes": float(len(self)), **told("compression", self.columns["compression"])}
        for name in ("control_task", "shuffled_labels", "accuracy"):
            if np.isfinite(self.columns[name]).any():
                found |= told(name, self.columns[name])
        return found

    def plot(self, label: str | None = None) -> "go.Figure":
        """Compression of a label by site (mean over seeds) beside its controls.

        Raises:
            UnknownNameError: no such label.
        """
        import pandas as pd

        from lensbench.plots import lines

        frame: Any = self.to_frame()
        chosen = self.at[0][1] if label is None else label
        if chosen not in set(frame["label"]):
            raise UnknownNameError("label", chosen, known=tuple(self.classes))
        frame = frame[frame["label"] == chosen]
        sites = list(dict.fromkeys(frame["site"]))
        frame = frame.assign(place=frame["site"].map(sites.index))
        parts: list[Any] = []
        for name in ("compression", "control_task", "shuffled_labels"):
            mean = frame.groupby(["place", "site", "code"], sort=False)[name].mean().reset_index()
            mean = mean.rename(columns={name: "compression"}).dropna()
            parts.append(mean.assign(source=mean["code"] + ": " + name.replace("_", " ")))
        return lines(
            pd.concat(parts), x="place", y="compression", color="source", hover_columns=("site",),
            title=f"Codelength of {chosen}", unit="uniform bits / bits",
            subtitle="1 is the uniform code; a control above 1 is what the tokens alone give; "
            f"n = {int(frame['n'].max()):,} training documents",
            labels={"place": "site, in execution order"},
        )  # fmt: skip
