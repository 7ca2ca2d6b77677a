"""Dictionaries by their directions: two side by side, nearest latents, geometry, map, sites."""

from pathlib import Path
from typing import Any, cast

from lensbench import saes
from lensbench.app.workflows.answers import result_facts, rows_of_frame
from lensbench.app.workflows.dictionaries import open_dictionary
from lensbench.app.workflows.directions import (
    LATENT,
    READ,
    TEXTS,
    VECTOR,
    WRITE,
    DirectionAsk,
    Rows,
    direction_of,
)
from lensbench.app.workflows.latents_named import parted
from lensbench.app.workflows.runs import evaluation_of
from lensbench.errors import ConfigError, MissingDataError
from lensbench.saes.latents.decoder_map import Method


def match(a: str, b: str, *, seed: int = 0, top: int = 10, out: Path | None = None
          ) -> dict[str, Any]:  # fmt: skip
    """Two dictionaries by decoder rows, and the latents of A that B has least and most nearly.

    Raises:
        LensbenchError: no such dictionary; see :func:`lensbench.saes.match_dictionaries`.
    """
    found = saes.match_dictionaries(open_dictionary(a), open_dictionary(b), seed=seed)
    each = found.latents_frame().dropna(subset=["cosine"])
    own = each.loc[each["of"] == "A"].drop(columns="of").sort_values("cosine", kind="stable")
    return result_facts(
        "", found, out, a=a, b=b, least=rows_of_frame(own, top),
        most=rows_of_frame(own.iloc[::-1], top),
    )  # fmt: skip


def direction_ask(
    latent: int | None, of: str, token: str, embedding: bool, text: str, minus: str, vector: str
) -> DirectionAsk:
    """The one direction that options name.

    Raises:
        ConfigError: none, or several; a text without the one that is taken off.
    """
    given = [name for name, value in (("--latent", latent is not None), ("--token", token),
                                      ("--text", text), ("--vector", vector)) if value]  # fmt: skip
    if len(given) != 1:
        raise ConfigError(
            "name one direction: --latent N, --token WORD, --text A --minus B or --vector FILE; "
            f"got {' and '.join(given) or 'none'}"
        )
    if bool(text) != bool(minus):
        raise ConfigError("--text A and --minus B go together: the direction is their difference")
    kinds = {"--latent": LATENT, "--token": READ if embedding else WRITE, "--text": TEXTS,
             "--vector": VECTOR}  # fmt: skip
    content = b""
    if vector:
        path = Path(vector)
        if not path.is_file():
            raise MissingDataError(f"--vector: no file {vector}")
        content = path.read_bytes()
    return DirectionAsk(kinds[given[0]], -1 if latent is None else latent, of, token, text, minus,
                        vector, content)  # fmt: skip


def nearest(
    name: str, ask: DirectionAsk, *, top: int = 10, seed: int = 0, out: Path | None = None
) -> dict[str, Any]:
    """The latents of a run's dictionary that point most nearly in a direction.

    Raises:
        LensbenchError: no such dictionary, latent, token or file; see ``nearest_latents``.
    """
    run, own = parted(name)
    direction = direction_of(run, own, ask)
    found = saes.nearest_latents(direction, Rows.of(run, own).W_dec, n=top, seed=seed)
    return result_facts("", found, out, dictionary=name, direction=ask.kind)


def geometry(name: str, *, max_latents: int = 8192, seed: int = 0, top: int = 20,
             out: Path | None = None) -> dict[str, Any]:  # fmt: skip
    """How near decoder rows lie to one another, nearest first, beside random directions.

    Raises:
        LensbenchError: no such dictionary; see :func:`lensbench.saes.decoder_geometry`.
    """
    found = saes.decoder_geometry(open_dictionary(name), density=_density(name),
                                  max_latents=max_latents, seed=seed)  # fmt: skip
    return result_facts("", found, out, top=top, by="nearest_cosine", dictionary=name)


def places(name: str, *, method: str = "pca", seed: int = 0, top: int = 20,
           out: Path | None = None) -> dict[str, Any]:  # fmt: skip
    """Every decoder row as a place in two dimensions, coloured by density where that is known.

    Raises:
        LensbenchError: no such dictionary; see :func:`lensbench.saes.decoder_map`.
    """
    density = _density(name)
    found = saes.decoder_map(open_dictionary(name), method=cast("Method", method), seed=seed,
                             facts=None if density is None else {"density": density})  # fmt: skip
    return result_facts("", found, out, top=top, dictionary=name)


def shared(name: str, a: str | None, b: str | None, *, seed: int = 0, top: int = 20,
           out: Path | None = None) -> dict[str, Any]:  # fmt: skip
    """Which latents of a crosscoder two of its sites share.

    Raises:
        LensbenchError: no crosscoder of that name; see :func:`lensbench.saes.compare_sites`.
    """
    found = saes.compare_sites(open_dictionary(name), a, b, seed=seed)
    return result_facts("", found, out, top=top, dictionary=name, sites=list(found.sites))


def _density(name: str) -> Any:
    """How often each latent fires, where the run was evaluated; else None."""
    path = Path(name)
    known = (path.parent / "evaluation" / "result.json").is_file()
    result = evaluation_of(path.parent) if known else None
    return None if result is None else result.density.get(path.name)
