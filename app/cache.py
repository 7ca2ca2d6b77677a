"""What pages keep between clicks, under small keys: names, numbers, and the age of what was read.

Never under arrays or frames: Streamlit hashes large ones from a sample of their values, and would
give back another input's answer. Nothing that changes the answer is left out of a key.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from lensbench.app.workflows import (
    compare_figures,
    directions,
    fronts,
    geometry,
    latent_page,
    latent_related,
    run_compare,
    shards,
)
from lensbench.app.workflows.live import store_version
from lensbench.app.workflows.run_compare import Side

if TYPE_CHECKING:
    from lensbench.saes.evaluation.seeds import DictionaryMatch
    from lensbench.saes.latents.active_result import ActiveLatents
    from lensbench.saes.latents.decoder_map import Method
    from lensbench.saes.latents.notes import LatentNotes


@st.cache_data(max_entries=32, show_spinner="Reading rows")
def _sample(folder: str, version: tuple[int, ...], n: int, site: str, seed: int) -> pd.DataFrame:
    del version  # part of the key only, here and below
    return shards.sample_frame(Path(folder), n=n, site=site, seed=seed)


def sample(folder: Path, *, n: int, site: str, seed: int) -> pd.DataFrame:
    """See ``shards.sample_frame``."""
    return _sample(str(folder), store_version(str(folder)), n, site, seed)


@st.cache_data(max_entries=16, show_spinner="Reading the evaluation")
def _evaluated(run: str, version: int) -> Any:
    del version
    return fronts.evaluated(Path(run))


def evaluated(run: Path) -> Any:
    """See ``fronts.evaluated``."""
    return _evaluated(str(run), version_of(run))


@st.cache_data(max_entries=32, show_spinner="Reading the latents of the dictionary")
def _latent_table(run: str, version: int, name: str) -> pd.DataFrame:
    del version
    return latent_page.latent_table(Path(run), name)


def latent_table(run: Path, name: str) -> pd.DataFrame:
    """See ``latent_page.latent_table``."""
    return _latent_table(str(run), version_of(run), name)


@st.cache_resource(max_entries=64, show_spinner=False)
def _notes_on(run: str, version: int, name: str) -> "LatentNotes":
    from lensbench.saes import notes

    del version
    return notes(latent_page.dictionary_of(Path(run), name))


def notes_on(run: Path, name: str) -> "LatentNotes":
    """The notes of a dictionary, read from disk at each look; its fingerprint is kept."""
    return _notes_on(str(run), version_of(run), name)


@st.cache_data(max_entries=64, max_size="256mb", show_spinner="Reading the latent's contexts")
def _board(
    run: str, version: int, name: str, latent: int, store: str, store_version: tuple[int, ...]
) -> tuple[Any, dict[int, str]]:
    del version, store_version
    board = latent_page.make_board(Path(run), name, latent, Path(store))
    return board, latent_page.words_for(board, Path(store))


def board(run: Path, name: str, latent: int, store: Path) -> tuple[Any, dict[int, str]]:
    """A latent's dashboard and the text of every token on it."""
    return _board(str(run), version_of(run), name, latent, str(store), store_version(str(store)))


@st.cache_data(max_entries=16, max_size="256mb", show_spinner="Running the model")
def _on_text(
    run: str, version: int, name: str, store: str, store_version: tuple[int, ...], text: str
) -> "ActiveLatents":
    from lensbench.app.workflows.latent_text import latents_of_text

    del version, store_version
    return latents_of_text(Path(run), name, Path(store), text)


def tested(run: Path, name: str, latent: int, store: Path, text: str) -> pd.DataFrame:
    """A latent at every token of a text; the model runs once per text, for all latents."""
    version = store_version(str(store))
    return _on_text(str(run), version_of(run), name, str(store), version, text).of(latent)


def strongest(run: Path, name: str, store: Path, text: str) -> pd.DataFrame:
    """The latents that fire most strongly on a text; the same run of the model as ``tested``."""
    version = store_version(str(store))
    return _on_text(str(run), version_of(run), name, str(store), version, text).strongest()


@st.cache_data(max_entries=8, show_spinner="Encoding the store once for all latents")
def _measured(
    run: str, version: int, name: str, store: str, store_version: tuple[int, ...]
) -> pd.DataFrame:
    del version, store_version
    return latent_related.measured(Path(run), name, Path(store))


