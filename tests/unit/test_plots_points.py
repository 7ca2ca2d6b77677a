"""Maps of many points: what is drawn is the frame, nothing hides, thousands go to webgl."""

import numpy as np
import pandas as pd
import pytest


def table(n: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"latent": np.arange(n), "x": rng.normal(size=n), "y": rng.normal(size=n),
                          "density": 10 ** rng.uniform(-4, 0, n)})  # fmt: skip
    frame.loc[0, "density"] = 0.0
    frame["group"] = [["a", "b", "plain"][i % 3] for i in range(n)]
    frame.attrs["units"] = {"density": "share of tokens"}
    return frame


def test_every_point_keeps_its_place_key_and_value() -> None:
    from lensbench import plots

    frame = table(60)
    figure = plots.points(frame, x="x", y="y", color="density", key="latent", log_color=True)
    grey, scaled = figure.data
    assert list(grey.ids) == ["0"]
    order = [int(i) for i in scaled.ids]
    assert sorted(order) == list(range(1, 60))
    np.testing.assert_allclose(scaled.x, frame["x"].to_numpy()[order], rtol=1e-6)
    np.testing.assert_allclose(10 ** np.asarray(scaled.marker.color),
                               frame["density"].to_numpy()[order], rtol=1e-5)  # fmt: skip
    assert scaled.marker.colorbar.title.text == "density [share of tokens]"
    assert scaled.type == "scatter"
    assert figure.layout.xaxis.title.text == "x"


def test_thousands_of_points_are_drawn_by_webgl() -> None:
    from lensbench import plots

    figure = plots.points(table(30_000), x="x", y="y", color="density", key="latent")
    assert {t.type for t in figure.data} == {"scattergl"}


def test_groups_have_colours_and_the_background_lies_below_in_grey() -> None:
    from lensbench import plots

    figure = plots.points(table(60), x="x", y="y", color="group", key="latent",
                          background=("plain",))  # fmt: skip
    assert [t.name for t in figure.data] == ["plain (n=20)", "a (n=20)", "b (n=20)"]
    colours = [t.marker.color for t in figure.data]
    assert len(set(colours)) == 3
    assert figure.data[1].marker.symbol != figure.data[2].marker.symbol


def test_more_groups_than_colours_share_one_that_is_counted() -> None:
    from lensbench import plots

    frame = table(60).assign(group=[f"g{min(i, 12)}" for i in range(60)])
    figure = plots.points(frame, x="x", y="y", color="group", key="latent")
    assert sum(len(t.x) for t in figure.data) == 60
    assert figure.data[0].name == "other, 6 more (n=6)"
    assert len({t.marker.color for t in figure.data}) == 8


def test_points_without_a_place_are_left_out_and_text_stays_text() -> None:
    from lensbench import plots
    from lensbench.errors import UnknownNameError

    frame = table(10)
    frame.loc[3, "x"] = np.nan
    frame["group"] = "<b>x</b>"
    figure = plots.points(frame, x="x", y="y", color="group", key="latent")
    assert "3" not in figure.data[0].ids
    assert "<b>" not in figure.data[0].name
    assert not any("<b>x" in str(cell) for cell in figure.data[0].customdata.ravel())
    frame["x"] = np.nan
    assert "no point" in plots.points(frame, x="x", y="y", color="group",
                                      key="latent").layout.annotations[0].text  # fmt: skip
    with pytest.raises(UnknownNameError, match="density"):
        plots.points(frame, x="x", y="y", color="densty", key="latent")
