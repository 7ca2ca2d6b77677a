"""Our own names in words: in figures and captions, not where a user's names stand."""

from pathlib import Path

import pandas as pd
import pytest

from lensbench.plots import lines
from lensbench.plots.columns import title_of
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


def test_every_kl_says_which_way_round_it_is() -> None:
    """A unit or a label of a KL names both sides, in one spelling; so do the words for names."""
    import re

    root = Path(__file__).resolve().parents[2]
    folders = ("app", "lensbench", "interventions", "probes", "saes")
    lines = [(path.name, line) for folder in folders for path in (root / folder).rglob("*.py")
             for line in path.read_text(encoding="utf-8").splitlines()]  # fmt: skip
    named = re.compile(r'"(?:kl|lens_kl|kl_to_final|kl_reconstructed|kl_\w*stored)": (f?"[^"]*")')
    told = [(name, found[1]) for name, line in lines for found in named.finditer(line)
            if re.search('KL[^"]|nats', found[1])]  # fmt: skip
    assert len(told) > 30
    vague = [one for one in told if not re.search(r"KL\([\w ]+ ‖ [\w ]+\)", one[1])]
    assert not vague
    drawn = [line for _, line in lines if not line.strip().startswith('"""')
             and re.search(r'"[^"`]*KL\([^)]*\|\|', line)]  # fmt: skip
    assert not drawn, "written KL(p ‖ q) where it is read"
    assert {spelled(n).partition("(")[0] for n in ("kl_to_final", "lens_kl")} == {"KL"}


def test_a_unit_that_names_the_measure_is_the_title() -> None:
    frame = pd.DataFrame({"kl": [1.0], "entropy": [1.0]})
    frame.attrs["units"] = {"kl": "KL(clean ‖ steered) [nats]", "entropy": "nats"}
    assert title_of(frame, "kl") == "KL(clean ‖ steered) [nats]"
    assert title_of(frame, "entropy") == "entropy [nats]"
