"""Heat maps that can be clicked, and many small maps in one figure."""

import numpy as np
import pandas as pd
import pytest

from lensbench import plots
from lensbench.errors import ConfigError


def grid(rows: int = 3, columns: int = 4) -> pd.DataFrame:
    y, x = (a.ravel() for a in np.indices((rows, columns)))
    return pd.DataFrame({"x": x * 2, "y": y, "v": np.arange(len(x)) / 10})


def test_every_cell_has_a_point_that_owns_its_hover() -> None:
    figure = plots.heatmap(grid(), x="x", y="y", value="v")
    shown = plots.clickable(figure, chosen=(4, 1))
    heat, points = shown.data
    assert heat.hoverinfo == "skip"
    assert heat.hovertemplate is None
    assert list(zip(points.x, points.y, strict=True)) == [
        (x, y) for y in range(3) for x in (0, 2, 4, 6)
    ]
    assert points.hovertemplate == figure.data[0].hovertemplate
    assert [c[2] for c in points.customdata][:2] == ["0", "0.1"]
    assert tuple(shown.layout.xaxis.range) == (-1, 7), "the points do not widen the axes"
    frame = shown.layout.shapes[0]
    assert (frame.x0, frame.x1, frame.y0, frame.y1) == (3, 5, 0.5, 1.5)
    assert len(figure.data) == 1, "the figure that was given is left alone"


def test_a_map_merged_into_blocks_stays_as_it_is() -> None:
    figure = plots.heatmap(grid(2, 600), x="x", y="y", value="v")
    assert len(plots.clickable(figure).data) == 1


def thumbnails(rows: int = 2, columns: int = 3, n: int = 4) -> pd.DataFrame:
    r, c, y, x = (a.ravel() for a in np.indices((rows, columns, n, n)))
    frame = pd.DataFrame({"layer": r, "head": c, "query": y, "key": x})
    return frame.assign(v=r + 0.1 * c + 0.01 * y + 0.001 * x).loc[x <= y]


def test_a_mosaic_puts_every_value_into_its_thumbnail() -> None:
    figure = plots.mosaic(
        thumbnails(), row="layer", column="head", x="key", y="query", value="v", chosen=(1, 2),
        hovers={(1, 2): "the last"},
    )  # fmt: skip
    heat, points = figure.data
    z = np.asarray(heat.z)
    assert z.shape == (10, 15)
    assert z[5 + 3, 10 + 1] == pytest.approx(1.231)
    assert np.isnan(z[0, 1]), "a key that the query does not see"
    assert np.isnan(z[4]).all()
    assert np.isnan(z[:, 4]).all()
    centre = heat.x0 + heat.dx * np.arange(15)
    assert centre[10:14].mean() == pytest.approx(2, abs=0.15), "thumbnail 2 lies at 2"
    assert (points.x[-1], points.y[-1], points.customdata[-1]) == (2, 1, "the last")
    assert len(points.x) == 6


def test_a_mosaic_too_large_to_draw_is_refused_and_an_empty_one_says_so() -> None:
    many = pd.DataFrame({"layer": [0], "head": [99], "query": [5], "key": [5], "v": [1.0]})
    options = {"row": "layer", "column": "head", "x": "key", "y": "query", "value": "v"}
    with pytest.raises(ConfigError, match="show fewer cells"):
        plots.mosaic(many, **options)
    assert "Nothing to draw" in str(plots.mosaic(many.iloc[:0], **options).layout.annotations)
