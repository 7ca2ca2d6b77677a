"""Which latents point most nearly in a direction: of a latent, a token, two texts, or a vector."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lensbench import belonging, plots
from lensbench.app.workflows.latent_page import dictionary_of
from lensbench.app.workflows.live import running
from lensbench.app.workflows.token_names import token_named
from lensbench.errors import ConfigError, MissingDataError
from lensbench.saes import (
    difference_direction,
    nearest_latents,
    read_direction,
    token_direction,
)
from lensbench.saes.evaluation.passes import to_score
from lensbench.saes.latents.dashboard import WRITES
from lensbench.saes.latents.decoder_map import UNMARKED
from lensbench.sites import Site

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from lensbench.models import Model

LATENT, WRITE, READ, TEXTS, VECTOR = "latent", "unembedding", "embedding", "texts", "vector"
KINDS = {
    LATENT: "A latent",
    WRITE: "Towards a token (unembedding)",
    READ: "A token as it is read (embedding)",
    TEXTS: "The difference of two texts",
    VECTOR: "A vector of your own",
}
SHOWN = 20
"""Latents that are listed."""
LONGEST = 2_000
"""Characters of a text."""


@dataclass(frozen=True)
class DirectionAsk:
    """What is asked for; hashable, so that its answer can be kept."""

    kind: str
    latent: int = -1
    of: str = ""
    """Dictionary of that latent."""
    token: str = ""
    one: str = ""
    other: str = ""
    file: str = ""
    content: bytes = b""


@dataclass(frozen=True)
class Rows:
    """The decoder rows of a dictionary, and the site in whose space they lie."""

    W_dec: Any
    site: str
    reads: str

    @classmethod
    def of(cls, run: Path, name: str) -> "Rows":
        """Those of an autoencoder lie where it reads, those of a transcoder in its target.

        Raises:
            MismatchError: a crosscoder, whose rows lie in several sites.
        """
        found = to_score(dictionary_of(run, name))
        codec: Any = found.codec
        return cls(codec.W_dec, found.writes, found.site)

    @property
    def told(self) -> str:
        """In words, of a transcoder; else empty."""
        if self.site == self.reads:
            return ""
        return f"A transcoder: it reads {self.reads}; its decoder rows lie in {self.site}."


@contextmanager
def model_of(run: Path, name: str) -> "Generator[Model]":
    """The model a dictionary was trained on, for the caller alone.

    Raises:
        MissingDataError: it is not known, or not to be found.
        MismatchError: what now has its name has other weights.
    """
    known = belonging.trained_on(dictionary_of(run, name).coder.metadata)
    source = known.get("source") or known.get("name")
    if not source:
        raise MissingDataError(f"{name} does not say which model it was trained on")
    with running(str(source), known.get("revision")) as model:
        card = {k: getattr(model.card, k) for k in ("name", "source", "fingerprint")}
        belonging.check_model(name, known, card, "what now has that name")
        yield model


def direction_of(run: Path, name: str, ask: DirectionAsk) -> Any:
    """The vector that is asked for, in the space that the dictionary writes in.

    Raises:
        ConfigError: a token that is none, no text, no such latent, or a vector of another length.
        MissingDataError, MismatchError: as :func:`model_of`.
    """
    one = Rows.of(run, name)
    if ask.kind == LATENT:
        rows = Rows.of(run, ask.of or name).W_dec
        if not 0 <= ask.latent < len(rows):
            raise ConfigError(f"latents run from 0 to {len(rows) - 1}; got {ask.latent}")
        return rows[ask.latent].float().cpu().numpy()
    if ask.kind == VECTOR:
        return read_direction(ask.file, content=ask.content, d_model=one.W_dec.shape[1])
    if ask.kind not in KINDS:
        raise ConfigError(f"a direction is one of {', '.join(KINDS)}; got {ask.kind!r}")
    if ask.kind != TEXTS and Site.parse(one.site).name not in WRITES:
        raise ConfigError(
            f"{one.site} is no part of the residual stream, where the directions of tokens lie; "
            "choose a latent, two texts or a vector"
        )
    with model_of(run, name) as model:
        if ask.kind == TEXTS:
            if max(len(ask.one), len(ask.other)) > LONGEST:
                raise ConfigError(f"a text has at most {LONGEST:,} characters")
            return difference_direction(model, one.site, ask.one, ask.other).numpy()
        kind = "unembedding" if ask.kind == WRITE else "embedding"
        return token_direction(model, _token(ask.token, model.tokenizer), kind=kind).numpy()


def nearest_to(run: Path, name: str, ask: DirectionAsk) -> tuple[pd.DataFrame, float]:
    """Latents of largest cosine with a direction, and what a random direction reaches.

    A latent is not listed as nearest to itself.

    Raises:
        ConfigError, MissingDataError, MismatchError: as :func:`direction_of`.
    """
    rows = Rows.of(run, name).W_dec
    own = ask.kind == LATENT and (ask.of or name) == name
    n = min(SHOWN + own, int(rows.any(1).sum()))
    found = nearest_latents(direction_of(run, name, ask), rows, n=n)
    frame = found.to_frame()[["rank", "latent", "cosine"]]
    frame = frame.loc[frame["latent"] != ask.latent] if own else frame
    frame = frame.head(SHOWN).assign(rank=np.arange(1, min(len(frame), SHOWN) + 1))
    frame.attrs["units"] = {"cosine": "-1 to 1"}
    return frame.reset_index(drop=True), next(iter(found.controls.values.values()))


def beside(frame: pd.DataFrame, facts: pd.DataFrame) -> pd.DataFrame:
    """The same with what is known of each latent, in a table without empty columns."""
    out = in_table(frame.merge(facts, "left", on="latent"))
    out.attrs["units"] = {**frame.attrs["units"], "density": "share of tokens"}
    return out


def in_table(facts: pd.DataFrame) -> pd.DataFrame:
    """What a map calls "no label" is an empty cell of a table; columns of those are left out."""
    out = facts.drop(columns="state", errors="ignore").replace(list(UNMARKED), "")
    if "starred" in out:
        out["starred"] = ["★" if said else "" for said in out["starred"]]
    texts = [c for c in ("label", "my label", "starred", "writes towards") if c in out]
    return out.drop(columns=[c for c in texts if not any(out[c])])


def nearest_figure(frame: pd.DataFrame, control: float, to: str) -> "go.Figure":
    """Cosines as bars, strongest first, with the control as a line."""
    drawn = frame.assign(latent=[f"#{n}" for n in frame["latent"]])
    drawn.attrs["units"] = frame.attrs["units"]
    figure = plots.bars(
        drawn, x="latent", y="cosine", title=f"Latents nearest to {to}"[:90], height=380,
        subtitle=f"cosine with decoder rows; dashed: random direction, {control:.2f}",
        hover_columns=[c for c in ("label", "my label", "writes towards") if c in drawn],
    )  # fmt: skip
    figure.add_hline(y=control, line={"color": "#8C8C8C", "dash": "dash", "width": 1.5})
    found = np.asarray(frame["cosine"], np.float64)
    low, high = min(0.0, float(found.min())), max(float(found.max()), control)
    figure.update_yaxes(range=[1.1 * low, min(1.02, 1.15 * high)])
    figure.update_xaxes(type="category")  # "#84" alone would be read as a number
    return figure


def provenance_of(run: Path, name: str) -> str:
    """Which dictionary it is: its site, how many latents, and the model it was trained on."""
    one = Rows.of(run, name)
    known = belonging.trained_on(dictionary_of(run, name).coder.metadata)
    model = " ".join(str(known[k]) for k in ("name", "fingerprint") if known.get(k))
    n, width = one.W_dec.shape
    return f"{n:,} latents of {width:,} numbers at {one.site} · model: {model or 'not known'}"


def told_of(ask: DirectionAsk) -> str:
    """A direction in words."""
    return {
        LATENT: f"latent {ask.latent}" + (f" of {ask.of}" if ask.of else ""),
        WRITE: f"the unembedding of {ask.token!r}",
        READ: f"the embedding of {ask.token!r}",
        TEXTS: "the difference of two texts",
        VECTOR: ask.file,
    }[ask.kind]


def python_of(run: Path, name: str, ask: DirectionAsk) -> str:
    """Python that finds and draws the same latents; a file must lie where the code runs."""
    given = [f"{f.name}={getattr(ask, f.name)!r}" for f in fields(ask)
             if f.name != "content" and getattr(ask, f.name) != f.default]  # fmt: skip
    given += [f"content=Path({ask.file!r}).read_bytes()"] if ask.kind == VECTOR else []
    return (
        "from pathlib import Path\n\n"
        "from lensbench.app.workflows.directions import (\n"
        "    DirectionAsk, nearest_figure, nearest_to, told_of)\n\n"
        f"ask = DirectionAsk({', '.join(given)})\n"
        f"found, control = nearest_to(Path({str(run)!r}), {name!r}, ask)\n"
        "nearest_figure(found, control, told_of(ask))\n"
    )


def _token(text: str, tokenizer: Any) -> int:
    """``#17`` is an id; anything else is a text, and one that the model has no token for is not."""
    number = text[1:] if text.startswith("#") else ""
    return int(number) if number.isdecimal() else token_named(tokenizer, text)