def measured(run: Path, name: str, store: Path) -> pd.DataFrame:
    """See ``latent_related.measured``."""
    return _measured(str(run), version_of(run), name, str(store), store_version(str(store)))


@st.cache_data(max_entries=64, show_spinner="Looking for latents that fire together")
def _together(
    run: str, version: int, name: str, latent: int, store: str, store_version: tuple[int, ...]
) -> tuple[pd.DataFrame, float]:
    del version, store_version
    return latent_related.together(Path(run), name, latent, Path(store))


def together(run: Path, name: str, latent: int, store: Path) -> tuple[pd.DataFrame, float]:
    """See ``latent_related.together``."""
    version = store_version(str(store))
    return _together(str(run), version_of(run), name, latent, str(store), version)


@st.cache_data(max_entries=32, max_size="128mb", show_spinner="Reading what the latent writes")
def _all_effects(run: str, version: int, name: str, latent: int) -> pd.DataFrame:
    del version
    return latent_related.all_effects(Path(run), name, latent)


def all_effects(run: Path, name: str, latent: int) -> pd.DataFrame:
    """See ``latent_related.all_effects``."""
    return _all_effects(str(run), version_of(run), name, latent)


@st.cache_data(max_entries=16, show_spinner="Laying the latents out")
def _decoder_map(run: str, version: int, name: str, method: "Method") -> Any:
    del version
    return geometry.map_of(Path(run), name, method)


def decoder_map(run: Path, name: str, method: "Method") -> Any:
    """See ``geometry.map_of``."""
    return _decoder_map(str(run), version_of(run), name, method)


@st.cache_data(max_entries=16, show_spinner="Comparing the latents' directions")
def _decoder_geometry(run: str, version: int, name: str) -> Any:
    del version
    return geometry.geometry_of(Path(run), name)


def decoder_geometry(run: Path, name: str) -> Any:
    """See ``geometry.geometry_of``."""
    return _decoder_geometry(str(run), version_of(run), name)


@st.cache_data(max_entries=16, show_spinner="Reading what the latents write towards")
def _tokens_written(run: str, version: int, name: str) -> tuple[list[str], str]:
    del version
    return geometry.tokens_written(Path(run), name)


def tokens_written(run: Path, name: str) -> tuple[list[str], str]:
    """See ``geometry.tokens_written``."""
    return _tokens_written(str(run), version_of(run), name)


def facts_of(run: Path, name: str) -> pd.DataFrame:
    """See ``geometry.facts_of``; notes are read anew."""
    return geometry.facts_of(run, name, notes_on(run, name), tokens_written(run, name)[0])


@st.cache_data(max_entries=64, show_spinner="Looking for the nearest latents")
def _nearest_to(
    run: str, version: int, name: str, ask: "directions.DirectionAsk"
) -> tuple[pd.DataFrame, float]:
    del version
    return directions.nearest_to(Path(run), name, ask)


def nearest_to(run: Path, name: str, ask: "directions.DirectionAsk") -> tuple[pd.DataFrame, float]:
    """See ``directions.nearest_to``."""
    return _nearest_to(str(run), version_of(run), name, ask)


def version_of(run: Path) -> int:
    """Changes with the state of a run and with its evaluation."""
    files = (*run.glob("status.json"), *run.glob("part-*/status.json"))
    seen = [f.stat().st_mtime_ns for f in (*files, *run.glob("evaluation/result.json"))]
    return hash(tuple(sorted(seen)))


@st.cache_data(max_entries=16, show_spinner="Comparing")
def _comparison(left: Side, right: Side, versions: tuple[int, int]) -> run_compare.Comparison:
    del versions
    return run_compare.compared(left, right)


def comparison(left: Side, right: Side) -> run_compare.Comparison:
    """See ``run_compare.compared``."""
    return _comparison(left, right, (version_of(left.run), version_of(right.run)))


@st.cache_data(max_entries=8, max_size="256mb", show_spinner="Matching the latents")
def _match_of(left: Side, right: Side, versions: tuple[int, int]) -> "DictionaryMatch":
    del versions
    return compare_figures.matched(left, right)


def match_of(left: Side, right: Side) -> "DictionaryMatch":
    """See ``compare_figures.matched``."""
    return _match_of(left, right, (version_of(left.run), version_of(right.run)))
