"""Our own names in words: in figures and captions, not where a user's names stand."""

import pytest

from lensbench.plots import lines
from lensbench.results import Controls
from lensbench.words import in_words, spelled


@pytest.mark.parametrize("text", [
    "blocks.3.resid_post", "is_country", "runs/shuffled_labels", "shuffled_labels.csv",
    "my-shuffled_labels", "a@random_patch",
])  # fmt: skip
def test_what_a_user_typed_stays(text: str) -> None:
    assert in_words(f"at {text}: 1") == f"at {text}: 1"


def test_metrics_and_controls_are_spelled() -> None:
    assert in_words("logit_diff; control: random_patch_farthest 0.2.") == (
        "logit difference; control: farthest random patch 0.2."
    )
    assert str(Controls({"shuffled_labels": 0.5, "a_new_one": 1.0})) == (
        "shuffled labels 0.500, a new one 1.000"
    )
    assert spelled("fvu") == "FVU"
    assert spelled("kl_last_nats") == "KL last nats"
    assert in_words("ce_recovered_zero 0.9") == "CE recovered zero 0.9"


def test_our_names_are_words_on_ticks_too() -> None:
    import pandas as pd

    from lensbench.plots import bars, heatmap

    frame = pd.DataFrame({"source": ["dead_fraction", "my_run"], "layer": [0, 0], "v": [1.0, 2.0]})
    wanted = {"dead_fraction": "dead fraction"}
    assert bars(frame, x="source", y="v").layout.xaxis.labelalias == wanted
    figure = heatmap(frame, x="layer", y="source", value="v", span=(0, 2))
    assert figure.layout.yaxis.labelalias == wanted


def test_a_figure_says_them_in_title_legend_and_axis() -> None:
    import pandas as pd

    frame = pd.DataFrame({"layer": [0, 1], "auroc": [0.1, 0.2],
                          "source": ["control_task", "my_run"]})  # fmt: skip
    figure = lines(frame, x="layer", y="auroc", color="source", title="logit_diff")
    assert figure.layout.title.text == "logit difference"
    assert [t.name for t in figure.data] == ["control task", "my_run"]
    assert figure.layout.yaxis.title.text == "AUROC"


def test_a_long_subtitle_is_broken_and_the_figure_grows_for_it() -> None:
    import pandas as pd

    frame = pd.DataFrame({"layer": [0, 1], "value": [0.1, 0.2]})
    short = lines(frame, x="layer", y="value", subtitle="n = 2")
    long = lines(frame, x="layer", y="value", subtitle="n = 2 · " + "a control " * 12)
    under = long.layout.title.subtitle.text.split("<br>")
    assert 1 < len(under) <= 4
    assert max(map(len, under)) <= 58
    assert long.layout.height - short.layout.height == 16 * (len(under) - 1)
    endless = lines(frame, x="layer", y="value", subtitle="a control " * 60)
    assert "and more" in endless.layout.title.subtitle.text
    named = lines(frame, x="layer", y="value", title="what every layer of it would " * 3)
    assert max(map(len, named.layout.title.text.split("<br>"))) <= 46
    assert named.layout.height - lines(frame, x="layer", y="value", title="a").layout.height == 19
