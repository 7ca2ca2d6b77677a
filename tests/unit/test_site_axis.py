"""Places of sites on an axis: one place for a site whatever its source, and its own name there."""

import numpy as np
import plotly.graph_objects as go
import pytest

from lensbench.probes import anisotropy, intrinsic_dimension, neighbourhoods
from lensbench.probes.site_axis import name_sites, site_places
from tests import store_builder


def test_sites_stand_in_execution_order_and_other_names_as_they_come() -> None:
    names = ["blocks.3.resid_post", "blocks.0.resid_post", "blocks.0.resid_mid", "embed"]
    assert list(site_places(names)) == [*reversed(names)]
    assert site_places(["z", "a", "z"]) == {"z": 0, "a": 1}


@pytest.mark.parametrize(
    ("names", "told", "title"),
    [
        (["blocks.0.resid_post", "blocks.3.resid_post"], ("0", "3"), "block (resid_post)"),
        (["blocks.0.resid_mid", "blocks.0.resid_post"],
         ("blocks.0.resid_mid", "blocks.0.resid_post"), None),
        (["embed", "blocks.0.resid_post"], ("embed", "blocks.0.resid_post"), None),
        (["mine", "yours"], ("mine", "yours"), None),
        ([], (), None),
    ],
)  # fmt: skip
def test_an_axis_has_the_names_of_its_sites(names, told, title) -> None:
    axis = name_sites(go.Figure(), dict(enumerate(names))).layout.xaxis
    assert axis.ticktext == told
    assert axis.title.text == title


@pytest.mark.parametrize("measure", [anisotropy, intrinsic_dimension])
def test_a_control_that_lacks_sites_is_drawn_at_its_own(tmp_path, measure) -> None:
    rng = np.random.default_rng(0)
    draw = lambda: rng.normal(size=(300, 6)).astype(np.float32)  # noqa: E731 - used twice
    sites = [f"blocks.{n}.resid_post" for n in range(4)]
    whole = store_builder.build(tmp_path / "whole", {s: draw() for s in sites}, [300])
    one = store_builder.build(tmp_path / "one", {sites[2]: draw()}, [300])
    figure = measure({"whole": whole}, controls={"one": one}).plot()
    drawn = {trace.name: list(trace.x) for trace in figure.data if trace.name}
    assert drawn["whole"] == [0, 1, 2, 3]
    assert drawn["one"] == [2]
    assert figure.layout.xaxis.ticktext == ("0", "1", "2", "3")


def test_a_map_of_one_site_in_every_block_names_blocks_and_sources(tmp_path) -> None:
    rng = np.random.default_rng(0)
    draw = lambda: rng.normal(size=(300, 6)).astype(np.float32)  # noqa: E731 - used thrice
    sites = [f"blocks.{n}.resid_post" for n in range(2)]
    one = store_builder.build(tmp_path / "one", {s: draw() for s in sites}, [300])
    other = store_builder.build(tmp_path / "other", {sites[1]: draw()}, [300])
    figure = neighbourhoods({"one": one}, max_rows=200).plot()
    assert figure.layout.xaxis.ticktext == ("0", "1")
    assert "block (resid_post)" in figure.layout.xaxis.title.text
    both = neighbourhoods({"one": one}, controls={"other": other}, max_rows=200).plot()
    assert both.layout.xaxis.ticktext == ("one 0", "one 1", "other 1")
