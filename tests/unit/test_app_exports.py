"""What a figure draws, as rows; captions without their marks."""

import numpy as np

from lensbench.app.workflows.exports import as_html, as_notebook, drawn_frame, unmarked


def test_rows_of_a_figure_are_its_points_and_cells() -> None:
    import pandas as pd

    from lensbench.plots import clickable, heatmap, lines

    frame = pd.DataFrame({"x": [3, 4, 3, 4], "y": [0, 0, 1, 1], "v": [1.0, 2.0, 3.0, np.nan]})
    rows = drawn_frame(clickable(heatmap(frame, x="x", y="y", value="v")))
    assert rows[["x", "y"]].to_numpy().tolist() == [[3, 0], [4, 0], [3, 1], [4, 1]]
    np.testing.assert_array_equal(rows["value"], [1, 2, 3, np.nan])
    rows = drawn_frame(lines(frame, x="x", y="v", color="y"))
    assert rows["series"].tolist() == ["0", "0", "1", "1"]
    assert rows["y"].tolist()[:3] == [1, 2, 3]


def test_a_caption_is_read_as_the_page_reads_it() -> None:
    assert unmarked(r"**n** = 3 \*tokens\* of `a\_b`") == "n = 3 *tokens* of a_b"


def test_model_text_in_a_caption_stays_text() -> None:
    import json

    import plotly.graph_objects as go

    page = as_html(go.Figure(), alt="<b>x</b>", caption=r"\<script\>alert\(1\)\</script\>")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    book = json.loads(as_notebook("1", title=r"\<b\>", caption="c"))
    assert "".join(book["cells"][0]["source"]).startswith(r"# \<b\>")
